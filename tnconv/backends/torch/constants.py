"""Functions that keep what depends on constant arguments alone, such as a weight that is a product of factors.

What is kept is used as long as the arguments have the values that it was made of. On a CPU they are compared, cell by
cell, with a copy. That is exact whoever changed them and how, and takes one pass over factors, which are small. On
other devices that would wait for the device: there, places in memory and PyTorch's counts of writes are compared.
"""

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from tnconv.backends.backend import Choice, How, Program
from tnconv.backends.torch.context import are_plain, aside, is_captured
from tnconv.backends.torch.lower import table_of
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.numerics.huge_pages import HOST
from tnconv.ir import evaluate, product
from tnconv.planner.plan import Plan


class KeptProgram:
    """A program in two parts: `head` makes what `body` is given besides the arguments.

    Args:
        plan: the whole.
        constant: names of the arguments that seldom change.
        how: it is to be lowered.

    Raises:
        LoweringError: nothing can be kept.
    """

    def __init__(self, plan: Plan, constant: Collection[str], how: How) -> None:
        table = table_of(replace(how, known={}))  # whose steps have other prices
        lowering = Lowering(plan, table, constant=constant)
        self.head, self.body = lowering.in_two_parts(constant)
        self.arguments = tuple(plan.arguments)
        self._places = [self.arguments.index(name) for name in self.head.arguments]
        self._kept: tuple[ByCells | ByWrites, list[Tensor]] | None = None
        cells = sum(evaluate(product(plan.arguments[name]), how.hints) for name in self.head.arguments)
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
        if kept is None or not kept[0].holds(constants):
            kept = self._kept = self._made(constants)
        return self.body.function(*tensors, *kept[1])

    def _made(self, constants: list[Tensor]) -> "tuple[ByCells | ByWrites, list[Tensor]]":
        """What the constants were, and what is made of them, for calls in any context."""
        with aside():
            there = all(tensor.device.type in HOST for tensor in constants)
            was = ByCells(constants) if there else ByWrites(constants)
            made = self.head.function(*was.tensors)
            parts = list(made) if isinstance(made, tuple) else [made]
            return was, [part.contiguous() for part in parts]  # laid out as the calls like it, once


class ByCells:
    """The values of tensors, in copies."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor.detach().clone() for tensor in tensors]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors have these values."""
        return all(map(_equal, self.tensors, tensors))


class ByWrites:
    """Tensors as they lie in memory, and how often each was written into: no cell is read.

    The tensors stay alive, so that no other takes their place. What PyTorch does not count is not seen: writing through
    `.data`, and what the replay of a CUDA graph writes. A tensor of `torch.inference_mode` has no count, and is taken
    to have changed. What another stream makes may not be there yet, so that it is made anew on each.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor.detach() for tensor in tensors]
        self._states = [_state(tensor) for tensor in tensors]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors are these, and nobody has written into them."""
        return None not in self._states and [_state(tensor) for tensor in tensors] == self._states


def _equal(a: Tensor, b: Tensor) -> bool:
    alike = a.dtype == b.dtype and a.device == b.device and a.shape == b.shape
    return alike and torch.equal(a, b)


def _state(tensor: Tensor) -> tuple[object, ...] | None:
    """What tells the cells of a tensor from others, without reading one; None of one whose writes are not counted."""
    if tensor.is_inference():
        return None
    device = tensor.device
    stream = torch.cuda.current_stream(device).stream_id if tensor.is_cuda else None
    lies = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, device)
    return *lies, tensor._version, tensor.is_conj(), tensor.is_neg(), stream


class WithConstants:
    """A function on tensors that keeps what it can where nobody asks for gradients.

    Args:
        program: computes the value as a whole.
        kept: in two parts.
    """

    def __init__(self, program: Program, kept: KeptProgram) -> None:
        self.program, self.kept = program, kept

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The value."""
        recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if recorded or not are_plain(tensors) or any(is_captured(tensor.device) for tensor in tensors):
            return self.program.function(*tensors)
        return self.kept.function(*tensors)
