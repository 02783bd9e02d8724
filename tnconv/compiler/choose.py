"""From a rewritten network to the plan and the program that are kept: by predicted time, by trial, within a limit."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

import torch

from tnconv.backends.backend import Backend, How, Program, backend_of
from tnconv.backends.peak import peak_at
from tnconv.backends.torch.constants import KeptProgram, WithConstants
from tnconv.backends.torch.kernels.kernel_table import COMPONENTWISE
from tnconv.backends.torch.training import TrainedProgram, WithBackward
from tnconv.backends.tuning import Trial, tune
from tnconv.errors import LoweringError, PlanError
from tnconv.ir import Expression, evaluate
from tnconv.passes import Pipeline
from tnconv.planner import DEFAULT_HINT, Plan, candidate_plans, make_plan, rival_plans
from tnconv.planner.memory_limit import does_not_fit, format_memory
from tnconv.planner.objective import Objective
from tnconv.planner.plan import Slice, moving_operands
from tnconv.planner.slicing import cut, of_one_chunk, size_of, sliceable, with_slices

_ORDERS = 6  # contraction orders that are tried for one size of the chunks
_INDICES = 6  # indices that are tried for a slice
_RIVALS = 6  # plans for which a program is written; each takes some milliseconds
_DEPTH = 3  # indices that are sliced together


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

    def apart(self) -> "Built":
        """The same for another caller, without what calls have kept of their constant arguments."""
        if not isinstance(self.function, WithConstants):
            return self
        return replace(self, function=self.function.apart())

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
        accuracy: the least that kernels promise.
    """

    passes: Pipeline
    planner: str
    backend: str
    hints: dict[str, int]
    device: Any
    objective: Objective
    accuracy: str = COMPONENTWISE

    def hints_of(self, network: Expression) -> dict[str, int]:
        """An integer for every size symbol of a network."""
        return {name: self.hints.get(name, DEFAULT_HINT) for name in network.symbols}

    @property
    def made_by(self) -> Backend:
        """The backend."""
        return backend_of(self.backend)

    def how(self, network: Expression, prefer: Collection[str] = ()) -> How:
        """What the backend is told besides a plan of the network, with kernels to prefer."""
        return How(self.hints_of(network), tuple(prefer), self.device, self.accuracy)

    def lowering(self, network: Expression) -> Callable[[Plan, tuple[str, ...]], Program]:
        """What writes the program of a plan of the network, with kernels to prefer."""
        backend = self.made_by
        return lambda plan, prefer: backend.lower(plan, network, self.how(network, prefer))

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
        if not self.objective.training:
            plan, program = self.made_by.fastest(self.rivals(network), network, self.how(network, prefer))
            return Built(plan, program, Recipe(self, plan, prefer))
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
            kept: KeptProgram = self.made_by.kept(plan, self.objective.constant, self.how(network, prefer))
            return kept
        except LoweringError:
            return self.lowering(network)(plan, prefer)

    @staticmethod
    def _with_constants(program: Program, kept: Program | KeptProgram, recipe: "Recipe") -> Built:
        function = WithConstants(program, kept) if isinstance(kept, KeptProgram) else None
        return Built(recipe.plan, program, recipe, function)

    def _moving(self, plan: Plan) -> list[str]:
        return [name for name in plan.arguments if name not in {*self.objective.frozen, *plan.tables}]

    def _training(
        self, network: Expression, plan: Plan, prefer: tuple[str, ...], recomputed: tuple[str, ...] = ()
    ) -> Callable[[Collection[str]], TrainedProgram]:
        """What makes the programs of both passes for the arguments that need a gradient."""
        backend, how = self.made_by, self.how(network, prefer)
        return lambda needed: backend.trained(plan, needed, how, recomputed)

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
            for prefer in ((), self.made_by.frugal):
                program = lower(plan, prefer)
                peak = peak_at(plan, program, hints)
                yield plan, program, peak, prefer
                if peak <= room and not self.objective.training:  # the backward pass may yet not fit
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
        made = self.made_by.lower(of_one_chunk(plan), chunk, replace(self.how(network), hints=hints))
        return self.made_by.looped(made, plan, network.arguments)

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

    def accumulating(self, network: Expression, recipe: "Recipe") -> Program | None:
        """The program that adds to a tensor that is there, by the plan and the kernels of a recipe.

        None where what the function returns is added: of chunks, of what is kept of constants, by the backend.
        """
        if recipe.chunk is not None or self.objective.constant:
            return None
        return self.made_by.accumulating(recipe.plan, self.how(network, recipe.prefer))

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
        return replace(self, builder=replace(builder, device=builder.made_by.rates(builder.device)))

    def built(self, network: Expression) -> Built:
        """The plan and the programs for the network that the plan was made for."""
        return self.builder.again(network, self)

    def accumulating(self, network: Expression) -> Program | None:
        """The program that adds to a tensor that is there; None where there is none."""
        return self.builder.accumulating(network, self)


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
