"""The steps of a plan as they are added: names, layouts, shared work, and where the scale goes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tnconv.ir import Axis, Index, Relational, Select, Size, fresh, group
from tnconv.ir.monomial import Scalar
from tnconv.planner.count import count_factors
from tnconv.planner.plan import Operand, Step


class StepBuilder:
    """The steps of a plan so far.

    Args:
        taken: names of the arguments.
        values: what the size symbols count as.
        real: whether the results add up to a real value, so that a result and its conjugate are as good.
        known: what was found out about steps of other plans with the same values.
    """

    def __init__(
        self, taken: set[str], values: Mapping[str, int], *, real: bool, known: dict[Any, "_Seen"]
    ) -> None:
        self.taken, self.real = taken, real
        self.values, self.known = values, known
        self.output: dict[Index, int] = {}
        self.steps: list[Step] = []
        self.shared: dict[Any, str] = {}
        self.number = 0

    def copy(self) -> "StepBuilder":
        """A builder with the same steps, to try something."""
        made = StepBuilder(set(self.taken), self.values, real=self.real, known=self.known)
        made.steps, made.shared, made.number = list(self.steps), dict(self.shared), self.number
        return made

    def add(
        self, operands: Sequence[Operand], relations: Sequence[Relational], legs: Sequence[Index]
    ) -> Operand:
        """A step whose result has the legs as plain axes, or the equal step that is there; as an operand.

        Where the first operand is a conjugate, what is made is the conjugate of all, which is read as one: so both
        halves of a Hermitian product are one step.
        """
        operands, conj = first_plain(operands)
        seen = self._seen(operands, relations)
        numbers = seen.numbers
        ordered = self._in_output_order(sorted(legs, key=lambda i: (i.kind.rank, numbers[i])))
        axes = tuple([group(i) for i in ordered])
        key = seen.key, tuple([numbers[i] for i in ordered])
        name = self.shared.get(key)
        if name is None:
            self.number += 1
            name = self.shared[key] = self._append(f"t{self.number}", operands, relations, axes)
        return Operand(name, axes, conj)

    def _seen(self, operands: Sequence[Operand], relations: Sequence[Relational]) -> "_Seen":
        """What is known of a step, found out once for all plans."""
        step = tuple(operands), tuple(relations)
        found = self.known.get(step)
        if found is None:
            numbers = numbers_of(*step)
            factors = count_factors(*step, self.values)
            found = self.known[step] = _Seen(numbers, step_key(*step, numbers), factors)
        return found

    def finish(
        self, operands: Sequence[Operand], relations: Sequence[Relational], axes: tuple[Axis, ...]
    ) -> str:
        """The step whose result is the value of a term; never shared, for it may be scaled."""
        if self.real:
            operands, _ = first_plain(operands)
        return self._append("result", operands, relations, axes)

    def _append(
        self, base: str, operands: Sequence[Operand], relations: Sequence[Relational], axes: tuple[Axis, ...]
    ) -> str:
        name = fresh(base, self.taken)
        self.taken.add(name)
        factors = self._seen(operands, relations).factors
        self.steps.append(Step(name, tuple(operands), tuple(relations), axes, factors=factors))
        return name

    def _in_output_order(self, legs: Sequence[Index]) -> list[Index]:
        """The legs, those that the output has too exchanged among each other into its order."""
        rank = self.output
        found = sorted([i for i in legs if i in rank], key=rank.__getitem__)[::-1]
        return [found.pop() if i in rank else i for i in legs]

    def place_scale(self, scale: Scalar, result: str) -> None:
        """Scale the smallest step that only this result uses, once; the result itself in a tie."""
        users: dict[str, list[str]] = {}
        for step in self.steps:
            for operand in step.operands:
                users.setdefault(operand.source, []).append(step.result)
        only = {result}  # what no other result needs
        for step in reversed(self.steps):
            readers = users.get(step.result, ())
            if len(readers) == 1 and readers[0] in only:
                only.add(step.result)
        best = min(
            (step.elements_at(self.values), place)
            for place, step in enumerate(self.steps)
            if step.result in only
        )
        root = next(p for p, step in enumerate(self.steps) if step.result == result)
        place = root if self.steps[root].elements_at(self.values) <= best[0] else best[1]
        self.steps[place] = replace(self.steps[place], scale=scale)


class _Seen(NamedTuple):
    """What is known of a step without its result: numbers of its indices, its key, and factors of its count."""

    numbers: dict[Index, int]
    key: Any
    factors: tuple[Size, ...]


def first_plain(operands: Sequence[Operand]) -> tuple[Sequence[Operand], bool]:
    """The operands, or their conjugates where the first of them would be one; and whether they are conjugates."""
    if not operands or not operands[0].conj:
        return operands, False
    return [replace(o, conj=not o.conj) for o in operands], True


def numbers_of(operands: Sequence[Operand], relations: Sequence[Relational]) -> dict[Index, int]:
    """The indices of a step by first occurrence."""
    numbers: dict[Index, int] = {}
    for part in (*operands, *relations):
        for index in part.indices:
            numbers.setdefault(index, len(numbers))
    return numbers


def step_key(
    operands: Sequence[Operand], relations: Sequence[Relational], numbers: Mapping[Index, int]
) -> Any:
    """Equal for two steps that differ in the names of indices, and in their results, only."""
    read = [
        (
            o.source,
            o.conj,
            tuple([(tuple([numbers[i] for i in a.indices]), a.strides, a.start, a.size) for a in o.axes]),
        )
        for o in operands
    ]
    related = [
        (
            numbers[r.left],
            tuple([(a, numbers[x]) for a, x in r.terms]),
            r.offset,
            r.modulus,
            r.table if isinstance(r, Select) else r.mode,
        )
        for r in relations
    ]
    return tuple(read), tuple(related), tuple([i.size for i in numbers])
