"""The exact price of contraction trees: multiplications of steps, and what they cost by an objective."""

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from math import gcd, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tnconv.planner.count import determined
from tnconv.planner.objective import Objective
from tnconv.planner.problem import Prepared
from tnconv.planner.states import Cut, State, States, bits

FEW = 6  # leaves of a small problem, in which all sets are looked at

Row = tuple[dict[int, int], int]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Model(States):
    """Prices of sets and of steps for one problem.

    Args:
        problem: what is contracted.
        values: what the size symbols count as.
        late: an index that only relations have waits for the last tensor, instead of being summed early.
    """

    def __init__(self, problem: Prepared, values: Mapping[str, int], *, late: bool = False) -> None:
        super().__init__(problem, values, late=late)
        self.cap: int | None = None
        self.objective = Objective()
        self.trained = 0  # the leaves that need a gradient, as a mask
        self.changing = -1  # the leaves that are not constant
        self.tables: dict[Any, Any] = {}  # the best trees that were found, by what ranks them
        self._largest_of: dict[int, tuple[int, int]] = {}
        self._prices: dict[tuple[int, int], int] = {}

    # -- steps -----------------------------------------------------------------------------------

    def rows(self, a: State, b: State | None, result: State) -> list[tuple[int, Row]]:
        """The relations that a step absorbs or splits, each with its number, in terms of legs at hand.

        A row is the coefficients and the offset of `Σ coefficient·leg + offset = 0`.
        """
        before = a.absorbed | (b.absorbed if b else 0)
        legs = a.legs | (b.legs if b else 0)
        wanted = result.absorbed & ~before
        found = [(r, self._row(r, a, b, None)) for r in bits(wanted)]
        for v in bits(result.fresh & ~legs):
            r, cut = self.cut_of[v]
            found.append((r, self._row(r, a, b, cut)))
        return sorted(found)

    def _row(self, r: int, a: State, b: State | None, cut: Cut | None) -> Row:
        relation = self.problem.relations[r]
        if cut is None:
            row, offset = dict(relation.coefficients), relation.offset
        else:
            row = {v: c for v, c in relation.coefficients.items() if cut.inside >> v & 1}
            row[cut.variable] = -cut.sign * cut.step
            offset = -cut.sign * cut.base
        for child in (a, b):
            part = child.cuts.get(r) if child else None
            if part is not None and part.merged:
                for v in bits(part.inside):
                    del row[v]
                row[part.variable] = part.sign * part.step
                offset += part.sign * part.base
        if relation.modulus is None:
            divisor = gcd(*row.values())
            if divisor > 1 and offset % divisor == 0:
                row, offset = {v: c // divisor for v, c in row.items()}, offset // divisor
        return row, offset

    def multiplications(self, a: State, b: State, result: State) -> int:
        """Product of the extents of the independent indices of a step."""
        absorbed = result.absorbed & ~a.absorbed & ~b.absorbed
        plain = a.plain | b.plain | result.plain
        relations = absorbed | a.merged | b.merged | result.merged
        if not relations:
            return self.product(plain)
        extents, factor, gone = self.extents, 1, 0
        for r in bits(relations):
            parts = [c for c in (a.cuts.get(r), b.cuts.get(r)) if c is not None and c.merged]
            if absorbed >> r & 1:
                scope, sizes = self.masks[r], []
            else:
                cut = result.cuts[r]
                if cut in parts:  # it only passes through
                    factor *= extents[cut.variable]
                    continue
                scope, sizes = cut.inside, [extents[cut.variable]]
            for part in parts:
                scope &= ~part.inside
                sizes.append(extents[part.variable])
            plain |= scope
            factor *= prod(sizes)
            largest, bit = self._largest(scope)
            if sizes and max(sizes) >= largest:
                factor //= max(sizes)
            elif gone & bit:
                return self._entangled(a, b, result)
            else:
                gone |= bit
        return factor * self.product(plain & ~gone)

    def _largest(self, mask: int) -> tuple[int, int]:
        """The largest extent in a mask, and whose it is."""
        found = self._largest_of.get(mask)
        if found is None:
            best = max(bits(mask), key=lambda v: (self.extents[v], v), default=None)
            found = (0, 0) if best is None else (self.extents[best], 1 << best)
            self._largest_of[mask] = found
        return found

    def _entangled(self, a: State, b: State, result: State) -> int:
        """Multiplications where two relations would determine one index, so that elimination has to decide."""
        rows = [row for _, (row, _) in self.rows(a, b, result)]
        legs = a.legs | b.legs | result.legs
        for row in rows:
            for v in row:
                legs |= 1 << v
        order = sorted(bits(legs), key=lambda v: (-self.extents[v], v))
        for v in determined(rows, order):
            legs ^= 1 << v
        return prod(self.extents[v] for v in bits(legs))

    def operands(self, left: int, right: int, result: State) -> tuple[State, State]:
        """What a step reads: a leaf as it is where reducing it first saves no multiplication."""
        a, b = self.state(left), self.state(right)
        if left in self.reducible:
            raw = self.raw(left.bit_length() - 1)
            if self.multiplications(raw, b, result) <= self.multiplications(a, b, result):
                a = raw
        if right in self.reducible:
            raw = self.raw(right.bit_length() - 1)
            if self.multiplications(a, raw, result) <= self.multiplications(a, b, result):
                b = raw
        return a, b

    def price(self, left: int, right: int, result: State) -> int:
        """Multiplications of the step that puts two sets of leaves together."""
        if self.count_leaves > FEW:  # of many, few are asked for twice
            return self._price(left, right, result)
        found = self._prices.get((left, right))
        if found is None:
            found = self._prices[left, right] = self._price(left, right, result)
        return found

    def _price(self, left: int, right: int, result: State) -> int:
        if left in self.reducible or right in self.reducible:
            return self.multiplications(*self.operands(left, right, result), result)
        return self.multiplications(self.state(left), self.state(right), result)

    @cached_property
    def reducible(self) -> frozenset[int]:
        """The leaves, as masks, that a step of their own makes smaller."""
        leaves = range(self.count_leaves)
        return frozenset(1 << p for p in leaves if self.raw(p).differs(self.state(1 << p)))

    # -- objectives --------------------------------------------------------------------------------

    def judged(self, objective: Objective) -> "Model":
        """The same model where another objective ranks trees."""
        made = copy(self)  # what is known about sets and cuts stays shared
        made.objective = objective
        made.trained, made.changing = (
            sum(1 << p for p, leaf in enumerate(self.problem.leaves) if leaf.argument not in still)
            for still in (objective.frozen, objective.constant)
        )
        return made

    def step_cost(self, left: int, right: int, result: State) -> int:
        """Multiplications of a step, with those of its backward if the objective says so; 0 of constants alone."""
        if not (left | right) & self.changing:
            return 0
        count = self.price(left, right, result)
        if self.objective.training:
            count *= 1 + bool(left & self.trained) + bool(right & self.trained)
        return count

    def step_costs(self, left: Ints, right: Ints, prices: Floats) -> Floats:
        """`step_cost` for many steps, from their multiplications."""
        if self.objective.constant:
            prices = np.where((left | right) & self.changing, prices, 0.0)
        if not self.objective.training:
            return prices
        counted = np.add(left & self.trained != 0, right & self.trained != 0, dtype=np.float64)
        found: Floats = np.multiply(prices, 1.0 + counted)
        return found

    def passing_cost(self, leaves: int, size: int) -> int:
        """What it costs that `size` elements are written and read; the result is written in every tree."""
        counts = leaves != self.everything and leaves & self.changing
        return 2 * self.objective.elements * size if counts else 0

    def passing_costs(self, sizes: Floats, leaves: Ints) -> Floats:
        """`passing_cost` for many sets."""
        passing: Floats = np.multiply(sizes, 2.0 * self.objective.elements)
        passing[(leaves == self.everything) | (leaves & self.changing == 0)] = 0.0
        return passing

    # -- memory ----------------------------------------------------------------------------------

    def capped(self, cap: int | None) -> "Model":
        """The same model where no intermediate may have more than `cap` elements."""
        made = copy(self)  # what is known about sets and cuts stays shared
        made.cap = cap
        return made

    def excess(self, leaves: int) -> int:
        """Elements above the cap of what the leaves are contracted to; the result may have any number."""
        if self.cap is None or leaves == self.everything:
            return 0
        return max(self.elements(leaves) - self.cap, 0)


def models_of(problem: Prepared, values: Mapping[str, int]) -> tuple[Model, ...]:
    """The models of a problem; two where some index can be summed early or late."""
    early = Model(problem, values)
    return (early, Model(problem, values, late=True)) if early.owners else (early,)
