"""From a network to the scene of its diagram: the boxes are laid out, then lines, shapes and texts are put there."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from tnconv.inspect import place as placing
from tnconv.inspect.boxes import Box, Diagram, broadcast_alone, choose_sides
from tnconv.inspect.columns import components
from tnconv.inspect.labels import Labels, index_title, tensor_title
from tnconv.inspect.moved import move
from tnconv.inspect.scene_parts import (
    Curve,
    Part,
    Point,
    Port,
    Scene,
    Segment,
    Shape,
    Text,
    beyond,
    difference,
)
from tnconv.inspect.untangle import untangled
from tnconv.ir import Delta, Index, Network, Pattern, Select, Tensor

_BETWEEN_COMPONENTS = 18.0
_PLAIN = Labels()


def scene_of(
    network: Network,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    labels: Labels = _PLAIN,
) -> Scene:
    """The scene of one network.

    Args:
        network: what to draw.
        pos: coordinates in pixels for nodes and indices by name, in place of those of the layout; y grows downwards.
            Lines go around what stands in their way then.
        highlight: names of nodes and indices that are marked.
        labels: what is written.
    """
    diagrams = list(_diagrams(network, labels))
    _stack(diagrams)
    parts = [part for diagram, offsets in diagrams for part in _parts(diagram, offsets, highlight)]
    if pos:
        parts = move(parts, pos)
    scene = Scene(sorted(parts, key=lambda part: not isinstance(part, Curve)))
    _add_scale(scene, network, labels)
    return scene


def _diagrams(network: Network, labels: Labels) -> Iterator[tuple[Diagram, placing.Offsets]]:
    broadcasts = [index for index in network.indices if not network.nodes_with(index)]
    groups = components(network)
    for number, nodes in enumerate(groups):
        diagram = untangled(network, nodes, labels, () if number else broadcasts)
        choose_sides(diagram)
        yield diagram, placing.place(diagram)
    if broadcasts and not groups:
        diagram = broadcast_alone(broadcasts, labels)
        choose_sides(diagram)
        yield diagram, placing.place(diagram)


def _stack(diagrams: Sequence[tuple[Diagram, placing.Offsets]]) -> None:
    """Put the components one below the other, each in the middle."""
    top = 0.0
    for diagram, _ in diagrams:
        boxes = list(diagram.boxes)
        left, right = min(b.x - b.width / 2 for b in boxes), max(b.x + b.width / 2 for b in boxes)
        highest, lowest = min(b.y - b.up for b in boxes), max(b.y + b.down for b in boxes)
        for box in boxes:
            box.x, box.y = box.x - (left + right) / 2, box.y + top - highest
        top += lowest - highest + _BETWEEN_COMPONENTS


def _parts(diagram: Diagram, offsets: placing.Offsets, marked: Collection[str]) -> Iterator[Part]:
    for index, chain in diagram.lines:
        yield _line(index, chain, diagram, offsets, index.name in marked)
    for box in diagram.boxes:
        if box.item is not None:
            yield from _legs(box, diagram.labels, marked)
            yield from _shape(box, diagram, marked)


# -- lines -------------------------------------------------------------------------------------------


def _line(
    index: Index, chain: Sequence[Box], diagram: Diagram, offsets: placing.Offsets, marked: bool
) -> Curve:
    """The line of a chain of boxes: level within the columns, so that it touches no box, and curved between them."""
    points: list[Point] = []
    for one, other in itertools.pairwise(chain):
        start, end = _reach(one, diagram), -_reach(other, diagram)
        height, height_2 = offsets[one.key, other.key], offsets[other.key, one.key]
        points += [
            (one.x + start, one.y + height),
            (one.x + diagram.widths[one.column] / 2, one.y + height),
            (other.x - diagram.widths[other.column] / 2, other.y + height_2),
            (other.x + end, other.y + height_2),
        ]
    segments = _segments(points)
    if placing.turn_of(chain[-1], diagram) > 0:
        segments = _turned(points, chain[-1], diagram, offsets)
    elif placing.turn_of(chain[0], diagram) < 0:
        back = _turned(points[::-1], chain[0], diagram, offsets)
        segments = tuple(segment[::-1] for segment in reversed(back))
    ends = _port(chain[0], segments[0][0]), _port(chain[-1], segments[-1][-1])
    return Curve(index, segments, marked, ends)


def _port(box: Box, point: Point) -> Port:
    return Port(box.key, difference(point, (box.x, box.y)))


def _turned(
    points: Sequence[Point], box: Box, diagram: Diagram, offsets: placing.Offsets
) -> tuple[Segment, ...]:
    """A line whose last point is the turn of an index: in one sweep where there is room, else in a small hook."""
    end = (box.x, box.y)
    if placing.is_wide(box, diagram, offsets):
        return (*_segments(points[:-2]), _quarter(points[-3], end))
    x, y = points[-1]
    start = (x - placing.HOOK * placing.turn_of(box, diagram), y)
    return (*_segments([*points[:-1], start]), _quarter(start, end))


def _quarter(start: Point, end: Point) -> Segment:
    """Half of a turn: level where it starts and upright where it ends."""
    return start, (end[0], start[1]), (end[0], (start[1] + end[1]) / 2), end


def _segments(points: Sequence[Point]) -> tuple[Segment, ...]:
    """Through points from side to side, level at each; straight pieces of one height are one."""
    found: list[Segment] = []
    for start, end in itertools.pairwise(points):
        if abs(start[1] - end[1]) > 1e-9:
            middle = (start[0] + end[0]) / 2
            found.append((start, (middle, start[1]), (middle, end[1]), end))
        elif found and found[-1][0] == found[-1][1]:
            first = found.pop()[0]
            found.append((first, first, end, end))
        elif abs(end[0] - start[0]) > 1e-9:
            found.append((start, start, end, end))
    return tuple(found)


def _reach(box: Box, diagram: Diagram) -> float:
    """How far from the centre of a box its lines begin."""
    is_point = not isinstance(box.item, Tensor | Pattern | Select) and not placing.is_label(box, diagram)
    return 0.0 if is_point else box.body[0] / 2


def _legs(box: Box, labels: Labels, marked: Collection[str]) -> Iterator[Part]:
    """The open legs of a box, each with its label."""
    for side, sign in (("left", -1.0), ("right", 1.0)):
        for leg, below in placing.side_legs(box, side):
            start = (box.x + sign * box.body[0] / 2, box.y + below)
            yield from _leg(box, leg, start, (start[0] + sign * placing.LEG, start[1]), side, labels, marked)
    for side, sign in (("up", -1.0), ("down", 1.0)):
        legs = [leg for leg, s in zip(box.legs, box.sides, strict=True) if s == side]
        widths = [labels.leg(leg).width() for leg in legs]
        x = box.x - (sum(widths) + placing.LABEL_GAP * (len(widths) - 1)) / 2
        for leg, width in zip(legs, widths, strict=True):
            at = x + width / 2
            x += width + placing.LABEL_GAP
            end = (at, box.y + sign * (box.body[1] / 2 + placing.LEG))
            half = max(box.body[0] / 2 - 8, 0.0)
            start = (min(max(at, box.x - half), box.x + half), box.y + sign * box.body[1] / 2)
            yield from _leg(box, leg, start, end, side, labels, marked)


def _leg(
    box: Box, leg: Index, start: Point, end: Point, side: str, labels: Labels, marked: Collection[str]
) -> Iterator[Part]:
    label = labels.leg(leg)
    level = side in ("left", "right")
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    controls = (
        ((middle[0], start[1]), (middle[0], end[1]))
        if level
        else ((start[0], middle[1]), (end[0], middle[1]))
    )
    if start[0] == end[0] or start[1] == end[1]:
        controls = (start, end)
    port = Port(box.key, (start[0] - box.x, start[1] - box.y))
    yield Curve(leg, ((start, *controls, end),), leg.name in marked, (port, None), leg in box.broadcast)
    at, anchor = beyond(end, side)
    yield Text("leg", label.text, at, anchor, tex=label.tex, owner=box.key)


# -- shapes ------------------------------------------------------------------------------------------


def _shape(box: Box, diagram: Diagram, marked: Collection[str]) -> Iterator[Shape | Text]:
    """What stands at the place of a box."""
    at, below, label = (box.x, box.y), (box.x, box.y + 4.5), box.label
    match box.item:
        case Tensor() as tensor:
            title, is_marked = tensor_title(tensor), tensor.name in marked
            yield Shape(tensor.role, tensor.name, title, at, box.body, is_marked, label, box.key)
            yield Text("on", label.text, below, title=title, tex=label.tex, owner=box.key)
        case Pattern() | Select() as relation:
            title, is_marked = f"{relation.name}: {relation.relation_text()}", relation.name in marked
            kind = "select" if isinstance(relation, Select) else "pattern"
            yield Shape(kind, relation.name, title, at, box.body, is_marked, label, box.key)
            yield Text("on small", label.text, below, title=title, tex=label.tex, owner=box.key)
        case Delta() as delta:
            title = f"{delta.name}: {delta.relation_text()}"
            yield Shape("dot", delta.name, title, at, box.body, delta.name in marked, owner=box.key)
        case Index() as index if placing.is_label(box, diagram):
            yield Text("index", label.text, below, title=index_title(index), tex=label.tex, owner=box.key)
        case Index() as index:
            is_marked = index.name in marked
            if placing.turn_of(box, diagram) == 0:
                yield Shape("dot", index.name, index_title(index), at, box.body, is_marked, owner=box.key)
            if not box.legs:
                yield _junction_name(box, diagram)
        case _:
            return


def _junction_name(box: Box, diagram: Diagram) -> Text:
    """The name of an index that is a dot without a leg: above it, or behind the end of a line."""
    left, right = diagram.neighbours[box.key]
    if len(left) + len(right) > 1 and placing.turn_of(box, diagram) == 0:
        at, anchor = (box.x, box.y - 9), "middle"
    else:
        at, anchor = (box.x + (8 if left else -8), box.y + 4.5), "start" if left else "end"
    return Text("index", box.label.text, at, anchor, tex=box.label.tex, owner=box.key)


def _add_scale(scene: Scene, network: Network, labels: Labels) -> None:
    if network.scale != 1:
        extent = scene.extent
        at = (extent.left - 12, (extent.top + extent.bottom) / 2 + 5)
        label = labels.scale(network.scale)
        scene.parts.append(Text("scale", label.text, at, "end", tex=label.tex))
