"""Ways around what stands on a page: the shortest through corners that see each other (a visibility graph)."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tnconv.inspect.scene_parts import Point, Rectangle, Segment

_OFF = 1.0  # a corner stands so far outside its rectangle
_ROUND = 12.0


@dataclass
class Router:
    """Finds ways around rectangles.

    Args:
        obstacles: rectangles by whom they belong to, with the margin that lines keep.
    """

    obstacles: dict[str, list[Rectangle]]
    _graphs: dict[float, Any] = field(default_factory=dict)
    _grown: dict[float, list[tuple[str, Rectangle]]] = field(default_factory=dict)

    def is_free(self, start: Point, end: Point, own: Iterable[str], margin: float = 0.0) -> bool:
        """Whether a straight line meets no obstacle, those of its own ends left aside."""
        aside = set(own)
        return not any(owner not in aside and room.meets(start, end) for owner, room in self._rooms(margin))

    def _rooms(self, margin: float) -> list[tuple[str, Rectangle]]:
        """All rectangles with a margin around them."""
        if margin not in self._grown:
            self._grown[margin] = [(o, r.grown(margin)) for o, found in self.obstacles.items() for r in found]
        return self._grown[margin]

    def add(self, owner: str, rectangle: Rectangle) -> None:
        """Put one more rectangle into the way."""
        self.obstacles.setdefault(owner, []).append(rectangle)
        self._graphs.clear()
        self._grown.clear()

    def way(self, start: Point, end: Point, own: Sequence[str], margin: float = 0.0) -> list[Point] | None:
        """The shortest way.

        Args:
            start: where it begins.
            end: where it ends.
            own: whose rectangles do not count where it begins and where it ends.
            margin: how much further off the obstacles it keeps.

        Returns:
            The points between which it is straight; None where there is no way.
        """
        if self.is_free(start, end, own, margin):
            return [start, end]
        import networkx as nx  # noqa: PLC0415 - only who draws needs it

        graph = self._corners(margin).copy()
        for tip in (start, end):
            graph.add_node(tip)
            for corner in self._corners(margin):
                if self.is_free(tip, corner, own, margin):
                    graph.add_edge(tip, corner, length=math.dist(tip, corner))
        try:
            return list(nx.shortest_path(graph, start, end, weight="length"))
        except nx.NetworkXNoPath:
            return None

    def _corners(self, margin: float) -> Any:
        """The graph of the corners of obstacles that see each other."""
        if margin not in self._graphs:
            import networkx as nx  # noqa: PLC0415 - only who draws needs it

            every = [r.grown(margin + _OFF) for found in self.obstacles.values() for r in found]
            corners = [(x, y) for r in every for x in (r.left, r.right) for y in (r.top, r.bottom)]
            free = [c for c in corners if not any(r.grown(-_OFF / 2).holds(c) for r in every)]
            graph = nx.Graph()
            graph.add_nodes_from(free)
            for one, other in itertools.combinations(free, 2):
                if self.is_free(one, other, (), margin):
                    graph.add_edge(one, other, length=math.dist(one, other))
            self._graphs[margin] = graph
        return self._graphs[margin]


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
