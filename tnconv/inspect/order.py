"""The order of the boxes in each column of a diagram: few crossings, open legs outside, halves alike."""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from tnconv.inspect.boxes import Box, Columns, Diagram, is_vertical
from tnconv.ir import Index

_SWEEPS = 8
_MAX_LINKS_TO_COUNT = 400
_MAX_LINKS_TO_IMPROVE = 160
_BURIED = 0.6  # what a box between a node's leg and the edge of the picture counts, in crossings
_BURIED_INDEX = 0.25  # the same for the leg of an index on several nodes, which may point inwards
_ROUNDS = 4


def order(diagram: Diagram) -> None:
    """Sort the columns by the mean place of neighbours, then exchange boxes as long as that costs less.

    Args:
        diagram: its columns are put in order.
    """
    best, least = diagram.columns, float("inf")
    for columns in _sorted_columns(diagram):
        cost = _cost(diagram, columns)
        if cost < least:
            best, least = columns, cost
        if least == 0:
            break
    if len(diagram.links) <= _MAX_LINKS_TO_IMPROVE:
        best = _improved(diagram, best, least)
    diagram.columns = best


def crossings(diagram: Diagram) -> int:
    """How often lines cross in a diagram with its columns in their order."""
    return _crossings(diagram, diagram.columns)


def _sorted_columns(diagram: Diagram) -> Iterator[Columns]:
    """Columns that were sorted to and fro, with legs kept outside and without."""
    near = {
        key: ([b for b, _ in left], [b for b, _ in right])
        for key, (left, right) in diagram.neighbours.items()
    }
    both = {key: [*left, *right] for key, (left, right) in near.items()}
    for outside in (True, False):
        columns = [_legs_outside(c, len(diagram.columns)) for c in diagram.columns]
        for column in columns[1::2]:
            _sort(column, columns, both, outside)
        for sweep in range(_SWEEPS):
            side = sweep % 2
            for column in columns if side == 0 else columns[::-1]:
                _sort(column, columns, {key: sides[side] for key, sides in near.items()}, outside)
            columns = _reflected(diagram, columns)
            yield [list(c) for c in columns]


def _sort(column: list[Box], columns: Columns, near: Mapping[str, Sequence[Box]], outside: bool) -> None:
    heights = {b.key: p - (len(c) - 1) / 2 for c in columns for p, b in enumerate(c)}

    def mean(box: Box) -> float:
        others = near[box.key] or [box]
        return sum(heights[b.key] for b in others) / len(others)

    column.sort(key=mean)
    if outside:
        column[:] = _legs_outside(column, len(columns))


def _legs_outside(column: Sequence[Box], count: int) -> list[Box]:
    """Nodes with vertical legs at the top and at the bottom, the others between them."""
    dangling = [b for b in column if is_vertical(b, count) and not isinstance(b.item, Index)]
    half = dangling[: (len(dangling) + 1) // 2]
    below = dangling[len(half) :]
    return [*half, *(b for b in column if b not in dangling), *below]


def _reflected(diagram: Diagram, columns: Columns) -> Columns:
    """The columns, the right half in the order of the left half where one is the mirror image of the other."""
    columns = [list(c) for c in columns]
    for number in range(len(columns) // 2) if diagram.mirror else ():
        rows = {diagram.mirror.get(b.key, b.key): row for row, b in enumerate(columns[number])}
        opposite = columns[-1 - number]
        if all(b.key in rows for b in opposite):
            opposite.sort(key=lambda b: rows[b.key])
    return columns


def _cost(diagram: Diagram, columns: Columns) -> float:
    """Crossings of lines, and boxes that stand between a leg and the edge of the picture."""
    buried = sum(
        min(row, len(column) - 1 - row) * (_BURIED_INDEX if isinstance(box.item, Index) else _BURIED)
        for column in columns
        for row, box in enumerate(column)
        if is_vertical(box, len(columns))
    )
    if len(diagram.links) > _MAX_LINKS_TO_COUNT:
        return len(diagram.links) + buried
    return _crossings(diagram, columns) + buried


def _crossings(diagram: Diagram, columns: Columns) -> int:
    place = {b.key: p for c in columns for p, b in enumerate(c)}
    by_column: list[list[tuple[int, int]]] = [[] for _ in columns]
    for a, b, _ in diagram.links:
        by_column[a.column].append((place[a.key], place[b.key]))
    found = 0
    for ends in by_column:
        above: list[int] = []  # right ends of those that begin further up, sorted
        for _, right in sorted(ends):
            found += len(above) - bisect_right(above, right)
            insort(above, right)
    return found


def _improved(diagram: Diagram, columns: Columns, cost: float) -> Columns:
    """The columns after moves that cost less each: a line to the top or the bottom, neighbours exchanged."""
    for _ in range(_ROUNDS):
        before = cost
        for moved in _moves(diagram, columns):
            tried = _reflected(diagram, moved(columns))
            found = _cost(diagram, tried)
            if found < cost:
                columns, cost = tried, found
        if cost in (0, before):
            break
    return columns


def _moves(diagram: Diagram, columns: Columns) -> Iterator[Callable[[Columns], Columns]]:
    for index in dict.fromkeys(index for index, _ in diagram.lines):
        keys = _keys_of_line(diagram, index)
        yield from (partial(_to_edge, keys, top) for top in (True, False))
    for number, column in enumerate(columns):
        yield from (partial(_exchanged, number, row) for row in range(len(column) - 1))


def _keys_of_line(diagram: Diagram, index: Index) -> frozenset[str]:
    """The bends and the name of an index, and of its mirror image."""
    keys = {
        box.key
        for i, chain in diagram.lines
        if i == index
        for box in chain
        if box.item is None or isinstance(box.item, Index)
    }
    return frozenset(keys | {diagram.mirror.get(key, key) for key in keys})


def _to_edge(keys: frozenset[str], top: bool, columns: Columns) -> Columns:
    return [sorted(column, key=lambda box: (box.key in keys) != top) for column in columns]


def _exchanged(number: int, row: int, columns: Columns) -> Columns:
    made = [list(column) for column in columns]
    made[number][row], made[number][row + 1] = made[number][row + 1], made[number][row]
    return made
