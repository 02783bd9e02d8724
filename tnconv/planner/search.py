"""Contraction trees: the exact programme over subsets for small problems, cotengra for large ones.

A tree is nested pairs of leaf positions, `((0, 2), 1)`. Trees are compared by the objective of the model, which is
the number of multiplications unless it says otherwise, then by the number of elements of all intermediates; what is
left of a tie goes to the tree that is met first. Under a cap, trees without intermediates above it come first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tnconv import plugins
from tnconv.errors import PlanError, meant
from tnconv.planner.cost import Model
from tnconv.planner.objective import Objective
from tnconv.planner.states import bits
from tnconv.planner.table import FORBIDDEN, Nested, Price, Table, fill, fill_plain

Order = tuple[Model, Nested]

EXACT = 12  # leaves up to which "auto" searches all trees
_TRIALS = 32
_ROUNDS = 4


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


def find_orders(models: Sequence[Model], planner: str, cap: int | None = None) -> list[Order]:
    """The trees that a planner proposes, each with the model that it is good for; of one leaf, the leaf.

    A model has two where the network may be a square: the best tree, and the best one whose halves are
    alike, which wins if one half is then computed once.

    Args:
        models: prices of one problem, which has at least one leaf.
        planner: "auto", "dp", "cotengra", "left-to-right", or the name of a plug-in.
        cap: only trees whose intermediates, all but the result, have at most so many elements. The
            programme finds the cheapest of these whenever there is one.

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
        orders = [(model, _BUILT_IN[planner](model)) for model in capped]
    return [(model, tree) for model, tree in orders if cap is None or largest(model, tree) <= cap]


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


def _placed(tree: Nested, places: Sequence[int]) -> Nested:
    """A tree over leaves, from one over their places in the text."""
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


def nodes(tree: Nested) -> Iterator[tuple[Nested, int, int, int]]:
    """The inner nodes from the leaves up, each as (node, its leaves, left leaves, right leaves) in masks.

    A loop with its own stack: the tree of 300 tensors in a row is deeper than Python likes to recurse.
    """
    done: list[int] = []
    stack: list[tuple[Nested, bool]] = [(tree, False)]
    while stack:
        node, visited = stack.pop()
        if isinstance(node, int):
            done.append(1 << node)
        elif not visited:
            stack += [(node, True), (node[1], False), (node[0], False)]
        else:
            right, left = done.pop(), done.pop()
            done.append(left | right)
            yield node, left | right, left, right


def price(model: Model, tree: Nested) -> Price:
    """Cost of a tree by the objective, and the number of elements of its intermediates.

    Elements above the cap count as more multiplications than any tree has.
    """
    total, elements = 0, 0
    for _, both, left, right in nodes(tree):
        size = model.elements(both)
        total += model.step_cost(left, right, model.state(both)) + model.passing_cost(both, size)
        total += model.excess(both) * FORBIDDEN
        elements += size
    return total, elements


def largest(model: Model, tree: Nested) -> int:
    """Elements of the largest intermediate of a tree, the result not counted; 0 if there is none."""
    inner = (both for _, both, _, _ in nodes(tree) if both != model.everything)
    return max(map(model.elements, inner), default=0)


def optimal(model: Model, parts: Sequence[int]) -> tuple[Price, Nested]:
    """The best tree over some disjoint sets of leaves, by a programme over all subsets of them.

    Args:
        model: prices.
        parts: at least two sets of leaves, as masks; each counts as one leaf.

    Returns:
        Its price, and the tree over positions in `parts`.
    """
    table, whole = fill_plain(model, parts), (1 << len(parts)) - 1
    return table.price(whole), table.tree(whole)


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
    return (tree, _mirrored(tree, mirror))


def _mirrored(tree: Nested, mirror: dict[int, int]) -> Nested:
    if isinstance(tree, int):
        return mirror[tree]
    return (_mirrored(tree[0], mirror), _mirrored(tree[1], mirror))


def _left_to_right(model: Model) -> Nested:
    first, *rest = model.problem.places
    tree: Nested = first
    for place in rest:
        tree = (tree, place)
    return tree


# -- large problems ----------------------------------------------------------------------------------


def _cotengra(model: Model) -> Nested:
    """Proposals by label, which are blind to relations, priced exactly and then improved piece by piece."""
    proposals = [_propose(model, dense) for dense in ((False, True) if model.masks else (False,))]
    proposals.append(_left_to_right(model))
    tree = min(proposals, key=lambda t: price(model, t))
    width = 8 if model.count_leaves <= 40 else 6
    for _ in range(_ROUNDS):
        better = reconfigure(model, tree, width)
        if price(model, better) >= price(model, tree):
            break
        tree = better
    return tree


