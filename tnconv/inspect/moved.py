"""A diagram some of whose nodes the user has moved: lines are laid anew around what stands in their way.

Nothing else moves: what no moved node touches stays where the layout has put it.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from tnconv.inspect.boxes import INDEX
from tnconv.inspect.routes import Router, along, cut, rounded
from tnconv.inspect.scene_parts import (
    Curve,
    Part,
    Point,
    Port,
    Rectangle,
    Segment,
    Shape,
    Text,
    beyond,
    difference,
    part_shifted,
    shifted,
)

_MARGIN = 5.0  # between a line and what it passes
_LEG = 24.0
_PARALLEL = 7.0
_APART = 4.0  # between lines that go around the same thing
_MOST_APART = 8  # lines that keep off each other so; the next ones lie as far off as the last of these
_SIDES: dict[str, Point] = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_SLOTS = (0.0, 20.0, -20.0, 40.0, -40.0)
_SHARES = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82)
_BASE = 4.5  # of the base line of a name below its centre


def move(parts: Sequence[Part], pos: Mapping[str, Point]) -> list[Part]:
    """The parts of a diagram with some at places of the user.

    Args:
        parts: as the layout made them.
        pos: coordinates in pixels of nodes, of dots and names of indices, and of the ends of open legs, by name.
    """
    page = _Page(parts, pos)
    page.shift()
    page.turn_legs()
    page.lay_lines()
    return page.parts


class _Page:
    def __init__(self, parts: Sequence[Part], pos: Mapping[str, Point]) -> None:
        self.parts, self.pos = list(parts), pos
        self.lines = [p for p in parts if isinstance(p, Curve) and p.ends[1] is not None]
        self.rest = [p for p in parts if not isinstance(p, Curve) or p.ends[1] is None]
        self.moved: set[str] = set()
        self.still = set(map(id, self.rest))
        self.detours = 0

    # -- what moves --------------------------------------------------------------------------------

    def shift(self) -> None:
        """Put what the user names where it is to be, with its legs; dots between their ends where these moved."""
        centres = self.centres()
        wanted = {
            owner: self.pos[name] for owner in centres if (name := owner.removeprefix(INDEX)) in self.pos
        }
        ends = defaultdict(list)
        for line in self.lines:
            one, other = _owners(line)
            ends[one].append(other)
            ends[other].append(one)
        self.moved = set(wanted)
        for owner in centres:
            if owner.startswith(INDEX) and owner not in wanted and self.moved & set(ends[owner]):
                found = [wanted.get(end, centres[end]) for end in ends[owner]]
                wanted[owner] = (sum(x for x, _ in found) / len(found), sum(y for _, y in found) / len(found))
        self.rest = [
            part_shifted(part, difference(wanted[owner], centres[owner]))
            if (owner := _owner(part)) in wanted
            else part
            for part in self.rest
        ]
        self.moved = set(wanted)
        for owner in centres:
            if (
                owner.startswith(INDEX)
                and owner.removeprefix(INDEX) not in self.pos
                and not self._is_name(owner)
            ):
                self._make_room(owner)

    def _make_room(self, owner: str) -> None:
        """Move a dot that lies on something, or that something lies on, to the next free place."""
        own = [p for p in self.rest if _owner(p) == owner]
        others = [p.extent.grown(_MARGIN) for p in self.rest if _owner(p) != owner]
        for shift in _spiral():
            if any(part_shifted(p, shift).extent.overlaps(other) for p in own for other in others):
                continue
            if shift != (0.0, 0.0):
                self.rest = [part_shifted(p, shift) if _owner(p) == owner else p for p in self.rest]
                self.moved.add(owner)
            return

    def centres(self) -> dict[str, Point]:
        """Where nodes, dots and names in gaps of lines are, by owner."""
        found: dict[str, Point] = {}
        for part in self.rest:
            if isinstance(part, Shape):
                found[part.owner] = part.at
            elif isinstance(part, Text) and part.kind == "index":
                found.setdefault(part.owner, (part.at[0], part.at[1] - _BASE))
        return found

    def _shape(self, owner: str) -> Shape:
        return next(p for p in self.rest if isinstance(p, Shape) and p.owner == owner)

    def _is_name(self, owner: str) -> bool:
        """Whether an owner is the name of an index in a gap of its line."""
        return not any(isinstance(p, Shape) for p in self.rest if _owner(p) == owner)

    # -- legs --------------------------------------------------------------------------------------

    def turn_legs(self) -> None:
        """Let legs that point into something else point elsewhere, and end where the user wants them to."""
        for curve, text in list(_legs(self.rest)):
            if curve.index.name in self.pos and INDEX + curve.index.name not in self.moved:
                self._replace((curve, text), self._leg_to(curve, text, self.pos[curve.index.name]))
            elif not self._has_room(curve, text):
                self._replace((curve, text), self._turned(curve, text))

    def _turned(self, curve: Curve, text: Text) -> tuple[Curve, Text]:
        shape = self._shape(_owner(curve))
        for slot in _SLOTS:
            for side, (dx, dy) in _SIDES.items():
                half = (shape.size[0] / 2, shape.size[1] / 2)
                if slot and abs(slot) > (half[1] if dx else half[0]) + 4:
                    continue
                border = shifted(shape.at, (dx * half[0], dy * half[1]))
                start = shifted(border, (abs(dy) * slot, abs(dx) * slot))
                end = shifted(start, (dx * _LEG, dy * _LEG))
                found = _leg(curve, text, start, end, side, shape.at)
                if self._has_room(*found, old=(curve, text)):
                    return found
        return curve, text

    def _leg_to(self, curve: Curve, text: Text, end: Point) -> tuple[Curve, Text]:
        shape = self._shape(_owner(curve))
        dx, dy = difference(end, shape.at)
        level = abs(dx) * shape.size[1] > abs(dy) * shape.size[0]
        side = ("right" if dx > 0 else "left") if level else ("down" if dy > 0 else "up")
        start = cut((end, shape.at), shape.extent)[0][-1]
        return _leg(curve, text, start, end, side, shape.at)

    def _has_room(self, curve: Curve, text: Text, old: tuple[Part, ...] = ()) -> bool:
        own = _owner(curve)
        aside = (curve, text, *old)
        return not any(
            part.extent.overlaps(other.extent.grown(2.0))
            for other in self.rest
            if other not in aside
            and not (isinstance(other, Shape | Text) and other.owner == own and not _is_loose(other))
            if not (isinstance(other, Text) and other.kind == "index" and self._is_name(other.owner))
            for part in (curve, text)
        )

    def _replace(self, old: tuple[Part, ...], new: tuple[Part, ...]) -> None:
        swap = dict(zip(map(id, old), new, strict=True))
        self.rest = [swap.get(id(p), p) for p in self.rest]

    # -- lines -------------------------------------------------------------------------------------

    def lay_lines(self) -> None:
        """Lay lines anew whose ends have moved, or that something lies on now."""
        names = {o for o in map(_owner, self.rest) if o.startswith(INDEX) and self._is_name(o)}
        free_names = {o for o in names if o.removeprefix(INDEX) not in self.pos}
        by_owner: dict[str, list[Curve]] = defaultdict(list)
        for line in self.lines:
            by_owner[_owners(line)[1]].append(line)
        changed = [part for part in self.rest if id(part) not in self.still]
        router = Router(self._obstacles(self.moved & free_names, changed))
        stale = [o for o, found in by_owner.items() if any(self._is_stale(c, router, changed) for c in found)]
        router = Router(self._obstacles(free_names.intersection(stale), self.rest))
        laid = [line for owner, found in by_owner.items() if owner not in stale for line in found]
        places = _places({owner: _pair(by_owner[owner]) for owner in stale})
        for owner in sorted(stale, key=lambda o: o in free_names):
            if owner in free_names:
                laid += self._through(by_owner[owner], router, places[owner], laid)
            else:
                laid += [self._ending(line, router) for line in by_owner[owner]]
        self.parts = [*laid, *self.rest]

    def _obstacles(self, aside: Collection[str], parts: Sequence[Part]) -> dict[str, list[Rectangle]]:
        """What lines keep off, by owner, but for names that find their place when their lines are laid."""
        found: dict[str, list[Rectangle]] = defaultdict(list)
        for part in parts:
            owner = _owner(part)
            if owner in aside or (isinstance(part, Text) and part.kind.startswith("on")):
                continue
            room = part.extent
            if isinstance(part, Curve) and owner.startswith(INDEX):
                room = replace(part, segments=(_cut_short(part),)).extent
            beside = _is_loose(part) or (isinstance(part, Text) and not self._is_name(owner))
            found[f"{owner} leg" if beside else owner].append(room.grown(_MARGIN))
        return found

    def _is_stale(self, line: Curve, router: Router, changed: Sequence[Part]) -> bool:
        """Whether an end of a line has moved, or what has moved lies on it or on its name."""
        owners = _owners(line)
        if self.moved & set(owners):
            return True
        names = [p for p in self.rest if isinstance(p, Text) and p.kind == "index" and p.owner == owners[1]]
        others = [p for p in changed if _owner(p) != owners[1]]
        if any(name.extent.overlaps(other.extent) for name in names for other in others):
            return True
        inner = -_MARGIN + 1.0
        return not all(router.is_free(a, b, owners, inner) for a, b in line.pieces)

    def _way(self, start: Point, end: Point, own: tuple[str, str], router: Router) -> list[Point]:
        """The way of a line, further off what it goes around than the lines before it, where there is room."""
        way = router.way(start, end, own) or [start, end]
        if len(way) > 2:
            self.detours += 1
            margins = (_APART * k for k in range(min(self.detours - 1, _MOST_APART), 0, -1))
            way = next(filter(None, (router.way(start, end, own, margin) for margin in margins)), way)
        return way

    def _through(
        self, lines: Sequence[Curve], router: Router, place: float, laid: Sequence[Curve]
    ) -> Iterator[Curve]:
        """The two lines of an index from node to node, and its name in a gap between them, off all other lines."""
        centres = self.centres()
        one, other = (_owners(line)[0] for line in lines)
        way = self._way(*_beside(centres[one], centres[other], place), (one, other), router)
        name = next(p for p in self.rest if isinstance(p, Text) and _owner(p) == _owners(lines[0])[1])
        spots = [_centred(name, along(way, share)) for share in _SHARES]
        rooms = [r.grown(2.0 - _MARGIN) for found in router.obstacles.values() for r in found]
        pieces = [piece for line in laid for piece in line.pieces]

        def fits(spot: Text) -> bool:
            room = spot.extent.grown(1.0)
            return not any(map(room.overlaps, rooms)) and not any(room.meets(*piece) for piece in pieces)

        spot = next(filter(fits, spots), spots[0])
        self._replace((name,), (spot,))
        key, centre = _owner(name), (spot.at[0], spot.at[1] - _BASE)
        router.add(key, spot.extent.grown(_MARGIN))
        for line, points, node in zip(lines, cut(way, spot.extent.grown(2.0)), (one, other), strict=True):
            from_node = points if node == one else points[::-1]
            yield _curve(line, self._leaving(from_node, node), node, key, centres[node], centre)

    def _ending(self, line: Curve, router: Router) -> Curve:
        """A line from a node to a dot, or to a name that the user has moved."""
        centres = self.centres()
        node, key = _owners(line)
        way = self._way(centres[node], centres[key], (node, key), router)
        if self._is_name(key):
            name = next(p for p in self.rest if isinstance(p, Text) and _owner(p) == key)
            way, _ = cut(way, name.extent.grown(2.0))
        return _curve(line, self._leaving(way, node), node, key, centres[node], centres[key])

    def _leaving(self, way: Sequence[Point], node: str) -> list[Point]:
        shape = self._shape(node)
        return list(way) if shape.kind == "dot" else cut(way[::-1], shape.extent)[0][::-1]


# -- parts -------------------------------------------------------------------------------------------


def _owner(part: Part) -> str:
    """Whom a part belongs to: a leg to the node that it dangles from."""
    if isinstance(part, Curve):
        assert part.ends[0] is not None
        return part.ends[0].owner
    return part.owner


def _owners(line: Curve) -> tuple[str, str]:
    """The node and the index that a line joins."""
    found = [end.owner for end in line.ends if end is not None]
    return (found[1], found[0]) if found[0].startswith(INDEX) else (found[0], found[1])


def _pair(lines: Sequence[Curve]) -> tuple[str, ...]:
    return tuple(sorted(_owners(line)[0] for line in lines))


def _places(pairs: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Where each of the lines between the same two nodes lies beside the others: -0.5 and 0.5 of two."""
    counts, seen, found = Counter(pairs.values()), Counter[tuple[str, ...]](), {}
    for owner, pair in pairs.items():
        found[owner] = seen[pair] - (counts[pair] - 1) / 2
        seen[pair] += 1
    return found


