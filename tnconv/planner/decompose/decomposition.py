"""Rules on plans: one step becomes several, or several one, with the same value; beside this file, one topic a file.

A rule is a function from a step to steps, or to None where it does not apply. Its docstring says what it does in a
sentence and shows it on a plan, which a test executes (`tnconv.testing.assert_rule`). A rule says what is equal, and
where it may pay; a backend prices its steps beside what a kernel takes for the step as it is, and takes the quicker.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from tnconv.errors import PlanError
from tnconv.ir import Axis, Index, Relational, Size, fresh, group
from tnconv.ir.size import symbol_names
from tnconv.passes.rewrite import documented
from tnconv.planner.count import count_factors
from tnconv.planner.decompose.correlations import Reading
from tnconv.planner.hints import extent_of, hint_values
from tnconv.planner.plan import Operand, Plan, Step


@dataclass(frozen=True, slots=True)
class Setting:
    """What a rule may ask besides the step: what sizes count as, and which names are free.

    Args:
        values: integers for all size symbols.
        results: names of arguments and results that are in use.
        indices: names of indices that are in use.
        makers: the steps whose results one other step reads, and nobody else.
    """

    values: Mapping[str, int] = field(default_factory=dict)
    results: frozenset[str] = frozenset()
    indices: frozenset[str] = frozenset()
    makers: Mapping[str, Step] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, values: Mapping[str, int] | None = None) -> "Setting":
        """The names of a plan, and its hints where no values are given."""
        symbols = sorted({s for i in plan.indices for s in symbol_names(i.size)})
        results = frozenset((*plan.arguments, *(step.result for step in plan.steps)))
        found = hint_values(symbols, plan.hints if values is None else values)
        makers = {step.result: step for step in plan.steps if step.result in plan.readers}
        return cls(found, results, frozenset(i.name for i in plan.indices), makers)

    def with_steps(self, steps: Iterable[Step]) -> "Setting":
        """The names in use when there are some steps more."""
        made = tuple(steps)
        indices = self.indices.union(i.name for step in made for i in step.indices)
        return replace(self, results=self.results.union(step.result for step in made), indices=indices)

    def count(self, indices: Iterable[Index]) -> int:
        """Cells that the indices span."""
        return prod(extent_of(index.size, self.values) for index in indices)


class Writer:
    """Writes the steps in place of one, under names that are free.

    Args:
        step: that is taken apart.
        setting: the names in use.
        reading: what is known of the step.
    """

    def __init__(self, step: Step, setting: Setting, reading: Reading) -> None:
        self.step, self.setting, self.reading = step, setting, reading
        self._results, self._indices = setting.results, setting.indices
        self.steps: list[Step] = []

    def index(self, base: Index, suffix: str, size: Size | None = None) -> Index:
        """A new index of the kind of another one, called after it."""
        name = fresh(f"{base.name}_{suffix}", set(self._indices))
        self._indices |= {name}
        return Index(name, base.size if size is None else size, base.kind)

    def add(
        self,
        suffix: str,
        operands: Iterable[Operand],
        relations: Iterable[Relational],
        output: Iterable[Index],
    ) -> Operand:
        """A step with one index an axis; what reads its result as it is."""
        name = fresh(f"{self.step.result}_{suffix}", set(self._results))
        self._results |= {name}
        axes = tuple(map(group, output))
        self.steps.append(self._made(name, tuple(operands), tuple(relations), axes))
        return Operand(name, axes)

    def last(self, operands: Iterable[Operand], relations: Iterable[Relational]) -> tuple[Step, ...]:
        """All steps, the last of which has the result, the output and the scale of the step that is taken apart."""
        step = self.step
        made = self._made(step.result, tuple(operands), tuple(relations), step.output)
        return (*self.steps, replace(made, scale=step.scale))

    def _made(
        self,
        name: str,
        operands: tuple[Operand, ...],
        relations: tuple[Relational, ...],
        output: tuple[Axis, ...],
    ) -> Step:
        factors = count_factors(operands, relations, self.setting.values)
        return Step(name, operands, relations, output, factors=factors)


Apply = Callable[[Step, Writer], tuple[Step, ...] | None]


@dataclass(frozen=True)
class Decomposition:
    """One way to compute a step by several.

    Args:
        name: of the function, in words.
        sentence: what it does.
        before: a plan with a step to which it applies, as text.
        after: the plan with that step taken apart.
        accuracy: the least that its steps promise of each cell, as kernels do.
        function: writes the steps; None where it does not apply.
        merges: whether the steps take the place of those, too, that have made what the step reads.
    """

    name: str
    sentence: str
    before: str
    after: str
    accuracy: str
    function: Apply
    merges: bool = False

    def __call__(
        self, step: Step, setting: Setting, reading: Reading | None = None
    ) -> tuple[Step, ...] | None:
        """The steps in place of a step, the last with its result; None where the rule does not apply."""
        return self.function(step, Writer(step, setting, reading or Reading(step)))

    def rewrite(self, plan: Plan) -> Plan | None:
        """A plan with other steps in place of the first to which the rule applies; None where there is none."""
        setting = Setting.of(plan)
        found = ((step, made) for step in plan.steps if (made := self(step, setting)))
        first = next(found, None)
        return replaced(plan, [first]) if first else None


def decomposition(accuracy: str, *, merges: bool = False) -> Callable[[Apply], Decomposition]:
    """Make a rule of a function; its docstring needs a sentence, `Before:` and `After:`.

    Args:
        accuracy: as `Decomposition` says.
        merges: as `Decomposition` says.

    Raises:
        PlanError: the docstring lacks one of them.
    """

    def made(function: Apply) -> Decomposition:
        name = function.__name__.replace("_", " ")
        shown = documented(function)
        if shown is None:
            raise PlanError(
                f"decomposition {name!r} needs a docstring: a sentence, then Before: and After: with plan text"
            )
        return Decomposition(name, *shown, accuracy, function, merges)

    return made


def replaced(plan: Plan, parts: Iterable[tuple[Step, tuple[Step, ...]]]) -> Plan:
    """A plan with others in place of some steps, without what nobody reads then; the same if that was done before."""
    by = {step.result: (step, made) for step, made in parts}
    steps: list[Step] = []
    for step in plan.steps:
        old, made = by.get(step.result, (None, ()))
        steps += made if step == old else (step,)
    if tuple(steps) == plan.steps:
        return plan
    whole = replace(plan, steps=tuple(steps))
    return replace(whole, steps=whole.leading_to(plan.returned))
