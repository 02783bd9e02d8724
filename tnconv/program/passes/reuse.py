"""A result is written over what is read for the last time, where that is memory of the program's own.

p [n=3] = new mm(x, w)              p [n=3] = new mm(x, w)
q [n=3] = new p * 0.5               in p: p.mul_(0.5)
r [n=3] = new mm(x, v)              r [n=3] = new mm(x, v)
s [n=3] = new q + r                 s [n=3] = new add_reusing(p, r)
return s                            return s

A scale is multiplied in place. A sum may be: `add_reusing` looks whether somebody records what is done. Both only where
nobody has read that memory before, for autograd may have kept it for whoever did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.statements import (
    Call,
    InPlace,
    Let,
    Memory,
    Statement,
    Var,
    owners,
    reads,
    substituted,
    variables,
)

_WRITTEN = ("mul", "add")


@dataclass(frozen=True)
class Reuse(ProgramPass):
    """Scales are multiplied in place, and sums are in the memory of their first term."""

    name: ClassVar[str] = "reuse"

    def apply(self, program: ProgramText) -> ProgramText:
        """Write over what is read for the last time."""
        if not any(isinstance(s, Let) and s.value.op in _WRITTEN for s in program.statements):
            return program
        results = {name for each in program.results for name in variables(each)}
        statements, names = _rewritten(program.statements, results)
        returned = tuple(substituted(each, names) for each in program.results)
        made = replace(program, statements=tuple(statements), results=returned)
        return program if made == program else made


def _rewritten(statements: Sequence[Statement], results: set[str]) -> tuple[list[Statement], dict[str, Var]]:
    owner = owners(statements)
    own = {s.name: s for s in statements if isinstance(s, Let) and s.memory is Memory.NEW}
    dims = {s.name: s.dims for s in statements if isinstance(s, Let)}
    apart = {s.name for s in statements if isinstance(s, Let) and s.memory is not Memory.OVERLAPPING}
    first_read: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, each in enumerate(statements):
        memories = [owner.get(name, name) for name in reads(each)]
        last |= dict.fromkeys(memories, place)
        written = owner.get(each.target, each.target) if isinstance(each, InPlace) else None
        if not (isinstance(each, Let) and each.name in owner):
            first_read = dict.fromkeys([name for name in memories if name != written], place) | first_read
    last |= {owner.get(name, name): len(statements) for name in results}
    made: list[Statement] = []
    names: dict[str, Var] = {}
    for place, old in enumerate(statements):
        each = substituted(old, names)
        first = each.value.args[0] if isinstance(each, Let) and each.value.op in _WRITTEN else None
        if not isinstance(each, Let) or not isinstance(first, Var):
            made.append(each)
            continue
        memory = owner.get(first.name, first.name)
        once = memory in own and first_read.get(memory) == last[memory] == place
        dies = once and first.name in apart
        second = each.value.args[1]
        if dies and each.value.op == "mul" and _is_number(second):
            made.append(InPlace(first.name, Call("mul_", (first, second))))
            names[each.name] = first
            # Whoever reads the product reads this memory.
            last[memory] = last.get(each.name, place)
            first_read[memory] = first_read.get(each.name, place)
            owner |= {n: memory for n, root in owner.items() if root == each.name} | {each.name: memory}
        elif (
            dies
            and each.value.op == "add"
            and dims[first.name] == each.dims
            and _memory(second, owner) != memory
        ):
            made.append(replace(each, value=Call("add_reusing", each.value.args)))
        else:
            made.append(each)
    return made, names


def _memory(argument: object, owner: dict[str, str]) -> str | None:
    return owner.get(argument.name, argument.name) if isinstance(argument, Var) else None


def _is_number(argument: object) -> bool:
    """Whether an argument is a real number: a complex one may need other memory."""
    return not isinstance(argument, complex) and next(variables(argument), None) is None
