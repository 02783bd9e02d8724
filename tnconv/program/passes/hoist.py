"""What depends on constant arguments alone is computed once.

t [c=3] = new w * 2                 once {
y [n=N c=3] = new x * t               t [c=3] = new w * 2
return y                            }
                                    y [n=N c=3] = new x * t
                                    return y

Memory that a later statement writes into is not kept, though it was made of constants alone; nor is a conjugate alone,
which is not worth it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.statements import InPlace, Let, Once, Statement, has_symbols, owners, reads, writes

_LIGHT = ("conj", "conj_physical")


@dataclass(frozen=True)
class Hoist(ProgramPass):
    """What reads constants alone stands in a block in front, where that is worth keeping.

    Args:
        constants: arguments that seldom change.
    """

    name: ClassVar[str] = "hoist"
    constants: tuple[str, ...] = ()

    def apply(self, program: ProgramText) -> ProgramText:
        """Put a block in front of a program without blocks."""
        first, rest = _parts(program.statements, self.constants)
        if all(isinstance(each, Let) and each.value.op in _LIGHT for each in first):
            return program
        return replace(program, statements=(Once(tuple(first)), *rest))


def constant_names(
    statements: Sequence[Statement], constants: Collection[str], tainted: Collection[str] = ()
) -> set[str]:
    """The names of constants, and of what is computed of them alone outside memory that is `tainted`."""
    found, owner = set(constants), owners(statements)
    for each in statements:
        if isinstance(each, Let) and owner.get(each.name, each.name) not in tainted:
            needed = reads(each)
            if needed and found.issuperset(needed) and not has_symbols(each.value):
                found.add(each.name)
    return found


def _parts(
    statements: Sequence[Statement], constants: Collection[str]
) -> tuple[list[Statement], list[Statement]]:
    """The statements that read nothing but constants, and the others."""
    owner = owners(statements)
    tainted: set[str] = set()
    while True:
        known = constant_names(statements, constants, tainted)
        first: list[Statement] = []
        rest: list[Statement] = []
        for each in statements:
            name = writes(each)
            early = name in known if name else known.issuperset(reads(each))
            (first if early else rest).append(each)
        memory = {owner.get(name, name) for name in known}
        written = {owner.get(s.target, s.target) for s in rest if isinstance(s, InPlace)} & memory
        if written <= tainted:
            return first, rest
        tainted |= written
