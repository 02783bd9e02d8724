"""The command line: compile a layer from a spec file, list the operations and the passes."""

import json
from collections.abc import Iterable
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

import tnconv
from tnconv import ops, passes
from tnconv.errors import TnconvError
from tnconv.ops import page
from tnconv.spec import load_spec

_ERROR_STATUS = 2
_WIDTH_WITHOUT_TERMINAL = 160


class Commands(TyperGroup):
    """The group of commands; an error of tnconv ends it with one red line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given.

        Raises:
            typer.Exit: with status 2 after an error of tnconv.
        """
        try:
            return super().invoke(ctx)
        except TnconvError as error:
            # Text, not a str: brackets in a message are legs, not markup.
            Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="red"))
            raise typer.Exit(_ERROR_STATUS) from error


class Show(StrEnum):
    """What `compile` prints."""

    NETWORK = "network"
    PLAN = "plan"
    SOURCE = "source"
    EXPLAIN = "explain"


app = typer.Typer(
    cls=Commands,
    name="tnconv",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="A symbolic tensor-network compiler for convolutions.",
    epilog="Example: tnconv compile layer.toml --op kfac_reduce --show source --draw layer.svg",
)


@app.command(
    name="compile",
    epilog=(
        "Example: tnconv compile layer.toml --op weight_vjp, where layer.toml holds the lines "
        "in_channels = 64, out_channels = 128, kernel_size = 3, input_size = [56, 56], padding = 1."
    ),
)
def compile_spec(
    spec: Annotated[
        Path, typer.Argument(help="The layer: a .toml or .json file with the fields of ConvSpec.")
    ],
    op: Annotated[str, typer.Option(help="The operation; `tnconv ops` lists them.")] = "forward",
    show: Annotated[
        Show | None, typer.Option(help="What to print; explain, unless only a drawing is asked for.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write the diagram of the network to this .svg file.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="The scale of a curvature factor, such as kfac.")
    ] = None,
) -> None:
    """Compile an operation of a layer and print what became of it."""
    function = tnconv.compile(load_spec(spec), op, convention=convention)
    if draw is not None:
        function.draw(draw)
        typer.echo(f"wrote {draw}")
    match show or (None if draw is not None else Show.EXPLAIN):
        case Show.NETWORK:
            typer.echo(str(function.network))
        case Show.PLAN:
            typer.echo(str(function.plan))
        case Show.SOURCE:
            typer.echo(str(function.source).rstrip("\n"))
        case Show.EXPLAIN:
            typer.echo(str(function.explain()).rstrip("\n"))
        case None:
            pass


@app.command(name="ops", epilog="Example: tnconv ops --json")
def list_operations(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, an object for each operation.")
    ] = False,
) -> None:
    """List the operations with their formulas, result legs, options and references."""
    if as_json:
        typer.echo(json.dumps([page.record(o) for o in ops.list()], ensure_ascii=False, indent=2))
        return
    found = ((name, ops.get(name)) for name in ops.available())
    rows = ((name, o.formula, o.legs, " ".join(page.options(o)), o.reference) for name, o in found)
    _print_table(("operation", "formula", "result legs", "options", "reference"), rows)


@app.command(name="passes", epilog="Example: tnconv passes")
def list_passes() -> None:
    """List the passes with their options and what they do."""
    kinds = ((name, passes.get(name)) for name in passes.available())
    rows = ((f"{name}{_options(kind)}", _first_line(kind)) for name, kind in kinds)
    _print_table(("pass", "what it does"), rows)


def _options(kind: Any) -> str:
    """The options of a pass with their defaults, such as `{index, over=x}`."""
    shown = [f.name if f.default in (MISSING, None, ()) else f"{f.name}={f.default}" for f in fields(kind)]
    return f"{{{', '.join(shown)}}}" if shown else ""


def _first_line(kind: type[passes.Pass]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _print_table(header: Iterable[str], rows: Iterable[tuple[object, ...]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL  # a file or a pipe has no width of its own
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


if __name__ == "__main__":
    app()
