"""A program as a value, and what makes it valid."""

from dataclasses import dataclass

from tnconv.program.statements import Call, SizeOf, Statement, Var
from tnconv.program.text import format_program


@dataclass(frozen=True)
class ProgramText:
    """A program as a value; as a str, the text that `parse_program` reads back.

    Args:
        name: of the function.
        arguments: its variables that are given.
        sizes: the size symbols, read off their shapes.
        statements: in order.
        results: what is returned, the value first.
    """

    name: str
    arguments: tuple[str, ...]
    sizes: tuple[SizeOf, ...]
    statements: tuple[Statement, ...]
    results: tuple[Var | Call, ...]

    def __str__(self) -> str:
        return format_program(self)
