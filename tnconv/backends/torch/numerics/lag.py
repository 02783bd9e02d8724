"""Correlations of an input's windows with themselves, by lag instead of by unfolding.

Wanted is `S[k, k'] = Σ_o x[s·o + d·k + p] x[s·o + d·k' + p]ᴴ`, a matrix over channels for each pair of taps
(kernel positions) k, k', with zeros outside of x; the sum over the batch is left out here. Each axis has its
stride s, dilation d, offset p (minus the padding on the left) and number of positions O, which implies the
padding on the right: zeros or a crop.

One axis. With `q = s / gcd(s, d)`, `e = d / gcd(s, d)` and `k = q·a + r`, a tap reads `X_r[o + e·a]` of the
*line* `X_r[t] = x[s·t + d·r + p]`, one of q phases. So the pairs of taps (k + q·j, k' + q·j), j < n, form a
*chain*: they read products `Z[t] = X[k][t] X[k'][t]ᴴ` of the same two lines, the j-th those with t in
[e·j, e·j + O). All share the interior [e·(n-1), O); from the last pair to the first, rows are added:

    C[n-1] = Σ_{t in [e·(n-1), O)} Z[t]        C[j] = C[j+1] + Σ_{t in [e·j, e·(j+1))} Z[t]
    S[k + q·j, k' + q·j] = C[j] + Σ_{t in [O, O + e·j)} Z[t]

One product of nearly all rows a chain, a few rows for each pair, and `S[k', k] = S[k, k']ᴴ`: at stride 1, K
such products instead of the K² that unfolding takes. A range of t is a range of rows of one matrix: nothing is
copied for a product, and padding is left out of the sums, not stored.

Another axis, in *tiles*. P positions read a tile of `W = s·(P-1) + d·(K-1) + 1` cells, and the product of the
tiles with themselves, `M[w, w']`, holds all that is wanted on its diagonals:

    S[k, k'] = Σ_{o<P} M[s·o + d·k, s·o + d·k']

P = 1 is unfolding; a larger P makes products wide that would be slow for few channels, and overlapping windows
are copied less often.

Two axes of stride 1 (*lag2*). The product that begins a chain along one axis is a correlation along the
other, and depends on `m = k2' - k2` alone but for the border: the cells that all taps with that lag read, plus
those that only some read. With a gap of zeros after each line, a lag along both axes is one shift of the
columns of one flat matrix, and the first factor is the same with other cells zero.

Nothing is subtracted, so rounding is that of unfolding whatever the border holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.numerics.gram import gram
from tnconv.backends.torch.numerics.inner import inner_product, inner_products, is_worth
from tnconv.backends.torch.numerics.into import add_into
from tnconv.backends.torch.numerics.lag_assemble import CHANNELS, Made, Taps, assemble, at_taps, place_blocks
from tnconv.backends.torch.numerics.lag_matrices import matrices, windows
from tnconv.backends.torch.numerics.lag_schedule import (
    Block,
    Shift,
    Term,
    block_list,
    check_scheme,
    flat_shift,
    lag_axes,
    shifts,
    zero_gap,
)
from tnconv.backends.torch.numerics.triangle import pack_triangle
from tnconv.ir.shapes import ConvAxis


def correlate(
    x: Tensor,
    *,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    offset: Sequence[int],
    positions: Sequence[int],
    variant: str = "lag1",
    tile: int = 1,
    inputs_last: bool = False,
    block: int = 0,
    strip: int = 0,
    whole: bool = False,
    scale: float = 1.0,
    out: Tensor | None = None,
    beta: float = 0.0,
    packed: bool = False,
) -> Tensor:
    """Sum of the products of each window of x with its conjugate.

    Args:
        x: the input `[n, (g c), i1, ..]`, `cell = stride·position + dilation·tap + offset` along each.
        groups: number of groups.
        kernel_size: taps of each axis.
        stride: of each axis.
        dilation: of each axis.
        offset: of each axis, any integer: minus the padding on the left.
        positions: of each axis, at least 1; cells outside of x count as zero.
        variant: `"lag2"` (last two strides 1), `"lag1"` (the last axis but one) or `"windows"`;
            `choose` says which is fast, the result is the same.
        tile: positions that are taken together along the last axis, a divisor of their number; not for lag2.
        inputs_last: whether a copy of x with the inputs innermost is unfolded, so that what is copied is in long runs.
        block: as for `gram`, of products of a matrix with itself.
        strip: as for `gram`, of products of a matrix with itself.
        whole: whether the products of `"lag1"` are put together in one copy, not a copy for each pair of taps.
        scale: of the result.
        out: of the shape of the result, to which it is added: `beta · out + scale · S`; only where nothing records
            what happens.
        beta: of what is there.
        packed: as for `gram`.

    Returns:
        `S[g, (c k1 ..), (c k1 ..)]`, Hermitian, summed over inputs and positions, not averaged. Or `out`.

    Raises:
        ValueError: if there is no such variant or it does not take these axes, or no such tile.
    """
    numbers = zip(x.shape[2:], kernel_size, stride, dilation, offset, positions, strict=True)
    axes = tuple(ConvAxis(*axis) for axis in numbers)
    check_scheme(variant, tile, axes)
    for dim, axis in enumerate(axes, 2):
        low, high = axis.used()
        x = x.narrow(dim, low, high - low)
    axes = tuple(axis.cropped() for axis in axes)
    scheme = _Scheme(
        groups, axes, variant, tile, inputs_last and tile == 1, scale, block, strip, whole, packed
    )
    if (
        len(x) == 0 and scale != 1
    ):  # a product of nothing is zero whatever its scale, but a mean over nothing is no number
        undefined = correlate_axes(x, replace(scheme, scale=1.0), None, 0.0) * scale
        return undefined if out is None else add_into(out, undefined, beta)
    if out is not None and not may_write(x):
        return add_into(out, correlate_axes(x, scheme, None, 0.0), beta)
    return correlate_axes(x, scheme, out, beta)


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How a correlation is computed; the fields are arguments of `correlate`, the axes cropped to what is used."""

    groups: int
    axes: tuple[ConvAxis, ...]
    variant: str
    tile: int
    inputs_last: bool
    scale: float
    block: int = 0
    strip: int = 0
    whole: bool = False
    packed: bool = False

    def square(self, x: Tensor) -> Tensor:
        """`gram` of the matrix `[g, r, t]` of each group."""
        return gram(x[:, None], self.scale, block=self.block, strip=self.strip)

    def result(self, x: Tensor, out: Tensor | None, beta: float) -> Tensor:
        """The same of a matrix whose square is all there is."""
        return gram(x[:, None], self.scale, out, beta, block=self.block, strip=self.strip, packed=self.packed)


