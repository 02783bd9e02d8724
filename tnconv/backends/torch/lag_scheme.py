"""How `lag.correlate` goes about a layer: variants, their exact counts, and which is predicted to be fastest.

Nothing here touches a tensor, so the compiler decides with it and tests count with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from tnconv.backends.torch import gram_scheme
from tnconv.backends.torch.gram_scheme import Ways
from tnconv.backends.torch.numerics.lag_schedule import (
    VARIANTS,
    Block,
    Variant,
    block_list,
    check_scheme,
    fits_axes,
    flat_shift,
    lag_axes,
    line,
    shifts,
    tap_pairs,
    terms_of,
    tile_cells,
    tiles_of,
    zero_gap,
)
from tnconv.backends.torch.profile import DEFAULT, Profile
from tnconv.ir.shapes import ConvAxis


class Work(NamedTuple):
    """What decides how much work `correlate` has.

    Args:
        batch: examples; a representative number if it is not known.
        channels: of all groups.
        groups: how many.
        axes: the spatial axes.
        packed: whether the lower triangle alone is made.
    """

    batch: int
    channels: int
    groups: int
    axes: tuple[ConvAxis, ...]
    packed: bool = False

    @property
    def cropped(self) -> tuple[ConvAxis, ...]:
        """The axes of the cells that are used."""
        return tuple(axis.cropped() for axis in self.axes)


class Scheme(NamedTuple):
    """How `correlate` goes about it.

    Args:
        variant: `"lag2"`, `"lag1"` or `"windows"`.
        tile: positions along the last axis that are unfolded together.
    """

    variant: Variant
    tile: int = 1


def _pairs(variant: Variant, axes: tuple[ConvAxis, ...]) -> int:
    """About how many pairs of taps a variant takes apart."""
    return prod((axes[place].kernel ** 2 + 1) // 2 for place in lag_axes(variant, len(axes)))


@lru_cache(maxsize=256)  # asked for one step by its price, its count and its text
def choose(work: Work, profile: Profile = DEFAULT) -> Scheme:
    """How `correlate` is predicted to be fastest, with one thread or several.

    Args:
        work: the numbers of the call.
        profile: rates of the machine.

    Returns:
        The scheme: `"lag2"` where channels are many, `"lag1"`, with a tile where they are few, `"windows"` where no
        lag is worth its many small products; with a tile of one position that is im2col.
    """
    axes, wide = work.cropped, work.channels >= profile.lag_channels * work.groups
    variants = [
        v
        for v in VARIANTS
        if fits_axes(v, axes) and (v != "lag2" or wide) and _pairs(v, axes) <= profile.lag_products
    ]
    schemes = [s for v in variants for s in _schemes(v, work, axes, profile)]
    return min(schemes, key=lambda s: _seconds(s, work, axes, profile))


def predicted(scheme: Scheme, work: Work, profile: Profile = DEFAULT) -> float:
    """Microseconds that `correlate` is predicted to take.

    Args:
        scheme: how it goes about it.
        work: the numbers of the call.
        profile: rates of the machine.
    """
    return profile.lags * _seconds(scheme, work, work.cropped, profile)


def ways(scheme: Scheme, work: Work, profile: Profile = DEFAULT) -> Ways:
    """How the products of a matrix with itself are computed, all of which have as many rows.

    Args:
        scheme: how `correlate` goes about it.
        work: the numbers of the call.
        profile: rates of the machine.
    """
    squares = [p for p in _products(scheme, work, work.cropped) if p.symmetric]
    if not squares:
        return Ways()
    whole = work.packed and scheme == Scheme("windows")  # whose square is the result itself
    return gram_scheme.choose(work.groups, 1, squares[0].width, max(p.rows for p in squares), profile, whole)


def whole(scheme: Scheme, work: Work, profile: Profile = DEFAULT) -> bool:
    """Whether the pairs of taps are too small for copies of their own.

    Args:
        scheme: how `correlate` goes about it.
        work: the numbers of the call.
        profile: rates of the machine.
    """
    piece = work.channels**2 // max(1, work.groups)
    return scheme.variant == "lag1" and scheme.tile == 1 and piece < profile.piece


def multiplications(scheme: Scheme, work: Work, profile: Profile = DEFAULT) -> int:
    """The exact number of scalar multiplications in the products of `correlate` over cells, over all groups.

    What is done to the products afterwards, as summing diagonals of tiles, is not counted.

    Args:
        scheme: how it goes about it.
        work: the numbers of the call.
        profile: rates of the machine.

    Raises:
        ValueError: as `correlate` does, if there is no such variant or it does not take these axes.
    """
    axes = work.cropped
    check_scheme(*scheme, axes)
    block = ways(scheme, work, profile).block
    cells = (
        gram_scheme.computed(p.width, block if p.symmetric else 0) * p.rows
        for p in _products(scheme, work, axes)
    )
    return work.groups * sum(cells)


def inputs_last(scheme: Scheme, work: Work, profile: Profile = DEFAULT) -> bool:
    """Whether windows are copied faster with the inputs innermost; `rest` are the axes that are unfolded.

    That takes a copy of the inputs, which have fewer cells than their windows.
    """
    positions = [axis.positions for axis, _ in rest(scheme, work.cropped)]
    return scheme.tile == 1 and scheme.variant != "lag2" and _turned(work.batch, positions, profile)


def _turned(inputs: int, positions: Sequence[int], profile: Profile) -> bool:
    """Whether windows of so many inputs, at so many positions along each axis, are copied faster so."""
    if not positions or not inputs:
        return False
    turned, plain = (_beginnings(inputs, positions, profile, last=last) for last in (True, False))
    return turned < plain


def _beginnings(inputs: int, positions: Sequence[int], profile: Profile, *, last: bool) -> float:
    """The beginnings of runs and rows of runs, as cells for each cell of a window, and the copy of the inputs."""
    order = [*positions, inputs] if last else [inputs, *positions]
    return profile.beginnings(order[-1], order[-2]) + (profile.lag_turned if last else 0)


def buffers(scheme: Scheme, work: Work) -> list[tuple[str, int, int]]:
    """What `correlate` needs besides input and result: (what, elements of one input, elements whatever the batch).

    Args:
        scheme: how it goes about it.
        work: the numbers of the call; `batch` is not looked at.
    """
    axes, by_lag = work.cropped, lag_axes(scheme.variant, len(work.axes))
    channels, groups = work.channels, work.groups
    padded = channels * prod(a.size if n in by_lag else a.reach for n, a in enumerate(axes))
    cells = channels * prod(a.positions // p * tile_cells(a, p) for a, p in rest(scheme, axes))
    if by_lag:
        axis = axes[by_lag[0]]
        cells *= sum(b - a for a, b in (line(axis, p) for p in range(min(axis.phases, axis.kernel))))
    for place in by_lag[1:]:  # twice, once with zeros in place of cells that only some taps read
        cells *= 2 * (axes[place].size + zero_gap(axes[place]))
    found = [("padding", padded, 0), ("cells", cells, 0)]
    width = channels // groups * _tile_cells(scheme, axes)
    if not by_lag:
        return found + ([("products of tiles", 0, 2 * groups * width**2)] if scheme.tile > 1 else [])
    blocks = len(block_list(axes[by_lag[0]]))
    columns = width * (axes[by_lag[1]].kernel if len(by_lag) > 1 else 1)
    return [*found, ("blocks", 0, 2 * groups * blocks * columns**2)]


def _schemes(variant: Variant, work: Work, axes: tuple[ConvAxis, ...], profile: Profile) -> list[Scheme]:
    """The variant with all tiles that may be worth it."""
    width = work.channels // work.groups
    found = [Scheme(variant, tile) for tile in tiles_of(variant, axes, int(profile.tile_positions))]
    return [s for s in found if s.tile == 1 or width * _tile_cells(s, axes) <= profile.tile_columns]


def rest(scheme: Scheme, axes: tuple[ConvAxis, ...]) -> list[tuple[ConvAxis, int]]:
    """The axes that do not go by lag, with the positions of a tile."""
    by_lag = lag_axes(scheme.variant, len(axes))
    tiles = [*(1 for _ in axes[:-1]), scheme.tile]
    return [(a, p) for n, (a, p) in enumerate(zip(axes, tiles, strict=True)) if n not in by_lag]


def _tile_cells(scheme: Scheme, axes: tuple[ConvAxis, ...]) -> int:
    return prod(tile_cells(a, p) for a, p in rest(scheme, axes))


class _Product(NamedTuple):
    """A product `[width, rows] x [rows, width]` for each group."""

    rows: int
    width: int
    symmetric: bool


def _products(scheme: Scheme, work: Work, axes: tuple[ConvAxis, ...]) -> list[_Product]:
    by_lag = lag_axes(scheme.variant, len(axes))
    width = work.channels // work.groups * _tile_cells(scheme, axes)
    rows = work.batch * prod(a.positions // p for a, p in rest(scheme, axes))
    if not by_lag:
        return [_Product(rows, width, True)]
    blocks = block_list(axes[by_lag[0]])
    if len(by_lag) == 1:
        squares = {id(b.common) for b in blocks if b.starts and b.tap == b.tap_2}
        return [_Product(rows * t.length, width, id(t) in squares) for t in terms_of(blocks)]
    other = axes[by_lag[1]]
    made: list[_Product] = []
    for block in blocks:
        symmetric = block.tap == block.tap_2
        if block.starts:
            made += [_Product(count, width, same) for count, same in _grid_rows(other, block, rows)]
        added = [] if block.starts or not block.common.length else [block.common]
        pairs = len(tap_pairs(other.kernel, symmetric))
        for term in added + ([block.own] if block.own else []):
            made += [_Product(rows * term.length * other.positions, width, False)] * pairs
    return made


def _grid_rows(other: ConvAxis, block: Block, rows: int) -> list[tuple[int, bool]]:
    """Rows of all the products that `lag._Grid.start` computes, and whether one is of a matrix with itself."""
    found: list[tuple[int, bool]] = []
    for shift in shifts(other, block.tap == block.tap_2):
        if shift.inner:
            same = block.tap == block.tap_2 and shift.lag == 0
            found.append((flat_shift(other, block.common, shift.lag, rows)[2], same))
        edges = [edge for *_, ranges in shift.pairs for edge in ranges]
        found += [(block.common.length * rows * (high - low), False) for low, high in edges]
    return found


def _short_runs(scheme: Scheme, batch: int, axes: tuple[ConvAxis, ...], profile: Profile) -> float:
    """How much longer a copy takes, a cell, because its runs are short: in cells."""
    if scheme.variant == "lag2":
        return 0.0
    if scheme.tile > 1:
        return profile.tile_run / tile_cells(axes[-1], scheme.tile)
    positions = [axis.positions for axis, _ in rest(scheme, axes)]
    if not positions:
        return 0.0
    return _beginnings(max(1, batch), positions, profile, last=_turned(batch, positions, profile))


def _seconds(scheme: Scheme, work: Work, axes: tuple[ConvAxis, ...], profile: Profile) -> float:
    """Predicted microseconds."""
    groups, by_lag = work.groups, lag_axes(scheme.variant, len(axes))
    per_group = work.channels // groups
    total, block = 8 * profile.call, ways(scheme, work, profile).block
    for made in _products(scheme, work, axes):
        count = groups * made.rows * gram_scheme.computed(made.width, block if made.symmetric else 0)
        total += 2 * profile.call + (groups * profile.batched if groups > 1 else 0)
        efficiency = gram_scheme.efficiency(made.width, made.rows, scheme.tile == 1, profile)
        total += profile.multiplying(count, groups, groups * made.rows * made.width) / efficiency
        total += profile.copying(groups * made.width**2 / 4)
    cells = work.batch * work.channels
    for axis, positions in rest(scheme, axes):
        cells *= axis.positions // positions * tile_cells(axis, positions)
    for place in by_lag:
        axis = axes[place]
        cells *= max(1, axis.size * min(axis.phases, axis.kernel) // axis.stride)
    total += profile.copying(cells * (0.8 + _short_runs(scheme, work.batch, axes, profile)))
    result = groups * (per_group * prod(a.kernel for a in axes)) ** 2
    if scheme.variant == "windows" and scheme.tile == 1:
        return profile.simpler * total
    if scheme.tile > 1:
        blocks = len(block_list(axes[by_lag[0]])) if by_lag else 1
        taps = (
            per_group * _tile_cells(scheme, axes) // tile_cells(axes[-1], scheme.tile) * axes[-1].kernel
        ) ** 2
        total += blocks * (4 * profile.call + profile.copying(0.6 * groups * taps * scheme.tile))
    return total + profile.copying(1.2 * result)
