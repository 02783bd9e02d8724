"""Draws a network as a diagram in the manner of arXiv 2307.02275, as one SVG text.

Tensors are boxes coloured by their role, index patterns are small dark pills (their relation shows on
hover), deltas and indices on more than two ends are dots, and open legs dangle with their name and size.
A line is thicker for a larger index; lines of one axis, such as groups and channels, run side by side. Text is
selectable, and colours follow the reader's light or dark theme.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from tnconv.errors import TnconvError
from tnconv.inspect.labels import SMALL, TEXT, index_title, number, thickness, width_of
from tnconv.inspect.scene import Curve, Point, Scene, Shape, Text, check_names, scene_of
from tnconv.ir import Expression, Role

_MARGIN = 14.0
_HEAD = 34.0
_BETWEEN_TERMS = 60.0
_FONT = "ui-sans-serif,system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif"
LIGHT = {
    "text": "#475569",
    "line": "#7c8aa0",
    "input": "#2f6fc4",
    "parameter": "#c05a33",
    "cotangent": "#7a55b8",
    "tangent": "#23805b",
    "pattern": "#253041",
    "select": "#6b6a1f",
    "rim": "#253041",
    "mark": "#f2b01e",
}
DARK = {
    "text": "#b6c2d3",
    "line": "#8494ab",
    "input": "#3b7fd6",
    "parameter": "#c9653d",
    "cotangent": "#8d69cc",
    "tangent": "#2c936a",
    "pattern": "#3a4759",
    "select": "#82812b",
    "rim": "#8090a6",
    "mark": "#ffc53d",
}
# Every selector starts at the picture's own class, so that pictures inside one page leave it alone.
RELATIONS = ("pattern", "select")  # kinds of boxes that are rounder
_RULES = (
    ("text", f"font-family:{_FONT};font-size:{TEXT:g}px;fill:var(--text)"),
    (".on", "fill:#fff;font-weight:600"),
    (".small", f"font-size:{SMALL:g}px"),
    (".plus", "font-size:22px"),
    (".line", "fill:none;stroke:var(--line);stroke-linecap:round"),
    (".dot", "fill:var(--line)"),
    *((f".{role}", f"fill:var(--{role})") for role in Role),
    (".pattern", "fill:var(--pattern);stroke:var(--rim);stroke-width:1"),
    (".select", "fill:var(--select)"),
    (".line.marked", "stroke:var(--mark)"),
    ("rect.marked", "stroke:var(--mark);stroke-width:3.5"),
    ("circle.marked", "fill:var(--mark)"),
)


def _variables(colours: Mapping[str, str]) -> str:
    return ".tnconv{" + ";".join(f"--{name}:{value}" for name, value in colours.items()) + "}"


STYLE = (
    _variables(LIGHT)
    + f"@media(prefers-color-scheme:dark){{{_variables(DARK)}}}"
    + "".join(f".tnconv {selector}{{{rules}}}" for selector, rules in _RULES)
)


def draw(
    network: Expression,
    path: str | Path,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
) -> None:
    """Write the diagram of a network or a sum as an SVG file.

    Args:
        network: what to draw.
        path: the file; its suffix must be `.svg`.
        pos: as of `to_svg`.
        highlight: as of `to_svg`.

    Raises:
        TnconvError: the suffix is another, or the file cannot be written.
    """
    write_text(path, to_svg(network, pos, highlight), "diagram", ".svg")


def draw_all(networks: Sequence[Expression], path: str | Path) -> None:
    """Write the diagrams of several networks, one below the other, as an SVG file; errors as of `draw`."""
    write_text(path, below(networks), "diagram", ".svg")


def below(networks: Sequence[Expression]) -> str:
    """The diagrams of several networks, one below the other, as SVG text."""
    parts, width, total = [], 0.0, 0.0
    for network in networks:
        picture = to_svg(network, style=False)
        size = re.search(r'width="([\d.]+)" height="([\d.]+)"', picture)
        assert size is not None
        parts.append(picture.replace("<svg ", f'<svg y="{number(total)}" ', 1))
        width, total = max(width, float(size[1])), total + float(size[2])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tnconv" width="{number(width)}" height="{number(total)}" '
        f'viewBox="0 0 {number(width)} {number(total)}" role="img">\n<style>{STYLE}</style>\n{"".join(parts)}</svg>\n'
    )


def write_text(path: str | Path, text: str, what: str, suffix: str) -> None:
    """Write a text file.

    Raises:
        TnconvError: its suffix is another, or it cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() != suffix:
        raise TnconvError(f"{what} {str(file)!r} has suffix {file.suffix!r}; {what}s are written as {suffix}")
    try:
        file.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TnconvError(f"{what} {str(file)!r} cannot be written: {error}; check the path") from error