def correlate_axes(x: Tensor, scheme: "_Scheme", out: Tensor | None, beta: float) -> Tensor:
    """`correlate` of the cells that are used."""
    return {"lag2": _lag2, "lag1": _lag1, "windows": _windows}[scheme.variant](x, scheme, out, beta)


def _windows(x: Tensor, scheme: _Scheme, out: Tensor | None, beta: float) -> Tensor:
    """One product of all windows, or of all tiles, with themselves."""
    axes, tile = scheme.axes, scheme.tile
    order = (CHANNELS, *range(len(axes)))
    (matrix,) = matrices(x, scheme.groups, axes, order, None, tile=tile, last=scheme.inputs_last)
    if tile == 1:
        return scheme.result(matrix.mT, out, beta)
    made = {(0, 0): scheme.square(matrix.mT)}
    return _handed_over(scheme, lambda *there: assemble(made, axes, tile, order, None, *there), out, beta)


def _handed_over(scheme: _Scheme, made: Callable[..., Tensor], out: Tensor | None, beta: float) -> Tensor:
    """What is made as a whole, with its lower triangle packed where that is asked for."""
    if not scheme.packed:
        return made(out, beta)
    lower = pack_triangle(made(None, 0.0))
    return lower if out is None else add_into(out, lower, beta)


