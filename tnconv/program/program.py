"""A program as a value, and what makes it valid."""

from collections.abc import Sequence
from dataclasses import dataclass

from tnconv.program.program_text import format_program, format_statement
from tnconv.program.statements import (
    Call,
    Free,
    Given,
    Let,
    Loop,
    Once,
    SizeOf,
    Statement,
    Var,
    reads,
    variables,
)


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
    arguments: tuple[Given, ...]
    sizes: tuple[SizeOf, ...]
    statements: tuple[Statement, ...]
    results: tuple[Var | Call, ...]

    def __str__(self) -> str:
        return format_program(self)


def verify(program: ProgramText) -> tuple[str, ...]:
    """What is wrong with a program: what is read before it is computed or after it is freed, or computed twice."""
    known = {each.name for each in program.arguments}
    faults = [
        f"size {each.symbol!r} is read off {each.argument!r}, which is no argument; the arguments are "
        f"{', '.join(sorted(known))}"
        for each in program.sizes
        if each.argument not in known
    ]
    _verify(program.statements, known, set(), faults)
    wanted = {name for each in program.results for name in variables(each)}
    faults += [f"{name!r} is returned but not computed" for name in sorted(wanted - known)]
    return tuple(faults)


def _verify(statements: Sequence[Statement], known: set[str], freed: set[str], faults: list[str]) -> None:
    """Note the faults of statements; `known` has afterwards what is there, `freed` what is not any more."""
    for each in statements:
        if isinstance(each, Loop | Once):
            inner = known | ({each.start} if isinstance(each, Loop) else set())
            _verify(each.body, inner, freed, faults)
            known |= set() if isinstance(each, Loop) else inner
            continue
        wanted = each.names if isinstance(each, Free) else reads(each)
        for name in wanted:
            if name not in known:
                state = "freed before" if name in freed else "not computed before"
                faults.append(f"{name!r} is {state} {' '.join(format_statement(each))!r}")
        if isinstance(each, Free):
            known -= set(each.names)
            freed |= set(each.names)
        if isinstance(each, Let):
            if each.name in known | freed:
                faults.append(f"{each.name!r} is computed twice; give the second another name")
            known.add(each.name)
