"""Tables for people, rendered by rich where there is a terminal or a notebook; rich is loaded with the first one."""

import io
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

_WIDTH = 120
_NUMBERS = frozenset((  # columns that are written to the right
    "nodes", "indices", "multiplications", "elements", "predicted", "measured", "statements", "plan",
    "parameters", "error", "predicted time",
))  # fmt: skip


class Printed:
    """What rich renders as tables; as a str, plain text 120 columns wide."""

    parts: "tuple[Table | Text, ...]"

    def __rich_console__(self, _console: "Console", _options: "ConsoleOptions") -> "RenderResult":
        yield from self.parts

    def __str__(self) -> str:
        from rich.console import Console  # noqa: PLC0415 - see new_table

        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
        console.print(self)
        file = console.file
        assert isinstance(file, io.StringIO)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def new_table(columns: Sequence[str], fold: Collection[str] = (), **options: Any) -> "Table":
    """A table without rows; columns of counts and times are written to the right.

    Args:
        columns: their names.
        fold: those whose cells are broken where they are too long, and not cut.
        options: of rich's `Table`.
    """
    from rich.table import Table  # noqa: PLC0415 - 20 ms that compiling a layer never needs

    table = Table(title_justify="left", **options)
    for name in columns:
        justify: Any = "right" if name in _NUMBERS else "left"
        table.add_column(name, justify=justify, overflow="fold" if name in fold else "ellipsis")
    return table
