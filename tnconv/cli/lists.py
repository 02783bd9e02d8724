"""`tnconv ops` and `tnconv passes`: what there is."""

from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from tnconv import ops, passes
from tnconv.cli.common import app, print_json, print_table
from tnconv.cli.compile import AsJson
from tnconv.inspect.docstrings import arguments, first_line
from tnconv.ir import Size
from tnconv.ops.registry import AVERAGE, JOINT, Operation, aliases
from tnconv.passes import Pass, Pipeline, Rule
from tnconv.passes.pass_text import format_value
from tnconv.planner import DEFAULT_HINT, make_plan
from tnconv.spec import ConvSpec

_OPTIONS = {JOINT: 'bias="joint"', AVERAGE: 'groups="average"'}


@app.command(name="ops", epilog="Example: tnconv ops --cost")
def list_operations(
    as_json: AsJson = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Print what each operation costs, as a formula of sizes.")
    ] = False,
) -> None:
    """List the operations with their formulas, result legs, options and references."""
    if cost:
        _list_costs(as_json)
        return
    if as_json:
        print_json([_operation_record(o) for o in ops.list()])
        return
    found = ((name, ops.get(name)) for name in ops.available())
    rows = ((name, o.formula, o.legs, " ".join(operation_options(o)), o.reference) for name, o in found)
    print_table(("operation", "formula", "result legs", "options", "reference"), rows)


def operation_options(operation: Operation) -> list[str]:
    """What an operation takes besides the layer, as it is written: `bias="joint"`, `convention=`."""
    found = [text for option, text in _OPTIONS.items() if option in operation.options]
    return [*found, "convention="] if operation.factor else found


def _operation_record(operation: Operation) -> dict[str, Any]:
    return {
        "name": operation.name,
        "aliases": list(aliases(operation.name)),
        "formula": operation.formula,
        "legs": operation.legs,
        "options": operation_options(operation),
        "reference": operation.reference,
    }


def _multiplications(name: str, layer: ConvSpec) -> Size:
    operation = ops.get(name)
    derived, _ = ops.derive(operation, layer.network(operation.bias), ops.Options()).run()
    network, _ = Pipeline.parse("default").run(derived)
    return make_plan(network).multiplications


def _list_costs(as_json: bool) -> None:
    """The multiplications of each operation of a convolution with any channels and sizes."""
    layer = ConvSpec("C", "D", 3, ("H", "W"), padding=1, bias=True)
    found = {operation.name: str(_multiplications(operation.name, layer)) for operation in ops.list()}
    if as_json:
        print_json(found)
        return
    print_table(("operation", "multiplications"), found.items())
    typer.echo(
        "\nfor N images of H x W, C to D channels, a kernel of 3 x 3 with padding 1, V rows of z for each image; "
        f"planned for sizes of {DEFAULT_HINT}"
    )


@app.command(name="passes", epilog="Example: tnconv passes --json")
def list_passes(as_json: AsJson = False) -> None:
    """List the passes with their options and what they do, and the rules of those that rewrite."""
    kinds = {name: passes.get(name) for name in passes.available()}
    if as_json:
        print_json([_pass_record(name, kind) for name, kind in kinds.items()])
        return
    print_table(("pass", "what it does"), ((f"{n}{_options(k)}", first_line(k)) for n, k in kinds.items()))
    typer.echo()
    print_table(
        ("rule", "of the pass", "what it does"),
        ((each.name, name, each.sentence) for name, kind in kinds.items() for each in rules(kind)),
    )


def pass_options(kind: Any) -> list[tuple[str, str | None, str]]:
    """The options of a pass: name, default as it is written in a pipeline (None where there is none), and meaning."""
    meanings = arguments(kind)
    return [
        (
            field.name,
            None if field.default is MISSING else format_value(field.default),
            meanings.get(field.name, ""),
        )
        for field in fields(kind)
    ]


def rules(kind: type[Pass]) -> tuple[Rule, ...]:
    """The rules of a pass; none for one that is no rewriting."""
    return getattr(kind, "rules", ())


def _pass_record(name: str, kind: type[Pass]) -> dict[str, Any]:
    return {
        "name": name,
        "options": {
            option: {"default": default, "means": means} for option, default, means in pass_options(kind)
        },
        "does": first_line(kind),
        "preserves_value": kind.preserves_value,
        "rules": {each.name: each.sentence for each in rules(kind)},
    }


def _options(kind: type[Pass]) -> str:
    """The options of a pass with their defaults, such as `{index, over=x}`."""
    shown = [
        name if default in (None, "none", "[]") else f"{name}={default}"
        for name, default, _ in pass_options(kind)
    ]
    return f"{{{', '.join(shown)}}}" if shown else ""
