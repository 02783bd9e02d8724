"""`tnconv ops` and `tnconv passes`: what there is."""

from typing import Annotated

import typer

from tnconv import ops, passes
from tnconv.cli.common import app, print_json, print_table
from tnconv.cli.compile import AsJson
from tnconv.inspect import registry_page
from tnconv.inspect.docstrings import first_line
from tnconv.ir import Size
from tnconv.ops import operations_page
from tnconv.passes import Pass, Pipeline
from tnconv.planner import DEFAULT_HINT, make_plan
from tnconv.spec import ConvSpec


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
        print_json([operations_page.record(o) for o in ops.list()])
        return
    found = ((name, ops.get(name)) for name in ops.available())
    rows = ((name, o.formula, o.legs, " ".join(operations_page.options(o)), o.reference) for name, o in found)
    print_table(("operation", "formula", "result legs", "options", "reference"), rows)


def _multiplications(name: str, layer: ConvSpec) -> Size:
    """The multiplications of an operation of a layer, as a formula."""
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
