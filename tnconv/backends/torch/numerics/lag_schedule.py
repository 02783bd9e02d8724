"""What `lag.correlate` does along one axis, as plain integers: which rows are multiplied with which.

`lag` has the algebra. Nothing here touches a tensor.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from tnconv.backends.torch.numerics.remembered import remembered
from tnconv.ir.shapes import ConvAxis, covered

_ALIGNED = 4  # products whose columns are a multiple of it are up to twice as fast

Variant = Literal["lag2", "lag1", "windows"]
VARIANTS: tuple[Variant, ...] = ("lag2", "lag1", "windows")
_SHOWN = 64  # the largest tile that a message names


def line(axis: ConvAxis, phase: int) -> tuple[int, int]:
    """The range of t for which `X_phase[t]` is a cell that some position reads."""
    origin = axis.dilation * phase + axis.offset
    low = max(0, -(origin // axis.stride))
    last = axis.positions + axis.step * ((axis.kernel - 1 - phase) // axis.phases)
    return low, max(low, min(last, (axis.size - 1 - origin) // axis.stride + 1))


def tile_cells(axis: ConvAxis, positions: int) -> int:
    """Cells of a tile of so many positions: with several, more than they read, so that products are aligned."""
    if positions == 1:
        return axis.kernel
    return -(-covered(axis.kernel, axis.dilation, positions, axis.stride) // _ALIGNED) * _ALIGNED


class Term(NamedTuple):
    """The product of `length` rows of one line with as many of another."""

    phase: int
    row: int
    phase_2: int
    row_2: int
    length: int


class Block(NamedTuple):
    """How `S[tap, tap_2]` is made: `common` is added to what the block before it shares, `own` to that.

    `starts` says that it shares nothing with the block before it: `common` is the beginning.
    """

    tap: int
    tap_2: int
    starts: bool
    common: Term
    own: Term | None


@remembered
def block_list(axis: ConvAxis) -> tuple[Block, ...]:
    """The blocks with tap <= tap_2, chain by chain: taps `phases` apart, the last pair first."""
    blocks: list[Block] = []
    for tap, tap_2 in tap_pairs(axis.kernel, symmetric=True):
        if tap < axis.phases:
            blocks += _chain(axis, tap, tap_2)
    return tuple(blocks)


def _chain(axis: ConvAxis, tap: int, tap_2: int) -> list[Block]:
    """The blocks that read the lines of a first pair, in positions of that pair: `[e·j, e·j + O)` for the j-th."""
    step, count = axis.step, axis.positions
    pairs = list(
        zip(range(tap, axis.kernel, axis.phases), range(tap_2, axis.kernel, axis.phases), strict=False)
    )
    whole = [Block(k, k_2, True, _term(axis, k, k_2, (0, count)), None) for k, k_2 in pairs]
    chain: list[Block] = []
    for j, (k, k_2) in reversed(list(enumerate(pairs))):
        last = j == len(pairs) - 1
        common = _term(axis, tap, tap_2, (step * j, count if last else step * (j + 1)))
        own = _term(axis, tap, tap_2, (count, count + step * j))
        chain.append(Block(k, k_2, last, common, own if own.length else None))
    shared = step * (len(pairs) - 1) < count
    return chain if shared and _rows_of(chain) < _rows_of(whole) else whole


def terms_of(blocks: Iterable[Block]) -> list[Term]:
    """The products of some blocks: of no rows is none, unless a chain begins with it."""
    terms = [b.common for b in blocks if b.starts or b.common.length]
    return terms + [b.own for b in blocks if b.own]


def _rows_of(blocks: Iterable[Block]) -> int:
    return sum(term.length for term in terms_of(blocks))


def _term(axis: ConvAxis, tap: int, tap_2: int, span: tuple[int, int]) -> Term:
    """The sum over the positions in a span at which both taps read a cell of x."""
    (turns, phase), (turns_2, phase_2) = divmod(tap, axis.phases), divmod(tap_2, axis.phases)
    start, end = (t - axis.step * turns for t in line(axis, phase))
    start_2, end_2 = (t - axis.step * turns_2 for t in line(axis, phase_2))
    low = max(span[0], start, start_2)
    length = max(0, min(span[1], end, end_2) - low)
    return Term(phase, low - start if length else 0, phase_2, low - start_2 if length else 0, length)


class Shift(NamedTuple):
    """The pairs of taps of an axis of stride 1 that are one lag apart.

    Args:
        lag: of the taps.
        inner: range of the cells that all pairs read, and no other pair of cells so far apart; None if there is none.
        masked: whether there are more such cells than the inner ones.
        pairs: (tap, tap_2, ranges of the cells that the pair reads besides the inner ones).
    """

    lag: int
    inner: tuple[int, int] | None
    masked: bool
    pairs: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]


@remembered
def shifts(axis: ConvAxis, symmetric: bool) -> tuple[Shift, ...]:
    """The lags of an axis of stride 1, none negative if `symmetric`."""
    found: dict[int, list[tuple[int, int]]] = {}
    for tap, tap_2 in tap_pairs(axis.kernel, symmetric):
        found.setdefault(tap_2 - tap, []).append((tap, tap_2))
    return tuple(_shift(axis, lag, pairs) for lag, pairs in found.items())


def _shift(axis: ConvAxis, lag: int, pairs: list[tuple[int, int]]) -> Shift:
    every = max(0, -axis.dilation * lag), min(axis.size, axis.size - axis.dilation * lag)
    spans = [
        (
            max(every[0], axis.dilation * tap + axis.offset),
            min(every[1], axis.dilation * tap + axis.offset + axis.positions),
        )
        for tap, _ in pairs
    ]
    low, high = max(a for a, _ in spans), min(b for _, b in spans)
    if low >= high:
        return Shift(
            lag, None, False, tuple((*pair, _ranges(span)) for pair, span in zip(pairs, spans, strict=True))
        )
    edges = [_ranges((first, low), (high, last)) for first, last in spans]
    masked = (low, high) != every
    return Shift(
        lag, (low, high), masked, tuple((*pair, edge) for pair, edge in zip(pairs, edges, strict=True))
    )


def _ranges(*ranges: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((low, high) for low, high in ranges if low < high)


def zero_gap(axis: ConvAxis) -> int:
    """Zeros after each line, so that no lag reaches a cell of the next."""
    return axis.dilation * (axis.kernel - 1)


def flat_shift(axis: ConvAxis, term: Term, lag: int, rows: int) -> tuple[int, int, int]:
    """First cell, first partner and number of cells of a lag's product, on lines of `rows` short lines with gaps.

    `axis` is the one along the short lines; the partner's line is never before the cell's, as in `block_list`.
    """
    pitch = (axis.size + zero_gap(axis)) * rows
    shift = axis.dilation * lag
    start, partner, count = term.row * pitch, term.row_2 * pitch + shift, term.length * pitch
    before = max(0, -partner)  # a lag backwards from the first cell: its partner is in no line
    return start + before, partner + before, max(0, count - before - max(0, shift))


def tap_pairs(kernel: int, symmetric: bool) -> list[tuple[int, int]]:
    """The pairs of taps of which the others are mirror images, or all."""
    return [(tap, tap_2) for tap in range(kernel) for tap_2 in range(tap if symmetric else 0, kernel)]


def lag_axes(variant: Variant, count: int) -> tuple[int, ...]:
    """The axes that go by lag, of so many; the last is along the lines, if there are two."""
    return {"lag2": (count - 2, count - 1), "lag1": (max(0, count - 2),), "windows": ()}[variant]


def fits_axes(variant: str, axes: tuple[ConvAxis, ...]) -> bool:
    """Whether a variant takes these axes."""
    return variant != "lag2" or (len(axes) > 1 and axes[-1].stride == 1 == axes[-2].stride)


def _takes(variant: str, tile: int, axes: tuple[ConvAxis, ...]) -> bool:
    """Whether a variant takes tiles of so many positions along the last axis."""
    if variant == "lag2" or (variant == "lag1" and len(axes) == 1):
        return tile == 1
    return tile >= 1 and axes[-1].positions % tile == 0


def tiles_of(variant: str, axes: tuple[ConvAxis, ...], most: int) -> list[int]:
    """The tiles that a variant takes, of so many positions at most."""
    return [t for t in range(1, max(1, min(axes[-1].positions, most)) + 1) if _takes(variant, t, axes)]


def check_scheme(variant: str, tile: int, axes: tuple[ConvAxis, ...]) -> None:
    """Refuse what does not take these axes, with the reason."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; pass one of {', '.join(VARIANTS)}")
    if not fits_axes(variant, axes):
        stride = tuple(a.stride for a in axes)
        raise ValueError(
            f"variant {variant!r} needs two axes, the last two of stride 1, but the stride is {stride}; "
            "pass 'lag1', or what choose() returns"
        )
    if not _takes(variant, tile, axes):
        raise ValueError(
            f"variant {variant!r} with {axes[-1].positions} positions along the last of {len(axes)} axes "
            f"takes no tile of {tile}; pass one of {tiles_of(variant, axes, _SHOWN)}, or what choose() returns"
        )
