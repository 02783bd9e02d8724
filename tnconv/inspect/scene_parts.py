"""What a diagram is made of: curves, shapes and texts at coordinates. SVG, TikZ, PDF and JSON are written from it."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tnconv.inspect.labels import NOTHING, SMALL, TEXT, Label, thickness
from tnconv.ir import Index

Point = tuple[float, float]
Segment = tuple[Point, Point, Point, Point]
_STEPS = 16  # pieces that stand for a Bézier segment where its way is measured
_RISE, _FALL = 0.8, 0.25  # of letters above and below the base line, in units of the font size
_SIZES = {"on small": SMALL, "title": SMALL, "plus": 22.0}


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Room on the page, in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def grown(self, by: float) -> "Rectangle":
        """The same with a margin around it, or smaller with a negative one."""
        return Rectangle(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def overlaps(self, other: "Rectangle") -> bool:
        """Whether two have room in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        return across > 0 and min(self.bottom, other.bottom) - max(self.top, other.top) > 0

    def holds(self, point: Point) -> bool:
        """Whether a point lies inside."""
        return self.left < point[0] < self.right and self.top < point[1] < self.bottom

    def meets(self, start: Point, end: Point) -> bool:
        """Whether a straight line passes through it (Liang and Barsky, 1984)."""
        if max(start[0], end[0]) <= self.left or min(start[0], end[0]) >= self.right:
            return False
        if max(start[1], end[1]) <= self.top or min(start[1], end[1]) >= self.bottom:
            return False
        first, last = 0.0, 1.0
        for at, way, low, high in (
            (start[0], end[0] - start[0], self.left, self.right),
            (start[1], end[1] - start[1], self.top, self.bottom),
        ):
            if abs(way) < 1e-9:
                if not low < at < high:
                    return False
                continue
            enters, leaves = sorted(((low - at) / way, (high - at) / way))
            first, last = max(first, enters), min(last, leaves)
        return last - first > 1e-9


@dataclass(frozen=True, slots=True)
class Port:
    """Where a line begins: so far from the centre of a node, a dot or a name.

    Args:
        owner: the name of the node, or `index` and the name of the index.
        shift: from its centre, in pixels.
    """

    owner: str
    shift: Point


@dataclass(frozen=True, slots=True)
class Curve:
    """A piece of the line of an index, or an open leg: Bézier segments, each (start, control, control, end).

    Args:
        index: whose line it is.
        segments: one after the other; a straight one has its ends as controls.
        marked: whether it is highlighted.
        ends: what it begins and ends at; None for the loose end of a leg.
        broadcast: whether the node that it begins at does not depend on the index.
    """

    index: Index
    segments: tuple[Segment, ...]
    marked: bool = False
    ends: tuple[Port | None, Port | None] = (None, None)
    broadcast: bool = False

    @property
    def points(self) -> list[Point]:
        """Points along its way, close to each other."""
        found = [self.segments[0][0]]
        for start, control, control_2, end in self.segments:
            if (start, end) == (control, control_2):
                found.append(end)
                continue
            for step in range(1, _STEPS + 1):
                t = step / _STEPS
                weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                x, y = (
                    sum(w * p[axis] for w, p in zip(weights, (start, control, control_2, end), strict=True))
                    for axis in (0, 1)
                )
                found.append((x, y))
        return found

    @property
    def pieces(self) -> Iterator[tuple[Point, Point]]:
        """The straight lines between these points."""
        return itertools.pairwise(self.points)

    @property
    def extent(self) -> Rectangle:
        """The room that it takes, with its width."""
        points, half = self.points, thickness(self.index) / 2
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return Rectangle(min(xs), min(ys), max(xs), max(ys)).grown(half)


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor, a pattern or a dot, by its centre and its size.

    Args:
        kind: the role of a tensor, "pattern", "select" or "dot".
        name: of the node or the index.
        title: shown on hover.
        at: its centre.
        size: width and height.
        marked: whether it is highlighted.
        label: written on it; nothing on a dot.
        owner: as of ports; the name where it is left out.
    """

    kind: str
    name: str
    title: str
    at: Point
    size: Point
    marked: bool = False
    label: Label = NOTHING
    owner: str = ""

    @property
    def extent(self) -> Rectangle:
        """The room that it takes."""
        (x, y), (width, height) = self.at, self.size
        return Rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@dataclass(frozen=True, slots=True)
class Text:
    """A text at the left end, the middle or the right end of its base line.

    Args:
        kind: "on" a tensor, "on small" on a relation, "index", "leg", "scale", "plus" or "title".
        text: in plain letters.
        at: the end or the middle of its base line.
        anchor: "start", "middle" or "end".
        title: shown on hover, where the text lies on a shape.
        tex: mathematics in place of the text.
        owner: of an index or a leg, as of ports.
    """

    kind: str
    text: str
    at: Point
    anchor: str = "middle"
    title: str = ""
    tex: str = ""
    owner: str = ""

    @property
    def size(self) -> float:
        """Of the font of plain letters, in pixels."""
        return _SIZES.get(self.kind, TEXT)

    @property
    def extent(self) -> Rectangle:
        """The room that it takes."""
        (x, y), size = self.at, self.size
        width = Label(self.text, self.tex).width(size)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Rectangle(left, y - _RISE * size, left + width, y + _FALL * size)


Part = Curve | Shape | Text


def shifted(point: Point, by: Point) -> Point:
    """A point that much further right and down."""
    return point[0] + by[0], point[1] + by[1]


def difference(one: Point, other: Point) -> Point:
    """How far the first is right of and below the other."""
    return one[0] - other[0], one[1] - other[1]


def part_shifted(part: Part, by: Point) -> Part:
    """A part that much further right and down."""
    if isinstance(part, Curve):
        segments: Any = tuple(tuple(shifted(point, by) for point in segment) for segment in part.segments)
        return replace(part, segments=segments)
    return replace(part, at=shifted(part.at, by))


def beyond(end: Point, side: str) -> tuple[Point, str]:
    """Where the label of a leg stands, and its anchor: beyond the end of a leg that points to a side."""
    x, y = end
    return {
        "left": ((x - 5, y + 4.5), "end"),
        "right": ((x + 5, y + 4.5), "start"),
        "up": ((x, y - 5), "middle"),
        "down": ((x, y + TEXT + 1), "middle"),
    }[side]


@dataclass
class Scene:
    """The parts of the diagram of a network, in the order in which they are drawn: curves first."""

    parts: list[Part] = field(default_factory=list)

    @property
    def extent(self) -> Rectangle:
        """The room that all parts take."""
        rooms = [part.extent for part in self.parts] or [Rectangle(0.0, 0.0, 0.0, 0.0)]
        return Rectangle(
            min(r.left for r in rooms),
            min(r.top for r in rooms),
            max(r.right for r in rooms),
            max(r.bottom for r in rooms),
        )

    @property
    def curves(self) -> list[Curve]:
        """The lines and legs."""
        return [part for part in self.parts if isinstance(part, Curve)]
