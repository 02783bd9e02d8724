"""`tnconv draw` and `tnconv diff`: networks as pictures, and side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tnconv.cli.common import DIFFERENT, app, print_json, print_table, read_source
from tnconv.cli.compile import AsJson, Source, compiled
from tnconv.errors import ArgumentError
from tnconv.inspect import changed_names, draw, side_by_side, snapshot
from tnconv.inspect.compare import Mark
from tnconv.ir import Expression, Network, Sum

_STYLES: dict[Mark, tuple[str, str]] = {
    " ": ("dim", "dim"),
    "-": ("red", ""),
    "+": ("", "green"),
    "~": ("red", "green"),
}

MaybeOp = Annotated[
    str | None,
    typer.Option(help="The operation; left out, a network is taken as it is and a layer's forward."),
]


def network_of(text: str, op: str | None) -> Expression:
    """The network of what is typed: of an operation after the passes, or as it is.

    Raises:
        TnconvError: a file cannot be read, or the operation is not defined.
    """
    source = read_source(text, any_size=True)
    if op is None and isinstance(source, Network | Sum):
        return source
    return compiled(text, "forward" if op is None else op, planner="left-to-right").network


@app.command(
    name="draw",
    epilog=(
        "Example: tnconv draw layer.toml --op weight_vjp -o vjp.svg --highlight p1, or -o vjp.tex for TikZ, or "
        "-o vjp.json for the parts with their positions"
    ),
)
def draw_network(
    layer: Source,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .svg, .pdf, .png, .tex or .json file.")
    ] = None,
    op: MaybeOp = None,
    highlight: Annotated[
        list[str] | None, typer.Option(help="A node or index to mark; may be given again.")
    ] = None,
    pos: Annotated[
        list[str] | None, typer.Option(help="Where a node or index goes, in pixels, as x=0,40; y downwards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the network of an operation as SVG, PDF, PNG, TikZ or JSON."""
    if output is None and not as_json:
        raise ArgumentError(
            "nothing is asked for; give -o FILE, or --json to print the parts with their positions"
        )
    network = network_of(layer, op)
    if output is not None:
        draw(network, output, _positions(pos or ()), highlight or ())
    if as_json:
        print_json(snapshot(network))
    else:
        typer.echo(f"wrote {output}")


def _positions(texts: list[str] | tuple[()]) -> dict[str, tuple[float, float]]:
    found = {}
    for text in texts:
        name, _, point = text.partition("=")
        try:
            x, y = (float(part) for part in point.split(","))
        except ValueError as error:
            raise ArgumentError(
                f"--pos {text!r} is not a position; write a name and two numbers, as x=0,40"
            ) from error
        found[name] = (x, y)
    return found


@app.command(
    name="diff",
    epilog="Example: tnconv diff before.tn after.tn, or tnconv diff a.toml b.toml --op kfac_reduce",
)
def diff_networks(
    left: Source,
    right: Annotated[str, typer.Argument(metavar="LAYER", help="The other one.")],
    op: MaybeOp = None,
    as_json: AsJson = False,
) -> None:
    """Show two networks side by side; status 1 if they differ."""
    one, other = network_of(left, op), network_of(right, op)
    same = str(one) == str(other)
    if as_json:
        print_json(_difference(one, other, same))
    else:
        _print_difference(one, other, (left, right))
        typer.echo("the networks are the same" if same else "the networks differ")
    if not same:
        raise typer.Exit(DIFFERENT)


def _difference(one: Expression, other: Expression, same: bool) -> dict[str, object]:
    gone, come = changed_names(one, other)
    lines = [{"mark": m, "left": a, "right": b} for m, a, b in side_by_side(str(one), str(other))]
    return {"equal": same, "left": sorted(gone), "right": sorted(come), "lines": lines}


def _print_difference(one: Expression, other: Expression, names: tuple[str, str]) -> None:
    rows = []
    for mark, left, right in side_by_side(str(one), str(other)):
        style, style_2 = _STYLES[mark]
        rows.append((Text(mark, "bold"), Text(left, style), Text(right, style_2)))
    print_table(("", *names), rows)
