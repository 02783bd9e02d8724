"""Ways around what stands on a page: the shortest through corners that see each other (a visibility graph)."""

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tnconv.inspect.scene_parts import Point, Rectangle, Segment

_OFF = 1.0  # a corner stands so far outside its rectangle
_ROUND = 12.0
_MOST_LOOKS = 2000  # from corners, for all ways of a picture; then lines are straight


@dataclass
class Router:
    """Finds ways around rectangles.

    Args:
        obstacles: rectangles by whom they belong to, with the margin that lines keep.
    """

    obstacles: dict[str, list[Rectangle]]
    _looks: int = 0
    _grown: dict[float, list[tuple[str, Rectangle]]] = field(default_factory=dict)
    _free: dict[float, list[Point]] = field(default_factory=dict)
    _seen: dict[tuple[float, Point], list[Point]] = field(default_factory=dict)

    def is_free(self, start: Point, end: Point, own: Iterable[str], margin: float = 0.0) -> bool:
        """Whether a straight line meets no obstacle, those of its own ends left aside."""
        aside = set(own)
        return not any(owner not in aside and room.meets(start, end) for owner, room in self._rooms(margin))

    def _rooms(self, margin: float) -> list[tuple[str, Rectangle]]:
        if margin not in self._grown:
            self._grown[margin] = [(o, r.grown(margin)) for o, found in self.obstacles.items() for r in found]
        return self._grown[margin]

    def add(self, owner: str, rectangle: Rectangle) -> None:
        """Put one more rectangle into the way."""
        self.obstacles.setdefault(owner, []).append(rectangle)
        for kept in (self._grown, self._free, self._seen):
            kept.clear()

    def way(self, start: Point, end: Point, own: Sequence[str], margin: float = 0.0) -> list[Point] | None:
        """The shortest way, by A*: corners are looked from in the order of the shortest way that may lead through them.

        Args:
            start: where it begins.
            end: where it ends.
            own: whose rectangles do not count where it begins and where it ends.
            margin: how much further off the obstacles it keeps.

        Returns:
            The points between which it is straight; None where there is no way, or where all looks are used up.
        """
        if self.is_free(start, end, own, margin):
            return [start, end]
        last = set(self._visible(end, own, margin))
        lengths, before, done = {start: 0.0}, {start: start}, set[Point]()
        heap = [(math.dist(start, end), start)] if last else []
        while heap and self._looks < _MOST_LOOKS:
            _, at = heapq.heappop(heap)
            if at == end:
                return _back(before, end)
            if at in done:
                continue
            done.add(at)
            seen = self._visible(at, own, margin) if at == start else self._from_corner(at, margin)
            for point in [*seen, end] if at in last else seen:
                length = lengths[at] + math.dist(at, point)
                if length < lengths.get(point, math.inf):
                    lengths[point], before[point] = length, at
                    heapq.heappush(heap, (length + math.dist(point, end), point))
        return None

    def _from_corner(self, corner: Point, margin: float) -> list[Point]:
        if (margin, corner) not in self._seen:
            self._seen[margin, corner] = self._visible(corner, (), margin)
        return self._seen[margin, corner]

    def _visible(self, start: Point, own: Iterable[str], margin: float) -> list[Point]:
        self._looks += 1
        aside = set(own)
        rooms = [room for owner, room in self._rooms(margin) if owner not in aside]
        corners = self._corners(margin)
        return list(itertools.compress(corners, _sees(start, corners, rooms)))

    def _corners(self, margin: float) -> list[Point]:
        """The corners of obstacles that are inside of no other."""
        if margin not in self._free:
            every = [r.grown(margin + _OFF) for found in self.obstacles.values() for r in found]
            inner = [r.grown(-_OFF / 2) for r in every]
            corners = [(x, y) for r in every for x in (r.left, r.right) for y in (r.top, r.bottom)]
            self._free[margin] = [c for c in corners if not any(r.holds(c) for r in inner)]
        return self._free[margin]


def _back(before: dict[Point, Point], end: Point) -> list[Point]:
    way = [end]
    while before[way[-1]] != way[-1]:
        way.append(before[way[-1]])
    return way[::-1]


def _sees(start: Point, ends: Sequence[Point], rooms: Sequence[Rectangle]) -> Any:
    """Whether the straight line to each point meets no rectangle: `Rectangle.meets` of all at once."""
    sides = np.array([(r.left, r.top, r.right, r.bottom) for r in rooms]).reshape(-1, 4)
    first, last = np.zeros((len(ends), len(rooms))), np.ones((len(ends), len(rooms)))
    for axis, at in enumerate(start):
        way = np.array([end[axis] - at for end in ends]).reshape(-1, 1)
        low, high = sides[:, axis] - at, sides[:, axis + 2] - at
        still = np.abs(way) < 1e-9
        one, other = (side / np.where(still, 1.0, way) for side in (low, high))
        beside = np.where((low < 0) & (high > 0), -np.inf, np.inf)
        np.maximum(first, np.where(still, beside, np.minimum(one, other)), out=first)
        np.minimum(last, np.where(still, np.inf, np.maximum(one, other)), out=last)
    return ~(last - first > 1e-9).any(1)


def rounded(points: Sequence[Point]) -> tuple[Segment, ...]:
    """A way of straight lines with its corners rounded."""
    found: list[Segment] = []
    at = points[0]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(_ROUND, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        found += [
            (at, at, start, start),
            (start, _towards(start, corner, radius * 2 / 3), _towards(end, corner, radius * 2 / 3), end),
        ]
        at = end
    return (*found, (at, at, points[-1], points[-1]))


def along(points: Sequence[Point], share: float) -> Point:
    """The point of a way at a share of its length."""
    rest = share * sum(itertools.starmap(math.dist, itertools.pairwise(points)))
    for start, end in itertools.pairwise(points):
        length = math.dist(start, end)
        if rest <= length and length > 0:
            return _towards(start, end, rest)
        rest -= length
    return points[-1]


def cut(points: Sequence[Point], hole: Rectangle) -> tuple[list[Point], list[Point]]:
    """The parts of a way before and behind a rectangle that it passes through."""
    inside = [k for k, (a, b) in enumerate(itertools.pairwise(points)) if hole.meets(a, b)]
    if not inside:
        return list(points), [points[-1], points[-1]]
    first, last = inside[0], inside[-1]
    enters = _border(points[first], points[first + 1], hole)
    leaves = _border(points[last + 1], points[last], hole)
    return [*points[: first + 1], enters], [leaves, *points[last + 1 :]]


def _border(outside: Point, towards: Point, hole: Rectangle) -> Point:
    """Where a line from outside meets a rectangle."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if hole.meets(outside, _mix(outside, towards, middle)):
            high = middle
        else:
            low = middle
    return _mix(outside, towards, low)


def _mix(one: Point, other: Point, share: float) -> Point:
    return one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share


def _towards(start: Point, end: Point, by: float) -> Point:
    length = math.dist(start, end)
    return _mix(start, end, min(by / length, 1.0) if length else 0.0)
