"""The exact programme: the best tree of every set of leaves, from those of its subsets.

Prices depend on sets alone, so that Bellman's principle holds, and every way to split a set counts, outer products
among them. Two writers fill the same table. The plain one works for any disjoint sets of leaves and any size of
numbers. The other prices all splits of all sets of one size at once (`columns`), and leaves out what already costs
more than a greedy tree of the whole: no tree as good as that has such a part. Both take the first of equal splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import inf
from typing import Any

import numpy as np

from tnconv.planner.cost import FEW, Floats, Ints, Model
from tnconv.planner.set_arrays import EXACT, Columns, fits

Nested = int | tuple["Nested", "Nested"]
Price = tuple[int, int]

FORBIDDEN = 1 << 256  # the price of an element above the cap: more than any multiplications


@dataclass(frozen=True)
class Table:
    """The best tree of every set.

    Args:
        costs: of the best tree; infinite where no tree of the whole as good as the best has the set.
        elements: of all its intermediates.
        lefts: the half of its last step that has the lowest leaf; 0 for a leaf.
    """

    costs: Sequence[float]
    elements: Sequence[float]
    lefts: Sequence[int]

    def tree(self, chosen: int) -> Nested:
        """The best tree of a set."""
        left = self.lefts[chosen]
        if not left:
            return chosen.bit_length() - 1
        return (self.tree(left), self.tree(chosen ^ left))

    def price(self, chosen: int) -> Price:
        """Cost and elements of the best tree of a set, which has one."""
        return int(self.costs[chosen]), int(self.elements[chosen])

    def __contains__(self, chosen: int) -> bool:
        """Whether a set has a best tree."""
        return self.costs[chosen] < inf


def fill(model: Model, slack: float = 1.0) -> Table:
    """The table of all leaves of a model, by the writer that is faster.

    Args:
        model: prices.
        slack: sets are left out that cost more than this times a greedy tree.
    """
    if model.count_leaves > FEW and fits(model):
        table = fill_by_size(model, slack)
        if table.costs[-1] * slack < EXACT or (model.cap is not None and table.costs[-1] == inf):
            return table
    ranked_by = model.objective, model.cap
    if ranked_by not in model.tables:
        leaves = [1 << place for place in range(model.count_leaves)]
        model.tables[ranked_by] = fill_plain(model, leaves)
    found: Table = model.tables[ranked_by]
    return found


# -- the plain writer ----------------------------------------------------------------------------------


def fill_plain(model: Model, parts: Sequence[int]) -> Table:
    """The table of disjoint sets of leaves, each of which counts as one leaf.

    Args:
        model: prices.
        parts: sets of leaves, as masks.
    """
    full = (1 << len(parts)) - 1
    leaves = [0] * (full + 1)
    table: Any = Table([0] * (full + 1), [0] * (full + 1), [0] * (full + 1))
    for chosen in range(1, full + 1):
        low = chosen & -chosen
        rest = chosen ^ low
        leaves[chosen] = leaves[rest] | parts[low.bit_length() - 1]
        if rest:
            cost, elements, left = _best_split(model, leaves, table, chosen)
            table.costs[chosen], table.elements[chosen], table.lefts[chosen] = cost, elements, left
    return table  # type: ignore[no-any-return]


def _best_split(model: Model, leaves: Sequence[int], table: Table, chosen: int) -> tuple[int, int, int]:
    """The cheapest way to put a set together from two, as cost, elements and left half."""
    both, rest = leaves[chosen], chosen & (chosen - 1)
    state, size = model.joined(leaves[rest], leaves[chosen ^ rest]), model.elements(both)
    costs: Any = table.costs
    elements: Any = table.elements
    least = least_elements = split = -1
    right = rest
    while right:
        left = chosen ^ right
        cost = costs[left] + costs[right]
        if least < 0 or cost <= least:
            cost += model.step_cost(leaves[left], leaves[right], state)
            made = elements[left] + elements[right]
            if least < 0 or (cost, made) < (least, least_elements):
                least, least_elements, split = cost, made, left
        right = (right - 1) & rest
    passing = model.passing_cost(both, size) + model.excess(both) * FORBIDDEN
    return least + passing, least_elements + size, split


# -- all sets of one size at once ------------------------------------------------------------------------


def fill_by_size(model: Model, slack: float = 1.0) -> Table:
    """The same table by array operations; a cost of 2^53 or more may be rounded, but stays that large."""
    count = model.count_leaves
    bound = inf if model.cap is not None else greedy(model) * slack
    columns = Columns(model)
    costs, elements = np.full(1 << count, inf), np.zeros(1 << count)
    lefts = np.zeros(1 << count, np.int64)
    leaves = 1 << np.arange(count)
    costs[0] = costs[leaves] = 0.0
    for wanted in range(2, count + 1):
        sets, lows, rights = _splits(count, wanted)
        left, right = lows | (sets[:, None] ^ lows ^ rights), rights
        before = costs[left] + costs[right]
        alive = np.flatnonzero(before.ravel() <= bound)
        if not len(alive):
            continue
        a, b, both = left.ravel()[alive], right.ravel()[alive], sets[alive // right.shape[1]]
        starts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]])
        sets = both[starts]
        cost = before.ravel()[alive] + model.step_costs(a, b, columns.prices(a, b, both))
        made = elements[a] + elements[b]
        best = _best(cost, made, starts)
        size = columns.elements(sets)
        costs[sets] = cost[best] + model.passing_costs(size, sets)
        elements[sets], lefts[sets] = made[best] + size, a[best]
        costs[sets[_dear(model, sets, costs, size, bound)]] = inf
    return Table(costs.tolist(), elements.tolist(), lefts.tolist())


def _best(cost: Floats, made: Floats, starts: Ints) -> Ints:
    """Of the splits of each set the cheapest, of these one with fewest elements, of these the first."""
    owner = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(cost)]))
    at = np.flatnonzero(cost == np.minimum.reduceat(cost, starts)[owner])
    few = np.full(len(starts), inf)
    np.minimum.at(few, owner[at], made[at])
    at = at[made[at] == few[owner[at]]][::-1]  # of equal places NumPy keeps the last
    first = np.empty(len(starts), np.int64)
    first[owner[at]] = at
    return first


def _dear(model: Model, sets: Ints, costs: Floats, size: Floats, bound: float) -> Any:
    """Which sets no good tree has: above the bound, or above the cap."""
    dear = costs[sets] > bound
    if model.cap is not None:
        dear |= (size > model.cap) & (sets != model.everything)
    return dear


@lru_cache(maxsize=64)
def _splits(count: int, wanted: int) -> tuple[Ints, Ints, Ints]:
    """All sets with `wanted` of `count` leaves, and the ways to split each.

    Returns:
        The sets, ascending; a column of their lowest leaves; and a row of right halves for each, descending.
    """
    places = np.array(sorted(combinations(range(count), wanted), key=lambda c: sum(1 << p for p in c)))
    weights = 1 << places.astype(np.int64)
    patterns = np.arange((1 << (wanted - 1)) - 1, 0, -1)
    chosen = patterns[None, :] >> np.arange(wanted - 1)[:, None] & 1
    return weights.sum(1), weights[:, :1], weights[:, 1:] @ chosen


def greedy(model: Model) -> int:
    """Cost of a tree that takes the cheapest step each time, or that with the smallest growth: a bound."""
    return min(_greedy(model, by_growth=False), _greedy(model, by_growth=True), _in_order(model))


def _in_order(model: Model) -> int:
    """Cost of the tree from left to right: a layer's image comes first."""
    total, before = 0, 1
    for place in range(1, model.count_leaves):
        both = before | 1 << place
        total += model.step_cost(before, 1 << place, model.state(both))
        total += model.passing_cost(both, model.elements(both))
        before = both
    return total


def _greedy(model: Model, *, by_growth: bool) -> int:
    parts = [1 << place for place in range(model.count_leaves)]
    known: dict[tuple[int, int], tuple[int, int]] = {}
    total = 0
    while len(parts) > 1:
        for a, b in combinations(parts, 2):
            if (a, b) not in known:
                both = a | b
                size = model.elements(both)
                cost = model.step_cost(a, b, model.state(both)) + model.passing_cost(both, size)
                known[a, b] = (size - model.elements(a) - model.elements(b) if by_growth else cost, cost)
        a, b = min(combinations(parts, 2), key=lambda pair: known[pair])
        total += known[a, b][1]
        parts = sorted([p for p in parts if p not in (a, b)] + [a | b])
    return total
