"""The diagram of a network as TikZ, for papers: text only, with the same layout as the SVG.

The text is a `tikzpicture` that brings its colours and styles; it needs `\\usepackage{tikz}` and no library.
"""

import re
from collections.abc import Collection, Mapping

from tnconv.inspect.draw import LIGHT, RELATIONS, scenes_of
from tnconv.inspect.labels import number, thickness
from tnconv.inspect.scene import Curve, Point, Scene, Shape, Text
from tnconv.ir import Expression

_CENTIMETRES = 1 / 44  # of a pixel
_POINTS = 0.75  # of a pixel
_BETWEEN_TERMS = 60.0
_ANCHORS = {"start": "base west", "middle": "base", "end": "base east"}
_SPECIAL = re.compile(r"[&%$#_{}\\~^×*]")
_WORDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "*": r"$\cdot$",
}


def tikz(network: Expression, pos: Mapping[str, Point] | None = None, highlight: Collection[str] = ()) -> str:
    """The diagram as a `tikzpicture`.

    Args:
        network: what to draw; the terms of a sum stand side by side.
        pos: as of `to_svg`.
        highlight: as of `to_svg`.

    Raises:
        TnconvError: `pos` or `highlight` names what is not there.
    """
    scenes = scenes_of(network, pos, highlight)
    lines, x = [], 0.0
    for place, scene in enumerate(scenes):
        if place:
            lines.append(rf"\node at {_at((x + _BETWEEN_TERMS / 2, 0.0))} {{$+$}};")
            x += _BETWEEN_TERMS
        shift = (x - scene.left, -(scene.top + scene.bottom) / 2)
        lines += _lines(scene, shift)
        x += scene.width
    colours = [rf"\definecolor{{tn-{name}}}{{HTML}}{{{LIGHT[name][1:].upper()}}}" for name in LIGHT]
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f"% {network.name}, drawn by tnconv\n" + "\n".join(colours) + "\n"
        "\\begin{tikzpicture}[\n"
        "  tn box/.style={rounded corners=3pt, inner sep=0pt, font=\\footnotesize\\sffamily\\bfseries, text=white},\n"
        "  tn text/.style={inner sep=0pt, font=\\footnotesize\\sffamily, text=tn-text},\n"
        "  tn line/.style={draw=tn-line, line cap=round},\n"
        "  tn marked/.style={draw=tn-mark, line width=2pt},\n"
        f"]\n{body}\n\\end{{tikzpicture}}\n"
    )


def _lines(scene: Scene, shift: Point) -> list[str]:
    return [line for part in scene.parts if (line := _line(part, shift))]


def _line(part: Curve | Shape | Text, shift: Point) -> str:
    match part:
        case Curve():
            return _curve(part, shift)
        case Shape():
            return _shape(part, shift)
        case Text(kind=kind) if kind.startswith("on"):
            return ""  # the box has it
        case Text():
            at = _at(part.at, shift)
            return rf"\node[tn text, anchor={_ANCHORS[part.anchor]}] at {at} {{{_tex(part.text)}}};"


def _curve(curve: Curve, shift: Point) -> str:
    pieces, reached = [], None
    for start, control, control_2, end in curve.segments:
        if start != reached:
            pieces.append(_at(start, shift))
        straight = control == start
        curved = f".. controls {_at(control, shift)} and {_at(control_2, shift)} .. {_at(end, shift)}"
        pieces.append(f"-- {_at(end, shift)}" if straight else curved)
        reached = end
    colour = ", draw=tn-mark" if curve.marked else ""
    width = number(thickness(curve.index) * _POINTS)
    return rf"\draw[tn line, line width={width}pt{colour}] {' '.join(pieces)};"


def _shape(shape: Shape, shift: Point) -> str:
    at, marked = _at(shape.at, shift), ", tn marked" if shape.marked else ""
    if shape.kind == "dot":
        colour = "tn-mark" if shape.marked else "tn-line"
        return rf"\fill[{colour}] {at} circle[radius={_cm(3.2)}cm];"
    width, height = shape.size
    rounded = ", rounded corners=6pt" if shape.kind in RELATIONS else ""
    size = f"minimum width={_cm(width)}cm, minimum height={_cm(height)}cm"
    return (
        rf"\node[tn box, fill=tn-{shape.kind}, {size}{rounded}{marked}] at {at} {{{_label(shape.label)}}};"
        f" % {shape.title}"
    )


def _at(point: Point, shift: Point = (0.0, 0.0)) -> str:
    return f"({_cm(point[0] + shift[0])}, {_cm(-point[1] - shift[1])})"


def _cm(pixels: float) -> str:
    return f"{round(pixels * _CENTIMETRES, 3) + 0.0:g}"


def _label(text: str) -> str:
    """The name of a node, the star of a conjugate raised."""
    return _tex(text.removesuffix("*")) + ("$^*$" if text.endswith("*") else "")


def _tex(text: str) -> str:
    """The text with what LaTeX would read as a command written out."""
    return _SPECIAL.sub(lambda found: _WORDS.get(found[0], "\\" + found[0]), text)