def _propose(model: Model, dense: bool) -> Nested:
    """A tree by cotengra's random greedy search.

    Args:
        model: the problem.
        dense: relations are tensors of the network that are dropped from the tree afterwards; otherwise
            each is one hyperedge in place of its indices.
    """
    problem = model.problem
    inputs = [[f"v{v}" for v in leaf.legs] for leaf in problem.leaves]
    sizes = {f"v{v}": extent for v, extent in enumerate(problem.extents)}
    output = [f"v{v}" for v in problem.output]
    for r, relation in enumerate(problem.relations):
        members = {f"v{v}" for v in relation.coefficients}
        if dense:
            inputs.append([f"v{v}" for v in relation.coefficients])
            continue
        name = f"r{r}"
        extents = sorted(sizes[m] for m in members)
        sizes[name] = max(extents[0], 2)
        inputs = [[*legs, name] if members.intersection(legs) else legs for legs in inputs]
    used = {v for legs in inputs for v in legs}
    import cotengra  # noqa: PLC0415 - 0.03 s that a layer never needs

    search = cotengra.RandomGreedyOptimizer(max_repeats=_TRIALS, seed=0, parallel=False)
    path = search.ssa_path(inputs, [v for v in output if v in used], sizes)
    return _tree_of_path(path, model.count_leaves, len(inputs))


def _tree_of_path(path: Sequence[Sequence[int]], leaves: int, inputs: int) -> Nested:
    """Pairs out of a path over positions that only ever grow; positions from `leaves` to `inputs` vanish."""
    parts: dict[int, Nested | None] = {p: p if p < leaves else None for p in range(inputs)}
    following = inputs
    for group in path:
        made: Nested | None = None
        for place in group:
            part = parts.pop(place)
            made = part if made is None else made if part is None else (made, part)
        parts[following] = made
        following += 1
    tree: Nested | None = None
    for part in parts.values():
        tree = part if tree is None else tree if part is None else (tree, part)
    assert tree is not None
    return tree


def reconfigure(model: Model, tree: Nested, width: int) -> Nested:
    """Replace every piece of a tree that joins up to `width` subtrees by the best one, from the root down."""
    for root in range(2):
        tree = _reconfigure_once(model, tree, width, widest_first=bool(root))
    return tree


def _reconfigure_once(model: Model, tree: Nested, width: int, widest_first: bool) -> Nested:
    children: dict[int, tuple[int, int]] = {}
    order: list[int] = []
    for _, both, left, right in nodes(tree):
        children[both] = (left, right)
        order.append(both)
    whole = order[-1]
    seen: set[frozenset[int]] = set()
    waiting = [whole]
    while waiting:
        top = waiting.pop()
        if top not in children:
            continue
        frontier = _frontier(children, top, width, widest_first)
        key = frozenset(frontier)
        if len(frontier) > 2 and key not in seen:
            seen.add(key)
            frontier.sort()
            _, best = optimal(model, frontier)
            _graft(children, frontier, best)
        waiting += children[top]
    return _rebuild(children, whole)


def _frontier(children: dict[int, tuple[int, int]], top: int, width: int, widest_first: bool) -> list[int]:
    """Up to `width` subtrees below a node that together make it."""
    frontier = list(children[top])
    while len(frontier) < width:
        inner = [part for part in frontier if part in children]
        if not inner:
            break
        part = max(inner, key=int.bit_count) if widest_first else inner[0]
        frontier.remove(part)
        frontier += children[part]
    return frontier


def _graft(children: dict[int, tuple[int, int]], frontier: Sequence[int], tree: Nested) -> None:
    masks: list[int] = []
    stack: list[tuple[Nested, bool]] = [(tree, False)]
    while stack:
        node, visited = stack.pop()
        if isinstance(node, int):
            masks.append(frontier[node])
        elif not visited:
            stack += [(node, True), (node[1], False), (node[0], False)]
        else:
            right, left = masks.pop(), masks.pop()
            children[left | right] = (left, right)
            masks.append(left | right)


def _rebuild(children: dict[int, tuple[int, int]], whole: int) -> Nested:
    built: dict[int, Nested] = {}
    stack = [whole]
    while stack:
        mask = stack[-1]
        if mask not in children:
            built[mask] = bits(mask)[0]
        elif any(part not in built for part in children[mask]):
            stack += [part for part in children[mask] if part not in built]
            continue
        else:
            left, right = children[mask]
            built[mask] = (built[left], built[right])
        stack.pop()
    return built[whole]


_BUILT_IN: dict[str, Callable[[Model], Nested]] = {
    "cotengra": _cotengra,
    "left-to-right": _left_to_right,
}
