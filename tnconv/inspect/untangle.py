"""Fewer crossings: nodes go to other columns where the columns that a diagram has by itself force lines to cross.

A layered drawing can have crossings that the graph does not need: its layers are to blame. So nodes are moved by two
columns to the left or to the right, a node (and its mirror image) at a time, as long as that leads to fewer crossings
or until as few are left as the graph has in any drawing.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tnconv.inspect.boxes import Diagram, add_broadcasts, build
from tnconv.inspect.columns import columns_of
from tnconv.inspect.labels import Labels
from tnconv.inspect.mirror import Mirror
from tnconv.inspect.order import crossings, order
from tnconv.ir import Index, Network, Node

_STEPS = (-2, 2, -4, 4)  # columns of nodes are two apart, with those of indices between them
_MOST_COLUMN = 12
_MOST_CROSSINGS = 12  # of a diagram that is worth the search
_MOST_WORK = 500_000  # squares of the links of all the diagrams that are tried
_MOST_ROUNDS = 6  # one after the other without a crossing less


Layers = tuple[dict[str, int], Mirror | None]


def untangled(
    network: Network, nodes: Sequence[Node], labels: Labels, broadcasts: Sequence[Index] = ()
) -> Diagram:
    """The diagram of a component in order, with as few crossings as a short search finds.

    Args:
        network: what is drawn.
        nodes: those of the component.
        labels: what is written.
        broadcasts: legs that no node depends on, which dangle from the first.
    """
    return _diagram(network, nodes, labels, broadcasts, _layers(network, tuple(nodes), tuple(broadcasts)))


def _diagram(
    network: Network, nodes: Sequence[Node], labels: Labels, broadcasts: Sequence[Index], layers: Layers
) -> Diagram:
    made = build(network, nodes, labels, layers)
    if broadcasts:
        add_broadcasts(made, broadcasts)
    order(made)
    return made


@lru_cache(maxsize=64)  # a report draws a network as a result and as where the next pass begins
def _layers(network: Network, nodes: tuple[Node, ...], broadcasts: tuple[Index, ...]) -> Layers:
    """Best first: the columns with the fewest crossings are moved on from; all moves of one are compared."""
    columns, mirror = columns_of(network, nodes)
    number, plain = itertools.count(), Labels()

    def tried(columns: dict[str, int]) -> tuple[int, int, int, dict[str, int], int]:
        made = _diagram(network, nodes, plain, broadcasts, (columns, mirror))
        return crossings(made), len(list(made.boxes)), next(number), columns, len(made.links)

    best = first = tried(columns)
    needed = crossings_needed(network, nodes) if 0 < best[0] <= _MOST_CROSSINGS else best[0]
    heap, seen, left, idle = [best], {tuple(columns.values())}, _MOST_WORK, 0
    while heap and best[0] > needed and left > 0 and idle < (1 if mirror else _MOST_ROUNDS):
        before = best[0]
        for moved in _moved(heapq.heappop(heap)[3], mirror):
            if tuple(moved.values()) not in seen:
                seen.add(tuple(moved.values()))
                found = tried(moved)
                left -= found[-1] ** 2
                heapq.heappush(heap, found)
                best = min(best, found)
        idle = idle + 1 if best[0] == before else 0
    return (best if best[0] < first[0] else first)[3], mirror


def _moved(columns: dict[str, int], mirror: Mirror | None) -> Iterator[dict[str, int]]:
    """The columns with a node moved; with its image the other way."""
    for name, step in itertools.product(columns, _STEPS):
        made = columns | {name: columns[name] + step}
        if mirror is not None:
            image = mirror.nodes[name]
            if image == name or name in mirror.copies:
                continue
            made[image] -= step
        least = min(made.values())
        if max(made.values()) - least <= _MOST_COLUMN:
            yield {key: column - least for key, column in made.items()}


def crossings_needed(network: Network, nodes: Sequence[Node]) -> int:
    """How many crossings every drawing of a component has at least.

    It has so many K(5) or K(3, 3), each with bends, of which no two have a line in common (Kuratowski, 1930).

    Args:
        network: it.
        nodes: those of the component.
    """
    import networkx as nx  # noqa: PLC0415 - only who draws needs it

    names = {node.name for node in nodes}
    graph = network.graph.subgraph([*names, *(i for node in nodes for i in node.indices)]).copy()
    for count in itertools.count():
        planar, found = nx.check_planarity(graph, counterexample=True)
        if planar:
            return count
        graph.remove_edges_from(list(found.edges))
    raise AssertionError("a graph without edges is planar")
