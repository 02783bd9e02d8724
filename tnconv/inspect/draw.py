"""Draws a network as a diagram in the manner of arXiv 2307.02275, as one SVG text.

Tensors are boxes coloured by their role, index patterns are small dark pills (their relation shows on
hover), deltas and indices on more than two ends are dots, and open legs dangle with their name and size.
A line is thicker for a larger index. Colours are mid-tones, so the picture reads on light and on dark pages.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from tnconv.errors import TnconvError
from tnconv.inspect.layout import Box, Diagram, build, place
from tnconv.ir import Delta, Expression, Index, Network, Pattern, Tensor

_CHARACTER = 0.62  # width of a character in units of the font size; generous, for fonts differ
_TEXT = 13
_LEG = 26.0
_LEG_PITCH = 22.0
_PORT_PITCH = 13.0
_MARGIN = 14.0
_HEAD = 34.0
_BETWEEN_TERMS = 60.0
_MAX_WIDTH = 5.0
_FONT = "ui-sans-serif,system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif"
# Every selector starts at the picture's own class, so that pictures inside one page leave it alone.
_STYLE = "".join(
    f".tnconv {selector}{{{rules}}}"
    for selector, rules in (
        ("text", f"font-family:{_FONT};font-size:{_TEXT}px;fill:#717d8f"),
        (".on", "fill:#fff;font-weight:600"),
        (".small", "font-size:12px"),
        (".plus", "font-size:22px"),
        (".line", "fill:none;stroke:#7f8b9d;stroke-linecap:round"),
        (".dot", "fill:#7f8b9d"),
        (".input", "fill:#3a78c9"),
        (".parameter", "fill:#b9573a"),
        (".cotangent", "fill:#7f5cb8"),
        (".tangent", "fill:#2d8663"),
        (".pattern", "fill:#2b3442;stroke:#8a96a8;stroke-width:1.2"),
    )
)


def draw(network: Expression, path: str | Path) -> None:
    """Write the diagram of a network or a sum as an SVG file.

    Args:
        network: what to draw.
        path: the file; its suffix must be `.svg`.

    Raises:
        TnconvError: the suffix is another, or the file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() != ".svg":
        raise TnconvError(f"diagram {str(file)!r} has suffix {file.suffix!r}; diagrams are written as .svg")
    try:
        file.write_text(to_svg(network), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TnconvError(f"diagram {str(file)!r} cannot be written: {error}; check the path") from error


def to_svg(network: Expression) -> str:
    """The diagram of a network, or of the terms of a sum side by side, as SVG text.

    The same network gives the same bytes.
    """
    pictures = [_picture(term) for term in network.terms]
    height = max(p.height for p in pictures)
    parts, x = [], _MARGIN
    for number, picture in enumerate(pictures):
        if number:
            parts.append(_text((x + _BETWEEN_TERMS / 2, _HEAD + height / 2 + 7), "+", "middle", "plus"))
            x += _BETWEEN_TERMS
        shift_x, shift_y = x - picture.left, _HEAD + (height - picture.height) / 2 - picture.top
        parts.append(f'<g transform="translate({_n(shift_x)} {_n(shift_y)})">{"".join(picture.parts)}</g>')
        x += picture.width
    caption = network.name
    width = max(x, _width(caption, 12) + _MARGIN) + _MARGIN
    total = height + _HEAD + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tnconv" width="{_n(width)}" height="{_n(total)}" '
        f'viewBox="0 0 {_n(width)} {_n(total)}" role="img">\n<title>{escape(caption)}</title>\n'
        f"<style>{_STYLE}</style>\n"
        + "\n".join([_text((_MARGIN, 20), caption, "start", "small"), *parts])
        + "\n</svg>\n"
    )


# -- one network -------------------------------------------------------------------------------------


@dataclass
class _Picture:
    """The SVG elements of one network and the rectangle that they fill."""

    parts: list[str] = field(default_factory=list)
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def cover(self, left: float, top: float, right: float, bottom: float) -> None:
        self.left, self.top = min(self.left, left), min(self.top, top)
        self.right, self.bottom = max(self.right, right), max(self.bottom, bottom)


def _picture(network: Network) -> _Picture:
    diagram = build(network)
    sides = _sides(diagram)
    for box in diagram.boxes:
        _measure(box, sides[box.key], diagram)
    place(diagram)
    picture = _Picture()
    ports = _ports(diagram)
    for index, chain in diagram.lines:
        picture.parts.append(_line(index, chain, ports))
    for box in diagram.boxes:
        picture.cover(box.x - box.width / 2, box.y - box.up, box.x + box.width / 2, box.y + box.down)
        picture.parts += _legs(box, sides[box.key], picture)
        picture.parts += _shape(box, diagram)
    if network.scale != 1:
        text = f"{network.scale} ×"
        picture.left -= _width(text) + 12
        picture.parts.append(
            _text((picture.left, (picture.top + picture.bottom) / 2 + 5), text, "start", "scale")
        )
    return picture


