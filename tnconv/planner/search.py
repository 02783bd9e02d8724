"""Contraction trees: the exact programme over subsets for small problems, cotengra for large ones.

A tree is nested pairs of leaf positions, `((0, 2), 1)`. Trees are compared by the objective of the model, which is
the number of multiplications unless it says otherwise, then by the number of elements of all intermediates; what is
left of a tie goes to the tree that is met first. Under a cap, trees without intermediates above it come first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tnconv import plugins
from tnconv.errors import PlanError, meant
from tnconv.planner.cost import Model
from tnconv.planner.effort import Search
from tnconv.planner.large import large_trees
from tnconv.planner.objective import Objective
from tnconv.planner.states import bits
from tnconv.planner.table import Nested, Price, Table, fill
from tnconv.planner.trees import largest, left_to_right, price

Order = tuple[Model, Nested]

EXACT = 12  # leaves up to which "auto" searches all trees


@dataclass(frozen=True)
class Problem:
    """What a planner of a plug-in sees.

    Args:
        names: names of the tensors, by position.
        legs: names of the indices of every tensor.
        sizes: size of every index as an integer; symbols count as their hints.
        output: names of the open indices.
        relations: the affine relations among indices: coefficients by name and offset, `Σ a·x + offset = 0`.
        price: multiplications and intermediate elements of a tree (exact).
    """

    names: tuple[str, ...]
    legs: tuple[tuple[str, ...], ...]
    sizes: dict[str, int]
    output: tuple[str, ...]
    relations: tuple[tuple[dict[str, int], int], ...]
    price: Callable[[Nested], Price]


Planner = Callable[[Problem], Nested]


def find_orders(
    models: Sequence[Model], planner: str, cap: int | None = None, search: Search | None = None
) -> list[Order]:
    """The trees that a planner proposes, each with the model that it is good for; of one leaf, the leaf.

    A model has two where the network may be a square: the best tree, and the best one whose halves are
    alike, which wins if one half is then computed once.

    Args:
        models: prices of one problem, which has at least one leaf.
        planner: "auto", "dp", "cotengra", "left-to-right", or the name of a plug-in.
        cap: only trees whose intermediates, all but the result, have at most so many elements. The
            programme finds the cheapest of these whenever there is one.
        search: how "cotengra" searches.

    Returns:
        At least one without a cap; with a cap, maybe none.

    Raises:
        PlanError: there is no such planner, or it returns something that is not a tree.
        PluginError: a plug-in cannot be loaded.
    """
    count = models[0].count_leaves
    if planner == "auto":
        planner = "dp" if count <= EXACT else "cotengra"
    capped = [model.capped(cap) for model in models]
    if planner != "dp" and planner not in _BUILT_IN:
        tree = _from_plugin(models, planner)
        orders = [(model, tree) for model in capped]
    elif count == 1:
        orders = [(model, 0) for model in capped]
    elif planner == "dp":
        orders = [(model, tree) for model in capped for tree in _dp(model)]
    else:
        orders = list(zip(capped, _BUILT_IN[planner](capped, search), strict=True))
    return [(model, tree) for model, tree in orders if cap is None or largest(model, tree) <= cap]


SEARCHING = ("auto", "cotengra")  # the planners that `search=` has options of


def check_planner(planner: object) -> str:
    """The name of a planner.

    Raises:
        PlanError: there is none of that name.
    """
    known = ("auto", "dp", *_BUILT_IN, *plugins.names(plugins.PLANNERS))
    if not isinstance(planner, str) or planner not in known:
        raise PlanError(
            f"there is no planner {planner!r}{meant(planner, known)}; the planners are {', '.join(known)}"
        )
    return planner


def _from_plugin(models: Sequence[Model], planner: str) -> Nested:
    propose: Planner = plugins.get(plugins.PLANNERS, check_planner(planner))
    tree = propose(problem_of(models))
    check_tree(tree, models[0].count_leaves, f"planner {planner!r}")
    return _placed(tree, models[0].problem.places)


def _placed(tree: Nested, places: Sequence[int] | Mapping[int, int]) -> Nested:
    """A tree over other leaves: each is exchanged for that in its place."""
    if isinstance(tree, int):
        return places[tree]
    return (_placed(tree[0], places), _placed(tree[1], places))


def problem_of(models: Sequence[Model]) -> Problem:
    """The public view of a problem; the price of a tree is that by the model it is good for."""
    prepared = models[0].problem
    name = [index.name for index in prepared.variables]
    leaves = [prepared.leaves[place] for place in prepared.places]
    return Problem(
        names=tuple(leaf.name for leaf in leaves),
        legs=tuple(tuple(name[v] for v in leaf.legs) for leaf in leaves),
        sizes=dict(zip(name, prepared.extents, strict=True)),
        output=tuple(name[v] for v in prepared.output),
        relations=tuple(
            ({name[v]: a for v, a in r.coefficients.items()}, r.offset) for r in prepared.relations
        ),
        price=lambda tree: min(
            price(model.judged(Objective()), _placed(tree, prepared.places)) for model in models
        ),
    )


def check_tree(tree: Any, count: int, who: str) -> None:
    """Refuse what is not nested pairs with every position once.

    Raises:
        PlanError: it is not.
    """
    positions: list[int] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple) and len(part) == 2:
            waiting += part
        elif isinstance(part, int) and not isinstance(part, bool):
            positions.append(part)
        else:
            raise PlanError(f"{who} returned {part!r} in a tree; return nested pairs of tensor positions")
    if sorted(positions) != list(range(count)):
        raise PlanError(
            f"{who} returned a tree over positions {sorted(positions)}; use each of 0 to {count - 1} once"
        )


def _dp(model: Model) -> list[Nested]:
    table, whole = fill(model), model.everything
    if whole not in table:  # under the cap there is none
        return []
    tree, twins = table.tree(whole), _twins(model, table)
    return [tree] if twins is None or twins == tree else [tree, twins]


def _twins(model: Model, table: Table) -> Nested | None:
    """The best tree of two halves that read the same arguments in the same order, priced as one half."""
    arguments = [leaf.argument for leaf in model.problem.leaves]
    count, whole = len(arguments), model.everything
    if count < 4 or any(arguments.count(name) != 2 for name in arguments):
        return None
    final = model.state(whole)
    cheapest: tuple[float, int] | None = None
    for chosen in combinations(range(1, count), count // 2 - 1):
        half = 1 | sum(1 << place for place in chosen)
        if half in table and len({arguments[place] for place in bits(half)}) == count // 2:
            price = table.costs[half] + model.step_cost(half, whole ^ half, final)
            if cheapest is None or price < cheapest[0]:
                cheapest = price, half
    if cheapest is None:
        return None
    first = cheapest[1]
    mirror = {
        place: next(p for p in bits(whole ^ first) if arguments[p] == arguments[place])
        for place in bits(first)
    }
    tree = table.tree(first)
    return (tree, _placed(tree, mirror))


_BUILT_IN: dict[str, Callable[[Sequence[Model], Search | None], list[Nested]]] = {
    "cotengra": large_trees,
    "left-to-right": lambda models, _: [left_to_right(model) for model in models],
}
