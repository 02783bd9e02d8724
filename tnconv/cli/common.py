"""What the commands share: the group, reading sources, printing, progress."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from torch import nn
from typer.core import TyperGroup

import tnconv
from tnconv.cli.flags import as_typed
from tnconv.compiler.source import KnowsNetwork
from tnconv.errors import ArgumentError, ParseError, SpecError, TnconvError
from tnconv.ir import Expression, parse
from tnconv.spec import load_spec, spec_from_module
from tnconv.spec.fields import MAX_SIZE, shown
from tnconv.spec.layer_text import CLASSES, is_layer_text, read_layer
from tnconv.spec.load import LayerSpec, an_input

DIFFERENT, ERROR = 1, 2
LAYERS: Mapping[str, type[Any]] = {
    name: kind
    for name, kind in vars(tnconv.nn).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and not name.startswith("Tensorised")  # bases
} | dict(CLASSES)
_DIGITS = 19  # of 2**62
_WIDTH_WITHOUT_TERMINAL = 160
_NARROWEST = 20  # characters of a column beside the first
NETWORK_SUFFIX, SPEC_SUFFIXES = ".tn", (".toml", ".json")


class Commands(TyperGroup):
    """The group of commands; an error of tnconv or of the system ends it with one red line, no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given.

        Raises:
            typer.Exit: with status 2 after an error.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # nobody reads any more; typer ends quietly
            raise
        except TnconvError as error:
            _print_error(as_typed(str(error), self._flags(ctx.invoked_subcommand)))
            raise typer.Exit(ERROR) from error
        except (OSError, MemoryError) as error:
            _print_error(
                f"{type(error).__name__}: {error or 'no memory is left'}; give smaller sizes or other files"
            )
            raise typer.Exit(ERROR) from error

    def _flags(self, command: str | None) -> dict[str, bool]:
        chosen: Any = self.commands.get(command or "")
        options = chosen.params if chosen is not None else ()
        return {each.name: each.is_flag for each in options if each.param_type_name == "option"}


def _print_error(message: str) -> None:
    # Text, not a str: brackets in a message are legs, not markup.
    Console(stderr=True, soft_wrap=True).print(Text(f"error: {message}", style="red"))


app = typer.Typer(
    cls=Commands,
    name="tnconv",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "A symbolic tensor-network compiler for convolutions. A layer is typed as in PyTorch, or a file with the "
        "fields of its spec, which `tnconv compile --help` shows; a network is a file with its text, as `--show "
        "network` prints it."
    ),
    epilog=(
        "Example: tnconv compile 'Conv2d(64, 128, 3, padding=1)' --op kfac_reduce --show source --report layer.html. "
        "Status: 0 done, 1 networks differ, 2 an error."
    ),
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tnconv {tnconv.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What may stand in front of a command; the help is that of `app`."""


# -- what is read ------------------------------------------------------------------------------------


def read_source(source: str, *, any_size: bool = False) -> LayerSpec | Expression:
    """A layer from its text or a .toml or .json file, or a network from a .tn file with its text.

    Args:
        source: a call such as `Conv2d(64, 128, 3)`, or the path of a file.
        any_size: whether a layer may leave its input size out.

    Raises:
        TnconvError: the file cannot be read, or it is none of these.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if is_layer_text(source) and suffix not in (NETWORK_SUFFIX, *SPEC_SUFFIXES):
        return read_layer(source, LAYERS, _forward, any_size)
    if suffix == NETWORK_SUFFIX:
        return read_network(path)
    if suffix not in SPEC_SUFFIXES:
        raise TnconvError(
            f"file {source!r} has suffix {suffix!r}; give a layer as {' or '.join(SPEC_SUFFIXES)}, or the text of "
            f"a network as {NETWORK_SUFFIX}; or a layer as 'Conv2d(64, 128, 3)'"
        )
    return load_spec(path, any_size=any_size)


def _forward(module: nn.Module, input_size: Any, batch_size: Any) -> LayerSpec | Expression:
    """The layer of a module, or the network of a factorised one."""
    if not isinstance(module, KnowsNetwork):
        return spec_from_module(module, input_size, batch_size)
    if input_size is None and isinstance(module, tnconv.nn.TensorisedLinear):
        input_size = ()  # as nn.Linear
    if input_size is None or any(isinstance(size, str) for size in input_size):
        raise SpecError(
            f"{type(module).__name__} is a network of its own, which is for one size; add {an_input(module)} to it"
        )
    return module.network(input_size, batch_size)


def read_network(path: Path) -> Expression:
    """A network from its text in a file.

    Raises:
        ParseError: the file cannot be read, or is not the text of a network.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ParseError(f"network file {str(path)!r} cannot be read: {error}; check the path") from error
    try:
        return parse(text)
    except TnconvError as error:
        raise ParseError(f"network file {str(path)!r}: {error}") from error


def sizes_of(texts: Iterable[str]) -> dict[str, int]:
    """Sizes for symbols out of `N=32`.

    Raises:
        ArgumentError: a text is something else.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        fits = (
            equals and name.isidentifier() and len(value) <= _DIGITS and value.isascii() and value.isdigit()
        )
        if not fits or not 1 <= int(value) <= MAX_SIZE:
            raise ArgumentError(
                f"--size {shown(text)} is not a size; write a symbol and a positive integer below 2**62, as N=32"
            )
        found[name] = int(value)
    return found


# -- what is printed ---------------------------------------------------------------------------------


def console() -> Console:
    """The standard output; a file or a pipe has no width of its own."""
    made = Console()
    if not made.is_terminal:
        made.width = _WIDTH_WITHOUT_TERMINAL
    return made


def print_json(value: object) -> None:
    """Print a value as JSON, with letters as they are."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(header: Sequence[str], rows: Iterable[tuple[object, ...]], title: str | None = None) -> None:
    """Print a table of plain texts; where the terminal is too narrow for its columns, a record for each line."""
    out = console()
    if title is not None:
        out.print(Text(title, "bold"))
    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    first = max((row[0].cell_len for row in cells), default=0)
    if first + (len(header) - 1) * _NARROWEST > out.width:
        _print_records(out, header, cells)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=place == 0)
    for row in cells:
        table.add_row(*row)
    out.print(table)


def _print_records(out: Console, header: Sequence[str], rows: Iterable[list[Text]]) -> None:
    for row in rows:
        out.print(Text.assemble((row[0].plain, "bold")), overflow="fold")
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell.plain:
                out.print(
                    Padding(
                        Text.assemble((f"{name}: ", "dim"), cell, overflow="fold"), (0, 0, 0, 2), expand=False
                    )
                )


def print_explanation(function: tnconv.CompiledFunction) -> None:
    """Print the tables of a function: as wide as the terminal, or as plain text in a file or a pipe."""
    out, explanation = console(), function.explain()
    if out.is_terminal:
        out.print(explanation)
    else:
        typer.echo(str(explanation).rstrip())


@contextmanager
def working(text: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """A progress bar on the standard error while the block runs, on a terminal.

    Args:
        text: what is done.
        total: in how many parts; None where nobody knows.

    Yields:
        A function that takes what is done next.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        started = False

        def following(part: str) -> None:
            nonlocal started
            progress.update(task, description=f"{text}: {part}", advance=int(started))
            started = True

        yield following