def _sides(diagram: Diagram) -> dict[str, str]:
    """Where the open legs of each box dangle: left or right at the ends, else up in the top half or down."""
    last = len(diagram.columns) - 1
    sides = {}
    for number, column in enumerate(diagram.columns):
        dangling = [box for box in column if box.legs]
        for rank, box in enumerate(dangling):
            upper = 2 * rank < len(dangling)
            side = "up" if upper else "down"
            if number == last:
                side = "right"
            elif number == 0:
                side = "left"
            sides[box.key] = side
    return {box.key: sides.get(box.key, "") for box in diagram.boxes}


def _body(box: Box, diagram: Diagram) -> tuple[float, float]:
    """Width and height of what is drawn of a box, without its legs."""
    ports = max(map(len, diagram.neighbours[box.key]))
    legs = len(box.legs) if box.column in (0, len(diagram.columns) - 1) else 0
    match box.item:
        case Tensor(name=name):
            return max(_width(name) + 20, 38.0), max(36.0, ports * _PORT_PITCH + 12, legs * _LEG_PITCH)
        case Pattern(name=name):
            height = max(24.0, ports * _PORT_PITCH + 2, (legs - 1) * _LEG_PITCH + 16)
            return _width(name, 12) + 16, height
        case Index() as index if _is_label(box, diagram):
            return _width(index.name) + 8, 16.0
        case None:
            return 0.0, 0.0
        case _:
            return 8.0, 8.0


def _measure(box: Box, side: str, diagram: Diagram) -> None:
    """Set the width and the extents of a box to what it and its legs need."""
    box.width, height = _body(box, diagram)
    box.up = box.down = max(height / 2, 5.0)
    labels = [_width(_leg_text(leg)) for leg in box.legs]
    if side in ("left", "right"):
        box.up = box.down = max(height, len(labels) * _LEG_PITCH) / 2
    elif labels:
        box.width = max(box.width, sum(labels) + 10 * (len(labels) - 1))
        extra = _LEG + _TEXT + 4
        box.up, box.down = (box.up + extra, box.down) if side == "up" else (box.up, box.down + extra)
    elif isinstance(box.item, Index) and not _is_label(box, diagram):
        ends = sum(map(len, diagram.neighbours[box.key]))
        box.up, box.down = (24.0, 8.0) if ends > 1 else (9.0, 9.0)
        box.width = _width(box.item.name) * (1 if ends > 1 else 2) + 18


def _is_label(box: Box, diagram: Diagram) -> bool:
    """Whether an index is a plain line from left to right, so that its name stands in a gap of the line."""
    left, right = diagram.neighbours[box.key]
    return isinstance(box.item, Index) and not box.legs and len(left) == len(right) == 1


# -- lines -------------------------------------------------------------------------------------------

_Ports = dict[tuple[str, str], tuple[float, float]]


def _ports(diagram: Diagram) -> _Ports:
    """Where a line meets a box, by (box, box at the other end): spread over the side, in order of height."""
    found: _Ports = {}
    near = diagram.neighbours
    for box in diagram.boxes:
        width, height = _body(box, diagram)
        if box.item is None:
            width = box.width
        if isinstance(box.item, Delta) or (isinstance(box.item, Index) and not _is_label(box, diagram)):
            width = height = 0.0
        for sign, others in zip((-1, 1), near[box.key], strict=True):
            pitch = min(_PORT_PITCH, height / max(len(others), 1))
            for number, other in enumerate(sorted(others, key=lambda b: b.y)):
                y = box.y + (number - (len(others) - 1) / 2) * pitch
                found[box.key, other.key] = (box.x + sign * width / 2, y)
    return found


def _line(index: Index, chain: Sequence[Box], ports: _Ports) -> str:
    path = ""
    for left, right in itertools.pairwise(chain):
        (x1, y1), (x2, y2) = ports[left.key, right.key], ports[right.key, left.key]
        middle = (x1 + x2) / 2
        path += f"M{_n(x1)} {_n(y1)}C{_n(middle)} {_n(y1)} {_n(middle)} {_n(y2)} {_n(x2)} {_n(y2)}"
        if right is not chain[-1]:
            far = ports[right.key, chain[chain.index(right) + 1].key]
            path += f"L{_n(far[0])} {_n(far[1])}"
    return f'<path class="line" d="{path}" stroke-width="{_thickness(index)}">{_index_title(index)}</path>'


