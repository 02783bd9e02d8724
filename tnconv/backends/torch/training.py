"""Functions whose backward pass is planned: one program for the value, one for the gradients that are asked for.

PyTorch's autograd would otherwise differentiate each call of the generated program by itself. That remains the
way for whatever is not a plain backward pass: `torch.func` transforms, forward-mode derivatives, `torch.compile`,
other tracers, and derivatives of derivatives.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.backend import Choice, How, Program
from tnconv.backends.bound_symbols import solve_symbols
from tnconv.backends.meter import in_elements, measured_at
from tnconv.backends.torch.context import are_plain, autocast_dtype
from tnconv.backends.torch.lower import table_of
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.numerics.triangle import spread_triangle
from tnconv.errors import LoweringError
from tnconv.ir import Size, evaluate
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.backward import Trained, with_backward
from tnconv.planner.memory_limit import program_peak
from tnconv.planner.plan import DEFAULT_HINT, Plan

Flags = tuple[bool, ...]


class TrainedProgram:
    """The programs of a forward pass that saves what it must, and of its backward passes.

    Args:
        plan: of the forward pass.
        needed: arguments that need a gradient.
        how: they are to be lowered; both are given up, with `Slower`, where they are predicted to take `how.below`.
        recomputed: intermediates that are computed again instead of being saved.

    Attributes:
        predicted: microseconds that both passes are predicted to take.

    Raises:
        LoweringError: the backward pass cannot be planned, or not be written.
    """

    def __init__(
        self,
        plan: Plan,
        needed: Collection[str],
        how: How,
        recomputed: Collection[str] = (),
    ) -> None:
        self.plan, self.recomputed = plan, tuple(recomputed)
        self._table = table_of(how)
        self.trained = self._with_backward(needed)
        self._forward = Lowering(self.trained.forward, self._table)
        forward = self._forward.predicted(how.below)
        self._given = self._forward.handed_over(self.trained.saved)
        self._backward = self._lowering(self.trained)
        self.predicted = forward + self._backward.predicted(how.below - forward)
        self._backwards: dict[tuple[str, ...], Program | None] = {}

    @cached_property
    def forward(self) -> Program:
        """The program of the forward pass."""
        return self._forward.program(self.trained.saved)

    @cached_property
    def backward(self) -> Program:
        """The program of the backward pass for all arguments that need a gradient."""
        return self._backward.program(gradients=True)

    def backward_of(self, needed: Sequence[str]) -> Program | None:
        """The program for the gradients of some of the arguments; None where these tell not all sizes by themselves."""
        key = tuple(needed)
        if key == self.trained.needed:
            return self.backward
        if key not in self._backwards:
            try:
                self._backwards[key] = self._lowering(self._with_backward(key)).program(gradients=True)
            except LoweringError:
                self._backwards[key] = None
        return self._backwards[key]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of the forward pass."""
        return tuple(self.trained.forward.arguments)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The kernels of both passes."""
        return (*self.forward.choices, *self.backward.choices)

    @property
    def source(self) -> str:
        """The text of both passes."""
        return f"{self.forward.source}\n\n{self.backward.source}"

    @property
    def peak(self) -> Size:
        """Most elements alive at once in either pass besides the arguments and the cotangent: what is saved is."""
        elements = {step.result: step.elements for step in self.plan.steps}
        saved = sum((elements[name] for name in self.trained.saved), 0)
        forward = program_peak(self.forward.lowered(self.trained.forward), self.forward.workspace)
        backward = normal(
            saved + program_peak(self.backward.lowered(self.trained.backward), self.backward.workspace)
        )
        hints = {name: self.plan.hints.get(name, DEFAULT_HINT) for name in symbol_names(forward + backward)}
        return max(forward, backward, key=lambda size: evaluate(size, hints))

    def peak_at(self, values: Mapping[str, int]) -> int:
        """The same as the programs make it, measured, with what native convolutions take for themselves.

        Args:
            values: of the size symbols.
        """
        values = {**self.plan.hints, **values}
        shapes = {name: self.plan.arguments[name] for name in self.arguments}
        shapes[self.trained.cotangent] = self.plan.output_sizes
        found = measured_at(self._both, shapes, values, self.plan.tables)
        return evaluate(self.peak, values) if found is None else in_elements(found.with_scratch)

    def _both(self, *tensors: Tensor) -> None:
        """Both passes in turn, for the arguments and a cotangent."""
        *arguments, cotangent = tensors
        value, saved = self.run(*arguments)
        del value
        self.gradients(arguments, saved, cotangent, self.trained.needed)

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Both passes in turn, for a cotangent of ones: the gradients."""
        value, saved = self.run(*tensors)
        return self.gradients(tensors, saved, torch.ones_like(value), self.trained.needed)

    def run(self, *tensors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The value, and what the backward pass needs besides the arguments."""
        found: Any = self.forward.function(*tensors)
        return (found[0], found[1:]) if self.trained.saved else (found, ())

    def gradients(
        self, tensors: Sequence[Tensor], saved: Sequence[Tensor], cotangent: Tensor, needed: Sequence[str]
    ) -> tuple[Tensor, ...]:
        """The gradients of some of the arguments, in order."""
        program = self.backward_of(needed)
        if program is None:
            whole = self.trained.needed
            every = self.gradients(tensors, saved, cotangent, whole)
            return tuple(every[whole.index(name)] for name in needed)
        known = dict(zip(self.arguments, tensors, strict=True))
        known |= dict(zip(self.trained.saved, saved, strict=True))
        if self.plan.packed is not None:
            cotangent = self._spread(cotangent, tensors)
        if self.plan.real:  # a value that is real by construction, maybe of complex arguments
            cotangent = cotangent.to(tensors[0].dtype)
        known[self.trained.cotangent] = cotangent
        found: Any = program.function(*[known[name] for name in program.arguments])
        return found if len(needed) > 1 else (found,)

    def _spread(self, cotangent: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The cotangent of the whole value, of that of its lower triangle: zeros above."""
        shapes = {name: tensor.shape for name, tensor in zip(self.arguments, tensors, strict=True)}
        values = solve_symbols([(n, tuple(sizes)) for n, sizes in self.plan.arguments.items()], shapes, {})
        whole = self.trained.backward.arguments[self.trained.cotangent]
        return spread_triangle(cotangent).reshape([evaluate(size, values) for size in whole])

    def _with_backward(self, needed: Collection[str]) -> Trained:
        made = with_backward(self.plan, needed, self.recomputed)
        if made is None:
            raise LoweringError(
                f"the backward pass of {self.plan.name!r} cannot be planned; leave it to autograd: training=False"
            )
        return made

    def _lowering(self, trained: Trained) -> Lowering:
        given = {name: value for name, value in self._given.items() if name in trained.saved}
        return Lowering(trained.backward, self._table, given)


class WithBackward:
    """A function on tensors whose gradients come from planned programs; from autograd where there is none.

    Args:
        program: computes the value.
        build: makes the programs for a set of arguments that need a gradient.
        needs_gradient: the arguments that are expected to need one.
    """

    def __init__(
        self,
        program: Program,
        build: Callable[[Collection[str]], TrainedProgram],
        needs_gradient: Collection[str],
    ) -> None:
        self.program, self.needs_gradient, self._build = program, tuple(needs_gradient), build
        self._made: dict[Flags, TrainedProgram | None] = {}

    @property
    def made(self) -> TrainedProgram | None:
        """The programs for the arguments that are expected to need a gradient; None where autograd does it."""
        flags = tuple(name in self.needs_gradient for name in self.program.arguments)
        return self._made[flags] if flags in self._made else self._make(flags)

    @property
    def source(self) -> str:
        """The text of both passes; of the program alone where autograd does the backward one."""
        return self.made.source if self.made else self.program.source

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
    """Whether somebody wants more than a backward pass of tensors as they are."""
    return not are_plain(tensors) or autocast_dtype(tensors[0].device) is not None


class _Planned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, made: TrainedProgram, program: Program, *tensors: Tensor) -> Tensor:
        value, saved = made.run(*tensors)
        ctx.made, ctx.program = made, program
        ctx.save_for_backward(*tensors, *saved)
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.program.arguments)
        read = ctx.saved_tensors  # read once: checkpointing computes it then, and gives it away
        tensors, saved = read[:count], read[count:]
        flags = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # create_graph=True: only autograd can differentiate once more
            gradients = _by_autograd(ctx.program, tensors, flags, cotangent)
        else:
            needed = [name for name, flag in zip(ctx.program.arguments, flags, strict=True) if flag]
            gradients = ctx.made.gradients(tensors, saved, cotangent, needed)
        rest = iter(gradients)
        return (None, None, *[next(rest) if flag else None for flag in flags])


def _by_autograd(
    program: Program, tensors: Sequence[Tensor], flags: Sequence[bool], cotangent: Tensor
) -> tuple[Tensor, ...]:
    value = program.function(*tensors)
    wanted = [tensor for tensor, flag in zip(tensors, flags, strict=True) if flag]
    return torch.autograd.grad(value, wanted, cotangent, create_graph=True)