def _lag1(x: Tensor, scheme: _Scheme, out: Tensor | None, beta: float) -> Tensor:
    """By lag along one axis, the others in tiles."""
    groups, axes, tile, scale = scheme.groups, scheme.axes, scheme.tile, scheme.scale
    (place,) = lag_axes("lag1", len(axes))
    others = tuple(n for n in range(len(axes)) if n != place)
    order = (*others, CHANNELS) if tile == 1 else (CHANNELS, *others)
    lines = matrices(x, groups, axes, order, place, tile=tile, last=scheme.inputs_last)
    rows = x.shape[0] * prod([axes[n].positions for n in others]) // tile

    def add(total: Tensor | None, term: Term, square: bool = False) -> Tensor:
        first = lines[term.phase][:, term.row * rows : (term.row + term.length) * rows]
        if square:
            return scheme.square(first.mT)
        second = lines[term.phase_2][:, term.row_2 * rows : (term.row_2 + term.length) * rows]
        return _add(total, first, second, scale)

    made: Made = {}
    common: Tensor | None = None
    for block in block_list(axes[place]):
        if block.starts:
            common = add(None, block.common, square=block.tap == block.tap_2)
        elif block.common.length:
            common = add(common, block.common)
        assert common is not None
        made[block.tap, block.tap_2] = add(common, block.own) if block.own else common
    channels = x.shape[1] // groups
    if tile > 1 or scheme.whole or not may_write(x):
        return _handed_over(
            scheme, lambda *there: assemble(made, axes, tile, order, place, *there), out, beta
        )
    side = (*(axes[n].kernel for n in others), channels)

    def part(taps: Taps, taps_2: Taps) -> Tensor:
        if taps[place] > taps_2[place]:
            return part(taps_2, taps).mH
        block = made[taps[place], taps_2[place]].reshape(groups, *side, *side)
        rows, columns = ([t for n, t in enumerate(each) if n != place] for each in (taps, taps_2))
        return at_taps(block, rows, columns)

    return place_blocks(part, axes, True, out, beta, scheme.packed)


