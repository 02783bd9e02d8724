"""The contraction tree of a plan as SVG: arguments on the left, each step with its sizes and multiplications.

A result that is read twice is drawn once, with a line to each reader. The bar in a box is its share of all
multiplications, sizes at the hints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tnconv.inspect.labels import SMALL, TEXT, number, width_of
from tnconv.inspect.look import count_text, hinted
from tnconv.ir.printer import format_axes
from tnconv.planner import Plan, Step

_GAP_X, _GAP_Y, _PAD = 46.0, 14.0, 12.0
_HEIGHT, _LEAF_HEIGHT = 62.0, 40.0
_MOST_CHARACTERS = 46


@dataclass(eq=False)
class _Card:
    """A box of the tree: an argument or the result of a step."""

    name: str
    lines: tuple[str, ...]
    title: str
    share: float | None
    inputs: tuple[str, ...] = ()
    column: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return max(width_of(line, SMALL if row else TEXT) for row, line in enumerate(self.lines)) + 2 * _PAD

    @property
    def height(self) -> float:
        return _LEAF_HEIGHT if self.share is None else _HEIGHT


def tree_svg(plan: Plan, kernels: Mapping[str, str] | None = None) -> str:
    """The tree as an SVG element of a page; it has no colours of its own but classes.

    Args:
        plan: what to draw.
        kernels: name of the kernel of each step.
    """
    cards = _cards(plan, kernels or {})
    _place(cards)
    width = max(c.x + c.width for c in cards.values()) + 2
    height = max(c.y + c.height / 2 for c in cards.values()) + 2
    parts = [_edge(cards[source], card) for card in cards.values() for source in card.inputs]
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
            f"{step.result}{format_axes(step.output)}: {count_text(step.multiplications)} multiplications, "
            f"{count_text(step.elements)} elements",
            share,
            tuple(o.source for o in step.operands),
        )
        sources = [cards[o.source].column for o in step.operands]
        cards[step.result].column = max(sources, default=0) + 1
    return cards


def _step_lines(step: Step, kernel: str) -> tuple[str, ...]:
    counts = (
        f"{_short(count_text(step.multiplications), 22)} mult. → {_short(count_text(step.elements), 22)} el."
    )
    return (_short(f"{step.result} {format_axes(step.output)}"), counts, *([kernel] if kernel else []))


def _short(text: str, most: int = _MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _place(cards: Mapping[str, _Card]) -> None:
    """Columns by depth; each step beside the middle of what it reads, none over another."""
    columns: list[list[_Card]] = [[] for _ in range(max(c.column for c in cards.values()) + 1)]
    for card in cards.values():
        columns[card.column].append(card)
    x = 1.0
    for column in columns:
        for card in column:
            card.x = x
        x += max((c.width for c in column), default=0.0) + _GAP_X
        _stack(column, cards)


def _stack(column: Sequence[_Card], cards: Mapping[str, _Card]) -> None:
    wanted = {c.name: _middle([cards[i] for i in c.inputs]) for c in column}
    bottom = 1.0
    for card in sorted(column, key=lambda c: wanted[c.name]):
        card.y = max(wanted[card.name], bottom + card.height / 2)
        bottom = card.y + card.height / 2 + _GAP_Y


def _middle(cards: Sequence[_Card]) -> float:
    return sum(c.y for c in cards) / len(cards) if cards else 0.0


def _edge(source: _Card, card: _Card) -> str:
    x1, y1, x2, y2 = source.x + source.width, source.y, card.x, card.y
    twice = card.inputs.count(source.name) > 1
    middle = (x1 + x2) / 2
    points = ((x1, y1), (middle, y1), (middle, y2), (x2, y2))
    start, *controls = (f"{number(x)} {number(y)}" for x, y in points)
    path = f"M{start}C{' '.join(controls)}"
    css = "edge twice" if twice else "edge"
    return f'<path class="{css}" d="{path}"><title>{escape(source.name)} → {escape(card.name)}</title></path>'


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
