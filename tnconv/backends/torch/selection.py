"""What computes each step of a plan, and what that is predicted to take: chosen before anything is written.

The price of a step is a function of the step, of how its operands lie in memory, and of the rates of a machine: each
kernel predicts its time from exact counts. How the result of a step lies follows from the kernel; it is found out, from
statements that nobody keeps, where a later step reads it, and once for all plans that have the step in common.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any, NamedTuple, Self

from tnconv.backends.backend import Choice, Decomposed, Slower
from tnconv.backends.torch.emit import Value
from tnconv.backends.torch.kernels.contract import Contract, product_layouts
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.kernel_table import cheapest, natives, packing, priced
from tnconv.backends.torch.kernels.window_views import Cells
from tnconv.backends.torch.profile import DEFAULT, Profile
from tnconv.backends.torch.step_problems import After
from tnconv.backends.torch.written_steps import Laid, WrittenSteps, scaling
from tnconv.planner.decompose import Decomposition, Reading, Setting
from tnconv.planner.plan import Plan, Step

_WORTH = (
    20.0  # calls of a product, from which on it is seen to that its reader gets the result as it wants it
)
APART = "one step after the other"  # what stands beside a rule that merges steps
Prices = tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Table:
    """What may compute steps, and what it takes on a machine.

    Args:
        kernels: by name; the cheapest that accepts a step is taken.
        hints: representative integers of the size symbols, for choices by cost; 32 for those not named.
        prefer: names of kernels and rules that are taken wherever they apply, whatever they cost.
        profile: rates of the machine that will run it.
        rules: that may put other steps in the place of some.
        known: what was found out about steps of other plans, as `How` says; all with the same kernels and rates.
    """

    kernels: Mapping[str, Kernel]
    hints: Mapping[str, int] = field(default_factory=dict)
    prefer: Collection[str] = ()
    profile: Profile = DEFAULT
    rules: Sequence[Decomposition] = ()
    known: dict[Any, Any] = field(default_factory=dict)


class Chosen(NamedTuple):
    """A step, and the kernel that computes it.

    Args:
        step: of the plan, or in place of one.
        kernel: that was chosen.
        prices: predicted microseconds of each that was asked.
        loose: whether the order of the result's indices was free; see `Problem`.
        swapped: whether the result has another leg last than what is best for the product alone; see `Problem`.
    """

    step: Step
    kernel: Kernel
    prices: Prices
    loose: bool
    swapped: bool = False

    @property
    def predicted(self) -> float:
        """Microseconds."""
        return dict(self.prices)[self.kernel.name]

    def beside(self, others: Iterable[tuple[str, float]]) -> "Chosen":
        """The same with the prices of other ways to compute the step."""
        return self._replace(prices=(*self.prices, *others))

    def by(self, kernel: Kernel, time: float, *, swapped: bool) -> "Chosen":
        """The same by a kernel that takes some microseconds for it."""
        prices = tuple((name, time if name == kernel.name else price) for name, price in self.prices)
        return self._replace(kernel=kernel, prices=prices, swapped=swapped)

    def choice(self, problem: Problem) -> Choice:
        """What is told of it."""
        rule = self.kernel.rule.name if self.kernel.rule else ""
        return Choice(
            self.step.result, self.kernel.name, self.prices, self.kernel.multiplications(problem), rule
        )


class _Waiting(NamedTuple):
    """A step whose result nobody has asked for."""

    problem: Problem
    after: list[After]
    chosen: Chosen


class Selection:
    """Chooses what computes the steps of a plan.

    Args:
        plan: the steps.
        table: kernels and rules, and what they take.
        sketch: writes what nobody keeps, to see how results lie.
        only: kernels and rules by step, where others need not be asked.
    """

    def __init__(
        self, plan: Plan, table: Table, sketch: WrittenSteps, only: Mapping[str, Collection[str]]
    ) -> None:
        self.plan, self.table, self.only = plan, table, only
        self.chosen: list[Chosen] = []
        self.decomposed: list[Decomposed] = []
        self._sketch = sketch
        self._waiting: dict[str, _Waiting] = {}
        self._merged: dict[
            str, Decomposed | None
        ] = {}  # steps that others take the place of, or that go with them
        self._beside: dict[str, tuple[str, float]] = {}  # what a step would take along with that before it
        self._names: dict[Any, str] = {}  # of results that were computed in one way from the same

    @property
    def predicted(self) -> float:
        """Microseconds that the steps that were chosen so far are predicted to take."""
        return sum(each.predicted for each in self.chosen)

    def run(self, limit: float = inf) -> None:
        """Choose for all steps, unless that was done before.

        Args:
            limit: microseconds.

        Raises:
            Slower: the steps are predicted to take as long.
        """
        if self.chosen:
            return
        for step in self.plan.steps:
            self._choose(step)
            if limit < inf and self.predicted >= limit:  # the sum of all steps so far
                raise Slower

    def layout(self, result: str) -> Laid:
        """How the result of a step lies, with its axes."""
        if waiting := self._waiting.pop(result, None):
            self._sketch.values[result] = self._laid(*waiting), waiting.chosen.step.output
        return self._sketch.values[result]

    def _choose(self, step: Step) -> None:
        """Choose for a step by itself, or together with the one that reads it."""
        if step.result in self._merged:
            if merged := self._merged[step.result]:
                self._become(self._along(merged.steps), merged)
        elif found := self._merging(step):
            self._choose_with(step, *found)
        else:
            self._choose_alone(step)
            if beside := self._beside.get(step.result):
                self.chosen[-1] = self.chosen[-1].beside([beside])

    def _merging(self, step: Step) -> tuple[Step, Decomposition, tuple[Step, ...]] | None:
        """The step that reads the result of a step, a rule that makes both at once, and what it makes."""
        user = self.plan.readers.get(step.result)
        if user is None:
            return None
        only = self.only.get(user.result, ())
        for rule in self.table.rules:
            if rule.merges and (not only or rule.name in only) and (steps := rule(user, self._setting)):
                return user, rule, steps
        return None

    def _choose_with(self, step: Step, user: Step, rule: Decomposition, steps: tuple[Step, ...]) -> None:
        """Choose whether a step and its reader are computed at once."""
        prefer, start, count = self.table.prefer, self.predicted, len(self.chosen)
        together, first = self._along(steps), self._copied()
        if any(
            isinstance(each.kernel, Cells) for each in together.chosen[count:]
        ):  # no kernel is made for it
            self._choose_alone(step, loose=True)
            return
        first._choose_alone(step, loose=True)
        both = first._copied()
        both._choose_alone(user)
        merged, apart = together.predicted - start, both.predicted - start
        others = any(each.kernel.name not in prefer for each in both.chosen[count:])
        if (rule.name not in prefer, merged) < (others, apart):
            prices = (rule.name, merged), (APART, apart)
            self._merged |= {step.result: None, user.result: Decomposed(user, rule.name, steps, prices)}
        else:
            self._become(first)
            self._beside[user.result] = rule.name, merged - (first.predicted - start)

    def _choose_alone(self, step: Step, *, loose: bool = False) -> None:
        """Choose whether a step is computed as it is or taken apart."""
        only, prefer = self.only.get(step.result, ()), self.table.prefer
        rules = [rule for rule in self.table.rules if not rule.merges and (not only or rule.name in only)]
        reading = Reading(step)
        options = [(rule.name, steps) for rule in rules if (steps := rule(step, self._setting, reading))]
        trials = {name: self._along(steps) for name, steps in options}
        start = self.predicted if trials else 0.0  # a sum over all steps so far
        problem = self._add(step, loose=loose)
        whole = self.chosen[-1]
        prices = [(name, trial.predicted - start) for name, trial in trials.items()]
        gain = self.table.profile.native if whole.kernel.is_native(problem) else 1.0
        best = whole.kernel.name not in prefer, gain * whole.predicted
        self.chosen[-1] = every = whole.beside(prices)
        for name, price in sorted(prices, key=lambda p: (p[0] not in prefer, p[1]))[:1]:
            if (name not in prefer, price) < best:
                self._become(trials[name], Decomposed(step, name, dict(options)[name], every.prices))

    @cached_property
    def _setting(self) -> Setting:
        return Setting.of(self.plan, self.table.hints)

    def _copied(self) -> Self:
        """The same choices, to go another way from here."""
        made = copy(self)
        made.chosen, made.decomposed = [*self.chosen], [*self.decomposed]
        made._waiting, made._merged, made._beside = (
            dict(self._waiting),
            dict(self._merged),
            dict(self._beside),
        )
        made._sketch = copy(self._sketch)
        made._sketch.values = dict(self._sketch.values)
        return made

    def _become(self, other: Self, decomposed: Decomposed | None = None) -> None:
        """Go on from the choices of a copy, with others in the place of a step if that is given."""
        self.__dict__.update(vars(other))
        if decomposed is not None:
            self.decomposed.append(decomposed)
            self._setting = self._setting.with_steps(decomposed.steps)

    def _along(self, steps: Sequence[Step]) -> Self:
        """A copy that has chosen for the steps in place of one."""
        made = self._copied()
        for step in steps:
            made._add(step)
        return made

    def _add(self, step: Step, *, loose: bool = False) -> Problem:
        """Choose a kernel for a step as it is."""
        table = self.table
        waiting = [each for each in (self._waiting.get(o.source) for o in step.operands) if each]
        for each in waiting:
            self.layout(each.chosen.step.result)
        for each in waiting if step.relations else ():
            self._swap(each, step)
        loose = loose or step.result not in self.plan.results  # what reads it has what is copied in its price
        problem, after, prices = self._priced(step, loose=loose)
        prefer = table.prefer or packing(problem, prices)
        prefer = prefer or (natives(problem, prices) if len(self.plan.steps) == 1 else ())
        made = Chosen(step, *cheapest(prices, prefer), loose)
        self.chosen.append(made)
        self._waiting[step.result] = _Waiting(problem, after, made)
        return problem

    def _priced(self, step: Step, *, loose: bool) -> tuple[Problem, list[After], list[tuple[Kernel, float]]]:
        """A step as kernels see it, what is done behind it, and what each kernel takes."""
        problem, after = self._sketch.problem(step, loose=loose)
        problem.recall(self.table.known)
        prices = priced(problem, self.table.kernels, self.only.get(step.result, ()))
        if step.scale != 1:
            prices = [(k, cost if k.applies_scale else cost + scaling(problem)) for k, cost in prices]
        return problem, after, prices

    def _swap(self, waiting: _Waiting, reader: Step) -> None:
        """Let a product have another leg last in its result, if the convolution that reads it gains more by that."""
        chosen, values = waiting.chosen, self._sketch.values
        source, kernel = chosen.step.result, self.table.kernels.get(Contract.name)
        asked = Contract.name in dict(chosen.prices) and Contract.name not in self.table.prefer
        if kernel is None or not asked or chosen.predicted < _WORTH * self.table.profile.call:
            return
        plain, layouts = values[source], product_layouts(waiting.problem)
        now = next((t for _, last, t in layouts if isinstance(chosen.kernel, Contract)), chosen.predicted)
        least = now + self._least(reader)
        for problem, last, time in layouts:
            if last == plain[0].legs[-1:]:
                continue
            problem.recall(self.table.known)
            made = chosen.by(kernel, time, swapped=problem.swapped)
            values[source] = self._laid(problem, waiting.after, made), plain[1]
            if time + self._least(reader) < least:
                place = max(place for place, each in enumerate(self.chosen) if each.step.result == source)
                self.chosen[place] = self.chosen[place].by(kernel, time, swapped=problem.swapped)
                return
        values[source] = plain

    def _least(self, step: Step) -> float:
        """Microseconds of a step by the quickest kernel, with its operands as they lie."""
        loose = step.result not in self.plan.results
        return min(price for _, price in self._priced(step, loose=loose)[2])

    def _laid(self, problem: Problem, after: list[After], made: Chosen) -> Value:
        """How a result lies, found out once for problems that differ in the names of variables only."""
        key = ("result", made.kernel.name, made.step.scale, tuple(after))
        operands = [value.name for value in problem.operands]
        # What is computed in one way from the same is one variable, in what is written as well.
        same = (id(problem.memo), key, tuple(operands))
        if key not in problem.memo:
            found = self._sketch.write(made.step, problem, after, made.kernel)
            problem.memo[key] = found, operands.index(found.name) if found.name in operands else None
            self._names[same] = found.name
            return found
        value: Value
        value, place = problem.memo[key]
        if place is None and same not in self._names:
            self._names[same] = self._sketch.em.fresh(value.name)
        return replace(value, name=self._names[same] if place is None else operands[place])
