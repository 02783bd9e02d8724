"""What `lag.correlate` does, as plain integers: which rows are multiplied with which, and how often.

`lag` has the algebra. Nothing here touches a tensor, so the compiler decides with it and tests count with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod
from typing import Literal, NamedTuple, TypedDict, Unpack

from tnconv.backends.torch import gram
from tnconv.backends.torch.profile import DEFAULT, Profile

Variant = Literal["lag2", "lag1", "windows"]
VARIANTS: tuple[Variant, ...] = ("lag2", "lag1", "windows")

_MOST_TILE, _MOST_WIDTH = 64, 768  # positions of a tile, columns of a product of tiles
_ALIGNED = 4  # products whose columns are a multiple of it are up to twice as fast
_LEAST_WIDTH = 16  # channels of a group that make lag2's many products worth it
_BETTER = 0.9  # of what is simple, where two are alike
_RUN = 6  # cells that take as long to begin a run of a copy as they take to be copied
_GROUP = 0.2  # microseconds that a product of a batch takes by itself


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


class Scheme(NamedTuple):
    """How `correlate` goes about it.

    Args:
        variant: `"lag2"`, `"lag1"` or `"windows"`.
        tile: positions along the last axis that are unfolded together.
    """

    variant: Variant
    tile: int = 1


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

    def tile(self, positions: int) -> int:
        """Cells of a tile of so many positions: with several, more than they read, so that products are aligned."""
        if positions == 1:
            return self.kernel
        read = self.stride * (positions - 1) + self.dilation * (self.kernel - 1) + 1
        return -(-read // _ALIGNED) * _ALIGNED


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


def terms_of(blocks: Iterable[Block]) -> list[Term]:
    """The products of some blocks: of no rows is none, unless a chain begins with it."""
    terms = [b.common for b in blocks if b.starts or b.common.length]
    return terms + [b.own for b in blocks if b.own]


def _rows_of(blocks: Iterable[Block]) -> int:
    return sum(term.length for term in terms_of(blocks))


def _term(axis: Axis, tap: int, tap_2: int, span: tuple[int, int]) -> Term:
    """The sum over the positions in a span at which both taps read a cell of x."""
    (turns, phase), (turns_2, phase_2) = divmod(tap, axis.phases), divmod(tap_2, axis.phases)
    start, end = (t - axis.step * turns for t in axis.line(phase))
    start_2, end_2 = (t - axis.step * turns_2 for t in axis.line(phase_2))
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


@lru_cache(maxsize=512)
def shifts(axis: Axis, symmetric: bool) -> tuple[Shift, ...]:
    """The lags of an axis of stride 1, none negative if `symmetric`."""
    found: dict[int, list[tuple[int, int]]] = {}
    for tap, tap_2 in tap_pairs(axis.kernel, symmetric):
        found.setdefault(tap_2 - tap, []).append((tap, tap_2))
    return tuple(_shift(axis, lag, pairs) for lag, pairs in found.items())


def _shift(axis: Axis, lag: int, pairs: list[tuple[int, int]]) -> Shift:
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


def zero_gap(axis: Axis) -> int:
    """Zeros after each line, so that no lag reaches a cell of the next."""
    return axis.dilation * (axis.kernel - 1)


def flat_shift(axis: Axis, term: Term, lag: int, rows: int) -> tuple[int, int, int]:
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


def _fits(variant: str, axes: tuple[Axis, ...]) -> bool:
    """Whether a variant takes these axes."""
    return variant != "lag2" or (len(axes) > 1 and axes[-1].stride == 1 == axes[-2].stride)


def _tiled(variant: str, axes: tuple[Axis, ...]) -> list[int]:
    """The tiles that a variant takes."""
    positions = axes[-1].positions
    if variant == "lag2" or (variant == "lag1" and len(axes) == 1):
        return [1]
    return [tile for tile in range(1, positions + 1) if positions % tile == 0]


def check_scheme(variant: str, tile: int, axes: tuple[Axis, ...]) -> None:
    """Refuse what does not take these axes, with the reason."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; pass one of {', '.join(VARIANTS)}")
    if not _fits(variant, axes):
        stride = tuple(a.stride for a in axes)
        raise ValueError(
            f"variant {variant!r} needs two axes, the last two of stride 1, but the stride is {stride}; "
            "pass 'lag1', or what choose() returns"
        )
    if tile not in _tiled(variant, axes):
        raise ValueError(
            f"variant {variant!r} with {axes[-1].positions} positions along the last of {len(axes)} axes "
            f"takes no tile of {tile}; pass one of {_tiled(variant, axes)}, or what choose() returns"
        )