def _legs(box: Box, side: str, picture: _Picture) -> Iterator[str]:
    """The open legs of a box, each with its label, which the picture is made to cover."""
    widths = [_width(_leg_text(leg)) for leg in box.legs]
    total = sum(widths) + 10 * (len(widths) - 1)
    reached = box.x - total / 2
    for number, (leg, width) in enumerate(zip(box.legs, widths, strict=True)):
        if side in ("left", "right"):
            sign, anchor = (-1, "end") if side == "left" else (1, "start")
            y1 = y2 = box.y + (number - (len(widths) - 1) / 2) * _LEG_PITCH
            x1, x2 = box.x, box.x + sign * (box.width / 2 + _LEG)
            x, y = x2 + sign * 5, y2 + 4.5
            picture.cover(min(x, x + sign * width), y - _TEXT, max(x, x + sign * width), y + 4)
        else:
            sign, anchor = (-1, "middle") if side == "up" else (1, "middle")
            x = x1 = x2 = reached + width / 2
            reached += width + 10
            reach = (box.up if side == "up" else box.down) - _TEXT - 4
            y1, y2 = box.y, box.y + sign * reach
            y = y2 - 5 if side == "up" else y2 + _TEXT + 1
        yield (
            f'<path class="line" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}" stroke-width="{_thickness(leg)}">'
            f"{_index_title(leg)}</path>" + _text((x, y), _leg_text(leg), anchor, "leg")
        )


def _thickness(index: Index) -> str:
    bits = math.log2(index.size) if isinstance(index.size, int) else 5.0
    return _n(min(1.0 + 0.3 * bits, _MAX_WIDTH))


# -- shapes and texts --------------------------------------------------------------------------------


def _shape(box: Box, diagram: Diagram) -> Iterator[str]:
    """What stands at the place of a box; nothing for a bend."""
    size, middle = _body(box, diagram), (box.x, box.y + 4.5)
    match box.item:
        case Tensor() as tensor:
            title = f"{tensor.name}: {tensor.role} [{', '.join(map(str, tensor.axes))}]"
            yield _rectangle(box, size, tensor.role, title)
            yield _text(middle, tensor.name, "middle", "on")
        case Pattern() as relation:
            yield _rectangle(box, size, "pattern", f"{relation.name}: {relation.relation_text()}")
            yield _text(middle, relation.name, "middle", "on small")
        case Delta() as delta:
            yield _dot(box, f"<title>{escape(f'{delta.name}: {delta.relation_text()}')}</title>")
        case Index() as index if _is_label(box, diagram):
            yield _text(middle, index.name, "middle", "index")
        case Index() as index:
            yield _dot(box, _index_title(index))
            yield from _junction_name(box, index, diagram)
        case _:
            return


def _junction_name(box: Box, index: Index, diagram: Diagram) -> Iterator[str]:
    """The name of an index that is a dot: on its leg if it has one, behind the end of a line, else above."""
    left, right = diagram.neighbours[box.key]
    if box.legs:
        return
    if len(left) + len(right) > 1:
        yield _text((box.x, box.y - 9), index.name, "middle", "index")
    elif left:
        yield _text((box.x + 8, box.y + 4.5), index.name, "start", "index")
    else:
        yield _text((box.x - 8, box.y + 4.5), index.name, "end", "index")


def _rectangle(box: Box, size: tuple[float, float], css: str, title: str) -> str:
    width, height = size
    return (
        f'<rect class="{css}" x="{_n(box.x - width / 2)}" y="{_n(box.y - height / 2)}" width="{_n(width)}" '
        f'height="{_n(height)}" rx="{12 if css == "pattern" else 9}"><title>{escape(title)}</title></rect>'
    )


def _dot(box: Box, title: str) -> str:
    return f'<circle class="dot" cx="{_n(box.x)}" cy="{_n(box.y)}" r="3.2">{title}</circle>'


def _index_title(index: Index) -> str:
    return f"<title>{escape(f'{index.name}, size {index.size}')}</title>"


def _leg_text(leg: Index) -> str:
    return f"{leg.name}={leg.size}"


def _text(at: tuple[float, float], text: str, anchor: str, css: str) -> str:
    return f'<text class="{css}" x="{_n(at[0])}" y="{_n(at[1])}" text-anchor="{anchor}">{escape(text)}</text>'


def _width(text: str, size: float = _TEXT) -> float:
    return len(text) * size * _CHARACTER


def _n(value: float) -> str:
    """A number with at most one decimal, never `-0`."""
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"
