"""Functions that keep what depends on constant arguments alone, such as a weight that is a product of factors.

What is kept is used as long as the arguments have the values that it was made of: they are compared, cell by cell,
with a copy. That is exact whoever changed them and how, and takes one pass over factors, which are small.
"""

from collections.abc import Collection, Mapping
from copy import copy

import torch
from torch import Tensor

from tnconv.backends.backend import COMPONENTWISE, Choice, Program
from tnconv.backends.torch.context import are_plain, aside
from tnconv.backends.torch.lower import table_of
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.profile import Profile
from tnconv.ir import evaluate, product
from tnconv.planner.plan import Plan


class KeptProgram:
    """A program in two parts: `head` makes what `body` is given besides the arguments.

    Args:
        plan: the whole.
        constant: names of the arguments that seldom change.
        hints: integers that size symbols count as.
        prefer: kernels that are taken wherever they accept.
        device: whose rates decide between kernels; or these.
        accuracy: the least that kernels promise.

    Raises:
        LoweringError: nothing can be kept.
    """

    def __init__(
        self,
        plan: Plan,
        constant: Collection[str],
        hints: Mapping[str, int],
        prefer: Collection[str] = (),
        device: str | Profile = "cpu",
        accuracy: str = COMPONENTWISE,
    ) -> None:
        table = table_of(hints, prefer, device, accuracy)
        lowering = Lowering(plan, table, constant=constant)
        self.head, self.body = lowering.in_two_parts(constant)
        self.arguments = tuple(plan.arguments)
        self._places = [self.arguments.index(name) for name in self.head.arguments]
        self._kept: tuple[list[Tensor], list[Tensor]] | None = None
        cells = sum(evaluate(product(plan.arguments[name]), hints) for name in self.head.arguments)
        self._compared = table.profile.copying(table.profile.compared * cells)

    def apart(self) -> "KeptProgram":
        """The same programs with nothing kept, for another caller."""
        made = copy(self)
        made._kept = None
        return made

    @property
    def predicted(self) -> float:
        """Microseconds of a call that finds what is kept."""
        return self.body.predicted + self._compared

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The kernels of both parts."""
        return (*self.head.choices, *self.body.choices)

    @property
    def source(self) -> str:
        """The text of both parts."""
        return f"{self.head.source}\n\n{self.body.source}"

    def function(self, *tensors: Tensor) -> Tensor:
        """The value."""
        constants = [tensors[place] for place in self._places]
        kept = self._kept
        if kept is None or not all(map(_same, kept[0], constants)):
            kept = self._kept = self._made(constants)
        return self.body.function(*tensors, *kept[1])

    def _made(self, constants: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The constants, and what is made of them, for calls in any context."""
        with aside():
            copies = [tensor.detach().clone() for tensor in constants]
            made = self.head.function(*copies)
            parts = list(made) if isinstance(made, tuple) else [made]
            return copies, [part.contiguous() for part in parts]  # laid out as the calls like it, once


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.dtype == b.dtype and a.device == b.device and a.shape == b.shape
    return alike and torch.equal(a, b)


class WithConstants:
    """A function on tensors that keeps what it can where nobody asks for gradients.

    Args:
        program: computes the value as a whole.
        kept: in two parts.
    """

    def __init__(self, program: Program, kept: KeptProgram) -> None:
        self.program, self.kept = program, kept

    def apart(self) -> "WithConstants":
        """The same with nothing kept, for another caller."""
        return WithConstants(self.program, self.kept.apart())

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The value."""
        recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if recorded or not are_plain(tensors):
            return self.program.function(*tensors)
        return self.kept.function(*tensors)