def choose(profile: Profile = DEFAULT, **numbers: Unpack[Numbers]) -> Scheme:
    """How `correlate` is predicted to be fastest, with one thread or several.

    Args:
        profile: rates of the machine.
        numbers: of the call, by name; a representative `batch` if it is not known.

    Returns:
        The scheme: `"lag2"` where channels are many, `"lag1"`, with a tile where they are few, `"windows"` where no
        lag is worth its many small products; with a tile of one position that is im2col.
    """
    axes, wide = _axes(numbers), numbers["channels"] >= _LEAST_WIDTH * numbers["groups"]
    variants = [v for v in VARIANTS if _fits(v, axes) and (v != "lag2" or wide)]
    schemes = [s for v in variants for s in _schemes(v, numbers, axes)]
    return min(schemes, key=lambda s: _seconds(s, numbers, axes, profile))


def predicted(scheme: Scheme, profile: Profile = DEFAULT, **numbers: Unpack[Numbers]) -> float:
    """Microseconds that `correlate` is predicted to take.

    Args:
        scheme: how it goes about it.
        profile: rates of the machine.
        numbers: of the call, by name.
    """
    return _seconds(scheme, numbers, _axes(numbers), profile)


def multiplications(scheme: Scheme, **numbers: Unpack[Numbers]) -> int:
    """The exact number of scalar multiplications in the products of `correlate` over cells, over all groups.

    What is done to the products afterwards, as summing diagonals of tiles, is not counted.

    Args:
        scheme: how it goes about it.
        numbers: of the call, by name.

    Raises:
        ValueError: as `correlate` does, if there is no such variant or it does not take these axes.
    """
    axes = _axes(numbers)
    check_scheme(*scheme, axes)
    groups = numbers["groups"]
    return sum(
        gram.multiplications(groups, p.width, p.rows) if p.symmetric else groups * p.rows * p.width**2
        for p in _products(scheme, numbers, axes)
    )


