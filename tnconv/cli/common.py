"""What the commands share: the group, reading sources, printing, progress."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

import tnconv
from tnconv.errors import ParseError, TnconvError
from tnconv.ir import Expression, parse
from tnconv.spec import load_spec
from tnconv.spec.fields import MAX_SIZE, shown
from tnconv.spec.load import LayerSpec

DIFFERENT, ERROR = 1, 2
_DIGITS = 19  # of 2**62
_WIDTH_WITHOUT_TERMINAL = 160
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
            _print_error(str(error))
            raise typer.Exit(ERROR) from error
        except (OSError, MemoryError) as error:
            _print_error(
                f"{type(error).__name__}: {error or 'no memory is left'}; give smaller sizes or other files"
            )
            raise typer.Exit(ERROR) from error


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
        "A symbolic tensor-network compiler for convolutions. A layer is a file with the fields of its spec, which "
        "`tnconv compile --help` shows; a network is a file with its text, as `--show network` prints it."
    ),
    epilog=(
        "Example: tnconv compile layer.toml --op kfac_reduce --show source --draw layer.svg --report layer.html. "
        "Status: 0 done, 1 networks differ, 2 an error."
    ),
)


def _version(asked: bool) -> None:
    """Print the version and stop.

    Raises:
        typer.Exit: it was asked for.
    """
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


def read_source(path: Path, *, any_size: bool = False) -> LayerSpec | Expression:
    """A layer from a .toml or .json file, or a network from a .tn file with its text.

    Args:
        path: of the file.
        any_size: whether a layer may leave its input size out.

    Raises:
        TnconvError: the file cannot be read or is neither.
    """
    suffix = path.suffix.lower()
    if suffix == NETWORK_SUFFIX:
        return read_network(path)
    if suffix not in SPEC_SUFFIXES:
        raise TnconvError(
            f"file {str(path)!r} has suffix {suffix!r}; give a layer as {' or '.join(SPEC_SUFFIXES)}, or the text of "
            f"a network as {NETWORK_SUFFIX}"
        )
    return load_spec(path, any_size=any_size)


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
        typer.BadParameter: a text is something else.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        fits = (
            equals and name.isidentifier() and len(value) <= _DIGITS and value.isascii() and value.isdigit()
        )
        if not fits or not 1 <= int(value) <= MAX_SIZE:
            raise typer.BadParameter(
                f"{shown(text)} is not a size; write a symbol and a positive integer below 2**62, as N=32"
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


def print_table(header: Iterable[str], rows: Iterable[tuple[object, ...]], title: str | None = None) -> None:
    """Print a table of plain texts."""
    if title is not None:
        console().print(Text(title, "bold"))
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(table)


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
