"""Plans whose bonds are as wide as vectors are: cells of zeros fill rows that would end within one.

A product whose result has 27 columns takes longer than one with 32: no row of the result is aligned. So the tensors
that a bond joins get zeros beyond its cells, which change no sum, and all steps between them are wider. It costs a
copy of these tensors and some multiplications; whoever can predict times chooses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tnconv.ir import Axis, Index, Relational, fresh, group, pattern
from tnconv.ir.size import symbol_names
from tnconv.planner.count import count_factors
from tnconv.planner.hints import hint_values
from tnconv.planner.plan import Operand, Plan, Step

ROW = 8  # cells of a vector, of which a row should be full
_FACTORS = 4  # times the largest intermediate with a bond, the cells of the arguments that are copied for it


def widened(plan: Plan, multiple: int, most: float = 0.25) -> Plan | None:
    """The plan with bonds of so many cells as a multiple has; None where there are none to widen.

    Args:
        plan: of one value.
        multiple: of which the size of a bond shall be one.
        most: of the cells of a bond, those that are added at most.

    Returns:
        A plan for the same value: `t[c, r_wide] = a[c, r] * [r_wide = r]` is a step of its own for each argument.
    """
    if plan.slices or plan.also or len(plan.results) > 1:
        return None
    sizes = {i: -(-i.size // multiple) * multiple for i in plan.indices if isinstance(i.size, int)}
    names = {i.name for i in plan.indices}
    wide: dict[Index, Index] = {}
    for index, size in sizes.items():
        if index.size < size <= (1 + most) * index.size and _is_bond(plan, index):
            name = fresh(f"{index.name}_wide", names)
            names.add(name)
            wide[index] = Index(name, size, index.kind)
    return _Widening(plan, wide).plan() if wide else None


def _is_bond(plan: Plan, index: Index) -> bool:
    """Whether an index is no window's, and between small arguments of known sizes, alone on an axis of each."""
    made = {step.result: step for step in plan.steps}
    inside, copied = 0, 0
    values = hint_values(sorted({s for i in plan.indices for s in symbol_names(i.size)}), plan.hints)
    for step in plan.steps:
        if any(index in relation.indices for relation in step.relations):
            return False
        for operand in step.operands:
            if index not in operand.indices:
                continue
            argument = operand.source not in made
            if argument and any(symbol_names(axis.size) for axis in operand.axes):
                return False
            if not argument and operand.axes != made[operand.source].output:
                return False
            copied += _cells(operand.axes, values) if argument else 0
            if not _alone(operand.axes, index):
                return False
        if any(index in axis.indices for axis in step.output):
            if step.result in plan.results or not _alone(step.output, index):
                return False
            inside = max(inside, step.elements_at(values))
    return 0 < copied <= _FACTORS * inside


def _alone(axes: Iterable[Axis], index: Index) -> bool:
    """Whether an index is on one axis, and no other index with it."""
    found = [axis for axis in axes if index in axis.indices]
    return len(found) == 1 and found[0] == group(index)


def _cells(axes: Iterable[Axis], values: Mapping[str, int]) -> int:
    return Step("", (), (), tuple(axes)).elements_at(values)


class _Widening:
    """Writes the steps of a plan with wider indices.

    Args:
        before: the plan.
        wide: the index in the place of each that is widened.
    """

    def __init__(self, before: Plan, wide: Mapping[Index, Index]) -> None:
        self.before, self.wide = before, wide
        self._names = {*before.arguments, *(step.result for step in before.steps)}
        self._steps: list[Step] = []
        self._made: dict[tuple[str, tuple[Axis, ...]], str] = {}

    def plan(self) -> Plan:
        """The plan."""
        symbols = sorted({s for i in self.before.indices for s in symbol_names(i.size)})
        values = hint_values(symbols, self.before.hints)
        for step in self.before.steps:
            operands = tuple(map(self._operand, step.operands))
            factors = step.factors
            if operands != step.operands:
                factors = count_factors(operands, step.relations, values)
            self._steps.append(
                replace(step, operands=operands, output=self._axes(step.output), factors=factors)
            )
        return replace(self.before, steps=tuple(self._steps))

    def _axes(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(
            group(*(self.wide.get(i, i) for i in axis.indices)) if self._has(axis) else axis for axis in axes
        )

    def _has(self, axis: Axis) -> bool:
        return any(i in self.wide for i in axis.indices)

    def _operand(self, operand: Operand) -> Operand:
        axes = self._axes(operand.axes)
        if axes == operand.axes:
            return operand
        source = self._copied(operand, axes) if operand.source in self.before.arguments else operand.source
        return replace(operand, source=source, axes=axes)

    def _copied(self, operand: Operand, axes: tuple[Axis, ...]) -> str:
        """The argument with zeros beyond the cells of its bonds; its axes may have other names in another step."""
        key = operand.source, operand.axes
        if key not in self._made:
            name = self._made[key] = fresh(f"{operand.source}_wide", self._names)
            self._names.add(name)
            bonds = [i for i in operand.indices if i in self.wide]
            filled: list[Relational] = [
                pattern(f"r{number}", self.wide[i], ((1, i),)) for number, i in enumerate(bonds, 1)
            ]
            self._steps.append(Step(name, (replace(operand, conj=False),), tuple(filled), axes))
        return self._made[key]
