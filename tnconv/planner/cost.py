"""The exact price of contraction trees in which some indices are joined by affine relations.

A subset S of the leaves cuts every relation `Σ a·x + off = 0` in two: the indices that only S has, and the
rest. Towards the rest S needs nothing of them but their sum, so it has one leg for the relation,

    q = (Σ_inside a·x - base) / step,

whose extent is the number of cells in which the sums of the two sides can meet: the halo for a signal and
some kernels, the number of taps for kernels alone. One index inside is its own leg unless the cut is
narrower; one index outside takes the place of q, and then the relation is absorbed. An index on no leaf and
not in the output belongs to the set that has the largest private index of each of its relations; there it
is summed. In a *late* model it waits for the last tensor instead: the Gram matrix of an image, pixel by
pixel, is cheaper than that of its windows. All of this follows from S alone, so that Bellman's principle
holds and a dynamic programme over subsets is exact.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, prod

import numpy as np
import numpy.typing as npt

from tnconv.ir import Size
from tnconv.ir.affine import reach_of_sizes
from tnconv.planner.count import determined
from tnconv.planner.objective import Objective
from tnconv.planner.prepare import Linear, Prepared, extent_of

Row = tuple[dict[int, int], int]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


@dataclass(frozen=True, slots=True)
class Cut:
    """The leg that a relation leaves at a set: `sign·Σ_inside a·x = step·variable + base`.

    Args:
        inside: bit mask of the indices that are merged.
        variable: number of the leg; the index itself if it is the only one and not narrowed.
        size: number of cells.
    """

    inside: int
    variable: int
    size: Size
    sign: int = 1
    step: int = 1
    base: int = 0
    merged: bool = True


@dataclass(slots=True)
class State:
    """What a set of leaves is contracted to.

    Args:
        plain: bit mask of the legs that are indices of the problem.
        absorbed: bit mask of the relations that are absorbed.
        cuts: the other relations that have something inside.
    """

    plain: int
    absorbed: int
    cuts: dict[int, Cut] = field(default_factory=dict)
    fresh: int = field(init=False, default=0)  # the legs that stand for a cut, as a bit mask
    merged: int = field(init=False, default=0)  # the relations that they belong to

    def __post_init__(self) -> None:
        for r, cut in self.cuts.items():
            if cut.merged:
                self.fresh |= 1 << cut.variable
                self.merged |= 1 << r
            else:
                self.plain |= 1 << cut.variable

    @property
    def legs(self) -> int:
        """Bit mask of all legs."""
        return self.plain | self.fresh

    def differs(self, other: "State") -> bool:
        """Whether a step leads from one to the other."""
        return (self.legs, self.absorbed) != (other.legs, other.absorbed)


class Model:
    """Prices of sets and of steps for one problem.

    Args:
        problem: what is contracted.
        values: what the size symbols count as.
        late: an index that only relations have waits for the last tensor, instead of being summed early.
    """

    def __init__(self, problem: Prepared, values: Mapping[str, int], *, late: bool = False) -> None:
        self.problem = problem
        self.values = values
        self.late = late
        self.cap: int | None = None
        self.objective = Objective()
        self.trained = 0  # the leaves that need a gradient, as a mask
        self.moving = -1  # the leaves that are not constant
        self.extents = list(problem.extents)
        self.count_leaves = len(problem.leaves)
        self.everything = (1 << self.count_leaves) - 1
        self.leaf_legs = [sum(1 << v for v in set(leaf.legs)) for leaf in problem.leaves]
        self.output = sum(1 << v for v in problem.output)
        self.masks = [sum(1 << v for v in r.coefficients) for r in problem.relations]
        width = len(self.extents)
        self.holders = [0] * width
        for place, mask in enumerate(self.leaf_legs):
            for v in bits(mask):
                self.holders[v] |= 1 << place
        self.relations_of = [0] * width
        for r, mask in enumerate(self.masks):
            for v in bits(mask):
                self.relations_of[v] |= 1 << r
        self.numeric = [self._is_numeric(r) for r in problem.relations]
        self.splittable = [self._is_splittable(r) for r in problem.relations]
        self.owners = {} if late else self._find_owners()
        self.cuts: dict[tuple[int, int], Cut] = {}
        self.cut_of: dict[int, tuple[int, Cut]] = {}
        self._states: dict[int, State] = {}
        self._products: dict[int, int] = {0: 1}
        self._largest_of: dict[int, tuple[int, int]] = {}

    # -- set-up ----------------------------------------------------------------------------------

    def _is_numeric(self, relation: Linear) -> bool:
        return all(isinstance(self.problem.variables[v].size, int) for v in relation.coefficients)

    def _is_splittable(self, relation: Linear) -> bool:
        """Whether the sums of either side start at a cell that is known while planning."""
        sign = -relation.coefficients[relation.left]
        symbolic = (
            a * sign > 0
            for v, a in relation.coefficients.items()
            if v != relation.left and not isinstance(self.problem.variables[v].size, int)
        )
        return relation.modulus is None and all(symbolic)

    def _find_owners(self) -> dict[int, int]:
        """For each index that lives on relations only: the leaves that a set needs to sum it."""
        principal: list[int] = []
        for mask in self.masks:
            private = [
                v
                for v in bits(mask & ~self.output)
                if self.holders[v] and self.relations_of[v].bit_count() == 1
            ]
            best = max(private, key=lambda v: (self.extents[v], -v), default=None)
            principal.append(0 if best is None else self.holders[best])
        owners = {}
        for v, relations in enumerate(self.relations_of):
            if relations and not self.holders[v] and not self.output >> v & 1:
                users = bits(relations)
                if all(principal[r] and self.splittable[r] for r in users):
                    needed = 0
                    for r in users:
                        needed |= principal[r]
                    owners[v] = needed
        return owners

    # -- sets ------------------------------------------------------------------------------------

    def product(self, mask: int) -> int:
        """Product of the extents of the indices in a mask."""
        found = self._products.get(mask)
        if found is None:
            found = 1
            for v in bits(mask):
                found *= self.extents[v]
            self._products[mask] = found
        return found

    def state(self, leaves: int) -> State:
        """What the leaves are contracted to; all of them to the output."""
        found = self._states.get(leaves)
        if found is None:
            found = self._states[leaves] = self._make_state(leaves)
        return found

    def raw(self, leaf: int) -> State:
        """A leaf as it is, before the indices that only it has are summed."""
        return State(self.leaf_legs[leaf], 0)

    def _make_state(self, leaves: int) -> State:
        present = 0
        for place in bits(leaves):
            present |= self.leaf_legs[place]
        if leaves == self.everything:
            return self._final(present)
        if not self.masks:
            return State(self._external(present, leaves), 0)
        owned = 0
        for v, needed in self.owners.items():
            if needed & ~leaves == 0:
                owned |= 1 << v
        present, absorbed = self._absorb(leaves, present | owned, owned)
        external = self._external(present, leaves)
        legs = external
        inside: dict[int, int] = {}
        for v in bits(present & ~external):
            users = self.relations_of[v] & ~absorbed
            if not users:
                continue
            if owned >> v & 1 or (users & (users - 1) == 0 and self.splittable[users.bit_length() - 1]):
                for r in bits(users):
                    inside[r] = inside.get(r, 0) | 1 << v
            else:
                legs |= 1 << v
        return State(legs, absorbed, {r: self.cut(r, mask) for r, mask in inside.items()})

    def _final(self, present: int) -> State:
        """The result: relations that nothing connects to a leaf cost nothing."""
        absorbed, changed = 0, True
        while changed:
            changed = False
            for r, mask in enumerate(self.masks):
                if mask & present and not absorbed >> r & 1:
                    absorbed |= 1 << r
                    present |= mask
                    changed = True
        return State(present & self.output, absorbed)

    def _external(self, present: int, leaves: int) -> int:
        """The indices that are in the output or on a leaf outside."""
        external = present & self.output
        for v in bits(present & ~external):
            if self.holders[v] & ~leaves:
                external |= 1 << v
        return external

    def _absorb(self, leaves: int, present: int, owned: int) -> tuple[int, int]:
        """The indices at hand once all relations are absorbed that can be, and these relations."""
        absorbed, changed = 0, True
        while changed:
            changed = False
            for r, mask in enumerate(self.masks):
                if absorbed >> r & 1 or not mask & present:
                    continue
                missing = mask & ~present
                if not missing or self._yields(r, missing, leaves, absorbed, owned):
                    absorbed |= 1 << r
                    present |= missing
                    changed = True
        return present, absorbed

    def _yields(self, r: int, missing: int, leaves: int, absorbed: int, owned: int) -> bool:
        """Whether the one missing index can take the place of all the others."""
        inside = self.masks[r] & ~missing
        if missing & (missing - 1) or inside & (inside - 1) == 0 or not self.splittable[r]:
            return False
        if self._external(inside, leaves):
            return False
        only = 1 << r
        if any(self.relations_of[v] & ~absorbed & ~only for v in bits(inside & ~owned)):
            return False
        outside = missing.bit_length() - 1
        return not self.numeric[r] or self.cut(r, inside).size == self.extents[outside]

    # -- cuts ------------------------------------------------------------------------------------

    def cut(self, r: int, inside: int) -> Cut:
        """The leg that relation `r` leaves where the indices of the mask `inside` are merged."""
        found = self.cuts.get((r, inside))
        if found is None:
            found = self.cuts[r, inside] = self._make_cut(r, inside)
        return found

    def _make_cut(self, r: int, inside: int) -> Cut:
        relation, variables = self.problem.relations[r], self.problem.variables
        only = inside.bit_length() - 1
        alone = Cut(inside, only, variables[only].size, merged=False)
        single = inside == 1 << only
        if single and not self.numeric[r]:
            return alone
        left_inside = bool(inside >> relation.left & 1)
        unit = relation.coefficients[relation.left]
        sign = unit if left_inside else -unit
        here = [(sign * a, variables[v].size) for v, a in relation.coefficients.items() if inside >> v & 1]
        there = [
            (-sign * a, variables[v].size) for v, a in relation.coefficients.items() if not inside >> v & 1
        ]
        # The side without the left index may have gaps; the sums of both sides meet on its lattice only.
        shift = -sign * relation.offset
        sparse, start = (there, shift) if left_inside else (here, 0)
        step = gcd(*(a for a, _ in sparse)) or 1
        if self.numeric[r]:
            # The cells that the sums of both sides can reach.
            mine, others = reach_of_sizes(here), reach_of_sizes(there, shift)
            low, high = max(mine.low, others.low), min(mine.high, others.high)
            low += (start - low) % step
            size: Size = max((high - low) // step + 1, 1)
        else:
            reached = reach_of_sizes((a // step, size) for a, size in sparse)
            size, low = reached.length, reached.low * step + start
        if single and size >= variables[only].size:
            return alone
        cut = Cut(inside, len(self.extents), size, sign, step, low)
        self.extents.append(extent_of(size, self.values))
        self.cut_of[cut.variable] = (r, cut)
        return cut

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
        """The same where two relations would determine one index, so that elimination has to decide."""
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
        if left in self.reducible or right in self.reducible:
            return self.multiplications(*self.operands(left, right, result), result)
        return self.multiplications(self.state(left), self.state(right), result)

    @cached_property
    def reducible(self) -> frozenset[int]:
        """The leaves, as masks, that a step of their own makes smaller."""
        leaves = range(self.count_leaves)
        return frozenset(1 << p for p in leaves if self.raw(p).differs(self.state(1 << p)))

    def elements(self, leaves: int) -> int:
        """Number of cells of what the leaves are contracted to."""
        state = self.state(leaves)
        sizes = (self.extents[c.variable] for c in state.cuts.values() if c.merged)
        return self.product(state.plain) * prod(sizes)

    # -- objectives --------------------------------------------------------------------------------

    def judged(self, objective: Objective) -> "Model":
        """The same model where trees are judged by another objective."""
        made = copy(self)  # what is known about sets and cuts stays shared
        made.objective = objective
        made.trained, made.moving = (
            sum(1 << p for p, leaf in enumerate(self.problem.leaves) if leaf.argument not in still)
            for still in (objective.frozen, objective.constant)
        )
        return made

    def step_cost(self, left: int, right: int, result: State) -> int:
        """Multiplications of a step, with those of its backward if the objective says so; 0 of constants alone."""
        if not (left | right) & self.moving:
            return 0
        count = self.price(left, right, result)
        if self.objective.training:
            count *= 1 + bool(left & self.trained) + bool(right & self.trained)
        return count

    def step_costs(self, left: Ints, right: Ints, prices: Floats) -> Floats:
        """The same for many steps, from their multiplications."""
        if self.objective.constant:
            prices = np.where((left | right) & self.moving, prices, 0.0)
        if not self.objective.training:
            return prices
        moving = np.add(left & self.trained != 0, right & self.trained != 0, dtype=np.float64)
        found: Floats = np.multiply(prices, 1.0 + moving)
        return found

    def passing_cost(self, leaves: int, size: int) -> int:
        """What it costs that `size` elements are written and read; the result is written in every tree."""
        counts = leaves != self.everything and leaves & self.moving
        return 2 * self.objective.elements * size if counts else 0

    def passing_costs(self, sizes: Floats, leaves: Ints) -> Floats:
        """The same for many sets."""
        passing: Floats = np.multiply(sizes, 2.0 * self.objective.elements)
        passing[(leaves == self.everything) | (leaves & self.moving == 0)] = 0.0
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
