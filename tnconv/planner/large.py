"""Contraction trees of networks with too many tensors for the exact programme: cotengra proposes, exact prices decide.

cotengra does not know relations. A network with some is given to it twice: each relation as a tensor, which is dropped
from the tree afterwards, and as one hyperedge in place of its indices. Trees are then priced exactly, and improved
piece by piece by the exact programme.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, log2
from time import perf_counter
from typing import Any

from tnconv.planner.cost import Model
from tnconv.planner.effort import Search
from tnconv.planner.states import bits
from tnconv.planner.sweep import Graph, swept
from tnconv.planner.table import Nested, fill_plain
from tnconv.planner.trees import left_to_right, nodes, price

MANY = 48  # leaves above which a network is swept through, and the exact programme is too slow for its pieces
_TRIALS = 32
_LOOKS = 16_000  # tensors that all greedy trees together may have, above two of them
_MORE = 1000  # rounds of random pieces while there is time
_SHARE = 0.7  # of the time for the search; the rest improves what is found
_PLAIN_SHARE = 0.4  # the same without relations, of the time that is left
_UNLIMITED = 1 << 30
_ROUNDS = 4


def large_trees(models: Sequence[Model], search: Search | None) -> list[Nested]:
    """A tree for each model of a problem.

    Args:
        models: prices.
        search: how long trees are searched for; if left out as little as gives a good one, the same every time.
    """
    model, start = models[0], perf_counter()
    end = inf if search is None or search.seconds is None else start + search.seconds
    graphs = [_graph(model, dense=dense) for dense in ((False, True) if model.masks else (False,))]
    if model.count_leaves > MANY and not (model.masks or _is_blind(model)):
        best = _plain_trees(models, graphs[0], search, end)
        return [min(best, key=lambda tree: price(each, tree)) for each in models]
    found: list[list[Nested]] = []
    if search is not None:
        shares = range(len(graphs), 0, -1)
        found.append([
            _searched(models, graph, search, (end - perf_counter()) * _SHARE / share)
            for graph, share in zip(graphs, shares, strict=True)
        ])  # fmt: skip
    found.append(_quick(model, graphs, end))
    return [
        min((_improved(each, trees, end) for trees in found), key=lambda tree: price(each, tree))
        for each in models
    ]


def _quick(model: Model, graphs: Sequence[Graph], end: float) -> list[Nested]:
    found = [swept(graphs[-1], model.count_leaves)] if model.count_leaves > MANY else []
    if perf_counter() < end:
        found = [_greedy(model, graph) for graph in graphs] + found
    return [*found, left_to_right(model)]


def _plain_trees(models: Sequence[Model], graph: Graph, search: Search | None, end: float) -> list[Nested]:
    """Trees of many tensors without relations.

    What is quickly found is improved first: for hundreds of tensors the hyper-optimiser makes a tree or two in seconds,
    and one that is swept through and improved is often better. So it has a share of the time that leaves; in the rest
    the swept one and the best of all are improved by larger pieces, which gains most.
    """
    model = models[0]
    reworked = _Reworked(model, graph)
    best = reworked.improved(_quick(model, [graph], end), end)
    if search is None:
        return [best]
    found, seconds = [best], (end - perf_counter()) * _PLAIN_SHARE
    if seconds > reworked.slowest:  # it improves each of its trees as well
        found.append(reworked.improved([_searched(models, graph, search, seconds)], end))
    if search.seconds is not None:
        half = (perf_counter() + end) / 2
        found.append(reworked.improved([swept(graph, model.count_leaves)], half, _wider(search)))
        found.append(reworked.improved(found, end, _wider(search)))
    return found


def _wider(search: Search) -> list[dict[str, Any]]:
    """Pieces of other shapes, and larger ones, a few at a time: as many as there is time for."""
    return [
        {
            "subtree_search": "random",
            "select": "random",
            "subtree_size": 9 + n % 2,
            "maxiter": 32,
            "seed": search.seed + n,
        }
        for n in range(_MORE)
    ]


def _is_blind(model: Model) -> bool:
    """Whether cotengra does not know the objective."""
    return model.cap is not None or model.objective.training or bool(model.objective.constant)


def _improved(model: Model, proposals: Sequence[Nested], end: float) -> Nested:
    """The best of some trees, improved piece by piece as long as that helps and there is time."""
    tree = min(proposals, key=lambda t: price(model, t))
    width = 8 if model.count_leaves <= 40 else 6
    for _ in range(_ROUNDS):
        if perf_counter() > end:
            break
        better = reconfigure(model, tree, width)
        if price(model, better) >= price(model, tree):
            break
        tree = better
    return tree


class _Reworked:
    """The same by cotengra, which is quicker and knows all prices of networks without relations.

    Args:
        model: prices.
        graph: the network.
    """

    def __init__(self, model: Model, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.slowest = 0.0  # seconds of a round, at most

    def improved(
        self, proposals: Sequence[Nested], end: float, wider: Sequence[Mapping[str, Any]] = ()
    ) -> Nested:
        """The best of some trees, improved as long as that helps and there is time.

        Args:
            proposals: trees.
            end: when to stop.
            wider: options of cotengra for further rounds, where one has found nothing better.
        """
        import cotengra  # noqa: PLC0415 - 0.03 s that a layer never needs

        model, leaves = self.model, self.model.count_leaves
        tree = min(proposals, key=lambda t: price(model, t))
        made = cotengra.ContractionTree.from_path(*self.graph, ssa_path=_path(tree, leaves))
        least, rounds = price(model, tree), iter(wider)
        options: Mapping[str, Any] = next(rounds, {})
        while (begin := perf_counter()) < end:
            made.subtree_reconfigure_(minimize=_minimize(model), **options)
            made.already_optimized.clear()
            self.slowest = max(self.slowest, perf_counter() - begin)
            better = _tree_of_path(made.get_ssa_path(), leaves, leaves)
            cost = price(model, better)
            if cost < least:
                tree, least = better, cost
            else:
                found = next(rounds, None)
                if found is None:
                    break
                options = found
        return tree


def _minimize(model: Model) -> str:
    """The objective in cotengra's words: an intermediate is written and read."""
    elements = 2 * model.objective.elements
    return f"combo-{elements}" if elements else "flops"


