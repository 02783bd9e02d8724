"""The diagram of a network as TikZ, for papers: with the same layout as the SVG, made to be edited by hand.

Every node, dot and name of a line is a TikZ node with a name; its place is given relative to another one, and lines
end at names. Whoever changes the place of one moves with it what stands relative to it, and all lines follow. The text
is a `tikzpicture` that brings its colours and styles; it needs `\\usepackage{tikz}` and no library.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from tnconv.errors import TnconvError
from tnconv.inspect.appearance import Look, PictureOptions, look_of
from tnconv.inspect.boxes import INDEX
from tnconv.inspect.labels import Label, number, thickness
from tnconv.inspect.picture import picture_of
from tnconv.inspect.scene_parts import Curve, Point, Port, Scene, Shape, Text, difference, shifted
from tnconv.inspect.svg import RELATIONS
from tnconv.ir import Expression

_CENTIMETRES = 1 / 44  # of a pixel
_POINTS = 0.75  # of a pixel
_ANCHORS = {"start": "base west", "middle": "base", "end": "base east"}
_SPECIAL = re.compile(r"[&%$#_{}\\~^×*]")
_WORDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "*": r"$\cdot$",
}
_FONT = r"font=\footnotesize\sffamily"
_LIGHT = Look(title=False)


def tikz(
    network: Expression,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    **options: Unpack[PictureOptions],
) -> str:
    """The diagram as a `tikzpicture`.

    Args:
        network: what to draw; the terms of a sum stand side by side.
        pos: as of `to_svg`.
        highlight: as of `to_svg`.
        **options: `labels`, `title`, `sizes`, `theme` and `colours`, as of `tnconv.inspect.Look`; there is no title
            unless one is asked for. `labels` are written as they are given: all that TeX knows is allowed.

    Raises:
        TnconvError: `pos`, `highlight` or `labels` names what is not there, or an option is wrong.
    """
    return tikz_of([network], pos, highlight, look_of(options, _LIGHT))


def tikz_of(
    networks: Sequence[Expression],
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    look: Look = _LIGHT,
) -> str:
    """The diagrams of several networks, one below the other, as one `tikzpicture`; arguments as of `tikz`.

    Raises:
        TnconvError: as of `tikz`, and if the theme is `auto`.
    """
    if look.theme == "auto":
        raise TnconvError("theme='auto' follows a reader's system, which TikZ cannot; give 'light' or 'dark'")
    picture = picture_of(networks, pos, highlight, look)
    lines: list[str] = []
    if "background" in (look.colours or {}):
        lines.append(rf"\fill[tn-background] (0, 0) rectangle {_at((picture.width, picture.height))};")
    origin: tuple[str, Point] | None = None
    for place, (scene, shift) in enumerate(picture.scenes):
        writer = _Writer(scene, shift, f"-{place + 1}" if place else "", origin)
        lines += writer.lines()
        origin = writer.origin
    for text in picture.texts:
        sign = "$+$" if text.kind == "plus" else _tex(text.text)
        lines.append(
            rf"\node[tn text, anchor={_ANCHORS[text.anchor]}] at {_relative(origin, text.at)} {{{sign}}};"
        )
    body = "\n".join(f"  {line}" for line in lines)
    return f"% {picture.name}, drawn by tnconv\n{_head(picture.scenes, look)}{body}\n\\end{{tikzpicture}}\n"


def _head(scenes: Sequence[tuple[Scene, Point]], look: Look) -> str:
    """Colours and styles of what there is."""
    parts = [part for scene, _ in scenes for part in scene.parts]
    kinds = sorted({p.kind for p in parts if isinstance(p, Shape) and p.kind != "dot"})
    marked = any(not isinstance(p, Text) and p.marked for p in parts)
    used = {"text", "line", "label", *kinds, *(["mark"] if marked else []), *(look.colours or {})}
    palette = look.palette(look.theme)
    colours = [
        rf"\definecolor{{tn-{name}}}{{HTML}}{{{colour[1:].upper()}}}"
        for name, colour in palette.items()
        if name in used and colour != "none"
    ]
    styles = [
        rf"tn box/.style={{rounded corners=3pt, inner sep=0pt, {_FONT}\bfseries, text=tn-label}}",
        rf"tn text/.style={{inner sep=0pt, {_FONT}, text=tn-text}}",
        "tn name/.style={tn text, inner sep=2pt}",
        f"tn dot/.style={{circle, inner sep=0pt, minimum size={_cm(6.4)}cm, fill=tn-line}}",
        "tn line/.style={draw=tn-line, line cap=round}",
        *(["tn marked/.style={draw=tn-mark, line width=2pt}"] if marked else []),
        *(
            f"tn {kind}/.style={{tn box, fill=tn-{kind}{', rounded corners=6pt' if kind in RELATIONS else ''}}}"
            for kind in kinds
        ),
    ]
    return "\n".join(colours) + "\n\\begin{tikzpicture}[\n" + "".join(f"  {s},\n" for s in styles) + "]\n"


@dataclass
class _Writer:
    """Writes one scene: first its nodes, each relative to one before, then its lines, which end at these.

    Args:
        scene: what is written.
        shift: to its place on the page.
        suffix: of the names of its nodes.
        origin: the first node of the page and its place there; None while there is none.
    """

    scene: Scene
    shift: Point
    suffix: str
    origin: tuple[str, Point] | None
    _places: dict[str, Point] = field(default_factory=dict)
    _sizes: dict[str, Point] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        shapes = [part for part in self.scene.parts if isinstance(part, Shape)]
        for shape in sorted(shapes, key=lambda s: (s.at[0], s.at[1])):
            yield self._shape(shape)
        texts = [p for p in self.scene.parts if isinstance(p, Text) and not p.kind.startswith("on")]
        for text in texts:
            in_a_gap = text.kind == "index" and text.owner not in self._sizes
            yield self._name(text) if in_a_gap else self._text(text)
        yield from map(self._curve, self.scene.curves)

    # -- nodes -------------------------------------------------------------------------------------

    def _shape(self, shape: Shape) -> str:
        name, place = self._named(shape.owner), self._place(shape.at)
        self.origin = self.origin or (name, shifted(shape.at, self.shift))
        self._places[shape.owner], self._sizes[shape.owner] = shape.at, shape.size
        if shape.kind == "dot":
            return (
                rf"\node[tn dot{', fill=tn-mark' * shape.marked}] ({name}) at {place} {{}}; % {shape.title}"
            )
        size = f"minimum width={_cm(shape.size[0])}cm, minimum height={_cm(shape.size[1])}cm"
        return (
            rf"\node[tn {shape.kind}, {size}{', tn marked' * shape.marked}] ({name}) at {place} "
            f"{{{_written(shape.label)}}}; % {shape.title}"
        )

    def _name(self, text: Text) -> str:
        """The name of an index in a gap of its line: half way between the ends, so that it moves with them."""
        at = (text.at[0], text.at[1] - 4.5)
        ends = [
            end.owner
            for curve in self.scene.curves
            for end in curve.ends
            if end is not None and end.owner != text.owner
            if any(e is not None and e.owner == text.owner for e in curve.ends)
        ]
        self._places[text.owner] = at
        self._sizes[text.owner] = (text.extent.right - text.extent.left + 8, 16.0)
        xs, ys = zip(*(self._places[end] for end in ends), strict=True)
        shift = (at[0] - sum(xs) / len(xs), at[1] - sum(ys) / len(ys))
        between = "barycentric cs:" + ",".join(f"{self._named(end)}=1" for end in ends)
        place = f"({_shift(shift)}{between})"
        return rf"\node[tn name] ({self._named(text.owner)}) at {place} {{{_written(Label(text.text, text.tex))}}};"

    def _text(self, text: Text) -> str:
        place = self._from(text.owner, text.at) if text.owner else self._place(text.at)
        written = _written(Label(text.text, text.tex))
        return rf"\node[tn text, anchor={_ANCHORS[text.anchor]}] at {place} {{{written}}};"

    def _place(self, at: Point) -> str:
        """A place relative to the nearest node that is written."""
        if not self._places:
            return _relative(self.origin, shifted(at, self.shift))
        owner = min(self._places, key=lambda o: math.dist(self._places[o], at))
        return self._from(owner, at)

    def _from(self, owner: str, at: Point) -> str:
        """A place relative to a node: to its side where it is there."""
        dx, dy = difference(at, self._places[owner])
        half = self._sizes[owner][0] / 2
        for side, sign in (("east", 1), ("west", -1)):
            if abs(dx - sign * half) < 0.05 and half > 4:
                return f"({_shift((0.0, dy))}{self._named(owner)}.{side})"
        return f"({_shift((dx, dy))}{self._named(owner)}.center)"

    def _named(self, owner: str) -> str:
        return owner.replace(INDEX, "index-") + self.suffix

    # -- lines -------------------------------------------------------------------------------------

    def _curve(self, curve: Curve) -> str:
        """Each point relative to the end that is nearer to it, the loose end of a leg relative to its node."""
        first, last = curve.ends
        assert isinstance(first, Port)
        count, begin, stop = len(curve.segments), curve.segments[0][0], curve.segments[-1][3]
        path = self._end(first, begin)
        for place, (start, control, control_2, end) in enumerate(curve.segments, 1):
            owner = first if last is None or math.dist(end, begin) < math.dist(end, stop) else last
            to = self._end(owner, end) if place == count else self._from(owner.owner, end)
            if control == start:
                path += f" -- {to}"
            else:
                controls = _at(difference(control, start)), _at(difference(control_2, end))
                path += f" .. controls +{controls[0]} and +{controls[1]} .. {to}"
        dashes = ", dash pattern=on 0pt off 3pt" * curve.broadcast
        width = number(thickness(curve.index) * _POINTS)
        return rf"\draw[tn line, line width={width}pt{', draw=tn-mark' * curve.marked}{dashes}] {path};"

    def _end(self, port: Port, at: Point) -> str:
        """The end of a line: at a side of a node, at its border, or in the middle of a dot."""
        if port.shift == (0.0, 0.0) and self._sizes[port.owner][0] > 7:
            return f"({self._named(port.owner)})"
        return self._from(port.owner, at)


def _relative(origin: tuple[str, Point] | None, at: Point) -> str:
    if origin is None:
        return _at(at)
    name, start = origin
    return f"({_shift(difference(at, start))}{name}.center)"


def _shift(by: Point) -> str:
    x, y = _cm(by[0]), _cm(-by[1])
    if (x, y) == ("0", "0"):
        return ""
    if x == "0":
        return f"[yshift={y}cm]"
    return f"[xshift={x}cm]" if y == "0" else f"[shift={{({x}, {y})}}]"


def _at(point: Point) -> str:
    return f"({_cm(point[0])}, {_cm(-point[1])})"


def _cm(pixels: float) -> str:
    return f"{round(pixels * _CENTIMETRES, 3) + 0.0:g}"


def _written(label: Label) -> str:
    """A label, the star of a conjugate raised."""
    if label.tex:
        return f"${label.tex}$"
    return _tex(label.text.removesuffix("*")) + ("$^*$" if label.text.endswith("*") else "")


def _tex(text: str) -> str:
    """The text with what LaTeX would read as a command written out."""
    return _SPECIAL.sub(lambda found: _WORDS.get(found[0], "\\" + found[0]), text)
