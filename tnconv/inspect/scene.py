"""What a diagram is made of: curves, shapes and texts at coordinates. SVG, TikZ and JSON are written from it."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tnconv.errors import TnconvError, meant
from tnconv.inspect import place as placing
from tnconv.inspect.boxes import Box, Diagram, build, choose_sides
from tnconv.inspect.columns import components
from tnconv.inspect.labels import TEXT, index_title, leg_text, tensor_label, tensor_title, width_of
from tnconv.inspect.order import order
from tnconv.ir import Delta, Index, Network, Pattern, Select, Tensor

Point = tuple[float, float]
_BETWEEN_COMPONENTS = 18.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A piece of the line of an index, or an open leg: Bézier segments, each (start, control, control, end)."""

    index: Index
    segments: tuple[tuple[Point, Point, Point, Point], ...]
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor, a pattern or a dot, by its centre and its size.

    Args:
        kind: the role of a tensor, "pattern", "select" or "dot".
        name: of the node or the index.
        title: shown on hover.
        label: written on it: the name, with a star where a conjugate is read; none on a dot.
    """

    kind: str
    name: str
    title: str
    at: Point
    size: Point
    marked: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A text at the left end, the middle or the right end of its base line.

    Args:
        kind: "on" a tensor, "on small" on a relation, "index", "leg" or "scale".
        anchor: "start", "middle" or "end".
        title: shown on hover, where the text lies on a shape.
    """

    kind: str
    text: str
    at: Point
    anchor: str = "middle"
    title: str = ""


@dataclass
class Scene:
    """The parts of the diagram of a network, in the order in which they are drawn, and the room they take.

    Args:
        parts: curves first.
        left: the smallest x, in pixels.
        top: the smallest y, which grows downwards.
        right: the largest x.
        bottom: the largest y.
    """

    parts: list[Curve | Shape | Text] = field(default_factory=list)
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top

    def cover(self, left: float, top: float, right: float, bottom: float) -> None:
        """Grow to a rectangle."""
        if self.left == self.right and self.top == self.bottom:
            self.left, self.top, self.right, self.bottom = left, top, right, bottom
        self.left, self.top = min(self.left, left), min(self.top, top)
        self.right, self.bottom = max(self.right, right), max(self.bottom, bottom)


def scene_of(
    network: Network, pos: Mapping[str, Point] | None = None, highlight: Collection[str] = ()
) -> Scene:
    """The scene of one network.

    Args:
        network: what to draw.
        pos: coordinates in pixels for nodes and indices by name, in place of those of the layout; y grows downwards.
        highlight: names of nodes and indices that are marked.
    """
    scene, top = Scene(), 0.0
    middle: float | None = None
    for diagram in _diagrams(network):
        offsets = placing.place(diagram)
        part = Scene()
        for box in diagram.boxes:
            part.cover(*_extent(box))
        middle = (part.left + part.right) / 2 if middle is None else middle
        for box in diagram.boxes:
            box.x, box.y = box.x + middle - (part.left + part.right) / 2, box.y + top - part.top
        top += part.height + _BETWEEN_COMPONENTS
        moved = _moved(diagram, pos or {})
        _add(scene, diagram, offsets, set(highlight), moved)
    _add_scale(scene, network)
    return scene


def check_names(network_names: Collection[str], given: Collection[str], option: str, owner: str) -> None:
    """Refuse names that are no nodes and no indices, and what is no collection of names.

    Raises:
        TnconvError: it names the option, what it got and what there is.
    """
    if isinstance(given, str):
        raise TnconvError(f"{option}={given!r} is a str; give a collection of names, as in [{given!r}]")
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise TnconvError(f"{option}={given!r} are no names; give those of nodes and indices, as in ['x']")
    unknown = sorted(set(given) - set(network_names))
    if unknown:
        raise TnconvError(
            f"{option} has {unknown[0]!r}, which is no node or index of {owner!r}"
            f"{meant(unknown[0], network_names)}; it has {', '.join(network_names)}"
        )


