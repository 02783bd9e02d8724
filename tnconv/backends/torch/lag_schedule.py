"""What `lag.correlate` does, as plain integers: which rows are multiplied with which, and how often.

`lag` has the algebra. Nothing here touches a tensor, so the compiler decides with it and tests count with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import gcd, prod
from typing import Literal, NamedTuple, TypedDict, Unpack

Variant = Literal["lag2", "lag1", "folded", "windows"]
VARIANTS: tuple[Variant, ...] = ("lag2", "lag1", "folded", "windows")


class Numbers(TypedDict):
    """What decides how much work `correlate` has: the input's sizes (of all groups), and its arguments."""

    batch: int
    channels: int
    groups: int
    sizes: Sequence[int]
    kernel_size: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]
    offset: Sequence[int]
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: `cell = stride·position + dilation·tap + offset`, with `size` cells."""

    size: int
    kernel: int
    stride: int
    dilation: int
    offset: int
    positions: int

    @property
    def reach(self) -> int:
        """Number of cells from the first that a position reads to the last."""
        return self.stride * (self.positions - 1) + self.dilation * (self.kernel - 1) + 1

    @property
    def phases(self) -> int:
        """Number of lines: taps this far apart read one line."""
        return self.stride // gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        """Positions by which taps that are `phases` apart differ on their line."""
        return self.dilation // gcd(self.stride, self.dilation)

    def used(self) -> tuple[int, int]:
        """The range of the cells that exist and lie within reach."""
        low = min(max(self.offset, 0), self.size)
        return low, max(low, min(self.size, self.offset + self.reach))

    def cropped(self) -> "Axis":
        """The axis of the used cells only; its offset is never positive."""
        low, high = self.used()
        return replace(self, size=high - low, offset=self.offset - low if high > low else 0)

    def line(self, phase: int) -> tuple[int, int]:
        """The range of t for which `X_phase[t]` is a cell that some position reads."""
        origin = self.dilation * phase + self.offset
        low = max(0, -(origin // self.stride))
        last = self.positions + self.step * ((self.kernel - 1 - phase) // self.phases)
        return low, max(low, min(last, (self.size - 1 - origin) // self.stride + 1))


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


@lru_cache(maxsize=512)
def block_list(axis: Axis) -> tuple[Block, ...]:
    """The blocks with tap <= tap_2, chain by chain: taps `phases` apart, the last pair first."""
    blocks: list[Block] = []
    for tap, tap_2 in tap_pairs(axis.kernel, symmetric=True):
        if tap < axis.phases:
            blocks += _chain(axis, tap, tap_2)
    return tuple(blocks)


def _chain(axis: Axis, tap: int, tap_2: int) -> list[Block]:
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


def _rows_of(blocks: Iterable[Block]) -> int:
    return sum(b.common.length + (b.own.length if b.own else 0) for b in blocks)


def _term(axis: Axis, tap: int, tap_2: int, span: tuple[int, int]) -> Term:
    """The sum over the positions in a span at which both taps read a cell of x."""
    (turns, phase), (turns_2, phase_2) = divmod(tap, axis.phases), divmod(tap_2, axis.phases)
    start, end = (t - axis.step * turns for t in axis.line(phase))
    start_2, end_2 = (t - axis.step * turns_2 for t in axis.line(phase_2))
    low = max(span[0], start, start_2)
    length = max(0, min(span[1], end, end_2) - low)
    return Term(phase, low - start if length else 0, phase_2, low - start_2 if length else 0, length)


def shared_span(axis: Axis) -> tuple[int, int] | None:
    """Along an axis of stride 1: the cells that every tap reads; None if there is none."""
    low = max(0, axis.dilation * (axis.kernel - 1) + axis.offset)
    high = min(axis.size, axis.offset + axis.positions)
    return (low, high) if low < high else None


def edge_spans(axis: Axis, tap: int, tap_2: int) -> tuple[tuple[int, int], ...]:
    """Along an axis of stride 1: the cells that a tap reads, with a partner, outside of the shared span."""
    lag = axis.dilation * (tap_2 - tap)
    low = max(0, -lag, axis.dilation * tap + axis.offset)
    high = min(axis.size, axis.size - lag, axis.dilation * tap + axis.offset + axis.positions)
    shared = shared_span(axis)
    spans = ((low, min(high, shared[0])), (max(low, shared[1]), high)) if shared else ((low, high),)
    return tuple((a, b) for a, b in spans if b > a)


def row_shift(grid: tuple[Axis, Axis], term: Term, lag: int) -> tuple[int, int, int]:
    """First cell, first partner and number of cells of a lag's product, on the flat grid with gaps."""
    pitch = grid[0].size + zero_gap(grid[0])
    partner = term.row_2 * pitch + grid[0].dilation * lag
    return term.row * pitch, partner, max(0, min(term.length * pitch, grid[1].size * pitch - partner))


def zero_gap(axis: Axis) -> int:
    """Zeros after each line, so that no lag reaches a cell of the next."""
    return axis.dilation * (axis.kernel - 1)


def tap_pairs(kernel: int, symmetric: bool) -> list[tuple[int, int]]:
    """The pairs of taps of which the others are mirror images, or all."""
    return [(tap, tap_2) for tap in range(kernel) for tap_2 in range(tap if symmetric else 0, kernel)]


