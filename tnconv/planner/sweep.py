"""The contraction tree that goes through a network from one end to the other, along its slowest mode."""

from collections.abc import Mapping, Sequence

import numpy as np

from tnconv.planner.table import Nested

_FEW, _DIFFUSIONS = 8, 400
Graph = tuple[list[list[str]], list[str], dict[str, int]]  # indices of the tensors, of the output, and sizes


def swept(graph: Graph, leaves: int) -> Nested:
    """The tree that goes through the network from one end to the other.

    Args:
        graph: the network.
        leaves: how many of its tensors are leaves of the tree; others behind them only connect.
    """
    inputs = graph[0]
    holders: dict[str, list[int]] = {}
    for place, legs in enumerate(inputs):
        for edge in legs:
            holders.setdefault(edge, []).append(place)
    order: dict[int, None] = {}
    for place in range(len(inputs)):
        if place not in order:
            near = _distances(inputs, holders, place)
            order |= dict.fromkeys(
                _from_end_to_end(inputs, _distances(inputs, holders, next(reversed(near))))
            )
    first, *rest = [place for place in order if place < leaves]
    tree: Nested = first
    for place in rest:
        tree = (tree, place)
    return tree


def _distances(
    inputs: Sequence[Sequence[str]], holders: Mapping[str, Sequence[int]], start: int
) -> dict[int, int]:
    """Steps from a tensor to all that it is connected to, the nearest first."""
    found, now, steps = {start: 0}, [start], 0
    while now:
        steps += 1
        reached = dict.fromkeys(p for place in now for edge in inputs[place] for p in holders[edge])
        now = [place for place in reached if place not in found]
        found |= dict.fromkeys(now, steps)
    return found


def _from_end_to_end(inputs: Sequence[Sequence[str]], distances: Mapping[int, int]) -> list[int]:
    """Connected tensors along the slowest mode of diffusion (Fiedler 1973), found from distances to one end."""
    places = list(distances)
    if len(places) <= _FEW:
        return places
    pairs = [(number, edge) for number, place in enumerate(places) for edge in inputs[place]]
    numbers = {edge: number for number, edge in enumerate(dict.fromkeys(edge for _, edge in pairs))}
    tensors = np.array([tensor for tensor, _ in pairs])
    edges = np.array([numbers[edge] for _, edge in pairs])
    on_tensor, on_edge = np.bincount(tensors), np.bincount(edges)
    x = np.array([float(distances[place]) for place in places])
    for _ in range(_DIFFUSIONS):
        mean = np.bincount(edges, x[tensors]) / on_edge
        x += np.bincount(tensors, mean[edges]) / on_tensor
        x -= (x @ on_tensor) / on_tensor.sum()
        x /= np.abs(x).max()
    return [places[number] for number in np.argsort(x, kind="stable")]
