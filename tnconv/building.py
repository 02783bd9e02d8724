"""From a rewritten network to the plan and the program that are kept: by predicted time, by trial, within a limit."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from tnconv import plugins
from tnconv.backends import reference
from tnconv.backends.base import Backend, Program
from tnconv.backends.peak import peak_at
from tnconv.backends.torch.constants import KeptProgram, WithConstants
from tnconv.backends.torch.lower import COMPONENTWISE, fastest_of, lower
from tnconv.backends.torch.profile import Profile, profile_of
from tnconv.backends.torch.sliced import loop_over_chunks
from tnconv.backends.torch.training import TrainedProgram, WithBackward
from tnconv.backends.tuning import Trial, tune
from tnconv.errors import LoweringError, PassError, PlanError
from tnconv.ir import Expression, evaluate
from tnconv.passes import Pipeline
from tnconv.passes.shrink import largest, shrink, whole
from tnconv.planner import DEFAULT_HINT, Plan, candidate_plans, make_plan, rival_plans
from tnconv.planner.memory import does_not_fit, format_memory
from tnconv.planner.objective import Objective
from tnconv.planner.plan import Slice, moving_operands
from tnconv.planner.slicing import cut, of_one_chunk, size_of, sliceable, with_slices

_CHECK_CELLS = 2_000
_CHECK_INSTANCES = 5
_CHECK_PLAIN, _CHECK_ALIKE = 30, 60  # draws of any instances, then of those for the kernels that are missing
_CHECK_ALIKE_CELLS = 20_000
_CHECK_LARGEST = 200_000  # cells of a tensor of the layer itself, where that is checked
_ORDERS = 6  # contraction orders that are tried for one size of the chunks
_INDICES = 6  # indices that are tried for a slice
_RIVALS = 6  # plans for which a program is written; each takes some milliseconds
_DEPTH = 3  # indices that are sliced together
# Native convolutions take memory for themselves; these do not.
_PLAIN_KERNELS = (
    "matmul",
    "symmetric product",
    "window sum",
    "window view + matmul",
    "cells apart, symmetric product",
    "cells apart, window view + matmul",
)


@dataclass(frozen=True, slots=True)
class Built:
    """What is kept of all that was tried.

    Args:
        plan: the order.
        program: how.
        recipe: what makes the same once more.
        function: what is called in its place: with planned backward passes, or with what is kept of constants.
    """

    plan: Plan
    program: Program
    recipe: "Recipe"
    function: WithBackward | WithConstants | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """What autotuning has timed."""
        return self.recipe.trials


@dataclass(frozen=True, slots=True)
class Builder:
    """The way from a rewritten network to a program.

    Args:
        passes: the rewriting passes, for small instances in a check.
        planner: name of a planner.
        backend: name of a backend.
        hints: integers that size symbols count as; 32 for those not named.
        device: whose rates decide between kernels; or these.
        objective: what plans are judged by; where it counts time, that of their programs decides.
        accuracy: the least that kernels of the `torch` backend promise.
    """

    passes: Pipeline
    planner: str
    backend: str
    hints: dict[str, int]
    device: str | Profile
    objective: Objective
    accuracy: str = COMPONENTWISE

    def hints_of(self, network: Expression) -> dict[str, int]:
        """An integer for every size symbol of a network."""
        return {name: self.hints.get(name, DEFAULT_HINT) for name in network.symbols}

    def lowering(self, network: Expression) -> Callable[[Plan, tuple[str, ...]], Program]:
        """What writes the program of a plan of the network, with kernels to prefer."""
        backend, hints = self._backend(), self.hints_of(network)
        return lambda plan, prefer: backend(plan, network, hints, prefer, self.device)

    def _backend(self) -> Backend:
        """What writes programs; a backend of a plug-in is not asked for less or more than it does."""
        found: Backend = plugins.get(plugins.BACKENDS, self.backend)
        own: Backend = partial(lower, accuracy=self.accuracy)
        return own if self.backend == "torch" else found

    def _task(self, network: Expression) -> str:
        """What is computed, as autotuning remembers it."""
        return str(network) if self.accuracy == COMPONENTWISE else f"{network} {self.accuracy}"

    def rivals(self, network: Expression, most: int = _RIVALS) -> list[Plan]:
        """The plans among which time decides; one where multiplications do."""
        judged = self.objective
        options: dict[str, Any] = {
            "planner": self.planner,
            "hints": self.hints_of(network),
            "training": judged.training,
            "frozen": judged.frozen,
            "constant": judged.constant,
        }
        if judged.elements:
            return rival_plans(network, most=most, **options)
        return [make_plan(network, minimize="multiplications", **options)]

    def with_one_of(self, kernels: Collection[str], network: Expression) -> Iterator[Program]:
        """The programs of all plans among which time decides that use one of some kernels."""
        if kernels:
            write = self.lowering(network)
            made = (write(plan, tuple(sorted(kernels))) for plan in self.rivals(network))
            yield from (program for program in made if program.kernels & set(kernels))

    def fastest(self, network: Expression, prefer: Collection[str] = ()) -> Built:
        """The rival that is predicted to take the least time."""
        prefer, lower = tuple(prefer), self.lowering(network)
        if self.objective.constant:
            kept = [(plan, self._kept(network, plan, prefer)) for plan in self.rivals(network)]
            plan, chosen = min(kept, key=lambda pair: pair[1].predicted)
            return self._with_constants(lower(plan, prefer), chosen, Recipe(self, plan, prefer))
        if not self.objective.training and self.backend == "torch":
            plans, hints = self.rivals(network), self.hints_of(network)
            plan, program = fastest_of(plans, hints, prefer, self.device, self.accuracy)
            return Built(plan, program, Recipe(self, plan, prefer))
        if not self.objective.training:
            made = [Built(p, lower(p, prefer), Recipe(self, p, prefer)) for p in self.rivals(network)]
            return min(made, key=lambda built: built.program.predicted)
        plan = min(self.rivals(network), key=lambda plan: self._both_passes(network, plan, prefer))
        return self._trained(network, plan, lower(plan, prefer), prefer)

    def _both_passes(self, network: Expression, plan: Plan, prefer: tuple[str, ...]) -> float:
        """Microseconds of both passes; where the backward one is left to autograd, a step takes once more what it takes
        for each operand that needs a gradient."""
        try:
            return self._training(network, plan, prefer)(self._moving(plan)).predicted
        except LoweringError:
            choices = self.lowering(network)(plan, prefer).choices
            moving = moving_operands(plan.steps, self.objective.frozen)
            return sum(choice.predicted * (1 + moving.get(choice.step, 2)) for choice in choices)

    def _kept(self, network: Expression, plan: Plan, prefer: tuple[str, ...]) -> Program | KeptProgram:
        """The program in two parts, or as a whole where nothing can be kept."""
        try:
            if self.backend == "torch":
                constant, hints = self.objective.constant, self.hints_of(network)
                return KeptProgram(plan, constant, hints, prefer, self.device, self.accuracy)
        except LoweringError:
            pass
        return self.lowering(network)(plan, prefer)

    @staticmethod
    def _with_constants(program: Program, kept: Program | KeptProgram, recipe: "Recipe") -> Built:
        function = WithConstants(program, kept) if isinstance(kept, KeptProgram) else None
        return Built(recipe.plan, program, recipe, function)

    def _moving(self, plan: Plan) -> list[str]:
        return [name for name in plan.arguments if name not in self.objective.frozen]

    def _training(
        self, network: Expression, plan: Plan, prefer: tuple[str, ...], recomputed: tuple[str, ...] = ()
    ) -> Callable[[Collection[str]], TrainedProgram]:
        """What makes the programs of both passes for the arguments that need a gradient."""
        hints, own = self.hints_of(network), self.backend == "torch"

        def build(needed: Collection[str]) -> TrainedProgram:
            if not own:
                raise LoweringError(
                    f"backend {self.backend!r} plans no backward pass; autograd goes through its own"
                )
            return TrainedProgram(plan, needed, hints, prefer, self.device, recomputed, self.accuracy)

        return build

    def _trained(
        self,
        network: Expression,
        plan: Plan,
        program: Program,
        prefer: tuple[str, ...] = (),
        recomputed: tuple[str, ...] = (),
        trials: tuple[Trial, ...] = (),
    ) -> Built:
        build = self._training(network, plan, prefer, recomputed)
        function = WithBackward(program, build, self._moving(plan))
        return Built(plan, program, Recipe(self, plan, prefer, recomputed, trials=trials), function)

    def within(self, network: Expression, limit: int) -> Built:
        """The fastest plan where that fits; the first that does; or one that runs in a loop over chunks.

        In training, what is saved for the backward pass counts, and what does not fit is computed again in it.

        Args:
            network: what is computed.
            limit: bytes besides the arguments, for torch's default dtype and sizes at the hints.

        Raises:
            PlanError: the limit is below the least peak.
        """
        hints, itemsize = self.hints_of(network), torch.get_default_dtype().itemsize
        room = limit // itemsize
        peaks: list[int] = []
        fastest = self.fastest(network)
        first = peak_at(fastest.plan, fastest.program, hints)
        for plan, program, peak, prefer in chain(
            [(fastest.plan, fastest.program, first, ())], self._orders(network, hints, room)
        ):
            if peak > room:
                peaks.append(peak)
            elif not self.objective.training:
                return Built(plan, program, Recipe(self, plan, prefer))
            elif found := self._checkpointed(network, plan, program, prefer, room, peaks):
                return found
        if sliced := None if self.objective.training else self._sliced(network, room, peaks):
            return sliced
        if not peaks:
            raise PlanError(
                f"memory_limit={format_memory(limit)} and training=True are given, but the backward pass of "
                f"{network.name!r} cannot be planned, and what autograd keeps is not known; leave one of them out"
            )
        raise does_not_fit(min(peaks), len(peaks), limit, itemsize, network.symbols, "plans")

    def _checkpointed(
        self,
        network: Expression,
        plan: Plan,
        program: Program,
        prefer: tuple[str, ...],
        room: int,
        peaks: list[int],
    ) -> Built | None:
        """Both passes within a limit: what is largest and quickest to make is saved last, and made again instead."""
        hints = self.hints_of(network)
        times = {choice.step: choice.predicted for choice in program.choices}
        again: tuple[str, ...] = ()
        while True:
            try:
                made = self._training(network, plan, prefer, again)(self._moving(plan))
            except LoweringError:  # autograd keeps what it keeps: nothing is known of its memory
                return None
            peak = made.peak_at(hints)
            if peak <= room:
                return self._trained(network, plan, program, prefer, again)
            peaks.append(peak)
            if not made.trained.saved:
                return None
            sizes = {step.result: step.elements_at(hints) for step in plan.steps}
            worst = max(made.trained.saved, key=lambda name: sizes[name] / (1 + times.get(name, 0.0)))
            again = (*again, worst)

    def _orders(
        self, network: Expression, hints: Mapping[str, int], room: int
    ) -> Iterator[tuple[Plan, Program, int, tuple[str, ...]]]:
        """Programs for less and less memory, each with the elements at its peak, and the kernels that it prefers.

        Where an order does not fit, it is tried with kernels that call no native convolution, too.
        """
        lower = self.lowering(network)
        for plan in candidate_plans(network, planner=self.planner, hints=hints):
            for prefer in ((), _PLAIN_KERNELS):
                program = lower(plan, prefer)
                peak = peak_at(plan, program, hints)
                yield plan, program, peak, prefer
                if peak <= room:
                    break

    def _sliced(self, network: Expression, room: int, peaks: list[int]) -> Built | None:
        """The plan that fits in `room` elements with the least work, of those that slice the fewest indices.

        Args:
            network: what is computed.
            room: elements.
            peaks: is given the peaks of all that was tried.
        """
        start = _Sliced(network)
        for _ in range(_DEPTH):
            least: tuple[int, _Sliced] | None = None
            found: list[tuple[int, int, Built]] = []
            for name in start.sliceable()[:_INDICES]:
                smallest = start.cut(name, 1)
                tried = self._chunked(network, smallest, room, peaks)
                if tried is None:
                    continue
                built, peak = tried
                if least is None or peak < least[0]:
                    least = peak, smallest
                if peak <= room:
                    found.append(self._largest_chunk(network, start, name, room, peaks) or self._work(built))
            if found:
                return min(found, key=lambda made: made[:2])[2]
            if least is None:
                return None
            start = least[1]
        return None

    def _largest_chunk(
        self, network: Expression, start: "_Sliced", name: str, room: int, peaks: list[int]
    ) -> tuple[int, int, Built] | None:
        """The plan with the fewest chunks that fits, halving their size each time; None below two values."""
        size = evaluate(size_of(start.network, name), self.hints_of(network))
        chunk = -(-size // 2)
        while chunk > 1:
            tried = self._chunked(network, start.cut(name, chunk), room, peaks)
            if tried is not None and tried[1] <= room:
                return self._work(tried[0])
            chunk = -(-chunk // 2)
        return None

    @staticmethod
    def _work(built: Built) -> tuple[int, int, Built]:
        """Multiplications and number of chunks, to compare plans by."""
        plan, runs = built.plan, 1
        for each in plan.slices:
            runs *= evaluate(each.runs, plan.hints)
        return evaluate(plan.multiplications, plan.hints), runs, built

    def _chunked(
        self, network: Expression, sliced: "_Sliced", room: int, peaks: list[int]
    ) -> tuple[Built, int] | None:
        """The first order that fits for given chunks, or that with the least peak; None if it cannot be written."""
        hints = self.hints_of(network) | {each.part: each.chunk for each in sliced.slices}
        best: tuple[Built, int] | None = None
        candidates = candidate_plans(sliced.network, planner=self.planner, hints=hints)
        for inner in islice(candidates, _ORDERS):
            plan = with_slices(inner, sliced.slices, sliced.scale)
            try:
                program = self._looped(network, plan, sliced.network)
            except LoweringError:  # a size that only the whole tells
                return None
            peak = peak_at(plan, program, hints)
            peaks.append(peak)
            if best is None or peak < best[1]:
                best = Built(plan, program, Recipe(self, plan, chunk=sliced.network)), peak
            if peak <= room:
                break
        return best

    def _looped(self, network: Expression, plan: Plan, chunk: Expression) -> Program:
        """The program of a plan with slices, that of a chunk in a loop."""
        hints = self.hints_of(network) | {each.part: each.chunk for each in plan.slices}
        made = self._backend()(of_one_chunk(plan), chunk, hints, (), self.device)
        return loop_over_chunks(made, plan, network.arguments)

    def again(self, network: Expression, recipe: "Recipe") -> Built:
        """What a recipe says, without a search."""
        plan, prefer, chunk = recipe.plan, recipe.prefer, recipe.chunk
        if chunk is not None:
            return Built(plan, self._looped(network, plan, chunk), recipe)
        program = self.lowering(network)(plan, prefer)
        if self.objective.constant:
            return self._with_constants(program, self._kept(network, plan, prefer), recipe)
        if self.objective.training:
            return self._trained(network, plan, program, prefer, recipe.recomputed, recipe.trials)
        return Built(plan, program, recipe)

    def tuned(self, network: Expression) -> Built:
        """The plan and the program that are fastest on this machine, of both passes in training; for the default dtype.

        Raises:
            LoweringError: for training, the backward pass cannot be planned.
        """
        hints, dtype, device = self.hints_of(network), torch.get_default_dtype(), str(self.device)
        plans, lower = self.rivals(network), self.lowering(network)
        if self.objective.constant:
            task = f"{self._task(network)} but for {sorted(self.objective.constant)}"
            keep = partial(self._kept, network)
            plan, prefer, trials = tune(task, plans, keep, hints, device, dtype)
            recipe = Recipe(self, plan, prefer, trials=trials)
            return self._with_constants(lower(plan, prefer), keep(plan, prefer), recipe)
        if not self.objective.training:
            plan, prefer, trials = tune(self._task(network), plans, lower, hints, device, dtype)
            return Built(plan, lower(plan, prefer), Recipe(self, plan, prefer, trials=trials))

        def both(plan: Plan, prefer: tuple[str, ...]) -> TrainedProgram:
            return self._training(network, plan, prefer)(self._moving(plan))

        task = f"{self._task(network)} trained but for {sorted(self.objective.frozen)}"
        plan, prefer, trials = tune(task, plans, both, hints, device, dtype)
        return self._trained(network, plan, lower(plan, prefer), prefer, trials=trials)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a search has chosen: all that it takes to write the same programs once more, in another process too.

    Args:
        builder: writes them.
        plan: the order.
        prefer: kernels that are taken wherever they accept.
        recomputed: intermediates that the backward pass computes again.
        chunk: the network of one chunk of a plan with slices.
        trials: what autotuning has timed.
    """

    builder: Builder
    plan: Plan
    prefer: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()
    chunk: Expression | None = None
    trials: tuple[Trial, ...] = ()

    def pinned(self) -> "Recipe":
        """The same for any machine: with the rates by which kernels were chosen, and without the passes."""
        builder = replace(self.builder, passes=Pipeline())
        if builder.backend == "torch":
            builder = replace(builder, device=profile_of(builder.device))
        return replace(self, builder=builder)

    def built(self, network: Expression) -> Built:
        """The plan and the programs for the network that the plan was made for."""
        return self.builder.again(network, self)