def _fits(variant: str, axes: tuple[Axis, ...]) -> bool:
    """Whether a variant takes these axes."""
    if variant == "lag2":
        return len(axes) > 1 and axes[-1].stride == 1 == axes[-2].stride
    return variant != "folded" or axes[-1].dilation == 1


def check_variant(variant: str, axes: tuple[Axis, ...]) -> None:
    """Refuse a variant that does not take these axes, with the reason."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; pass one of {', '.join(VARIANTS)}")
    if not _fits(variant, axes):
        stride, dilation = tuple(a.stride for a in axes), tuple(a.dilation for a in axes)
        needs = "the last axis of dilation 1" if variant == "folded" else "two axes, the last two of stride 1"
        raise ValueError(
            f"variant {variant!r} needs {needs}, but the stride is {stride} and the dilation {dilation}; "
            "pass 'lag1', or what choose() returns"
        )


def strip_cuts(width: int) -> list[int]:
    """Where "windows" cuts the rows of its result; narrow products are slower than twice the work."""
    parts = 4 if width >= 96 else 1
    return [width * part // parts for part in range(parts + 1)]


def fold_axes(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes after the phases of the last stride have become channels."""
    last = axes[-1]
    kernel = -(-last.kernel // last.stride)
    cells = last.positions + kernel - 1
    return (*axes[:-1], Axis(cells, kernel, 1, 1, 0, last.positions))


def choose(**numbers: Unpack[Numbers]) -> Variant:
    """The variant of `correlate` to take, by rules fitted to times of two CPU cores in float32.

    Args:
        numbers: of the call, by name; a representative `batch` if it is not known.

    Returns:
        `"lag2"`, `"lag1"`, `"folded"` (lag1 with the phases of a stride as channels: fewer, wider
        products) or `"windows"`, where no lag is worth its many small products.
    """
    axes, width = _axes(numbers), numbers["channels"] // numbers["groups"]
    last, rows = axes[-1], width * prod(a.kernel for a in axes[:-1])
    count = {v: _multiplications(v, numbers, axes) for v in VARIANTS if _fits(v, axes)}
    if "lag2" in count and min(a.kernel for a in axes[-2:]) > 1 and count["lag2"] < count["lag1"]:
        cells = numbers["batch"] * numbers["channels"] * prod(numbers["positions"])
        if width >= 16 and cells >= 128_000:
            return "lag2"
    if last.kernel <= last.phases or rows < (7 if last.kernel >= 7 * last.phases else 20):
        return "windows"
    variant: Variant = "folded" if last.stride > 1 and last.dilation == 1 and width <= 8 else "lag1"
    return variant if count[variant] < count["windows"] else "windows"


def multiplications(variant: Variant, **numbers: Unpack[Numbers]) -> int:
    """The exact number of scalar multiplications in the matrix products of `correlate`, over all groups.

    Args:
        variant: as for `correlate`.
        numbers: of the call, by name.

    Raises:
        ValueError: as `correlate` does, if there is no such variant or it does not take these axes.
    """
    axes = _axes(numbers)
    check_variant(variant, axes)
    return _multiplications(variant, numbers, axes)


def _axes(numbers: Numbers) -> tuple[Axis, ...]:
    names: tuple[Literal["sizes", "kernel_size", "stride", "dilation", "offset", "positions"], ...]
    names = ("sizes", "kernel_size", "stride", "dilation", "offset", "positions")
    return tuple(Axis(*axis).cropped() for axis in zip(*(numbers[name] for name in names), strict=True))


def _multiplications(variant: str, numbers: Numbers, axes: tuple[Axis, ...]) -> int:
    width = numbers["channels"] // numbers["groups"]
    if variant == "folded":
        variant, width, axes = "lag1", width * axes[-1].stride, fold_axes(axes)
    unfolded = axes[: len(axes) - {"lag2": 2, "lag1": 1, "windows": 0}[variant]]
    rows = numbers["groups"] * numbers["batch"] * prod(a.positions for a in unfolded)
    width *= prod(a.kernel for a in unfolded)
    if variant == "windows":
        return rows * sum((high - low) * high for low, high in pairwise(strip_cuts(width)))
    blocks = block_list(axes[-1])
    if variant == "lag1":
        return rows * width**2 * _rows_of(blocks)
    grid = axes[-2], axes[-1]
    starts = [b for b in blocks if b.starts]
    cells = sum(_grid_cells(grid, b) for b in starts)
    columns = (_rows_of(blocks) - sum(b.common.length for b in starts)) * grid[0].positions
    return rows * width**2 * (cells + columns * grid[0].kernel ** 2)


def _grid_cells(grid: tuple[Axis, Axis], block: Block) -> int:
    """Rows of all the products that `lag._start` computes, per row of a cell."""
    pairs = tap_pairs(grid[0].kernel, symmetric=block.tap == block.tap_2)
    lags = {tap_2 - tap for tap, tap_2 in pairs} if shared_span(grid[0]) else set()
    edges = sum(high - low for pair in pairs for low, high in edge_spans(grid[0], *pair))
    return sum(row_shift(grid, block.common, lag)[2] for lag in lags) + edges * block.common.length