def _lag2(x: Tensor, scheme: _Scheme, out: Tensor | None, beta: float) -> Tensor:
    """By lag along the last two axes, the others unfolded into channels."""
    groups, axes = scheme.groups, scheme.axes
    place, along = lag_axes("lag2", len(axes))
    grid = _Grid(x, scheme)
    made: dict[tuple[int, int], Made] = {}
    common: Made = {}
    for block in block_list(axes[place]):
        if block.starts:
            common = grid.start(block)
        elif block.common.length:
            common = grid.add(common, block.common)
        made[block.tap, block.tap_2] = grid.add(common, block.own) if block.own else common
    side = (*(a.kernel for a in axes[:place]), x.shape[1] // groups)

    def part(taps: Taps, taps_2: Taps) -> Tensor:
        if taps[place:] > taps_2[place:]:
            return part(taps_2, taps).mH
        block = made[taps[place], taps_2[place]][taps[along], taps_2[along]].reshape(groups, *side, *side)
        return at_taps(block, taps[:place], taps_2[:place])

    return place_blocks(part, axes, out is not None or may_write(x), out, beta, scheme.packed)


class _Grid:
    """The cells `[g, (k.. c), i1, (n o..), i2 and a gap of zeros]` of two axes that go by lag.

    Products are made for pairs of taps of the last axis, `[g, (k.. c), (k.. c)]`; where both taps of the other
    axis are one, for those in ascending order, of which the others are mirror images.
    """

    def __init__(self, x: Tensor, scheme: _Scheme) -> None:
        groups, axes, self.scheme = scheme.groups, scheme.axes, scheme
        *others, _, self.line = axes
        count = len(others)
        view = windows(x, groups, axes, 1, (count, count + 1))
        first, last = 3 + count, 4 + count
        order = (1, *range(last + 1, view.dim()), 2, first, 0, *range(3, first), last)
        cells = F.pad(view.permute(order), (0, zero_gap(self.line)))
        size, pitch = axes[-2].size, cells.shape[-1]
        self.rows = x.shape[0] * prod([a.positions for a in others])
        width = x.shape[1] // groups * prod([a.kernel for a in others])
        self.cells = cells.reshape(groups, width, size, self.rows, pitch)
        self.flat, self.scale = self.cells.flatten(2), scheme.scale
        self._masked: dict[tuple[int, int], Tensor] = {}
        self._columns: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def masked(self, span: tuple[int, int]) -> Tensor:
        """The flat cells, those outside of a range of the last axis zero."""
        low, high = span
        if span not in self._masked:
            cells = F.pad(self.cells[..., low:high], (low, self.cells.shape[-1] - high))
            self._masked[span] = cells.flatten(2)
        return self._masked[span]

    def columns(self, low: int, length: int) -> tuple[Tensor, ...]:
        """Some lines as each tap of the last axis reads them, `[g, (lines rows o2), (k.. c)]`."""
        if (low, length) not in self._columns:
            self._columns[low, length] = self._read(low, length)
        return self._columns[low, length]

    def _read(self, low: int, length: int) -> tuple[Tensor, ...]:
        axis, cells = self.line, self.cells[:, :, low : low + length, :, : self.line.size]
        cells = F.pad(cells, axis.padding)
        return tuple(
            cells.narrow(-1, axis.dilation * tap, axis.positions).flatten(2).mT for tap in range(axis.kernel)
        )

    def add(self, parts: Made, term: Term) -> Made:
        """Add the products of some lines, with all their windows."""
        first, second = self.columns(term.row, term.length), self.columns(term.row_2, term.length)
        return {(k, j): _add(part, first[k], second[j], self.scale) for (k, j), part in parts.items()}

    def start(self, block: Block) -> Made:
        """The beginning of a chain."""
        symmetric = block.tap == block.tap_2
        parts: Made = {}
        for shift in shifts(self.line, symmetric):
            whole = self._whole(block, shift, symmetric)
            for tap, tap_2, edges in shift.pairs:
                total = whole
                for low, high in edges:
                    total = self._edge(total, block.common, shift.lag, low, high)
                parts[tap, tap_2] = self._edge(None, block.common, 0, 0, 0) if total is None else total
        return parts

    def _whole(self, block: Block, shift: Shift, symmetric: bool) -> Tensor | None:
        """The product of all cells that every pair of taps of a lag reads."""
        if shift.inner is None:
            return None
        start, partner, count = flat_shift(self.line, block.common, shift.lag, self.rows)
        first = self.masked(shift.inner) if shift.masked else self.flat
        first = first[:, :, start : start + count]
        if symmetric and shift.lag == 0:
            return self.scheme.square(first)
        return _add(None, first.mT, self.flat[:, :, partner : partner + count].mT, self.scale)

    def _edge(self, total: Tensor | None, term: Term, lag: int, low: int, high: int) -> Tensor:
        """Add the products of a range of the cells of each line."""
        ahead = self.line.dilation * lag
        first = self.cells[:, :, term.row : term.row + term.length, :, low:high]
        second = self.cells[:, :, term.row_2 : term.row_2 + term.length, :, low + ahead : high + ahead]
        return _add(total, first.flatten(2).mT, second.flatten(2).mT, self.scale)


def _add(total: Tensor | None, first: Tensor, second: Tensor, scale: float) -> Tensor:
    """`total + scale · firstᵀ conj(second)` for each group; a plain product is faster than a batch of one."""
    one = first.shape[0] == 1
    if second.is_complex():
        second = second.conj()
    if total is None and scale == 1:
        return inner_product(first[0].t(), second[0])[None] if one else inner_products(first.mT, second)
    if total is None and is_worth(first.mT, second):
        return inner_products(first.mT, second).mul_(scale)
    beta = 1
    if total is None:
        total, beta = first.new_zeros(()).expand(len(first), 1, 1), 0
    # Integers take no scale that is a float.
    alpha = 1 if scale == 1 else scale
    if one:
        return torch.addmm(total[0], first[0].t(), second[0], beta=beta, alpha=alpha)[None]
    return torch.baddbmm(total, first.mT, second, beta=beta, alpha=alpha)
