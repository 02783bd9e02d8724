"""Functions whose backward pass is planned: one program for the value, one for the gradients that are asked for.

PyTorch's autograd would otherwise differentiate each call of the generated program by itself. That remains the
way for whatever is not a plain backward pass: `torch.func` transforms, forward-mode derivatives, `torch.compile`,
autocast, complex tensors, and derivatives of derivatives.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tnconv.backends.base import Program
from tnconv.backends.torch.lower import Lowering, kernel_table
from tnconv.backends.torch.profile import profile_of
from tnconv.errors import LoweringError
from tnconv.planner.backward import Trained, with_backward
from tnconv.planner.plan import Plan

Flags = tuple[bool, ...]


class TrainedProgram:
    """The programs of a forward pass that saves what it must, and of its backward passes.

    Args:
        plan: of the forward pass.
        needed: arguments that need a gradient.
        hints: integers that size symbols count as.
        prefer: kernels that are taken wherever they accept.
        device: whose rates decide between kernels.
        recomputed: intermediates that are computed again instead of being saved.

    Raises:
        LoweringError: the backward pass cannot be planned, or not be written.
    """

    def __init__(
        self,
        plan: Plan,
        needed: Collection[str],
        hints: Mapping[str, int],
        prefer: Collection[str] = (),
        device: str = "cpu",
        recomputed: Collection[str] = (),
    ) -> None:
        self.plan, self.recomputed = plan, tuple(recomputed)
        self._how: tuple[Any, ...] = (kernel_table(), hints, prefer, profile_of(device))
        self.trained = self._with_backward(needed)
        lowering = Lowering(self.trained.forward, *self._how)
        self.forward = lowering.program(as_they_are=True)
        self._given = lowering.handed_over(self.trained.saved)
        self.backward = self._lowered(self.trained)
        self._backwards = {self.trained.needed: self.backward}

    def backward_of(self, needed: Sequence[str]) -> Program:
        """The program for the gradients of some of the arguments."""
        key = tuple(needed)
        if key not in self._backwards:
            self._backwards[key] = self._lowered(self._with_backward(key))
        return self._backwards[key]

    @property
    def predicted(self) -> float:
        """Microseconds that both passes are predicted to take."""
        return self.forward.predicted + self.backward.predicted

    def _with_backward(self, needed: Collection[str]) -> Trained:
        made = with_backward(self.plan, needed, self.recomputed)
        if made is None:
            raise LoweringError(
                f"the backward pass of {self.plan.name!r} cannot be planned; leave it to autograd: training=False"
            )
        return made

    def _lowered(self, trained: Trained) -> Program:
        given = {name: value for name, value in self._given.items() if name in trained.saved}
        return Lowering(trained.backward, *self._how, given=given).program()


class WithBackward:
    """A function on tensors whose gradients come from planned programs; from autograd where there is none.

    Args:
        program: computes the value.
        build: makes the programs for a set of arguments that need a gradient.
    """

    def __init__(self, program: Program, build: Callable[[Collection[str]], TrainedProgram]) -> None:
        self.program, self._build = program, build
        self._made: dict[Flags, TrainedProgram | None] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The value."""
        flags = tuple([tensor.requires_grad for tensor in tensors])
        if True not in flags or not torch.is_grad_enabled() or _unusual(tensors):
            return self.program.function(*tensors)
        made = self._made[flags] if flags in self._made else self._make(flags)
        if made is None:
            return self.program.function(*tensors)
        value: Tensor = _Planned.apply(made, self.program, *tensors)  # type: ignore[no-untyped-call]
        return value

    def _make(self, flags: Flags) -> TrainedProgram | None:
        needed = [n for n, flag in zip(self.program.arguments, flags, strict=True) if flag]
        try:
            made = self._build(needed)
        except LoweringError:
            made = None
        self._made[flags] = made
        return made


def _unusual(tensors: Sequence[Tensor]) -> bool:
    """Whether somebody wants more than a backward pass of real tensors as they are."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind) or any(tensor.is_complex() for tensor in tensors):
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


class _Planned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, made: TrainedProgram, program: Program, *tensors: Tensor) -> Tensor:  # type: ignore[override]
        found = made.forward.function(*tensors)
        value, saved = (found[0], found[1:]) if made.trained.saved else (found, ())
        ctx.made, ctx.program = made, program
        ctx.save_for_backward(*tensors, *saved)
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        count = len(ctx.program.arguments)
        tensors, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        flags = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # create_graph=True: autograd can differentiate once more, this function cannot
            gradients = _by_autograd(ctx.program, tensors, flags, cotangent)
        else:
            needed = [name for name, flag in zip(ctx.program.arguments, flags, strict=True) if flag]
            program = ctx.made.backward_of(needed)
            known = dict(zip(ctx.program.arguments, tensors, strict=True))
            known |= dict(zip(ctx.made.trained.saved, saved, strict=True))
            known[ctx.made.trained.cotangent] = cotangent
            found = program.function(*[known[name] for name in program.arguments])
            gradients = found if len(needed) > 1 else (found,)
        rest = iter(gradients)
        return (None, None, *[next(rest) if flag else None for flag in flags])


def _by_autograd(
    program: Program, tensors: Sequence[Tensor], flags: Sequence[bool], cotangent: Tensor
) -> tuple[Tensor, ...]:
    value = program.function(*tensors)
    wanted = [tensor for tensor, flag in zip(tensors, flags, strict=True) if flag]
    return torch.autograd.grad(value, wanted, cotangent, create_graph=True)
