"""Variables are freed after their last use.

t [n=3] = new sum(x, (1,))          t [n=3] = new sum(x, (1,))
u [n=3] = new t * 2                 u [n=3] = new t * 2
v [n=3] = new u + u                 free t
return v                            v [n=3] = new u + u
                                    return v

What is freed behind the last statement would be so anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.statements import Free, Loop, Once, Statement, reads, variables, writes


@dataclass(frozen=True)
class FreeAfterUse(ProgramPass):
    """`free` after each variable's last use; arguments and results stay."""

    name: ClassVar[str] = "free"

    def apply(self, program: ProgramText) -> ProgramText:
        """Free what is read no more."""
        results = {name for each in program.results for name in variables(each)}
        return replace(program, statements=_freed(program.statements, results))


def _freed(statements: Sequence[Statement], kept: set[str]) -> tuple[Statement, ...]:
    made = {name for each in statements if (name := writes(each))} - kept
    used = [list(dict.fromkeys((*reads(each), *filter(None, [writes(each)])))) for each in statements]
    last = {name: place for place, names in enumerate(used) for name in names if name in made}
    lines: list[Statement] = []
    for place, each in enumerate(statements):
        if isinstance(each, Loop | Once):
            later = {name for names in used[place + 1 :] for name in names}
            lines.append(replace(each, body=_freed(each.body, kept | later)))
        else:
            lines.append(each)
        dead = [name for name in used[place] if last.get(name) == place]
        if dead and place < len(statements) - 1:
            lines.append(Free(tuple(dead)))
    return tuple(lines)
