"""Which column each node of a diagram stands in, so that an operation looks like the figure in the paper.

A convolution has its input on the left, its index patterns in the middle and its weight on the right. A
second-order network is drawn as a half and its mirror image.
"""

import math
from collections.abc import Iterable, Sequence

from tnconv.inspect.mirror import Mirror, mirror_of
from tnconv.ir import Index, Network, Node, Relational, Scale, Tensor
from tnconv.ir.index import natural_key

_LONGEST_ROW = 8  # the last column that a chain reaches before it turns: five nodes in a row


def components(network: Network) -> list[list[Node]]:
    """The nodes but scales in groups that no index joins, in canonical order."""
    import networkx as nx  # noqa: PLC0415 - only who draws needs it

    nodes: list[Node] = [n for n in network.nodes if not isinstance(n, Scale)]
    groups = nx.connected_components(network.graph)
    found = [[n for n in nodes if n.name in group] for group in groups]
    return sorted(filter(None, found), key=lambda group: nodes.index(group[0]))


def columns_of(network: Network, nodes: Sequence[Node]) -> tuple[dict[str, int], Mirror | None]:
    """The column of each node of a component, and the symmetry that the columns have."""
    mirror = mirror_of(network, nodes)
    if mirror is None:
        return _distances(network, nodes), None
    left = [n for n in nodes if mirror.nodes[n.name] != n.name and n.name not in mirror.copies]
    middle = [n for n in nodes if mirror.nodes[n.name] == n.name]
    found = _distances(network, left)
    deepest = max(found.values())
    centre = deepest + 1
    if middle or _ends_at(network, left, found, deepest):
        centre += 1
    found |= {n.name: centre for n in middle}
    return found | {mirror.nodes[n.name]: 2 * centre - found[n.name] for n in left}, mirror


def _ends_at(network: Network, left: Iterable[Node], columns: dict[str, int], deepest: int) -> bool:
    """Whether a summed index ends behind the innermost column: then the halves stand further apart."""
    return any(
        len(network.nodes_with(i)) == 1 and i not in network.open_indices
        for n in left
        if columns[n.name] == deepest
        for i in n.indices
    )


def _distances(network: Network, nodes: Sequence[Node]) -> dict[str, int]:
    """0 for the first tensor, then two more a step away from it; through patterns first.

    Patterns out of reach belong to another tensor: they stand behind the first ones, facing them.
    """
    start = _first(network, nodes)
    relations = [n for n in nodes if isinstance(n, Relational)]
    found = {start.name: 0}
    _spread(start, relations, found, network)
    behind = max((found.get(n.name, 0) for n in relations), default=0) + 2
    _place_rest(network, nodes, found, relations, behind)
    natural = {n.name: found.get(n.name, 0) for n in nodes}
    return _folded(_in_a_row(network, nodes, natural), max(natural.values()))


def _first(network: Network, nodes: Sequence[Node]) -> Node:
    """What stands on the left: the first tensor, or an end of a chain where there are no patterns and no input."""
    tensors = [n for n in nodes if isinstance(n, Tensor)]
    if len(tensors) < len(nodes) or tensors[0].role == "input":
        return tensors[0] if tensors else nodes[0]
    return min(tensors, key=lambda n: len(_adjacent(n, network)))


def _folded(columns: dict[str, int], natural: int) -> dict[str, int]:
    """Long chains to and fro, in rows of equal length; only what stands behind `natural` where that suffices."""
    last = max(columns.values())
    if last <= _LONGEST_ROW:
        return columns
    begin = natural if natural <= _LONGEST_ROW // 2 else 0
    steps = (last - begin) // 2 + 1
    rows = math.ceil(steps / ((_LONGEST_ROW - begin) // 2 + 1))
    length = math.ceil(steps / rows)

    def fold(column: int) -> int:
        row, place = divmod((column - begin) // 2, length)
        return begin + 2 * (length - 1 - place if row % 2 else place)

    return {name: column if column < begin else fold(column) for name, column in columns.items()}


def _place_rest(
    network: Network, nodes: Sequence[Node], found: dict[str, int], relations: Sequence[Node], behind: int
) -> None:
    for relation in relations:
        found.setdefault(relation.name, behind)
    for node in nodes:
        near = [found[n.name] for n in _adjacent(node, network) if n in relations]
        if near:
            found.setdefault(node.name, max(near) + 2)
    for seed in [n for n in nodes if n.name in found]:
        _spread(seed, nodes, found, network)


def _in_a_row(network: Network, nodes: Sequence[Node], columns: dict[str, int]) -> dict[str, int]:
    """Tensors that a line joins stand one behind the other, as in a tensor train, never in one column."""
    found: dict[str, int] = {}
    for node in sorted(nodes, key=lambda n: (columns[n.name], natural_key(n.name))):
        column = columns[node.name]
        if isinstance(node, Tensor):
            lines = (network.nodes_with(index) for index in node.indices)
            before = [found[n.name] for ends in lines if len(ends) == 2 for n in ends if n.name in found]
            column = max([column, *(c + 2 for c in before)])
        found[node.name] = column
    return found


def _spread(start: Node, among: Sequence[Node], found: dict[str, int], network: Network) -> None:
    """Breadth first from `start` through `among`, two columns a step: one to an index, one on to its nodes."""
    import networkx as nx  # noqa: PLC0415 - only who draws needs it

    free = {n.name for n in among} - found.keys() | {start.name}
    graph = network.graph.subgraph([*free, *network.indices])
    for key, steps in nx.single_source_shortest_path_length(graph, start.name).items():
        if key in free:
            found[key] = found[start.name] + steps


def _adjacent(node: Node, network: Network) -> list[Node]:
    joined = {name for index in node.indices for name in network.graph[index]} - {node.name}
    return [n for n in network.nodes if n.name in joined]


def index_column(columns: Sequence[int], last: int) -> int:
    """The column of an index whose ends stand in `columns`: between them and beside each, or beside the only one.

    Where a chain turns, two ends stand in one column: then it is outside, which may be left of the first column.
    """
    if not columns:
        return 0
    if len(columns) > 1 and min(columns) == max(columns):
        return -1 if columns[0] == 0 else columns[0] + 1
    if min(columns) < max(columns):
        middle = (min(columns) + max(columns)) // 2
        return middle - 1 if middle in columns else middle
    return columns[0] - 1 if columns[0] > last / 2 else columns[0] + 1


def index_columns(
    network: Network, indices: Iterable[Index], columns: dict[str, int], mirror: Mirror | None
) -> dict[Index, int]:
    """The column of each index; mirrored where the nodes are."""
    last = max(columns.values(), default=0)
    found: dict[Index, int] = {}
    for index in indices:
        image = index if mirror is None else mirror.indices[index]
        if image in found and image != index:
            found[index] = last - found[image]
            continue
        found[index] = index_column([columns[n.name] for n in network.nodes_with(index)], last)
    return found
