"""The best few trees, not the best one alone: how long a step takes is known only once it is lowered.

Multiplications mislead: three small convolutions in a row may multiply less than one with a merged kernel, and take
twice as long. So trees are ranked by an objective that counts what passes through memory too, and by multiplications.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from tnconv.planner.cost import Model
from tnconv.planner.table import Nested, Table, fill

FAR = 3.0  # trees that cost more than this times the best are too far away


class Near:
    """The trees of a model by cost, and the table that they come from.

    Args:
        model: prices, with at least two leaves.
        far: trees that cost more than this times the best are too far away.
    """

    def __init__(self, model: Model, far: float = FAR) -> None:
        self.model, self.far = model, far
        self.table: Table = fill(model, far)
        self.best = self.table.costs[model.everything]
        self._ways: dict[int, list[tuple[float, int]]] = {}

    def last_steps(self) -> list[tuple[float, Nested]]:
        """The best tree for each last step, the cheapest first, none too far away."""
        whole = self.model.everything
        return [
            (cost, (self.table.tree(left), self.table.tree(whole ^ left))) for cost, left in self.ways(whole)
        ]

    def trees(self, most: int) -> list[tuple[float, Nested]]:
        """The cheapest trees of all, none too far away.

        Every tree but the best comes from a cheaper one by another split of one set whose parts are then put
        together in the best way: so from the best, each in turn gives the next ones.
        """
        first = (self.best, self.table.tree(self.model.everything))
        waiting: list[tuple[float, int, Nested]] = [(first[0], 0, first[1])]
        found: list[tuple[float, Nested]] = []
        number = 0
        seen = {_key(first[1])}
        while waiting and len(found) < most:
            cost, _, tree = heappop(waiting)
            found.append((cost, tree))
            for more, other in self._others(cost, tree):
                if more <= self.best * self.far and _key(other) not in seen:
                    seen.add(_key(other))
                    number += 1
                    heappush(waiting, (more, number, other))
        return found

    def ways(self, chosen: int) -> list[tuple[float, int]]:
        """The splits of a set, each with its cost and the left half, that are not too far away."""
        if chosen not in self._ways:
            self._ways[chosen] = sorted(self._splits(chosen))
        return self._ways[chosen]

    def _splits(self, chosen: int) -> Iterator[tuple[float, int]]:
        model, costs = self.model, self.table.costs
        state = model.state(chosen)
        passing = model.passing_cost(chosen, model.elements(chosen))
        limit = self.best * self.far - (self.best - costs[chosen]) - passing
        rest = chosen & (chosen - 1)
        right = rest
        while right:
            left = chosen ^ right
            cost = costs[left] + costs[right]
            if cost <= limit:
                cost += model.step_cost(left, right, state)
                if cost <= limit:
                    yield cost + passing, left
            right = (right - 1) & rest

    def _others(self, cost: float, tree: Nested) -> Iterator[tuple[float, Nested]]:
        """The trees with another split of one set that is put together in the best way; each with its cost."""
        for chosen, subtree, rebuilt in _sets(tree):
            if chosen.bit_count() < 3 or self.table.tree(chosen) != subtree:
                continue
            best = self.table.costs[chosen]
            for price, left in self.ways(chosen):
                if left != self.table.lefts[chosen]:
                    part = (self.table.tree(left), self.table.tree(chosen ^ left))
                    yield cost - best + price, rebuilt(part)


def _sets(
    tree: Nested, place: Callable[[Nested], Nested] = lambda part: part
) -> Iterator[tuple[int, Nested, Callable[[Nested], Nested]]]:
    """The sets of leaves of a tree, each with its subtree and what puts another in its place."""
    if not isinstance(tree, int):
        left, right = tree
        yield _leaves(tree), tree, place
        yield from _sets(right, lambda part: place((left, part)))
        yield from _sets(left, lambda part: place((part, right)))


def _leaves(tree: Nested) -> int:
    return 1 << tree if isinstance(tree, int) else _leaves(tree[0]) | _leaves(tree[1])


def _key(tree: Nested) -> object:
    """Equal for two trees that differ in the order of halves only."""
    if isinstance(tree, int):
        return tree
    return frozenset((_key(tree[0]), _key(tree[1])))