def _cut_short(leg: Curve) -> Segment:
    """The leg of a dot without where it begins, which the lines of the dot come to."""
    start, end = leg.points[0], leg.points[-1]
    away = along((start, end), min(3 * _MARGIN / (math.dist(start, end) or 1.0), 1.0))
    return away, away, end, end


def _is_loose(part: Part) -> bool:
    return isinstance(part, Curve) or (isinstance(part, Text) and part.kind == "leg")


def _legs(parts: Sequence[Part]) -> Iterator[tuple[Curve, Text]]:
    """The legs, each with its label, which comes right behind it."""
    for part, following in itertools.pairwise(parts):
        if isinstance(part, Curve) and isinstance(following, Text) and following.kind == "leg":
            yield part, following


def _leg(curve: Curve, text: Text, start: Point, end: Point, side: str, centre: Point) -> tuple[Curve, Text]:
    at, anchor = beyond(end, side)
    port = Port(_owner(curve), difference(start, centre))
    return replace(curve, segments=((start, start, end, end),), ends=(port, None)), replace(
        text, at=at, anchor=anchor
    )


def _curve(
    line: Curve, points: Sequence[Point], node: str, key: str, centre: Point, centre_2: Point
) -> Curve:
    ends = Port(node, difference(points[0], centre)), Port(key, difference(points[-1], centre_2))
    return replace(line, segments=rounded(points), ends=ends)


def _centred(name: Text, at: Point) -> Text:
    return replace(name, at=(at[0], at[1] + _BASE), anchor="middle")


def _beside(start: Point, end: Point, place: float) -> tuple[Point, Point]:
    """Both ends of one of several parallel lines."""
    length = math.dist(start, end) or 1.0
    across, down = difference(end, start)
    by = (-down / length * _PARALLEL * place, across / length * _PARALLEL * place)
    return shifted(start, by), shifted(end, by)


def _spiral() -> Iterator[Point]:
    yield 0.0, 0.0
    for radius in range(16, 200, 16):
        for step in range(8):
            angle = step * math.pi / 4 + math.pi / 2
            yield radius * math.cos(angle), radius * math.sin(angle)
