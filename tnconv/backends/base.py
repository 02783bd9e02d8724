"""What a backend makes of a plan: a program. Backends are entry points of the group `tnconv.backends`."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tnconv.ir import Expression, Size
from tnconv.planner.plan import Plan
from tnconv.program import ProgramText


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel that computes a step.

    Args:
        step: name of its result.
        kernel: name of the kernel.
        candidates: what each kernel that accepts the step was predicted to take, in microseconds.
        multiplications: that the kernel does; None where they are those of the plan.
    """

    step: str
    kernel: str
    candidates: tuple[tuple[str, float], ...] = ()
    multiplications: Size | None = None

    @property
    def predicted(self) -> float:
        """Microseconds that the chosen kernel is predicted to take; 0 where the backend predicts none."""
        return dict(self.candidates).get(self.kernel, 0.0)


@dataclass(frozen=True)
class Program:
    """A function on tensors, and where it came from.

    Args:
        name: of the function.
        source: its text, for people to read.
        arguments: names of the arguments, in order.
        choices: the kernel of each step.
        workspace: (step, what, elements) of buffers that kernels need besides operands and results.
        function: takes the argument tensors in order.
        chunk: the program of one chunk, where the function runs it in a loop.
        text: its statements, of a backend that has them: what `str` gives.
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    choices: tuple[Choice, ...]
    workspace: tuple[tuple[str, str, Size], ...]
    function: Callable[..., Tensor]
    chunk: "Program | None" = None
    text: ProgramText | None = None

    def __str__(self) -> str:
        return self.source if self.text is None else str(self.text)

    @property
    def kernels(self) -> set[str]:
        """Names of the kernels that it uses."""
        return {choice.kernel for choice in self.choices}

    @property
    def predicted(self) -> float:
        """Microseconds that all steps together are predicted to take, sizes at the hints."""
        return sum(choice.predicted for choice in self.choices)


# A backend takes a plan, the network that it computes, integers that size symbols count as, and names of
# kernels to take wherever they accept (the exact check of a program makes small instances use them), and the
# device that kernels are chosen for (the torch backend takes its rates too).
Backend = Callable[[Plan, Expression, Mapping[str, int], Collection[str], Any], Program]
