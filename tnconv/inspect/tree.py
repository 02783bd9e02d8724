"""The contraction tree of a plan as SVG: arguments on the left, each step with its sizes and multiplications.

A result that is read twice is drawn once, with a line to each reader. A line that goes past a column has a place there
between the boxes. The bar in a box is its share of all
multiplications, sizes at the hints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tnconv.inspect.labels import SMALL, TEXT, number, width_of
from tnconv.inspect.views import hinted
from tnconv.ir.network_printer import format_axes
from tnconv.ir.quantities import format_count
from tnconv.planner import Plan, Step

_GAP_X, _GAP_Y, _PAD = 46.0, 14.0, 12.0
_HEIGHT, _LEAF_HEIGHT, _WAY_HEIGHT = 62.0, 40.0, 2.0
_MOST_CHARACTERS = 46


@dataclass(eq=False)
class _Card:
    """A box of the tree: an argument or the result of a step. `end` is where its column ends."""

    name: str
    lines: tuple[str, ...]
    title: str
    share: float | None
    inputs: tuple[str, ...] = ()
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    end: float = 0.0

    @property
    def width(self) -> float:
        return max(width_of(line, SMALL if row else TEXT) for row, line in enumerate(self.lines)) + 2 * _PAD

    @property
    def height(self) -> float:
        return _LEAF_HEIGHT if self.share is None else _HEIGHT


@dataclass(eq=False)
class _Way:
    """Where a line goes past the cards of a column, from its left to its right."""

    behind: "_Card | _Way"
    column: int
    x: float = 0.0
    y: float = 0.0
    end: float = 0.0
    width: float = 0.0
    height: float = _WAY_HEIGHT


Ways = dict[tuple[str, str], list[_Way]]  # by source and reader


def tree_svg(plan: Plan, kernels: Mapping[str, str] | None = None) -> str:
    """The tree as an SVG element of a page; it has no colours of its own but classes.

    Args:
        plan: what to draw.
        kernels: name of the kernel of each step.
    """
    cards = _cards(plan, kernels or {})
    ways = _ways(cards)
    every: list[_Card | _Way] = [*cards.values(), *(way for found in ways.values() for way in found)]
    _place(every, cards)
    width = max(c.x + c.width for c in cards.values()) + 2
    height = max(c.y + c.height / 2 for c in every) + 2
    parts = [_edge(cards[source], found, cards[reader]) for (source, reader), found in ways.items()]
    parts += [piece for card in cards.values() for piece in _elements(card)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tree" width="{number(width)}" height="{number(height)}" '
        f'viewBox="0 0 {number(width)} {number(height)}" role="img"><title>contraction tree of {escape(plan.name)}'
        f"</title>{''.join(parts)}</svg>"
    )


def _cards(plan: Plan, kernels: Mapping[str, str]) -> dict[str, _Card]:
    total = max(sum(hinted(step.multiplications, plan) for step in plan.steps), 1)
    cards: dict[str, _Card] = {}
    for name, sizes in plan.arguments.items():
        shape = f"[{', '.join(map(str, sizes))}]"
        cards[name] = _Card(name, (name, _short(shape)), f"argument {name} {shape}", None)
    for step in plan.steps:
        share = hinted(step.multiplications, plan) / total
        cards[step.result] = _Card(
            step.result,
            _step_lines(step, kernels.get(step.result, "")),
            f"{step.result}{format_axes(step.output)}: {format_count(step.multiplications)} multiplications, "
            f"{format_count(step.elements)} elements",
            share,
            tuple(o.source for o in step.operands),
        )
        sources = [cards[o.source].column for o in step.operands]
        cards[step.result].column = max(sources, default=0) + 1
    return cards


def _step_lines(step: Step, kernel: str) -> tuple[str, ...]:
    counts = f"{_short(format_count(step.multiplications), 22)} mult. → {_short(format_count(step.elements), 22)} el."
    return (_short(f"{step.result} {format_axes(step.output)}"), counts, *([kernel] if kernel else []))


def _short(text: str, most: int = _MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _ways(cards: Mapping[str, _Card]) -> Ways:
    """For every line the columns that it goes past, none for one that ends in the next."""
    found: Ways = {}
    for card in cards.values():
        for source in card.inputs:
            at: _Card | _Way = cards[source]
            found[source, card.name] = ways = []
            for column in range(at.column + 1, card.column):
                at = _Way(at, column)
                ways.append(at)
    return found


def _place(every: Sequence[_Card | _Way], cards: Mapping[str, _Card]) -> None:
    """Columns by depth; each step beside the middle of what it reads, none over another, no line over a card."""
    columns: list[list[_Card | _Way]] = [[] for _ in range(max(c.column for c in every) + 1)]
    for each in every:
        columns[each.column].append(each)
    x = 1.0
    for column in columns:
        widest = max((c.width for c in column), default=0.0)
        for each in column:
            each.x, each.end = x, x + widest
        x += widest + _GAP_X
        _stack(column, cards)


def _stack(column: Sequence[_Card | _Way], cards: Mapping[str, _Card]) -> None:
    wanted = {
        id(c): c.behind.y if isinstance(c, _Way) else _middle([cards[i] for i in c.inputs]) for c in column
    }
    bottom = 1.0
    for each in sorted(column, key=lambda c: wanted[id(c)]):
        each.y = max(wanted[id(each)], bottom + each.height / 2)
        bottom = each.y + each.height / 2 + _GAP_Y


def _middle(cards: Sequence[_Card]) -> float:
    return sum(c.y for c in cards) / len(cards) if cards else 0.0


def _edge(source: _Card, ways: Sequence[_Way], card: _Card) -> str:
    path = f"M{number(source.x + source.width)} {number(source.y)}"
    at: _Card | _Way = source
    onwards: list[_Card | _Way] = [*ways, card]
    for each in onwards:
        path += f"H{number(at.end)}{_curve(at.end, at.y, each.x, each.y)}"
        at = each
    css = "edge twice" if card.inputs.count(source.name) > 1 else "edge"
    return f'<path class="{css}" d="{path}"><title>{escape(source.name)} → {escape(card.name)}</title></path>'


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    return "C" + " ".join(f"{number(x)} {number(y)}" for x, y in ((middle, y1), (middle, y2), (x2, y2)))


def _elements(card: _Card) -> Iterator[str]:
    left, top = card.x, card.y - card.height / 2
    css = "leaf" if card.share is None else "step"
    yield (
        f'<rect class="card {css}" x="{number(left)}" y="{number(top)}" width="{number(card.width)}" '
        f'height="{number(card.height)}" rx="8"><title>{escape(card.title)}</title></rect>'
    )
    for row, line in enumerate(card.lines):
        kind = ("name", "count", "kernel")[row]
        y = top + 17 + 16 * row
        yield f'<text class="{kind}" x="{number(left + _PAD)}" y="{number(y)}">{escape(line)}</text>'
    if card.share is not None:
        full = card.width - 2 * _PAD
        yield (
            f'<rect class="share" x="{number(left + _PAD)}" y="{number(top + card.height - 7)}" '
            f'width="{number(max(full * card.share, 1.5))}" height="3" rx="1.5">'
            f"<title>{card.share:.0%} of the multiplications</title></rect>"
        )
