"""Coordinates of the boxes of a diagram: as straight lines as the room that every box needs allows.

Heights minimise the squared height differences of the lines, long lines weighted more (Gansner et al., 1993), a
column at a time: with the extents subtracted only the order is left, so a column is one isotonic regression.
"""

import itertools
import math
from collections.abc import Sequence

from tnconv.inspect.boxes import Box, Diagram
from tnconv.inspect.labels import SMALL, TEXT
from tnconv.ir import Index, Node, Pattern, Select, Tensor

LEG = 24.0
LEG_PITCH = 20.0
PORT_PITCH = 13.0
HOOK = 6.0  # radius of the turn of a line that comes from a column and goes back there
GROUP_PITCH = 7.0  # lines of one axis run side by side
LABEL_GAP = 10.0
_SEPARATION = 12.0
_BESIDE_OTHERS = 14.0  # more than that between the label of a leg and a node that it is not of
_LEAST_GAP, _MOST_GAP, _SLOPE = 26.0, 64.0, 0.42
_SWEEPS, _VISITS = 500, 30_000  # at most so many sweeps, and boxes visited in all of them
_BEND_TO_BEND = 12.0  # weight of the straightness of the middle of a long line
_BEND_TO_NAME = 5.0  # the same where it comes to the name of its index
_STILL = 0.02
_NEARLY = 2.0  # pixels that nobody sees, far less than what separates boxes
_ROUNDS = 3

Offsets = dict[tuple[str, str], float]


def place(diagram: Diagram) -> Offsets:
    """Give every box its size, its x and its y.

    Returns:
        How far below the centre of a box the line to another box leaves it, by their keys.
    """
    offsets = _offsets(diagram)
    for box in diagram.boxes:
        _measure(box, diagram, offsets)
    _place_y(diagram, offsets)
    _place_x(diagram, offsets)
    return offsets


# -- sizes -------------------------------------------------------------------------------------------


def is_label(box: Box, diagram: Diagram) -> bool:
    """Whether an index is a plain line from left to right, so that its name stands in a gap of the line."""
    left, right = diagram.neighbours[box.key]
    return isinstance(box.item, Index) and not box.legs and len(left) == len(right) == 1


def turn_of(box: Box, diagram: Diagram) -> float:
    """1 where the line of an index comes from the left and goes back there, -1 from the right, else 0."""
    left, right = map(len, diagram.neighbours[box.key])
    if not isinstance(box.item, Index) or box.legs or sorted((left, right)) != [0, 2]:
        return 0.0
    return 1.0 if left else -1.0


def is_wide(box: Box, diagram: Diagram, offsets: Offsets) -> bool:
    """Whether a line that turns may do so as wide as its ends are apart: no other box of the column is in its way."""
    left, right = diagram.neighbours[box.key]
    ports = [other.y + offsets[other.key, box.key] for other, _ in (*left, *right)]
    low, high = min(ports) - _SEPARATION, max(ports) + _SEPARATION
    others = [b for b in diagram.columns[box.column] if b is not box]
    return all(b.y + b.down < low or b.y - b.up > high for b in others)


def side_legs(box: Box, side: str) -> list[tuple[Index, float]]:
    """The legs that dangle on the left or on the right, each with its height below the centre."""
    legs = [leg for leg, s in zip(box.legs, box.sides, strict=True) if s == side]
    return [(leg, (place - (len(legs) - 1) / 2) * LEG_PITCH) for place, leg in enumerate(legs)]


def _offsets(diagram: Diagram) -> Offsets:
    """Where lines leave the boxes: spread over the side in the order of what they lead to, groups together."""
    rows, found = diagram.places(), {}
    for box in diagram.boxes:
        point = not isinstance(box.item, Tensor | Pattern) and not turn_of(box, diagram)
        for side in diagram.neighbours[box.key]:
            ordered = sorted(side, key=lambda pair: rows[pair[0].key])
            height, heights = 0.0, []
            for number, (_, index) in enumerate(ordered):
                if number:
                    height += GROUP_PITCH if _share_axis(box, ordered[number - 1][1], index) else PORT_PITCH
                heights.append(height)
            if len(ordered) == 2 and turn_of(box, diagram):
                heights, height = [0.0, 2 * HOOK], 2 * HOOK
            for (other, _), at in zip(ordered, heights, strict=True):
                found[box.key, other.key] = 0.0 if point else at - height / 2
    return found


def _share_axis(box: Box, one: Index, other: Index) -> bool:
    return isinstance(box.item, Tensor) and any(
        one in axis.indices and other in axis.indices for axis in box.item.axes
    )


def _body(box: Box, diagram: Diagram, offsets: Offsets) -> tuple[float, float]:
    spread = max(
        (2 * abs(offsets[box.key, b.key]) for side in diagram.neighbours[box.key] for b, _ in side),
        default=0.0,
    )
    beside = max(len(side_legs(box, "left")), len(side_legs(box, "right")))
    match box.item:
        case Tensor():
            return max(box.label.width() + 20, 38.0), max(36.0, spread + 24, beside * LEG_PITCH)
        case Pattern() | Select():
            height = max(24.0, spread + 14, (beside - 1) * LEG_PITCH + 16)
            return max(box.label.width(SMALL) + 14, 30.0), height
        case Index() if is_label(box, diagram):
            return box.label.width() + 8, 16.0
        case None:
            return 0.0, 0.0
        case _:
            return 6.4, 6.4


