"""Plans of several networks as one plan, in which a step that several of them have is done once.

    result[n, d, c] = conj(x)[n, c, o] * grad[n, d, o]        result[n, d, c] = conj(x)[n, c, o] * grad[n, d, o]
    return result                                             result_2[n] = conj(result)[n, d, c] * result[n, d, c]
                                                         ->   return result, real(result_2)
    t1[n, d, c] = x[n, c, o] * conj(grad)[n, d, o]
    result[n] = t1[n, d, c] * conj(t1)[n, d, c]
    return real(result)

Two steps are one where they multiply and sum the same, whatever their indices are called, in which order their operands
are, how their results are laid out, and whether one is the conjugate of the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tnconv.errors import PlanError
from tnconv.ir import Axis, Index, Relational, Size, fresh, group
from tnconv.ir.monomial import ONE, Scalar
from tnconv.ir.size import symbol_names
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step
from tnconv.planner.step_builder import first_plain, numbers_of, step_key

Legs = tuple[tuple[int, ...], ...]  # the numbers of the indices on each axis


def joined(name: str, plans: Sequence[Plan], *, sums: bool = True) -> Plan:
    """The plan that returns the values of several plans, in their order.

    Args:
        name: of the plan.
        plans: without slices, each with one value.
        sums: whether what is the sum of another step's result over some of its indices is computed from that.

    Raises:
        PlanError: an argument of two plans has two shapes.
    """
    joiner = _Joiner(plans, sums)
    sizes = list(map(joiner.largest, plans))
    for place in sorted(
        range(len(plans)), key=sizes.__getitem__, reverse=True
    ):  # others may follow from the largest
        joiner.add(place, plans[place])
    first, *others = (joiner.results[place] for place in range(len(plans)))
    reals, packs = tuple(plan.real for plan in plans), tuple(plan.packed for plan in plans)
    return Plan(
        name,
        joiner.arguments,
        tuple(joiner.steps),
        first,
        joiner.hints,
        also=tuple(others),
        real=reals[0],
        also_real=reals[1:] if any(reals[1:]) else (),
        tables=joiner.tables,
        packed=packs[0],
        also_packed=() if all(each is None for each in packs[1:]) else packs[1:],
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """A step that is there, as another may find it.

    Args:
        name: of its result.
        legs: the axes of that.
        conj: whether the key is that of its conjugate.
        scale: what it is multiplied by.
    """

    name: str
    legs: Legs
    conj: bool
    scale: Scalar


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reader of a step reads in its place: a step that is there, whose legs lie otherwise."""

    made: _Made
    old: Legs
    conj: bool

    def operand(self, reader: Operand) -> Operand:
        """The operand of a reader of the step that was found to be there."""
        pairs = zip(self.old, reader.axes, strict=True)
        index = {n: i for numbers, axis in pairs for n, i in zip(numbers, axis.indices, strict=True)}
        return _operand(self.made, index, reader.conj != self.conj)


def _operand(made: _Made, index: Mapping[int, Index], conj: bool) -> Operand:
    return Operand(made.name, tuple(group(*[index[n] for n in numbers]) for numbers in made.legs), conj)