def to_svg(
    network: Expression,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    style: bool = True,
) -> str:
    """The diagram of a network, or of the terms of a sum side by side, as SVG text.

    The same network gives the same bytes.

    Args:
        network: what to draw.
        pos: coordinates in pixels for nodes and indices by name, in place of those of the layout; y grows
            downwards. `snapshot` says where they are otherwise.
        highlight: names of nodes and indices that are drawn in a marking colour.
        style: whether the colours and fonts come with it; a page with many diagrams has them once.

    Raises:
        TnconvError: `pos` or `highlight` names what is not there.
    """
    scenes = scenes_of(network, pos, highlight)
    height = max(s.height for s in scenes)
    parts, x = [], _MARGIN
    for place, scene in enumerate(scenes):
        if place:
            parts.append(_text(Text("plus", "+", (x + _BETWEEN_TERMS / 2, _HEAD + height / 2 + 7))))
            x += _BETWEEN_TERMS
        shift_x, shift_y = x - scene.left, _HEAD + (height - scene.height) / 2 - scene.top
        inner = "".join(map(_element, scene.parts))
        parts.append(f'<g transform="translate({number(shift_x)} {number(shift_y)})">{inner}</g>')
        x += scene.width
    caption = network.name
    width = max(x, width_of(caption, SMALL) + _MARGIN) + _MARGIN
    total = height + _HEAD + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tnconv" width="{number(width)}" height="{number(total)}" '
        f'viewBox="0 0 {number(width)} {number(total)}" role="img">\n<title>{escape(caption)}</title>\n'
        + (f"<style>{STYLE}</style>\n" if style else "")
        + "\n".join([_text(Text("small", caption, (_MARGIN, 20), "start")), *parts])
        + "\n</svg>\n"
    )


def scenes_of(
    network: Expression, pos: Mapping[str, Point] | None = None, highlight: Collection[str] = ()
) -> list[Scene]:
    """The scene of each term.

    Raises:
        TnconvError: `pos` or `highlight` names what is not there.
    """
    names = list(dict.fromkeys(x.name for t in network.terms for x in (*t.nodes, *t.indices)))
    if not isinstance(pos or {}, Mapping):
        raise TnconvError(
            f"pos={pos!r} are no positions; give names with two numbers, as in {{'x': (0, 40)}}"
        )
    check_names(names, pos or {}, "pos", network.name)
    check_names(names, highlight, "highlight", network.name)
    return [scene_of(term, pos, highlight) for term in network.terms]


# -- elements ----------------------------------------------------------------------------------------


def _element(part: Curve | Shape | Text) -> str:
    match part:
        case Curve():
            return _curve(part)
        case Shape():
            return _shape(part)
        case Text():
            return _text(part)


def _curve(curve: Curve) -> str:
    path, reached = "", None
    for start, control, control_2, end in curve.segments:
        path += "" if start == reached else f"M{_at(start)}"
        path += f"L{_at(end)}" if control == start else f"C{_at(control)} {_at(control_2)} {_at(end)}"
        reached = end
    css = "line marked" if curve.marked else "line"
    return (
        f'<path class="{css}" d="{path}" stroke-width="{number(thickness(curve.index))}">'
        f"<title>{escape(index_title(curve.index))}</title></path>"
    )


def _shape(shape: Shape) -> str:
    (x, y), (width, height) = shape.at, shape.size
    css = f"{shape.kind} marked" if shape.marked else shape.kind
    title = f"<title>{escape(shape.title)}</title>"
    if shape.kind == "dot":
        return f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="3.2">{title}</circle>'
    return (
        f'<rect class="{css}" x="{number(x - width / 2)}" y="{number(y - height / 2)}" width="{number(width)}" '
        f'height="{number(height)}" rx="{12 if shape.kind in RELATIONS else 9}">{title}</rect>'
    )


def _text(text: Text) -> str:
    x, y = text.at
    title = f"<title>{escape(text.title)}</title>" if text.title else ""
    return (
        f'<text class="{text.kind}" x="{number(x)}" y="{number(y)}" text-anchor="{text.anchor}">'
        f"{escape(text.text)}{title}</text>"
    )


def _at(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"