@dataclass(frozen=True, slots=True)
class _Sliced:
    """What is computed for one chunk.

    Args:
        network: of a chunk.
        slices: the indices that are cut so far.
        scale: what the total is to be multiplied by.
    """

    network: Expression
    slices: tuple[Slice, ...] = ()
    scale: Any = 1

    def sliceable(self) -> list[str]:
        """The indices that can be cut and are not yet."""
        parts = [each.part for each in self.slices]
        return [n for n in sliceable(self.network) if str(size_of(self.network, n)) not in parts]

    def cut(self, name: str, chunk: int) -> "_Sliced":
        """The same with one more index in chunks."""
        network, part, scale = cut(self.network, name)
        made = Slice(part, size_of(self.network, name), chunk)
        return _Sliced(network, (*self.slices, made), self.scale * scale)


def check_program(derived: Expression, network: Expression, builder: Builder, built: Built) -> None:
    """Compare the program, and those of small instances, with the reference: lowering is where mistakes hide.

    The program itself runs where the layer is small. The instances use its kernels where these accept them. They are
    drawn until enough have a value that is not all zero, as many patterns of tiny sizes reach nothing, and every kernel
    was used by one; for those that are still missing, instances are drawn that are more like the layer, and all
    their plans are tried.

    Args:
        derived: the network before it is rewritten.
        network: what the program computes.
        builder: writes the programs of instances.
        built: what is checked.

    Raises:
        LoweringError: a value differs, or a kernel was used by no instance: what is not checked is not passed.
    """
    rng = np.random.default_rng(0)
    kernels, telling = built.program.kernels, 0
    missing = kernels - _used(network, built, rng)
    for small, alike in _instances(derived, rng):
        try:
            rewritten, _ = builder.passes.run(small)
        except PassError:  # a pass may refuse sizes that a small instance has
            continue
        made = builder.fastest(rewritten, missing if alike else kernels)
        arrays, want = _compare_all(rewritten, made, rng)
        if np.any(want):
            telling += 1
            missing -= made.program.kernels
            for other in builder.with_one_of(missing, rewritten) if alike else ():
                _compare(rewritten, other, arrays, want)
                missing -= other.kernels
        if telling >= _CHECK_INSTANCES and not missing:
            return
    if missing:
        raise LoweringError(
            f"the program of {derived.name!r} cannot be checked: none of {_CHECK_PLAIN + _CHECK_ALIKE} small "
            f"instances with a value other than zero uses {', '.join(sorted(missing))}; compile without verify, or "
            "check a smaller layer"
        )


