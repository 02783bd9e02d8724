"""What a pass on programs is: a frozen dataclass whose fields are its options; and passes in order.

    @dataclass(frozen=True)
    class Rename(ProgramPass):
        name: ClassVar[str] = "rename"
        to: str = "program"

        def apply(self, program: ProgramText) -> ProgramText:
            return replace(program, name=self.to)

A pass keeps the value of a program. Passes of plug-ins, in the entry-point group `tnconv.program_passes` or by
`plugins.register`, are classes that need no options; they run after the built-in ones and before variables are freed.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tnconv import plugins
from tnconv.errors import PassError, PluginError
from tnconv.passes.pass_text import format_pass
from tnconv.program.program import ProgramText, verify
from tnconv.program.statements import Statement, lines


class ProgramPass:
    """A named transformation of a program that keeps its value. Subclass it with a frozen dataclass.

    Attributes:
        name: in texts and in the registry.
    """

    name: ClassVar[str]

    def apply(self, program: ProgramText) -> ProgramText:
        """The new program; the very one that was given if nothing is to do. Pure: equal programs give equal ones."""
        raise NotImplementedError(f"pass {self.name!r} has no apply")

    def __str__(self) -> str:
        return format_pass(self.name, self)


@dataclass(frozen=True, slots=True)
class ProgramStage:
    """What one pass did.

    Args:
        text: the pass, as `str` gives it.
        before: what it was given.
        after: what it made of it; the same value if nothing changed.
    """

    text: str
    before: ProgramText
    after: ProgramText

    @property
    def changed(self) -> bool:
        """Whether the pass did something."""
        return self.before is not self.after and self.before != self.after

    @property
    def statements(self) -> tuple[int, int]:
        """How many statements there were, and are, those in blocks too."""
        return len(lines(self.before.statements)), len(lines(self.after.statements))

    @property
    def gone(self) -> tuple[Statement, ...]:
        """Statements that are no more."""
        left = set(lines(self.after.statements))
        return tuple(each for each in lines(self.before.statements) if each not in left)

    @property
    def new(self) -> tuple[Statement, ...]:
        """Statements that were not there."""
        had = set(lines(self.before.statements))
        return tuple(each for each in lines(self.after.statements) if each not in had)


def run(passes: Iterable[ProgramPass], program: ProgramText) -> tuple[ProgramText, tuple[ProgramStage, ...]]:
    """Apply passes in order.

    Raises:
        PassError: a pass of a plug-in made no valid program.
    """
    stages = []
    for each in passes:
        after = each.apply(program)
        if not type(each).__module__.startswith("tnconv.program."):
            _check(each, after)
        stages.append(ProgramStage(str(each), program, after))
        program = after
    return program, tuple(stages)


def _check(each: ProgramPass, after: object) -> None:
    if not isinstance(after, ProgramText):
        raise PassError(f"pass {each.name!r} made a {type(after).__name__}, not a ProgramText; return one")
    faults = verify(after)
    if faults:
        raise PassError(f"pass {each.name!r} made an invalid program: {faults[0]}\n{after}")


def added() -> tuple[ProgramPass, ...]:
    """The passes of plug-ins, by name.

    Raises:
        PluginError: one is no pass on programs.
    """
    own = plugins.BUILTINS[plugins.PROGRAM_PASSES]
    found = (
        plugins.load(plugins.PROGRAM_PASSES)
        if len(plugins.sources(plugins.PROGRAM_PASSES)) > len(own)
        else {}
    )
    return tuple(_made(name, kind) for name, kind in found.items() if name not in own)


def _made(name: str, kind: object) -> ProgramPass:
    if not (isinstance(kind, type) and issubclass(kind, ProgramPass) and dataclasses.is_dataclass(kind)):
        raise PluginError(
            f"pass {name!r} is {kind!r}, which is no pass on programs; subclass tnconv.program.ProgramPass with a "
            "frozen dataclass that needs no options"
        )
    return kind()
