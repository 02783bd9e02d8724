"""`tnconv ops` and `tnconv passes`: what there is."""

import typer

from tnconv import ops, passes
from tnconv.cli.common import app, print_json, print_table
from tnconv.cli.compile import AsJson
from tnconv.inspect import registry_page
from tnconv.inspect.docstrings import first_line
from tnconv.ops import operations_page
from tnconv.passes import Pass


@app.command(name="ops", epilog="Example: tnconv ops --json")
def list_operations(as_json: AsJson = False) -> None:
    """List the operations with their formulas, result legs, options and references."""
    if as_json:
        print_json([operations_page.record(o) for o in ops.list()])
        return
    found = ((name, ops.get(name)) for name in ops.available())
    rows = ((name, o.formula, o.legs, " ".join(operations_page.options(o)), o.reference) for name, o in found)
    print_table(("operation", "formula", "result legs", "options", "reference"), rows)


@app.command(name="passes", epilog="Example: tnconv passes --json")
def list_passes(as_json: AsJson = False) -> None:
    """List the passes with their options and what they do, and the rules of those that rewrite."""
    kinds = {name: passes.get(name) for name in passes.available()}
    if as_json:
        print_json([registry_page.record(name, kind) for name, kind in kinds.items()])
        return
    print_table(("pass", "what it does"), ((f"{n}{_options(k)}", first_line(k)) for n, k in kinds.items()))
    typer.echo()
    print_table(
        ("rule", "of the pass", "what it does"),
        (
            (each.name, name, each.sentence)
            for name, kind in kinds.items()
            for each in registry_page.rules(kind)
        ),
    )


def _options(kind: type[Pass]) -> str:
    """The options of a pass with their defaults, such as `{index, over=x}`."""
    shown = [
        name if default in (None, "none", "[]") else f"{name}={default}"
        for name, default, _ in registry_page.options(kind)
    ]
    return f"{{{', '.join(shown)}}}" if shown else ""
