"""What is computed twice is computed once.

a [n=3] = new mm(x, w)              a [n=3] = new mm(x, w)
b [n=3] = new mm(x, w)              c [n=3] = new a + a
c [n=3] = new a + b                 return c
return c

What was computed from memory that was changed since is another value. Memory that is changed is nobody else's, and each
of several results has its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.statements import (
    Call,
    InPlace,
    Let,
    Loop,
    Once,
    Statement,
    Var,
    owners,
    reads,
    substituted,
    variables,
)


class Known:
    """The calls that were made, and the variables that have their values."""

    def __init__(self) -> None:
        self._names: dict[Call, str] = {}

    def find(self, value: Call) -> str | None:
        """The variable that has the value of a call; None if there is none."""
        return self._names.get(value)

    def add(self, value: Call, name: str) -> None:
        """Note that a variable has the value of a call."""
        self._names[value] = name

    def forget(self, target: str, statements: Iterable[Statement], owner: Mapping[str, str]) -> None:
        """Memory is changed: who computes what was read from it or lies in it wants the value of then or of now.

        Args:
            target: a variable with that memory.
            statements: so far.
            owner: as `owners` gives it.
        """
        memory = owner.get(target, target)
        stale = {
            each.name
            for each in statements
            if isinstance(each, Let)
            and any(owner.get(name, name) == memory for name in (each.name, *reads(each)))
        }
        self._names = {value: name for value, name in self._names.items() if name not in stale}


@dataclass(frozen=True)
class Share(ProgramPass):
    """Of equal calls the first is made, in a program without blocks."""

    name: ClassVar[str] = "share"

    def apply(self, program: ProgramText) -> ProgramText:
        """Read the first where a later one was read."""
        statements = program.statements
        values = [each.value for each in statements if isinstance(each, Let)]
        if len(set(values)) == len(values) or any(isinstance(each, Loop | Once) for each in statements):
            return program
        owner, known, names = owners(statements), Known(), dict[str, Var]()
        apart = {each.target for each in statements if isinstance(each, InPlace)}
        if len(program.results) > 1:
            apart |= {name for each in program.results for name in variables(each)}
        apart = {owner.get(name, name) for name in apart}
        made: list[Statement] = []
        for old in statements:
            each = substituted(old, names)
            if isinstance(each, InPlace):
                known.forget(each.target, made, owner)
            elif isinstance(each, Let) and owner.get(each.name, each.name) not in apart:
                first = known.find(each.value)
                if first is not None:
                    names[each.name] = Var(first)
                    continue
                known.add(each.value, each.name)
            made.append(each)
        results = tuple(substituted(each, names) for each in program.results)
        return replace(program, statements=tuple(made), results=results) if names else program