def buffers(scheme: Scheme, **numbers: Unpack[Numbers]) -> list[tuple[str, int, int]]:
    """What `correlate` needs besides input and result: (what, elements of one input, elements whatever the batch).

    Args:
        scheme: how it goes about it.
        numbers: of the call, by name; `batch` is not looked at.
    """
    axes, by_lag = _axes(numbers), lag_axes(scheme.variant, len(numbers["sizes"]))
    channels, groups = numbers["channels"], numbers["groups"]
    padded = channels * prod(a.size if n in by_lag else a.reach for n, a in enumerate(axes))
    cells = channels * prod(a.positions // p * a.tile(p) for a, p in rest(scheme, axes))
    if by_lag:
        axis = axes[by_lag[0]]
        cells *= sum(b - a for a, b in (axis.line(p) for p in range(min(axis.phases, axis.kernel))))
    for place in by_lag[1:]:  # twice, once with zeros in place of cells that only some taps read
        cells *= 2 * (axes[place].size + zero_gap(axes[place]))
    found = [("padding", padded, 0), ("cells", cells, 0)]
    width = channels // groups * _tile_cells(scheme, axes)
    if not by_lag:
        return found + ([("products of tiles", 0, 2 * groups * width**2)] if scheme.tile > 1 else [])
    blocks = len(block_list(axes[by_lag[0]]))
    columns = width * (axes[by_lag[1]].kernel if len(by_lag) > 1 else 1)
    return [*found, ("blocks", 0, 2 * groups * blocks * columns**2)]


def _axes(numbers: Numbers) -> tuple[Axis, ...]:
    names: tuple[Literal["sizes", "kernel_size", "stride", "dilation", "offset", "positions"], ...]
    names = ("sizes", "kernel_size", "stride", "dilation", "offset", "positions")
    return tuple(Axis(*axis).cropped() for axis in zip(*(numbers[name] for name in names), strict=True))


def _schemes(variant: Variant, numbers: Numbers, axes: tuple[Axis, ...]) -> list[Scheme]:
    """The variant with all tiles that may be worth it."""
    width = numbers["channels"] // numbers["groups"]
    found = [Scheme(variant, tile) for tile in _tiled(variant, axes) if tile <= _MOST_TILE]
    return [s for s in found if s.tile == 1 or width * _tile_cells(s, axes) <= _MOST_WIDTH]


def rest(scheme: Scheme, axes: tuple[Axis, ...]) -> list[tuple[Axis, int]]:
    """The axes that do not go by lag, with the positions of a tile."""
    by_lag = lag_axes(scheme.variant, len(axes))
    tiles = [*(1 for _ in axes[:-1]), scheme.tile]
    return [(a, p) for n, (a, p) in enumerate(zip(axes, tiles, strict=True)) if n not in by_lag]


def _tile_cells(scheme: Scheme, axes: tuple[Axis, ...]) -> int:
    return prod(a.tile(p) for a, p in rest(scheme, axes))


class _Product(NamedTuple):
    """A product `[width, rows] x [rows, width]` for each group."""

    rows: int
    width: int
    symmetric: bool


def _products(scheme: Scheme, numbers: Numbers, axes: tuple[Axis, ...]) -> list[_Product]:
    by_lag = lag_axes(scheme.variant, len(axes))
    width = numbers["channels"] // numbers["groups"] * _tile_cells(scheme, axes)
    rows = numbers["batch"] * prod(a.positions // p for a, p in rest(scheme, axes))
    if not by_lag:
        return [_Product(rows, width, True)]
    blocks = block_list(axes[by_lag[0]])
    if len(by_lag) == 1:
        squares = {id(b.common) for b in blocks if b.starts and b.tap == b.tap_2}
        return [_Product(rows * t.length, width, id(t) in squares) for t in terms_of(blocks)]
    line = axes[by_lag[1]]
    made: list[_Product] = []
    for block in blocks:
        symmetric = block.tap == block.tap_2
        if block.starts:
            made += [_Product(count, width, same) for count, same in _grid_rows(line, block, rows)]
        added = [] if block.starts or not block.common.length else [block.common]
        pairs = len(tap_pairs(line.kernel, symmetric))
        for term in added + ([block.own] if block.own else []):
            made += [_Product(rows * term.length * line.positions, width, False)] * pairs
    return made


def _grid_rows(line: Axis, block: Block, rows: int) -> list[tuple[int, bool]]:
    """Rows of all the products that `lag._Grid.start` computes, and whether one is of a matrix with itself."""
    found: list[tuple[int, bool]] = []
    for shift in shifts(line, block.tap == block.tap_2):
        if shift.inner:
            same = block.tap == block.tap_2 and shift.lag == 0
            found.append((flat_shift(line, block.common, shift.lag, rows)[2], same))
        edges = [edge for *_, ranges in shift.pairs for edge in ranges]
        found += [(block.common.length * rows * (high - low), False) for low, high in edges]
    return found


def _seconds(scheme: Scheme, numbers: Numbers, axes: tuple[Axis, ...], profile: Profile) -> float:
    """Predicted microseconds."""
    groups, by_lag = numbers["groups"], lag_axes(scheme.variant, len(axes))
    per_group = numbers["channels"] // groups
    products = _products(scheme, numbers, axes)
    total = 8 * profile.call
    for made in products:
        count = (
            gram.multiplications(groups, made.width, made.rows)
            if made.symmetric
            else groups * made.rows * made.width**2
        )
        total += 2 * profile.call + (groups * _GROUP if groups > 1 else 0)
        total += count / profile.matmul / gram.efficiency(made.width, made.rows, scheme.tile == 1)
        total += profile.copying(groups * made.width**2 / 4)
    cells = numbers["batch"] * numbers["channels"]
    for axis, positions in rest(scheme, axes):
        cells *= axis.positions // positions * axis.tile(positions)
    for place in by_lag:
        axis = axes[place]
        cells *= max(1, axis.size * min(axis.phases, axis.kernel) // axis.stride)
    short = _RUN / axes[-1].tile(scheme.tile) if scheme.tile > 1 else 0  # runs of few cells are copied slowly
    total += profile.copying(cells * (0.8 + short))
    result = groups * (per_group * prod(a.kernel for a in axes)) ** 2
    if scheme.variant == "windows" and scheme.tile == 1:
        return _BETTER * total
    if scheme.tile > 1:
        blocks = len(block_list(axes[by_lag[0]])) if by_lag else 1
        taps = (per_group * _tile_cells(scheme, axes) // axes[-1].tile(scheme.tile) * axes[-1].kernel) ** 2
        total += blocks * (4 * profile.call + profile.copying(0.6 * groups * taps * scheme.tile))
    return total + profile.copying(1.2 * result)
