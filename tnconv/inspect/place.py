"""Coordinates of the boxes of a diagram: as straight lines as the room that every box needs allows.

Heights minimise the squared height differences of the lines, long lines weighted more (Gansner et al., 1993), a
column at a time: with the extents subtracted only the order is left, so a column is one isotonic regression.
"""

import itertools
import math
from collections.abc import Sequence

from tnconv.inspect.boxes import Box, Diagram
from tnconv.inspect.labels import SMALL, TEXT, leg_text, tensor_label, width_of
from tnconv.ir import Index, Pattern, Select, Tensor

LEG = 24.0
LEG_PITCH = 20.0
PORT_PITCH = 13.0
GROUP_PITCH = 7.0  # lines of one axis run side by side
LABEL_GAP = 10.0
_SEPARATION = 12.0
_LEAST_GAP, _MOST_GAP, _SLOPE = 26.0, 64.0, 0.42
_SWEEPS, _VISITS = 500, 30_000  # at most so many sweeps, and boxes visited in all of them
_BEND_TO_BEND = 12.0  # weight of the straightness of the middle of a long line
_STILL = 0.02
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


def side_legs(box: Box, side: str) -> list[tuple[Index, float]]:
    """The legs that dangle on the left or on the right, each with its height below the centre."""
    legs = [leg for leg, s in zip(box.legs, box.sides, strict=True) if s == side]
    return [(leg, (place - (len(legs) - 1) / 2) * LEG_PITCH) for place, leg in enumerate(legs)]


def _offsets(diagram: Diagram) -> Offsets:
    """Where lines leave the boxes: spread over the side in the order of what they lead to, groups together."""
    rows, found = diagram.places(), {}
    for box in diagram.boxes:
        point = not isinstance(box.item, Tensor | Pattern)
        for side in diagram.neighbours[box.key]:
            ordered = sorted(side, key=lambda pair: rows[pair[0].key])
            height, heights = 0.0, []
            for number, (_, index) in enumerate(ordered):
                if number:
                    height += GROUP_PITCH if _share_axis(box, ordered[number - 1][1], index) else PORT_PITCH
                heights.append(height)
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
        case Tensor() as tensor:
            return max(width_of(tensor_label(tensor)) + 20, 38.0), max(36.0, spread + 24, beside * LEG_PITCH)
        case Pattern(name=name) | Select(name=name):
            height = max(24.0, spread + 14, (beside - 1) * LEG_PITCH + 16)
            return max(width_of(name, SMALL) + 14, 30.0), height
        case Index() as index if is_label(box, diagram):
            return width_of(index.name) + 8, 16.0
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
        labels = [width_of(leg_text(i)) for i, s in zip(box.legs, box.sides, strict=True) if s == side]
        if labels:
            box.width = max(box.width, sum(labels) + LABEL_GAP * (len(labels) - 1))
            extra = LEG + TEXT + 4
            box.up, box.down = (box.up + extra, box.down) if side == "up" else (box.up, box.down + extra)
    if isinstance(box.item, Index) and not box.legs and not is_label(box, diagram):
        ends = sum(map(len, diagram.neighbours[box.key]))
        box.up, box.down = (24.0, 8.0) if ends > 1 else (9.0, 9.0)
        box.width = width_of(box.item.name) * (1 if ends > 1 else 2) + 18


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
        _straighten(diagram)
    boxes = {box.key: box for box in diagram.boxes}
    heights = {key: (boxes[key].y + boxes[image].y) / 2 for key, image in diagram.mirror.items()}
    for key, height in heights.items():
        boxes[key].y = height


def _straighten(diagram: Diagram) -> None:
    """Put the bends of a long line at one height wherever the boxes above and below leave room for that."""
    above, below = _room(diagram)
    units: dict[str, dict[str, Box]] = {}
    for index, chain in diagram.lines:
        names = [b for b in chain if isinstance(b.item, Index) and is_label(b, diagram)]
        key = index.name if names else f"{index.name} {chain[0].key} {chain[-1].key}"
        inner = [b for b in chain if b.item is None] + names
        units.setdefault(key, {}).update({b.key: b for b in inner})
    for unit in units.values():
        boxes = list(unit.values())
        lowest = max((_bound(b, above.get(b.key), 1.0) for b in boxes), default=0.0)
        highest = min((_bound(b, below.get(b.key), -1.0) for b in boxes), default=0.0)
        if len(boxes) > 1 and lowest <= highest:
            height = min(max(sum(b.y for b in boxes) / len(boxes), lowest), highest)
            for box in boxes:
                box.y = height


def _room(diagram: Diagram) -> tuple[dict[str, Box], dict[str, Box]]:
    """The box right above and the one right below each box."""
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
            weight = _BEND_TO_BEND if box.item is other.item is None else 1.0
            total += weight * (other.y + offsets[other.key, box.key] - offsets[box.key, other.key])
            weights += weight
    return (total / weights, weights) if weights else (box.y, 1e-3)


def _settle(column: Sequence[Box], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Move the boxes as near to the wanted heights as their extents allow (weighted least squares)."""
    offset, shifts = 0.0, []
    for number, box in enumerate(column):
        offset += box.up + (column[number - 1].down + _SEPARATION if number else 0.0)
        shifts.append(offset)
    pools: list[tuple[float, float, int]] = []
    for target, shift, each in zip(wanted, shifts, weights, strict=True):
        mean, weight, size = target - shift, each, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, count = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + count
        pools.append((mean, weight, size))
    heights = [mean for mean, _, size in pools for _ in range(size)]
    for box, height, shift in zip(column, heights, shifts, strict=True):
        box.y = height + shift


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
    x = 0.0
    for number, column in enumerate(diagram.columns):
        width = max((box.width for box in column), default=0.0)
        if diagram.mirror:
            width = max([width, *(box.width for box in diagram.columns[count - 1 - number])])
        for box in column:
            box.x = x + width / 2
            box.width = box.width or width  # a bend runs straight through its column
        x += width + gaps[number]
    assert math.isfinite(x)
