"""A way to compute a network, as a value: a plan, and the kernels that are preferred; its programs follow from these.

Nothing is written before somebody asks for it, so that of many candidates only what their price needs is.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import inf
from typing import Any

from torch import Tensor

from tnconv.backends.backend import COMPONENTWISE, Backend, Draft, How, Program, backend_of
from tnconv.backends.peak import peak_at
from tnconv.backends.torch.constants import KeptProgram, WithConstants
from tnconv.backends.torch.training import TrainedProgram, WithBackward
from tnconv.backends.tuning import Timed, Trial
from tnconv.compiler.options import Options
from tnconv.errors import LoweringError, NetworkError
from tnconv.ir import Expression, Kind, Size, evaluate
from tnconv.passes import Pipeline
from tnconv.planner import DEFAULT_HINT, Plan, Search, fast_plans, make_plan
from tnconv.planner.near import FAR
from tnconv.planner.objective import Objective
from tnconv.planner.plan import varying_operands
from tnconv.planner.slicing import of_one_chunk
from tnconv.program import SizeOf

_KERNEL = 3
_MOST_TRIED = 1000  # integers for symbols without a hint
_PLANS = 6  # plans for which a program is written; each takes some milliseconds


@dataclass(frozen=True)
class Task:
    """What is to be computed and what is asked of it: what all candidates have in common.

    Args:
        network: what is computed, after the passes.
        planner: name of a planner.
        search: how it searches for the order of a large network.
        backend: name of a backend.
        hints: integers that size symbols count as; 32 for those not named.
        device: whose rates decide between kernels; or these.
        objective: what ranks candidates; where it counts time, that of their programs decides.
        accuracy: the least that kernels promise.
        passes: that rewrote the network, for others that are compiled alike.
        read_off: how size symbols are read that no shape gives away by itself.
        packed: of a symmetric result whose lower triangle alone is returned, the axes in front; see `Plan`.
    """

    network: Expression
    planner: str = "auto"
    backend: str = "torch"
    hints: dict[str, int] = field(default_factory=dict)
    device: Any = "cpu"
    objective: Objective = field(default_factory=lambda: Objective.of("time"))
    accuracy: str = COMPONENTWISE
    passes: Pipeline = field(default_factory=Pipeline)
    read_off: tuple[SizeOf, ...] = field(default=(), kw_only=True)
    search: Search | None = field(default=None, kw_only=True)
    packed: int | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, network: Expression, options: Options, packed: int | None = None) -> "Task":
        """That of a network and the options of `tnconv.compile`."""
        asked = (options.device, options.objective, options.accuracy, options.passes)
        return cls(
            network,
            options.planner,
            options.backend,
            dict(options.hints),
            *asked,
            search=options.search,
            packed=packed,
        )

    @property
    def made_by(self) -> Backend:
        """The backend."""
        return backend_of(self.backend)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """An integer for every size symbol of the network, for which all sizes are integers of at least 1."""
        return fitting(self.network, self.hints)

    @cached_property
    def known(self) -> dict[Any, Any]:
        """What the backend finds out about steps while candidates are compared."""
        return {}

    def how(self, prefer: Collection[str] = (), below: float = inf) -> How:
        """What the backend is told besides a plan: kernels to prefer, microseconds to stay below."""
        options = (self.device, self.accuracy, below)
        return How(self.sizes, tuple(prefer), *options, sizes=self.read_off, known=self.known)

    def candidates(
        self, prefer: Collection[str] = (), most: int = _PLANS, far: float = FAR
    ) -> "list[Candidate]":
        """The candidates among which time decides; one where multiplications do.

        Args:
            prefer: kernels that are taken wherever they accept.
            most: number of candidates.
            far: what a plan may cost, as a multiple of the best.
        """
        judged = self.objective
        options: dict[str, Any] = {
            "planner": self.planner,
            "hints": self.sizes,
            "training": judged.training,
            "frozen": judged.frozen,
            "constant": judged.constant,
            "search": self.search,
        }
        if judged.elements:
            plans = fast_plans(self.network, most=most, far=far, **options)
        else:
            plans = [make_plan(self.network, minimize="multiplications", **options)]
        return [Candidate(self, self.returning(plan), tuple(prefer)) for plan in plans]

    def returning(self, plan: Plan) -> Plan:
        """A plan of the network, which returns what is asked for of its value."""
        return plan if self.packed is None else plan.lower_alone(self.packed)

    def __str__(self) -> str:
        """What is computed, as autotuning remembers it."""
        judged = self.objective
        accuracy = "" if self.accuracy == COMPONENTWISE else f" {self.accuracy}"
        constant = f" but for {sorted(judged.constant)}" if judged.constant else ""
        training = f" trained but for {sorted(judged.frozen)}" if judged.training else ""
        packed = "" if self.packed is None else f" packed behind {self.packed} axes"
        return f"{self.network}{accuracy}{constant}{training}{packed}"


def fitting(network: Expression, hints: Mapping[str, int]) -> dict[str, int]:
    """An integer for every size symbol: its hint; for others 32, or the next one that all sizes are integers for.

    The size of a kernel counts as 3, as one of 32 would be as large as the images of the other symbols.

    Where none is, as the hints do not go together, whoever needs such a size says so.
    """
    indices = [i for term in network.terms for i in term.indices if not isinstance(i.size, int)]
    if all(i.size.is_Symbol and i.kind is not Kind.KERNEL for i in indices):
        return {name: hints.get(name, DEFAULT_HINT) for name in network.symbols}
    others = {str(i.size) for i in indices if i.kind is not Kind.KERNEL}
    usual = {str(i.size): _KERNEL for i in indices if str(i.size) not in others} | dict(hints)
    made = {i.size for i in indices if not i.size.is_Symbol}
    for value in range(DEFAULT_HINT, DEFAULT_HINT + _MOST_TRIED):
        values = {name: usual.get(name, value) for name in network.symbols}
        if all(_is_size(size, values) for size in made):
            return values
    return {name: hints.get(name, DEFAULT_HINT) for name in network.symbols}


def _is_size(size: Size, values: Mapping[str, int]) -> bool:
    try:
        return evaluate(size, values) >= 1
    except NetworkError:  # no integer
        return False


@dataclass(frozen=True)
class Executable:
    """What is called, in its parts.

    Args:
        candidate: what it was written for, and what it takes to write it once more.
        forward: the program of the value; `forward.chunk` is that of one chunk where it runs in a loop.
        backward: calls the forward program, and planned backward passes where gradients are asked for.
        prologue: calls the program without what depends on constant arguments alone, which is kept.
    """

    candidate: "Candidate"
    forward: Program
    backward: WithBackward | None = None
    prologue: WithConstants | None = None

    @property
    def function(self) -> Callable[..., Tensor]:
        """What takes the arguments in order."""
        return self.prologue or self.backward or self.forward.function


@dataclass(frozen=True)
class Candidate:
    """A plan and the programs that compute by it. A pickle has neither programs nor passes, and rates for a device.

    Args:
        task: what is computed.
        plan: the order.
        prefer: kernels that are taken wherever they accept.
        recomputed: intermediates that the backward pass computes again.
        chunk: the network of one chunk of a plan with slices.
        trials: what autotuning has timed.
        only: kernels by step, where others need not be asked.
    """

    task: Task
    plan: Plan
    prefer: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()
    chunk: Expression | None = None
    trials: tuple[Trial, ...] = ()
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        task = replace(self.task, device=self.task.made_by.rates(self.task.device), passes=Pipeline())
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"task": task}

    @cached_property
    def program(self) -> Program:
        """The program of the value."""
        backend, how = self.task.made_by, replace(self.task.how(self.prefer), only=self.only)
        if self.chunk is None:
            draft: Draft | None = self.__dict__.pop("_draft", None)
            return backend.lower(self.plan, self.task.network, how) if draft is None else draft.program()
        hints = self.task.sizes | {each.part: each.chunk for each in self.plan.slices}
        inner = backend.lower(of_one_chunk(self.plan), self.chunk, replace(how, hints=hints))
        return backend.looped(inner, self.plan, self.task.network.arguments)

    @cached_property
    def needs_gradient(self) -> tuple[str, ...]:
        """In training, the arguments that are expected to need a gradient."""
        still = {*self.task.objective.frozen, *self.plan.tables}
        return tuple(name for name in self.plan.arguments if name not in still)

    @cached_property
    def both(self) -> TrainedProgram:
        """In training, the programs of both passes.

        Raises:
            LoweringError: the backward pass cannot be planned.
        """
        return self._trained(self.needs_gradient)

    @cached_property
    def kept(self) -> KeptProgram | None:
        """With constant arguments, the program in two parts; None where nothing can be kept."""
        task = self.task
        try:
            made: KeptProgram = task.made_by.kept(self.plan, task.objective.constant, task.how(self.prefer))
        except LoweringError:
            return None
        return made

    @property
    def timed(self) -> Timed:
        """What autotuning times.

        Raises:
            LoweringError: for training, the backward pass cannot be planned.
        """
        if self.task.objective.training:
            return self.both
        return (self.kept or self.program) if self.task.objective.constant else self.program

    def predicted(self, below: float = inf) -> float:
        """Microseconds of a call, in training of both passes.

        Where the backward pass is left to autograd, a step takes once more what it takes for each operand that needs a
        gradient.

        Args:
            below: microseconds; a candidate that takes as long is given up.

        Raises:
            Slower: it was.
        """
        task, how = self.task, self.task.how(self.prefer, below)
        if task.objective.constant:
            return self.timed.predicted
        if not task.objective.training:
            draft = self.__dict__["_draft"] = task.made_by.draft(self.plan, task.network, how)
            return draft.predicted
        try:
            self.__dict__["both"] = both = self._trained(self.needs_gradient, below)
        except LoweringError:
            gradients = varying_operands(self.plan.steps, task.objective.frozen)
            return sum(each.predicted * (1 + gradients.get(each.step, 2)) for each in self.program.choices)
        return both.predicted

    def recomputing(self, result: str) -> "Candidate":
        """The same with one more intermediate that the backward pass computes again."""
        made = replace(self, recomputed=(*self.recomputed, result))
        made.__dict__["program"] = self.program
        return made

    @cached_property
    def peak(self) -> int:
        """Most elements alive at once besides the arguments while the value is computed, sizes at the hints."""
        values = self.task.sizes | {each.part: each.chunk for each in self.plan.slices}
        return peak_at(self.plan, self.program, values)

    @cached_property
    def accumulating(self) -> Program | None:
        """The program that adds to a tensor that is there, which it takes with a factor behind the arguments.

        None where what the function returns is added: of chunks, of what is kept of constants, by the backend.
        """
        if self.chunk is not None or self.task.objective.constant:
            return None
        return self.task.made_by.accumulating(self.plan, self.task.how(self.prefer))

    @cached_property
    def backward(self) -> WithBackward | None:
        """In training, what plans backward passes; one for all callers, for it changes no value."""
        if not self.task.objective.training:
            return None
        return WithBackward(self.program, self._trained_for, self.needs_gradient)

    @property
    def executable(self) -> Executable:
        """What is called, for one caller: what calls keep of their constant arguments is shared with no other."""
        kept = self.kept if self.task.objective.constant else None
        prologue = WithConstants(self.program, kept.apart()) if kept is not None else None
        made = Executable(self, self.program, self.backward, prologue)
        self.task.known.clear()  # no candidate is compared any more
        return made

    def _trained(self, needed: Collection[str], below: float = inf) -> TrainedProgram:
        how = self.task.how(self.prefer, below)
        made: TrainedProgram = self.task.made_by.trained(self.plan, needed, how, self.recomputed)
        return made

    def _trained_for(self, needed: Collection[str]) -> TrainedProgram:
        return self.both if set(needed) == set(self.needs_gradient) else self._trained(needed)