class _Joiner:
    """The steps of all plans so far.

    Args:
        plans: all of them.
        sums: as of `joined`.
    """

    def __init__(self, plans: Sequence[Plan], sums: bool) -> None:
        self.sums = sums
        self.arguments: dict[str, tuple[Size, ...]] = {}
        self.hints: dict[str, int] = {}
        self.tables: dict[str, Size] = {}
        for plan in plans:
            for name, sizes in plan.arguments.items():
                if self.arguments.setdefault(name, sizes) != sizes:
                    raise PlanError(
                        f"argument {name!r} has shape {list(self.arguments[name])} in one operation but {list(sizes)} "
                        f"in {plan.name!r}; compile the operations one by one"
                    )
            self.hints |= plan.hints
            self.tables |= plan.tables
        self.taken = set(self.arguments)
        self.steps: list[Step] = []
        self.results: dict[int, tuple[str, ...]] = {}
        self.indices: dict[str, Index] = {}
        self.made: dict[Any, list[_Made]] = {}

    def largest(self, plan: Plan) -> tuple[int, int]:
        """Elements of the largest result of a step, and of what is returned."""
        values = {s: self.hints.get(s, DEFAULT_HINT) for i in plan.indices for s in symbol_names(i.size)}
        elements = {step.result: step.elements_at(values) for step in plan.steps}
        return max(elements.values()), elements[plan.results[0]]

    def add(self, place: int, plan: Plan) -> None:
        """Add the steps of a plan that are not there yet."""
        renamed = self._apart(plan.indices)
        names: dict[str, str] = {}
        found: dict[str, _Found] = {}
        for step in plan.steps:
            operands = tuple(
                found[o.source].operand(o)
                if o.source in found
                else replace(o, source=names.get(o.source, o.source))
                for o in (o.substitute(renamed) for o in step.operands)
            )
            relations = tuple(r.map_indices(lambda i: renamed.get(i, i)) for r in step.relations)
            output = tuple(axis.substitute(renamed) for axis in step.output)
            moved = replace(step, operands=operands, relations=relations, output=output)
            same = self._same(moved, wanted=step.result in plan.returned)
            if isinstance(same, _Found):
                found[step.result] = same
            else:
                names[step.result] = same
        self.results[place] = tuple(found[n].made.name if n in found else names[n] for n in plan.results)

    def _apart(self, indices: Sequence[Index]) -> dict[Index, Index]:
        """Other names for indices that are called as another of an earlier plan."""
        renamed: dict[Index, Index] = {}
        own = {i.name for i in indices}
        for index in indices:
            if self.indices.setdefault(index.name, index) != index:
                other = replace(index, name=fresh(index.name, own | self.indices.keys()))
                renamed[index] = self.indices[other.name] = other
        return renamed

    def _same(self, step: Step, *, wanted: bool) -> "_Found | str":
        """What has the value of a step: another one, or its name once it is added.

        Args:
            step: reads what there is.
            wanted: whether it is a result, whose axes are to stay.
        """
        for key, numbers, flip in _keys(step.operands, step.relations):
            legs = _legs(step.output, numbers)
            if legs is None:
                continue
            every = {n for axis in legs for n in axis}
            for made in self.made.get(key, ()):
                conj, there = made.conj != flip, {n for axis in made.legs for n in axis}
                if made.scale not in (1, step.scale) or not (there == every or (self.sums and there > every)):
                    continue
                same = made.scale == step.scale and there == every
                if same and (not wanted or (made.legs == legs and not conj)):
                    return _Found(made, legs, conj)
                index = {number: index for index, number in numbers.items()}
                rest = step.scale if made.scale == 1 else ONE
                read = (_operand(made, index, conj),)
                return self._add(Step(step.result, read, (), step.output, rest))
        return self._add(step)

    def _add(self, step: Step) -> str:
        name = fresh(step.result, self.taken)
        self.taken.add(name)
        self.steps.append(replace(step, result=name))
        for key, numbers, flip in _keys(step.operands, step.relations):
            legs = _legs(step.output, numbers)
            if legs is not None:
                self.made.setdefault(key, []).append(_Made(name, legs, flip, step.scale))
        return name


@lru_cache(maxsize=1024)  # of plans that are joined in many ways
def _keys(
    operands: tuple[Operand, ...], relations: tuple[Relational, ...]
) -> list[tuple[Any, dict[Index, int], bool]]:
    """For each order of the operands: what is equal for equal products, the numbers of indices, whether it is of the
    conjugate."""
    found = []
    for ordered in dict.fromkeys((operands, operands[::-1])):
        plain, flip = first_plain(ordered)
        numbers = numbers_of(plain, relations)
        found.append((step_key(plain, relations, numbers), numbers, flip))
    return found


def _legs(output: tuple[Axis, ...], numbers: Mapping[Index, int]) -> Legs | None:
    """The numbers of the indices on each axis; None where cells are left out, or an index is on no operand."""
    if not all(axis.is_group and numbers.keys() >= set(axis.indices) for axis in output):
        return None
    return tuple(tuple(numbers[i] for i in axis.indices) for axis in output)