def _measure(box: Box, diagram: Diagram, offsets: Offsets) -> None:
    """Set the body, the width and the extents of a box to what it and its legs need."""
    box.body = _body(box, diagram, offsets)
    box.width, height = box.body
    box.up = box.down = max(height / 2, 5.0)
    for sign in ("left", "right"):
        box.up = max(box.up, len(side_legs(box, sign)) * LEG_PITCH / 2)
        box.down = max(box.down, box.up)
    for side in ("up", "down"):
        labels = [
            diagram.labels.leg(i).width() for i, s in zip(box.legs, box.sides, strict=True) if s == side
        ]
        if labels:
            box.width = max(box.width, sum(labels) + LABEL_GAP * (len(labels) - 1))
            extra = LEG + TEXT + 4 + (_BESIDE_OTHERS if _faces_node(box, side, diagram) else 0.0)
            box.up, box.down = (box.up + extra, box.down) if side == "up" else (box.up, box.down + extra)
    if isinstance(box.item, Index) and not box.legs and not is_label(box, diagram):
        ends = sum(map(len, diagram.neighbours[box.key]))
        beside = ends == 1 or turn_of(box, diagram) != 0
        box.up, box.down = (9.0, 9.0) if beside else (24.0, 8.0)
        box.width = box.label.width() * (2 if beside else 1) + 18


def _faces_node(box: Box, side: str, diagram: Diagram) -> bool:
    """Whether a leg that goes up or down ends at another node, whose its label must not seem to be."""
    column = diagram.columns[box.column]
    row = column.index(box) + (-1 if side == "up" else 1)
    return 0 <= row < len(column) and isinstance(column[row].item, Node)


# -- heights -----------------------------------------------------------------------------------------