def _used(network: Expression, built: Built, rng: np.random.Generator) -> set[str]:
    """The kernels that are right in the program itself; none where it is too large to try."""
    itself = whole(network, _CHECK_LARGEST, largest)
    if itself is None:
        return set()
    _, want = _compare_all(itself[0], built, rng)
    return built.program.kernels if np.any(want) else set()


def _compare_all(
    network: Expression, built: Built, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Compare all programs of a network, for integers and Gaussian integers.

    Returns:
        The integers, and the value that they give.
    """
    arrays = _integers(network, rng)  # the passes were checked; they may change the value
    want = np.asarray(reference.evaluate(network, arrays), dtype=np.float64)
    imaginary = _integers(network, rng)
    gaussian = {name: np.asarray(array + 1j * imaginary[name]) for name, array in arrays.items()}
    for given, value in ((arrays, want), (gaussian, reference.evaluate(network, gaussian))):
        _compare(network, built.program, given, value)
        if isinstance(built.function, WithBackward):
            _compare_backward(network, built.function, given)
        elif built.function is not None:
            for _ in range(2):  # what is made, and what is kept
                _compare(network, replace(built.program, function=built.function), given, value)
    return arrays, want


def _instances(derived: Expression, rng: np.random.Generator) -> Iterator[tuple[Expression, bool]]:
    """Instances for a check of a program, and whether they are for kernels that the first ones do not use."""
    for _ in range(_CHECK_PLAIN):
        if found := shrink(derived, rng, _CHECK_CELLS):
            yield found[0], False
    for _ in range(_CHECK_ALIKE):
        if found := shrink(derived, rng, _CHECK_ALIKE_CELLS, alike=True):
            yield found[0], True


def _compare(
    network: Expression,
    program: Program,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    want: np.ndarray[Any, Any],
) -> None:
    got = program.function(*(torch.from_numpy(arrays[n]) for n in program.arguments)).numpy()
    if got.shape != want.shape or not np.allclose(got, want, rtol=1e-9, atol=1e-9):
        raise LoweringError(
            f"the program of a small instance has a value that differs from the reference:\n{network}\n"
            f"{program.source}\nreference {want.ravel()[:8]} ..., program {got.ravel()[:8]} ..."
        )


def _compare_backward(
    network: Expression, function: WithBackward, arrays: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Compare planned gradients with those of autograd, for a cotangent that differs from cell to cell."""
    program = function.program
    tensors = [torch.from_numpy(arrays[n]).requires_grad_(n in function.moving) for n in program.arguments]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    both = []
    for call in (program.function, function):
        value = call(*tensors)
        steps = torch.arange(value.numel(), dtype=torch.float64).sub_(value.numel() // 2).view_as(value)
        cotangent = (torch.complex(steps, 2 * steps) if value.is_complex() else steps).to(value.dtype)
        both.append(torch.autograd.grad(value, wanted, cotangent) if wanted else ())
    for want, got in zip(*both, strict=True):
        if not torch.allclose(want, got, rtol=1e-9, atol=1e-9):
            source = function.source
            raise LoweringError(
                f"a planned gradient of a small instance differs from autograd's:\n{network}\n{source}\n"
                f"autograd {want.flatten()[:8].tolist()} ..., planned {got.flatten()[:8].tolist()} ..."
            )


def _integers(network: Expression, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    shapes = {t.argument: tuple(a.size for a in t.axes) for term in network.terms for t in term.tensors}
    return {n: rng.integers(-3, 4, size=shape).astype(np.float64) for n, shape in shapes.items()}