def _diagrams(network: Network) -> Iterator[Diagram]:
    for nodes in components(network):
        diagram = build(network, nodes)
        order(diagram)
        choose_sides(diagram)
        yield diagram
    for index in network.indices:
        if not network.nodes_with(index):  # a broadcast: a leg of nothing
            yield Diagram([[Box(f"index {index.name}", 0, index, (index,), ("right",))]])


def _extent(box: Box) -> tuple[float, float, float, float]:
    return (box.x - box.width / 2, box.y - box.up, box.x + box.width / 2, box.y + box.down)


def _moved(diagram: Diagram, pos: Mapping[str, Point]) -> frozenset[str]:
    """Move boxes to where the user wants them, indices between their moved ends; returns the keys of these."""
    moved = set()
    for box in diagram.boxes:
        if box.item is not None and box.item.name in pos:
            box.x, box.y = pos[box.item.name]
            moved.add(box.key)
    for box in [b for b in diagram.boxes if isinstance(b.item, Index) and b.key not in moved]:
        ends = [
            b for _, chain in diagram.lines if box in chain for b in (chain[0], chain[-1]) if b is not box
        ]
        if any(end.key in moved for end in ends):
            box.x, box.y = (sum(getattr(e, axis) for e in ends) / len(ends) for axis in "xy")
            moved.add(box.key)
    return frozenset(moved)


def _add(
    scene: Scene, diagram: Diagram, offsets: placing.Offsets, marked: Collection[str], moved: Collection[str]
) -> None:
    for index, chain in diagram.lines:
        ends = (chain[0], chain[-1])
        loose = any(box.key in moved for box in ends)
        segments = _straight(*ends, diagram) if loose else _smooth(chain, diagram, offsets)
        scene.parts.append(Curve(index, segments, index.name in marked))
    for box in diagram.boxes:
        if box.item is not None:
            scene.cover(*_extent(box))
            _add_legs(scene, box, marked)
            scene.parts += _shape(box, diagram, marked)


# -- lines -------------------------------------------------------------------------------------------


def _smooth(
    chain: Sequence[Box], diagram: Diagram, offsets: placing.Offsets
) -> tuple[tuple[Point, Point, Point, Point], ...]:
    """Through the bends of a chain, level at both ends of every piece."""
    found: list[tuple[Point, Point, Point, Point]] = []
    for left, right in itertools.pairwise(chain):
        start = (left.x + _reach(left, diagram), left.y + offsets[left.key, right.key])
        end = (right.x - _reach(right, diagram), right.y + offsets[right.key, left.key])
        if found:
            found.append((found[-1][3], found[-1][3], start, start))
        middle = (start[0] + end[0]) / 2
        found.append((start, (middle, start[1]), (middle, end[1]), end))
    return tuple(found)


def _reach(box: Box, diagram: Diagram) -> float:
    """How far from the centre of a box its lines begin."""
    if box.item is None:
        return box.width / 2
    is_point = not isinstance(box.item, Tensor | Pattern) and not placing.is_label(box, diagram)
    return 0.0 if is_point else box.body[0] / 2


def _straight(one: Box, other: Box, diagram: Diagram) -> tuple[tuple[Point, Point, Point, Point], ...]:
    """From centre to centre, for boxes that the user has moved; it stops short of a name."""
    points = []
    for box, far in ((one, other), (other, one)):
        x, y = box.x, box.y
        if placing.is_label(box, diagram):
            dx, dy = far.x - x, far.y - y
            reach = max(abs(dx) / (box.body[0] / 2), abs(dy) / (box.body[1] / 2), 1.0)
            x, y = x + dx / reach, y + dy / reach
        points.append((x, y))
    return ((points[0], points[0], points[1], points[1]),)


