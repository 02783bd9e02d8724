"""What a backend makes of a plan: a program. Backends are entry points of the group `tnconv.backends`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tnconv.ir import Size


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel that computes a step, and what each candidate was predicted to take, in microseconds."""

    step: str
    kernel: str
    candidates: tuple[tuple[str, float], ...] = ()


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
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    choices: tuple[Choice, ...]
    workspace: tuple[tuple[str, str, Size], ...]
    function: Callable[..., Tensor]
