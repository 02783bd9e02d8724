"""The parts of a diagram in columns: a layered layout, the same for the same network.

Nodes stand in columns; indices stand between the nodes that they join. A line that skips a column gets a bend
there, so lines pass between the other parts and not over them. Every box has its own place in its column, so
labels cannot overlap.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tnconv.inspect.columns import columns_of, index_columns
from tnconv.inspect.labels import NOTHING, Label, Labels
from tnconv.inspect.mirror import Mirror
from tnconv.ir import Delta, Index, Network, Node
from tnconv.ir.index import Kind


@dataclass(eq=False)
class Box:
    """A part of the diagram: a node, an index or a bend of a line.

    Args:
        key: unique in the diagram.
        column: from the left.
        item: the node or index; None for a bend.
        label: what is written on it or beside it.
        legs: the open indices that dangle from it.
        broadcast: those of them that it does not depend on.
        sides: where each leg dangles: "left", "right", "up" or "down".
        width: in pixels, with everything that dangles above and below.
        body: width and height of what is drawn, without its legs.
        up: pixels kept free above its centre.
        down: pixels kept free below its centre.
        x: centre, in pixels.
        y: centre, in pixels.
    """

    key: str
    column: int
    item: Node | Index | None = None
    label: Label = NOTHING
    legs: tuple[Index, ...] = ()
    broadcast: frozenset[Index] = frozenset()
    sides: tuple[str, ...] = ()
    width: float = 0.0
    body: tuple[float, float] = (0.0, 0.0)
    up: float = 5.0
    down: float = 5.0
    x: float = 0.0
    y: float = 0.0


Columns = list[list[Box]]
_PLAIN = Labels()


@dataclass
class Diagram:
    """The boxes of a component of a network, and its lines as chains of boxes from a node to an index.

    Args:
        columns: the boxes of each column, top to bottom.
        lines: (index, boxes) with the boxes from left to right.
        mirror: the box that each is the mirror image of, by key; empty where there is no symmetry.
        labels: what is written on parts and legs.
        widths: of the columns, in pixels.
    """

    columns: Columns = field(default_factory=list)
    lines: list[tuple[Index, tuple[Box, ...]]] = field(default_factory=list)
    mirror: dict[str, str] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    widths: list[float] = field(default_factory=list)

    @property
    def boxes(self) -> Iterable[Box]:
        """Every box, column by column."""
        return (box for column in self.columns for box in column)

    @cached_property
    def links(self) -> list[tuple[Box, Box, Index]]:
        """The pieces of all lines, each between neighbouring columns, left box first."""
        return [(a, b, index) for index, chain in self.lines for a, b in itertools.pairwise(chain)]

    @cached_property
    def neighbours(self) -> dict[str, tuple[list[tuple[Box, Index]], list[tuple[Box, Index]]]]:
        """For each box, those linked to it on its left and on its right, with the index of the line."""
        found: dict[str, tuple[list[tuple[Box, Index]], list[tuple[Box, Index]]]] = {
            box.key: ([], []) for box in self.boxes
        }
        for left, right, index in self.links:
            found[left.key][1].append((right, index))
            found[right.key][0].append((left, index))
        return found

    def places(self) -> dict[str, int]:
        """The row of each box in its column."""
        return {box.key: row for column in self.columns for row, box in enumerate(column)}


# -- boxes in columns --------------------------------------------------------------------------------


def build(
    network: Network,
    nodes: Sequence[Node],
    labels: Labels = _PLAIN,
    layers: tuple[dict[str, int], Mirror | None] | None = None,
) -> Diagram:
    """The diagram of a component with its boxes in columns, in no order yet.

    Args:
        network: what is drawn.
        nodes: those of the component.
        labels: what is written.
        layers: the column of each node, and the symmetry that they have; as of `columns_of` if left out.
    """
    columns, mirror = layers or columns_of(network, nodes)
    indices = [i for i in network.indices if any(n.name in columns for n in network.nodes_with(i))]
    at = index_columns(network, indices, columns, mirror)
    if min(at.values(), default=0) < 0:
        columns = {name: column + 1 for name, column in columns.items()}
        at = {index: column + 1 for index, column in at.items()}
    boxes = {node.name: Box(node.name, columns[node.name], node, labels.node(node)) for node in nodes}
    lines: list[tuple[Index, tuple[Box, ...]]] = []
    bends: list[Box] = []
    for index in indices:
        ends = [boxes[node.name] for node in network.nodes_with(index)]
        is_open = index in network.open_indices
        if len(ends) == 1 and is_open:
            ends[0].legs += (index,)
            continue
        box = Box(index_key(index), at[index], index, labels.index(index), (index,) if is_open else ())
        boxes[box.key] = box
        for end in ends:
            chain = _chain(end, box)
            bends += chain[1:-1]
            lines.append((index, chain))
    every = [*boxes.values(), *bends]
    width = max(b.column for b in every) + 1
    diagram = Diagram([[b for b in every if b.column == c] for c in range(width)], lines, labels=labels)
    diagram.mirror = {} if mirror is None else _images(diagram, mirror)
    return diagram


def add_broadcasts(diagram: Diagram, indices: Sequence[Index]) -> None:
    """Let legs that no node depends on dangle from a component: from its first tensor, which is repeated along them."""
    box = next(b for b in diagram.boxes if isinstance(b.item, Node))
    box.legs += tuple(indices)
    box.broadcast = frozenset(indices)


def broadcast_alone(indices: Sequence[Index], labels: Labels) -> Diagram:
    """The diagram of legs where there is no node at all: of a number."""
    first = indices[0]
    box = Box(index_key(first), 0, first, labels.index(first), tuple(indices), frozenset(indices))
    return Diagram([[box]], labels=labels)


INDEX = "index "  # names of nodes are identifiers, so a key with a space is free


def index_key(index: Index) -> str:
    """The key of the box of an index."""
    return INDEX + index.name


def _chain(end: Box, box: Box) -> tuple[Box, ...]:
    step = 1 if box.column > end.column else -1
    between = [Box(f"{end.key}|{box.key}|{c}", c) for c in range(end.column + step, box.column, step)]
    return (end, *between, box)[::step]


def _images(diagram: Diagram, mirror: Mirror) -> dict[str, str]:
    """The mirror image of each box, where it stands in the opposite column."""
    names = dict(mirror.nodes) | {index_key(a): index_key(b) for a, b in mirror.indices.items()}
    column = {box.key: box.column for box in diagram.boxes}
    last = len(diagram.columns) - 1

    def image(key: str) -> str:
        parts = key.split("|")
        return "|".join([*(names.get(p, p) for p in parts[:2]), *(str(last - int(p)) for p in parts[2:])])

    images = {key: image(key) for key in column}
    return {
        a: b
        for a, b in images.items()
        if column.get(b) == last - column[a] and (a == b or column[a] != column[b])
    }


# -- where legs dangle -------------------------------------------------------------------------------


def is_vertical(box: Box, columns: int) -> bool:
    """Whether the legs of a box go up or down in a diagram with so many columns."""
    return bool(box.legs) and (isinstance(box.item, Index) or 0 < box.column < columns - 1)


def choose_sides(diagram: Diagram) -> None:
    """Say where each leg dangles, once the columns are in order."""
    last = len(diagram.columns) - 1
    for number, column in enumerate(diagram.columns):
        for row, box in enumerate(column):
            vertical = _vertical(column, row)
            box.sides = tuple(
                _side(box, place, number, last, vertical, diagram) for place, _ in enumerate(box.legs)
            )


def _vertical(column: Sequence[Box], row: int) -> str:
    """Away from the other nodes of a column where they are all on one side, else to the nearer end."""
    above, below = (any(b.item is not None for b in part) for part in (column[:row], column[row + 1 :]))
    if above != below:
        return "down" if above else "up"
    return "up" if 2 * row + 1 <= len(column) and not 0 < row == len(column) - 1 else "down"


def _side(box: Box, place: int, column: int, last: int, vertical: str, diagram: Diagram) -> str:
    """Left at the left end, right at the right end, else up in the upper half of a column or down."""
    if isinstance(box.item, Delta) and not any(diagram.neighbours[box.key]):
        return "left" if place == 0 else "right"  # a line of its own
    if last == 0 and len(diagram.columns[0]) == 1:
        return _side_alone(box, place)
    if isinstance(box.item, Index) or 0 < column < last:
        return vertical
    return "left" if column == 0 else "right"


def _side_alone(box: Box, place: int) -> str:
    """Where a leg of a node that stands alone dangles: where that of a convolution does."""
    kind = box.legs[place].kind
    if kind is Kind.POSITION:
        positions = [i for i in box.legs if i.kind is kind]
        return "up" if 2 * positions.index(box.legs[place]) + 1 <= len(positions) else "down"
    return "left" if kind in (Kind.BATCH, Kind.VECTOR) else "right"
