"""`tnconv ops` and `tnconv passes`: what there is."""

from dataclasses import MISSING, Field, fields
from typing import Any

from tnconv import ops, passes
from tnconv.cli.common import app, print_json, print_table
from tnconv.cli.compile import AsJson
from tnconv.inspect.look import first_line
from tnconv.ops import page


@app.command(name="ops", epilog="Example: tnconv ops --json")
def list_operations(as_json: AsJson = False) -> None:
    """List the operations with their formulas, result legs, options and references."""
    if as_json:
        print_json([page.record(o) for o in ops.list()])
        return
    found = ((name, ops.get(name)) for name in ops.available())
    rows = ((name, o.formula, o.legs, " ".join(page.options(o)), o.reference) for name, o in found)
    print_table(("operation", "formula", "result legs", "options", "reference"), rows)


@app.command(name="passes", epilog="Example: tnconv passes --json")
def list_passes(as_json: AsJson = False) -> None:
    """List the passes with their options, what they do, and their rules."""
    kinds = [(name, passes.get(name)) for name in passes.available()]
    if as_json:
        print_json([_record(name, kind) for name, kind in kinds])
        return
    print_table(("pass", "what it does"), ((f"{n}{_options(k)}", first_line(k)) for n, k in kinds))


def _record(name: str, kind: Any) -> dict[str, Any]:
    return {
        "name": name,
        "options": {f.name: _default(f) for f in fields(kind)},
        "does": first_line(kind),
        "preserves_value": kind.preserves_value,
        "rules": {each.name: each.sentence for each in getattr(kind, "rules", ())},
    }


def _default(field: "Field[Any]") -> str | None:
    return None if field.default in (MISSING, None) else str(field.default)


def _options(kind: Any) -> str:
    """The options of a pass with their defaults, such as `{index, over=x}`."""
    shown = [f.name if f.default in (MISSING, None, ()) else f"{f.name}={f.default}" for f in fields(kind)]
    return f"{{{', '.join(shown)}}}" if shown else ""