def _add_legs(scene: Scene, box: Box, marked: Collection[str]) -> None:
    """The open legs of a box, each with its label, which the scene is made to cover."""
    for side, sign in (("left", -1.0), ("right", 1.0)):
        for leg, below in placing.side_legs(box, side):
            end = (box.x + sign * (box.body[0] / 2 + placing.LEG), box.y + below)
            _add_leg(scene, leg, (box.x, end[1]), end, side, marked)
    for side, sign in (("up", -1.0), ("down", 1.0)):
        legs = [leg for leg, s in zip(box.legs, box.sides, strict=True) if s == side]
        widths = [width_of(leg_text(leg)) for leg in legs]
        x = box.x - (sum(widths) + placing.LABEL_GAP * (len(widths) - 1)) / 2
        for leg, width in zip(legs, widths, strict=True):
            at = x + width / 2
            x += width + placing.LABEL_GAP
            end = (at, box.y + sign * (box.body[1] / 2 + placing.LEG))
            half = max(box.body[0] / 2 - 8, 0.0)
            start = (min(max(at, box.x - half), box.x + half), box.y)
            _add_leg(scene, leg, start, end, side, marked)


def _add_leg(scene: Scene, leg: Index, start: Point, end: Point, side: str, marked: Collection[str]) -> None:
    (x, y), width = end, width_of(leg_text(leg))
    at, anchor = {
        "left": ((x - 5, y + 4.5), "end"),
        "right": ((x + 5, y + 4.5), "start"),
        "up": ((x, y - 5), "middle"),
        "down": ((x, y + TEXT + 1), "middle"),
    }[side]
    left = at[0] - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    scene.cover(left, at[1] - TEXT, left + width, at[1] + 4)
    horizontal = side in ("left", "right")
    control = ((start[0] + end[0]) / 2, start[1]) if horizontal else (end[0], (start[1] + end[1]) / 2)
    scene.parts.append(Curve(leg, ((start, control, control, end),), leg.name in marked))
    scene.parts.append(Text("leg", leg_text(leg), at, anchor))


# -- shapes ------------------------------------------------------------------------------------------


def _shape(box: Box, diagram: Diagram, marked: Collection[str]) -> Iterator[Shape | Text]:
    """What stands at the place of a box."""
    at, below = (box.x, box.y), (box.x, box.y + 4.5)
    match box.item:
        case Tensor() as tensor:
            title, label = tensor_title(tensor), tensor_label(tensor)
            yield Shape(tensor.role, tensor.name, title, at, box.body, tensor.name in marked, label)
            yield Text("on", label, below, title=title)
        case Pattern() | Select() as relation:
            title = f"{relation.name}: {relation.relation_text()}"
            is_marked = relation.name in marked
            kind = "select" if isinstance(relation, Select) else "pattern"
            yield Shape(kind, relation.name, title, at, box.body, is_marked, relation.name)
            yield Text("on small", relation.name, below, title=title)
        case Delta() as delta:
            title = f"{delta.name}: {delta.relation_text()}"
            yield Shape("dot", delta.name, title, at, box.body, delta.name in marked)
        case Index() as index if placing.is_label(box, diagram):
            yield Text("index", index.name, below)
        case Index() as index:
            yield Shape("dot", index.name, index_title(index), at, box.body, index.name in marked)
            if not box.legs:
                yield _junction_name(box, index, diagram)
        case _:
            return


def _junction_name(box: Box, index: Index, diagram: Diagram) -> Text:
    """The name of an index that is a dot without a leg: above it, or behind the end of a line."""
    left, right = diagram.neighbours[box.key]
    if len(left) + len(right) > 1:
        return Text("index", index.name, (box.x, box.y - 9))
    if left:
        return Text("index", index.name, (box.x + 8, box.y + 4.5), "start")
    return Text("index", index.name, (box.x - 8, box.y + 4.5), "end")


def _add_scale(scene: Scene, network: Network) -> None:
    if network.scale != 1:
        text = f"{network.scale} ×"
        at = (scene.left - width_of(text) - 12, (scene.top + scene.bottom) / 2 + 5)
        scene.cover(at[0], at[1] - TEXT, scene.left, at[1] + 4)
        scene.parts.append(Text("scale", text, at, "start"))
