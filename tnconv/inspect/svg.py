"""Writes a network as a diagram in the manner of arXiv 2307.02275, as one SVG text.

Tensors are boxes coloured by their role, index patterns are small dark pills (their relation shows on
hover), deltas and indices on more than two ends are dots, and open legs dangle with their name and size.
A line is thicker for a larger index; lines of one axis, such as groups and channels, run side by side. Text is
selectable.
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Unpack
from zlib import crc32

from tnconv.errors import TnconvError
from tnconv.inspect.appearance import Look, PictureOptions, look_of
from tnconv.inspect.labels import MATHEMATICS, SMALL, TEXT, index_title, number, thickness
from tnconv.inspect.mathematics import Run, runs, unknown_command
from tnconv.inspect.picture import picture_of
from tnconv.inspect.scene_parts import Curve, Part, Point, Shape, Text
from tnconv.ir import Expression, Role

_FONT = "ui-sans-serif,system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif"
_MATH_FONT = "'Latin Modern Math','STIX Two Text','STIX Two Math','Times New Roman','DejaVu Serif',serif"
_AUTO = Look(theme="auto")
RELATIONS = ("pattern", "select")  # kinds of boxes that are rounder
# Every selector starts at the picture's own class, so that pictures inside one page leave it and each other alone.
_RULES = (
    ("text", f"font-family:{_FONT};font-size:{TEXT:g}px;fill:@text"),
    (".on", "fill:@label;font-weight:600"),
    (".small", f"font-size:{SMALL:g}px"),
    (".math", f"font-family:{_MATH_FONT};font-size:{MATHEMATICS:g}px;font-weight:400"),
    (".italic", "font-style:italic"),
    (".bold", "font-weight:700"),
    (".plus", "font-size:22px"),
    (".line", "fill:none;stroke:@line;stroke-linecap:round;stroke-linejoin:round"),
    (".broadcast", "stroke-dasharray:1 5"),
    (".dot", "fill:@line"),
    *((f".{role}", f"fill:@{role}") for role in Role),
    (".pattern", "fill:@pattern;stroke:@rim;stroke-width:1"),
    (".select", "fill:@select"),
    (".line.marked", "stroke:@mark"),
    ("rect.marked", "stroke:@mark;stroke-width:3.5"),
    ("circle.marked", "fill:@mark"),
    (".background", "fill:@background"),
)


def _variables(css: str, colours: Mapping[str, str]) -> str:
    return f".{css}{{" + ";".join(f"--{name}:{value}" for name, value in colours.items()) + "}"


def _rules(css: str) -> str:
    return "".join(f".{css} {selector}{{{rules}}}" for selector, rules in _RULES)


def _style(look: Look) -> tuple[str, str]:
    """The class of a picture, and its style sheet.

    With `auto` the reader's theme is followed by variables. A picture of one theme has plain colours: editors of
    drawings and word processors know no variables.
    """
    if look.theme == "auto":
        light, dark = look.palette("light"), look.palette("dark")
        css = "tnconv" if not look.colours else f"tnconv-{crc32(repr(light).encode()):08x}"
        follow = f"@media(prefers-color-scheme:dark){{{_variables(css, dark)}}}"
        rules = _rules(css)
        for name in light:
            rules = rules.replace(f":@{name}", f":var(--{name})")
        return css, _variables(css, light) + follow + rules
    palette = look.palette(look.theme)
    css = f"tnconv-{look.theme}" + (f"-{crc32(repr(palette).encode()):08x}" if look.colours else "")
    rules = _rules(css)
    for name, colour in palette.items():
        rules = rules.replace(f":@{name}", f":{colour}")
    return css, rules


STYLE = _style(_AUTO)[1]  # of pictures that follow the reader's theme


def to_svg(
    network: Expression,
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    style: bool = True,
    **options: Unpack[PictureOptions],
) -> str:
    """The diagram of a network, or of the terms of a sum side by side, as SVG text.

    The same network gives the same bytes.

    Args:
        network: what to draw.
        pos: coordinates in pixels for nodes and indices by name, in place of those of the layout; y grows
            downwards. `snapshot` says where they are otherwise. Lines go around what stands in their way then.
        highlight: names of nodes and indices that are drawn in a marking colour.
        style: whether the colours and fonts come with it; a page with many diagrams has them once.
        **options: `labels`, `title`, `sizes`, `theme` and `colours`, as of `tnconv.inspect.Look`; the theme is `auto`
            unless one is given.

    Raises:
        TnconvError: `pos`, `highlight` or `labels` names what is not there, or an option is wrong.
    """
    return svg_of([network], pos, highlight, look_of(options, _AUTO), style)


def svg_of(
    networks: Sequence[Expression],
    pos: Mapping[str, Point] | None = None,
    highlight: Collection[str] = (),
    look: Look = _AUTO,
    style: bool = True,
) -> str:
    """The diagrams of several networks, one below the other, as SVG text; arguments as of `to_svg`."""
    picture = picture_of(networks, pos, highlight, look)
    css, rules = _style(look)
    width, height = number(picture.width), number(picture.height)
    parts = [_text(text) for text in picture.texts]
    for scene, shift in picture.scenes:
        inner = "".join(map(_element, scene.parts))
        parts.append(f'<g transform="translate({number(shift[0])} {number(shift[1])})">{inner}</g>')
    if "background" in (look.colours or {}):
        parts.insert(0, f'<rect class="background" width="{width}" height="{height}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{css}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">\n<title>{escape(picture.name)}</title>\n'
        + (f"<style>{rules}</style>\n" if style else "")
        + "\n".join(parts)
        + "\n</svg>\n"
    )


# -- elements ----------------------------------------------------------------------------------------


def _element(part: Part) -> str:
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
    css = "line" + " broadcast" * curve.broadcast + " marked" * curve.marked
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
    css = {"title": "small"}.get(text.kind, text.kind) + (" math" if text.tex else "")
    inner = _mathematics(text.tex) if text.tex else escape(text.text)
    return f'<text class="{css}" x="{number(x)}" y="{number(y)}" text-anchor="{text.anchor}">{inner}{title}</text>'


def _mathematics(tex: str) -> str:
    """Runs as spans, each moved up or down from where the last one ended."""
    unknown = unknown_command(tex)
    if unknown is not None:
        raise TnconvError(
            f"label {tex!r} has {unknown}, which an SVG cannot show; leave it out, or draw .tex, which TeX sets"
        )
    height, spans = 0.0, []
    for run in runs(tex):
        css = " ".join(["italic"] * run.italic + ["bold"] * run.bold)
        spans.append(_span(run, css, (height - run.rise) * MATHEMATICS))
        height = run.rise
    return "".join(spans)


def _span(run: Run, css: str, down: float) -> str:
    attributes = f' class="{css}"' if css else ""
    attributes += f' dy="{number(down)}"' if number(down) != "0" else ""
    attributes += f' font-size="{number(run.scale * MATHEMATICS)}"' if run.scale != 1 else ""
    return f"<tspan{attributes}>{escape(run.text)}</tspan>"


def _at(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"
