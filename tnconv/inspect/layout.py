"""Where the parts of a diagram go: a layered layout, from left to right, the same for the same network.

Nodes stand in even columns by their distance from the first input through the patterns; indices stand
between the nodes that they join. An edge that skips a column gets a bend there, so lines pass between the
other parts and not over them. Every box has its own place in its column, so labels cannot overlap.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tnconv.ir import Delta, Index, Network, Node, Pattern, Scale, Tensor

GAP = 30.0
SEPARATION = 12.0
_SWEEPS = 24
_MAX_LINKS_TO_COUNT = 400


@dataclass(eq=False)
class Box:
    """A part of the diagram: a node, an index or a bend of a line.

    Args:
        key: unique in the diagram.
        column: from the left; even for nodes.
        item: the node or index; None for a bend.
        legs: the open indices that dangle from it.
        width: in pixels, with everything that dangles above and below.
        up: pixels kept free above its centre.
        down: pixels kept free below its centre.
    """

    key: str
    column: int
    item: Node | Index | None = None
    legs: tuple[Index, ...] = ()
    width: float = 0.0
    up: float = 6.0
    down: float = 6.0
    x: float = 0.0
    y: float = 0.0


@dataclass
class Diagram:
    """The boxes of a network, and its lines as chains of boxes from a node to an index.

    Args:
        columns: the boxes of each column, top to bottom.
        lines: (index, boxes) with the boxes from left to right.
    """

    columns: list[list[Box]] = field(default_factory=list)
    lines: list[tuple[Index, tuple[Box, ...]]] = field(default_factory=list)

    @property
    def boxes(self) -> Iterable[Box]:
        """Every box, column by column."""
        return (box for column in self.columns for box in column)

    @property
    def links(self) -> list[tuple[Box, Box]]:
        """The pieces of all lines, each between neighbouring columns, left box first."""
        return [link for _, chain in self.lines for link in itertools.pairwise(chain)]

    @cached_property
    def neighbours(self) -> dict[str, tuple[list[Box], list[Box]]]:
        """For each box, those linked to it on its left and on its right."""
        found: dict[str, tuple[list[Box], list[Box]]] = {box.key: ([], []) for box in self.boxes}
        for left, right in self.links:
            found[left.key][1].append(right)
            found[right.key][0].append(left)
        return found


# -- columns -----------------------------------------------------------------------------------------


def build(network: Network) -> Diagram:
    """The diagram of a network with its boxes in columns, ordered for few crossings; no coordinates yet."""
    nodes = node_columns(network)
    boxes = {name: Box(name, column, network.node(name)) for name, column in nodes.items()}
    bends: list[Box] = []
    lines: list[tuple[Index, tuple[Box, ...]]] = []
    last = max(nodes.values(), default=0)
    for index in network.indices:
        ends = [boxes[node.name] for node in network.nodes_with(index)]
        is_open = index in network.open_indices
        if len(ends) == 1 and is_open:
            ends[0].legs += (index,)
            continue
        # Names of nodes are identifiers, so a key with a space is free.
        box = Box(
            f"index {index.name}",
            _between([e.column for e in ends], last),
            index,
            (index,) if is_open else (),
        )
        boxes[box.key] = box
        for end in ends:
            chain = _chain(end, box)
            bends += chain[1:-1]
            lines.append((index, chain))
    diagram = Diagram([], lines)
    every = [*boxes.values(), *bends]
    for column in range(max((b.column for b in every), default=-1) + 1):
        diagram.columns.append(_legs_outside([b for b in every if b.column == column]))
    _order(diagram)
    return diagram


def node_columns(network: Network) -> dict[str, int]:
    """The even column of each node but scales: 0 for the first tensor, then by distance from it.

    Distance goes through patterns first, so that the two halves of a curvature factor face each other.
    """
    nodes = [node for node in network.nodes if not isinstance(node, Scale)]
    start = next((n for n in nodes if isinstance(n, Tensor)), nodes[0] if nodes else None)
    if start is None:
        return {}
    relations = [n for n in nodes if isinstance(n, Pattern | Delta)]
    found = {start.name: 0}
    _spread(start, relations, found, network)
    # Patterns out of reach belong to another tensor: they stand behind the first ones, facing them.
    behind = max((found.get(n.name, 0) for n in relations), default=0) + 2
    found = {relation.name: behind for relation in relations} | found
    for node in nodes:
        near = [found[n.name] for n in _adjacent(node, network) if n in relations]
        if near:
            found.setdefault(node.name, max(near) + 2)
    for seed in [n for n in nodes if n.name in found]:
        _spread(seed, nodes, found, network)
    return {node.name: found.get(node.name, 0) for node in nodes}


def _spread(start: Node, among: Sequence[Node], found: dict[str, int], network: Network) -> None:
    """Breadth first from `start` through `among`, two columns a step."""
    front: list[Node] = [start]
    while front:
        following = []
        for node in front:
            for other in _adjacent(node, network):
                if other in among and other.name not in found:
                    found[other.name] = found[node.name] + 2
                    following.append(other)
        front = following


def _adjacent(node: Node, network: Network) -> list[Node]:
    return list(
        dict.fromkeys(n for index in node.indices for n in network.nodes_with(index) if n is not node)
    )


def _between(columns: Sequence[int], last: int) -> int:
    if not columns:
        return last + 1
    if min(columns) < max(columns):
        return (min(columns) + max(columns)) // 2
    return columns[0] - 1 if columns[0] > last / 2 else columns[0] + 1


def _chain(end: Box, box: Box) -> tuple[Box, ...]:
    step = 1 if box.column > end.column else -1
    between = [Box(f"{end.key} {box.key} {c}", c) for c in range(end.column + step, box.column, step)]
    return (end, *between, box)[::step]


def _legs_outside(boxes: list[Box]) -> list[Box]:
    """Nodes with open legs at the top and at the bottom, the other boxes between them."""
    dangling = [b for b in boxes if b.legs and not isinstance(b.item, Index)]
    between = [b for b in boxes if b not in dangling]
    between.sort(key=lambda b: not b.legs)
    half = (len(dangling) + 1) // 2
    return [*dangling[:half], *between, *dangling[half:]]


# -- order within a column ---------------------------------------------------------------------------


def _order(diagram: Diagram) -> None:
    """Sort each column by the mean place of its neighbours, to and fro; keep the order that crosses least."""
    neighbours = diagram.neighbours
    for column in diagram.columns[1::2]:
        _sort(column, diagram, {key: [*left, *right] for key, (left, right) in neighbours.items()})
    best, fewest = [list(c) for c in diagram.columns], _crossings(diagram)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        side = sweep % 2
        for column in diagram.columns if side == 0 else diagram.columns[::-1]:
            _sort(column, diagram, {key: sides[side] for key, sides in neighbours.items()})
        count = _crossings(diagram)
        if count < fewest:
            best, fewest = [list(c) for c in diagram.columns], count
    diagram.columns = best


def _sort(column: list[Box], diagram: Diagram, near: Mapping[str, Sequence[Box]]) -> None:
    heights = {b.key: p - (len(c) - 1) / 2 for c in diagram.columns for p, b in enumerate(c)}

    def mean(box: Box) -> float:
        others = near[box.key] or [box]
        return sum(heights[b.key] for b in others) / len(others)

    column.sort(key=mean)


def _crossings(diagram: Diagram) -> int:
    links = diagram.links
    if len(links) > _MAX_LINKS_TO_COUNT:
        return len(links)
    place = {b.key: p for c in diagram.columns for p, b in enumerate(c)}
    ends = [(a.column, place[a.key], place[b.key]) for a, b in links]
    return sum(
        1
        for number, (column, left, right) in enumerate(ends)
        for other, left_2, right_2 in ends[:number]
        if column == other and (left - left_2) * (right - right_2) < 0
    )


# -- coordinates -------------------------------------------------------------------------------------


def place(diagram: Diagram) -> None:
    """Give every box its x and y; boxes of a column keep their order and their extents free."""
    x = 0.0
    for column in diagram.columns:
        width = max((box.width for box in column), default=0.0)
        for box in column:
            box.x = x + width / 2
            box.width = box.width or width  # a bend runs straight through its column
        x += width + GAP
        _settle(column, [0.0] * len(column))
    neighbours = diagram.neighbours
    for sweep in range(_SWEEPS):
        for column in diagram.columns if sweep % 2 == 0 else diagram.columns[::-1]:
            wanted = []
            for box in column:
                near = [*neighbours[box.key][0], *neighbours[box.key][1]] or [box]
                wanted.append(sum(b.y for b in near) / len(near))
            _settle(column, wanted)


def _settle(column: Sequence[Box], wanted: Sequence[float]) -> None:
    """Move the boxes as near to the wanted heights as their extents allow (least squares).

    With the extents subtracted the order is all that is left, so this is isotonic regression: neighbours
    that would swap are pooled at their mean.
    """
    offset, offsets = 0.0, []
    for number, box in enumerate(column):
        offset += box.up + (column[number - 1].down + SEPARATION if number else 0.0)
        offsets.append(offset)
    pools: list[tuple[float, int]] = []
    for target, shift in zip(wanted, offsets, strict=True):
        mean, size = target - shift, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    heights = [mean for mean, size in pools for _ in range(size)]
    for box, height, shift in zip(column, heights, offsets, strict=True):
        box.y = height + shift