def _path(tree: Nested, leaves: int) -> list[tuple[int, int]]:
    """A tree as pairs of positions that only ever grow."""
    number = {1 << place: place for place in range(leaves)}
    path = []
    for _, both, left, right in nodes(tree):
        path.append((number[left], number[right]))
        number[both] = leaves + len(path) - 1
    return path


# -- proposals -------------------------------------------------------------------------------------------


def _graph(model: Model, *, dense: bool) -> Graph:
    """The network as cotengra sees it.

    Args:
        model: the problem.
        dense: relations are tensors behind the others; otherwise each is one hyperedge in place of its indices.
    """
    problem = model.problem
    inputs = [[f"v{v}" for v in leaf.legs] for leaf in problem.leaves]
    sizes = {f"v{v}": extent for v, extent in enumerate(problem.extents)}
    if dense:
        inputs += [[f"v{v}" for v in relation.coefficients] for relation in problem.relations]
    else:
        for r, relation in enumerate(problem.relations):
            sizes[f"r{r}"] = max(min(problem.extents[v] for v in relation.coefficients), 2)
        for legs, leaf in zip(inputs, problem.leaves, strict=True):
            edges = {r for v in leaf.legs for r in bits(model.relations_of[v])}
            legs += [f"r{r}" for r in sorted(edges)]
    used = {v for legs in inputs for v in legs}
    return inputs, [v for v in (f"v{v}" for v in problem.output) if v in used], sizes


def _greedy(model: Model, graph: Graph) -> Nested:
    import cotengra  # noqa: PLC0415

    trials = min(_TRIALS, max(_LOOKS // len(graph[0]), 2))
    search = cotengra.RandomGreedyOptimizer(max_repeats=trials, seed=0, parallel=False)
    return _tree_of_path(search.ssa_path(*graph), model.count_leaves, len(graph[0]))


def _searched(models: Sequence[Model], graph: Graph, search: Search, seconds: float) -> Nested:
    """A tree of cotengra's hyper-optimiser.

    Args:
        models: prices; where there are relations, they rank its trees.
        graph: the network.
        search: how.
        seconds: after which it ends; infinite where trials are counted.
    """
    import cotengra  # noqa: PLC0415
    from cotengra.scoring import FlopsObjective  # noqa: PLC0415

    model = models[0]
    leaves, count = model.count_leaves, len(graph[0])

    class Priced(FlopsObjective):  # type: ignore[misc]
        """Exact prices of whole trees; pieces are improved blindly."""

        def __call__(self, trial: dict[str, Any]) -> float:
            tree = _tree_of_path(trial["tree"].get_ssa_path(), leaves, count)
            return log2(1 + min(price(each, tree)[0] for each in models))

    found = cotengra.HyperOptimizer(
        methods=search.heuristics,
        minimize=Priced() if model.masks else _minimize(model),
        max_repeats=search.trials or (_TRIALS if seconds == inf else _UNLIMITED),
        max_time=None if seconds == inf else seconds,
        parallel=False,
        optlib=search.optlib,
        optlib_opts=_SEEDS.get(search.optlib, lambda seed: {})(search.seed),
        on_trial_error="ignore",
        progbar=search.progress,
    )
    with _seeded(search.seed):
        try:
            tree = found.search(*graph)
        except KeyError:  # every trial failed
            return _greedy(model, graph)
    return _tree_of_path(tree.get_ssa_path(), leaves, count)


_SEEDS: dict[str, Any] = {
    "optuna": lambda seed: {"sampler_opts": {"seed": seed}},
    "cmaes": lambda seed: {"seed": seed},
}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's random numbers, which cotengra takes, from a seed on; those of others go on behind it."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


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
    children = {both: (left, right) for _, both, left, right in nodes(tree)}
    whole = model.everything
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
            best = fill_plain(model, frontier).tree((1 << len(frontier)) - 1)
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
    """Let a tree over positions in the frontier be what joins these subtrees."""
    masks = {1 << place: part for place, part in enumerate(frontier)}
    for _, both, left, right in nodes(tree):
        masks[both] = masks[left] | masks[right]
        children[masks[both]] = masks[left], masks[right]


def _rebuild(children: dict[int, tuple[int, int]], whole: int) -> Nested:
    built: dict[int, Nested] = {1 << place: place for place in bits(whole)}
    for both in sorted(children, key=int.bit_count):
        left, right = children[both]
        built[both] = built[left], built[right]
    return built[whole]