def _place_y(diagram: Diagram, offsets: Offsets) -> None:
    for column in diagram.columns:
        _settle(column, [0.0] * len(column), [1.0] * len(column))
    for sweep in range(min(_SWEEPS, 20 + _VISITS // sum(map(len, diagram.columns)))):
        moved = 0.0
        for column in diagram.columns if sweep % 2 == 0 else diagram.columns[::-1]:
            before = [box.y for box in column]
            wanted = [_wanted(box, diagram, offsets) for box in column]
            _settle(column, [w for w, _ in wanted], [v for _, v in wanted])
            moved = max([moved, *(abs(a - b.y) for a, b in zip(before, column, strict=True))])
        if moved < _STILL:
            break
    for _ in range(_ROUNDS):
        _straighten(diagram, offsets)
    _align(diagram)
    _slide_ports(diagram, offsets)
    boxes = {box.key: box for box in diagram.boxes}
    heights = {key: (boxes[key].y + boxes[image].y) / 2 for key, image in diagram.mirror.items()}
    for key, height in heights.items():
        boxes[key].y = height


def _straighten(diagram: Diagram, offsets: Offsets) -> None:
    """Put the bends of a long line at one height wherever the boxes above and below leave room for that."""
    above, below = _room(diagram)
    units: dict[str, dict[str, Box]] = {}
    ports: dict[str, list[float]] = {}
    for index, chain in diagram.lines:
        names = [b for b in chain if isinstance(b.item, Index) and is_label(b, diagram)]
        key = index.name if names else f"{index.name} {chain[0].key} {chain[-1].key}"
        inner = [b for b in chain if b.item is None] + names
        units.setdefault(key, {}).update({b.key: b for b in inner})
        ends = ((chain[0], chain[1]), (chain[-1], chain[-2]))
        ports.setdefault(key, []).extend(
            a.y + offsets[a.key, b.key] for a, b in ends if a.key not in units[key]
        )
    for key, unit in units.items():
        boxes = list(unit.values())
        lowest = max((_bound(b, above.get(b.key), 1.0) for b in boxes), default=0.0)
        highest = min((_bound(b, below.get(b.key), -1.0) for b in boxes), default=0.0)
        if boxes and lowest <= highest:
            height = min(max(sum(ports[key]) / len(ports[key]), lowest), highest)
            for box in boxes:
                box.y = height


def _align(diagram: Diagram) -> None:
    """Put tensors at one height that are nearly there."""
    tensors = sorted((b for b in diagram.boxes if isinstance(b.item, Tensor)), key=lambda b: b.y)
    rows: list[list[Box]] = []
    for box in tensors:
        rows = [*rows[:-1], [*rows[-1], box]] if rows and box.y - rows[-1][0].y < _NEARLY else [*rows, [box]]
    for row in rows:
        height = sum(box.y for box in row) / len(row)
        for box in row:
            box.y = height


def _slide_ports(diagram: Diagram, offsets: Offsets) -> None:
    """Let lines leave tensors and patterns at the heights where they are straight, in their order."""
    for box in diagram.boxes:
        if isinstance(box.item, Tensor | Pattern):
            free = box.body[1] / 2 - (12.0 if isinstance(box.item, Tensor) else 7.0)
            for side in diagram.neighbours[box.key]:
                ports = sorted((offsets[box.key, b.key], b.y - box.y, b.key) for b, _ in side)
                _slide(box, ports, free, offsets)


def _slide(box: Box, ports: Sequence[tuple[float, float, str]], free: float, offsets: Offsets) -> None:
    """Move the ports of a side to the wanted heights, lines of one axis together, none further out than `free`."""
    bundles: list[list[tuple[float, float, str]]] = []
    for port in ports:
        together = bundles and port[0] - bundles[-1][-1][0] < PORT_PITCH
        bundles = [*bundles[:-1], [*bundles[-1], port]] if together else [*bundles, [port]]
    firsts = [bundle[0][0] for bundle in bundles]
    shifts = [sum(wanted - at for at, wanted, _ in bundle) / len(bundle) for bundle in bundles]
    least = [first - firsts[0] for first in firsts]  # pitches that are kept
    if len(bundles) == 1 and abs(shifts[0]) > free:
        return
    length = ports[-1][0] - ports[0][0] if ports else 0.0
    moved = _isotonic(
        [first + shift - kept for first, shift, kept in zip(firsts, shifts, least, strict=True)]
    )
    for bundle, first, kept, at in zip(bundles, firsts, least, moved, strict=True):
        start = min(max(at, -free), free - length) + kept
        for height, _, key in bundle:
            offsets[box.key, key] = start + height - first


def _room(diagram: Diagram) -> tuple[dict[str, Box], dict[str, Box]]:
    pairs = [pair for column in diagram.columns for pair in itertools.pairwise(column)]
    return {low.key: high for high, low in pairs}, {high.key: low for high, low in pairs}


def _bound(box: Box, other: Box | None, sign: float) -> float:
    """How far a box may go: up to a box above it (sign 1), or down to one below it (sign -1)."""
    if other is None:
        return -sign * math.inf
    extents = other.down + box.up if sign > 0 else other.up + box.down
    return other.y + sign * (extents + _SEPARATION)


def _wanted(box: Box, diagram: Diagram, offsets: Offsets) -> tuple[float, float]:
    """The height at which the lines of a box would be straightest, and how much that matters."""
    total = weights = 0.0
    for side in diagram.neighbours[box.key]:
        for other, _ in side:
            weight = _weight(box, other)
            total += weight * (other.y + offsets[other.key, box.key] - offsets[box.key, other.key])
            weights += weight
    return (total / weights, weights) if weights else (box.y, 1e-3)


def _weight(box: Box, other: Box) -> float:
    """How much it matters that a piece of a line is level."""
    nodes = sum(isinstance(b.item, Node) for b in (box, other))
    bends = sum(b.item is None for b in (box, other))
    return 1.0 if nodes else _BEND_TO_BEND if bends == 2 else _BEND_TO_NAME


def _settle(column: Sequence[Box], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Move the boxes as near to the wanted heights as their extents allow (weighted least squares)."""
    offset, shifts = 0.0, []
    for number, box in enumerate(column):
        offset += box.up + (column[number - 1].down + _SEPARATION if number else 0.0)
        shifts.append(offset)
    heights = _isotonic([target - shift for target, shift in zip(wanted, shifts, strict=True)], weights)
    for box, height, shift in zip(column, heights, shifts, strict=True):
        box.y = height + shift


def _isotonic(wanted: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The values nearest to the wanted ones that do not fall (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for target, each in zip(wanted, weights or [1.0] * len(wanted), strict=True):
        mean, weight, size = target, each, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, count = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + count
        pools.append((mean, weight, size))
    return [mean for mean, _, size in pools for _ in range(size)]


# -- columns from left to right ----------------------------------------------------------------------


def _place_x(diagram: Diagram, offsets: Offsets) -> None:
    """Columns side by side, further apart where a line between them is steep."""
    steepest = [0.0] * (len(diagram.columns) + 1)
    for left, right, _ in diagram.links:
        rise = right.y + offsets[right.key, left.key] - left.y - offsets[left.key, right.key]
        steepest[left.column] = max(steepest[left.column], abs(rise))
    gaps = [min(max(_LEAST_GAP, _SLOPE * rise), _MOST_GAP) for rise in steepest]
    count = len(diagram.columns)
    for number in range(count - 1) if diagram.mirror else ():
        gaps[number] = max(gaps[number], gaps[count - 2 - number])
    widths = [max((box.width for box in column), default=0.0) for column in diagram.columns]
    diagram.widths = list(map(max, widths, widths[::-1])) if diagram.mirror else widths
    x = 0.0
    for column, width, gap in zip(diagram.columns, diagram.widths, gaps, strict=False):
        for box in column:
            box.x = x + width / 2
            box.width = box.width or width  # a bend runs straight through its column
        x += width + gap
