"""Correlations of an input's windows with themselves, by lag instead of by unfolding.

Wanted is `S[k, k'] = Σ_o x[s·o + d·k + p] x[s·o + d·k' + p]ᵀ`, a matrix over channels for each pair of taps
(kernel positions) k, k', with zeros outside of x; the sum over the batch is left out here. Each axis has its
stride s, dilation d, offset p (minus the padding on the left) and number of positions O, which implies the
padding on the right: zeros or a crop.

One axis. With `q = s / gcd(s, d)`, `e = d / gcd(s, d)` and `k = q·a + r`, a tap reads `X_r[o + e·a]` of the
*line* `X_r[t] = x[s·t + d·r + p]`, one of q phases. So the pairs of taps (k + q·j, k' + q·j), j < n, form a
*chain*: they read products `Z[t] = X[k][t] X[k'][t]ᵀ` of the same two lines, the j-th those with t in
[e·j, e·j + O). All share the interior [e·(n-1), O); from the last pair to the first, rows are added:

    C[n-1] = Σ_{t in [e·(n-1), O)} Z[t]        C[j] = C[j+1] + Σ_{t in [e·j, e·(j+1))} Z[t]
    S[k + q·j, k' + q·j] = C[j] + Σ_{t in [O, O + e·j)} Z[t]

One product of nearly all rows a chain, a few rows for each pair, and `S[k', k] = S[k, k']ᵀ`: at stride 1, K
such products instead of the K² that unfolding takes. A line has t outermost, so a range of positions is a
range of rows of one matrix: nothing is copied for a product, and padding is left out of the sums, not stored.

Two axes of stride 1 (*lag2*). The product that begins a chain along the last axis is a correlation along the
other, and depends on `m = k1' - k1` alone but for the border: the cells that every tap reads, with all cells
m·d further, plus the cells that only some taps read. With a gap of zeros after each line, a lag along both
axes is one shift of the rows of one flat matrix, and the first factor is the same with other cells zero.

Nothing is subtracted, so rounding is that of unfolding whatever the border holds.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.lag_schedule import (
    Axis,
    Block,
    Term,
    block_list,
    check_variant,
    edge_spans,
    fold_axes,
    row_shift,
    shared_span,
    strip_cuts,
    tap_pairs,
    zero_gap,
)


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
) -> Tensor:
    """Sum of the products of each window of x with itself.

    Args:
        x: the input `[n, (g c), i1, ..]`, `cell = stride·position + dilation·tap + offset` along each.
        groups: number of groups.
        kernel_size: taps of each axis.
        stride: of each axis.
        dilation: of each axis.
        offset: of each axis, any integer: minus the padding on the left.
        positions: of each axis, at least 1; cells outside of x count as zero.
        variant: `"lag2"` (last two strides 1), `"lag1"`, `"folded"` (last dilation 1) or `"windows"`;
            `choose` says which is fast, the result is the same. Nothing is conjugated.

    Returns:
        `S[g, (c k1 ..), (c k1 ..)]`, summed over inputs and positions, not averaged.

    Raises:
        ValueError: if there is no such variant or it does not take these axes.
    """
    numbers = zip(x.shape[2:], kernel_size, stride, dilation, offset, positions, strict=True)
    axes = tuple(Axis(*axis) for axis in numbers)
    check_variant(variant, axes)
    for dim, axis in enumerate(axes, 2):
        low, high = axis.used()
        x = x.narrow(dim, low, high - low)
    axes = tuple(axis.cropped() for axis in axes)
    if variant == "windows":
        return _windows(x, groups, axes)
    # Writing into views makes a slow backward pass: only where none will come.
    in_place = not (torch.is_grad_enabled() and x.requires_grad)
    run = {"lag2": _lag2, "lag1": _lag1, "folded": _folded_lag1}[variant]
    return run(x, groups, axes, in_place)


def _windows(x: Tensor, groups: int, axes: tuple[Axis, ...]) -> Tensor:
    """Unfold, then one product of the rows with themselves, in strips as it is symmetric."""
    middle, end = 2 + len(axes), 2 + 2 * len(axes)
    count, width = _extent(x, groups, axes)
    view = _unfold(x, 2, axes).permute(1, *range(middle, end), 0, *range(2, middle))
    rows = view.reshape(groups, width, count)
    spans = list(pairwise(strip_cuts(width)))
    strips = [torch.bmm(rows[:, a:b], rows[:, :b].transpose(1, 2)) for a, b in spans]
    if len(spans) == 1:
        return strips[0]
    parts = [[strips[i], *(s[:, :, a:b].mT for s in strips[i + 1 :])] for i, (a, b) in enumerate(spans)]
    return torch.cat([torch.cat(part, 2) for part in parts], 1)


def _lag1(x: Tensor, groups: int, axes: tuple[Axis, ...], in_place: bool) -> Tensor:
    """By lag along the last axis, the others unfolded into channels."""
    last = axes[-1]
    cells = _rows(x, groups, axes[:-1], kept=1)  # [g, i, n, o.., c, k..]
    rows, width = _extent(x, groups, axes[:-1])
    lines = []
    for phase in range(min(last.phases, last.kernel)):
        low, high = last.line(phase)
        origin, step = last.dilation * phase + last.offset, last.stride
        span = slice(step * low + origin, step * (high - 1) + origin + 1, step) if high > low else slice(0)
        lines.append(cells[:, span].reshape(groups, (high - low) * rows, width))

    def add(total: Tensor | None, term: Term) -> Tensor:
        first = lines[term.phase][:, term.row * rows : (term.row + term.length) * rows]
        second = lines[term.phase_2][:, term.row_2 * rows : (term.row_2 + term.length) * rows]
        return _add(total, first, second)

    made: dict[tuple[int, int], Tensor] = {}
    common: Tensor | None = None
    for block in block_list(last):
        common = add(None if block.starts else common, block.common)
        made[block.tap, block.tap_2] = add(common, block.own) if block.own else common
    return _assemble(made, last.kernel, 1, in_place)


def _folded_lag1(x: Tensor, groups: int, axes: tuple[Axis, ...], in_place: bool) -> Tensor:
    """`_lag1` with the phases of the last axis as channels: `k = stride·a + r`, r next to the channels."""
    last, folded = axes[-1], fold_axes(axes)
    cells, kernel, stride = folded[-1].size, folded[-1].kernel, last.stride
    x = F.pad(x, (-last.offset, cells * stride + last.offset - last.size))
    x = x.reshape(*x.shape[:-1], cells, stride).movedim(-1, 2).flatten(1, 2)
    out = _lag1(x, groups, folded, in_place)
    width = out.shape[1] // (stride * kernel)
    inner = prod(a.kernel for a in axes[:-1])
    taps = (width // inner, stride, inner, kernel)  # (c, r, k.., a)
    out = out.reshape(groups, *taps, *taps).permute(0, 1, 3, 4, 2, 5, 7, 8, 6)
    out = out.reshape(groups, width, kernel * stride, width, kernel * stride)
    return out[:, :, : last.kernel, :, : last.kernel].reshape(
        groups, width * last.kernel, width * last.kernel
    )


def _lag2(x: Tensor, groups: int, axes: tuple[Axis, ...], in_place: bool) -> Tensor:
    """By lag along the last two axes, the others unfolded into channels."""
    first, last = grid = axes[-2], axes[-1]
    rows, width = _extent(x, groups, axes[:-2])
    cells = _rows(x, groups, axes[:-2], kept=2).reshape(groups, last.size, first.size, rows * width)
    cells = F.pad(cells, (0, 0, 0, zero_gap(first)))
    cells = cells.view(groups, last.size, first.size + zero_gap(first), rows, width)

    @cache
    def column(low: int, length: int) -> Tensor:
        """Cells of the last axis with their windows along the other, `[g, (i2 o1 rows), (k1 c)]`."""
        view = _unfold(cells[:, low : low + length, : first.size], 2, (first,)).movedim(-1, -2)
        return view.reshape(groups, length * first.positions * rows, first.kernel * width)

    def add(total: Tensor, term: Term) -> Tensor:
        return _add(total, column(term.row, term.length), column(term.row_2, term.length))

    shared = shared_span(first)
    pitch = cells.shape[2]
    inner = F.pad(cells[:, :, slice(*shared)], (0, 0, 0, 0, shared[0], pitch - shared[1])) if shared else None
    made: dict[tuple[int, int], Tensor] = {}
    common = cells
    for block in block_list(last):
        common = _start(cells, inner, grid, block) if block.starts else add(common, block.common)
        made[block.tap, block.tap_2] = add(common, block.own) if block.own else common
    return _assemble(made, last.kernel, first.kernel, in_place)


def _start(cells: Tensor, inner: Tensor | None, grid: tuple[Axis, Axis], block: Block) -> Tensor:
    """The beginning of a chain, `[g, (k1 c), (k1 c)]`, from cells `[g, i2, i1, rows, c]`.

    `inner` are the cells that every tap of the first axis reads, the others zero; None if there are none.
    """
    rows, term = cells.shape[3], block.common
    symmetric = block.tap == block.tap_2
    taps = range(grid[0].kernel)
    flat = cells.flatten(1, 3)
    flat_inner = flat if inner is None else inner.flatten(1, 3)
    near = cells[:, term.row : term.row + term.length]
    far = cells[:, term.row_2 : term.row_2 + term.length]
    whole: dict[int, Tensor] = {}
    parts: dict[tuple[int, int], Tensor] = {}
    for tap, tap_2 in tap_pairs(grid[0].kernel, symmetric=symmetric):
        lag = tap_2 - tap
        if lag not in whole:
            start, partner, count = (
                (rows * v for v in row_shift(grid, term, lag)) if inner is not None else (0, 0, 0)
            )
            whole[lag] = _add(None, flat_inner[:, start : start + count], flat[:, partner : partner + count])
        total, ahead = whole[lag], grid[0].dilation * lag
        for low, high in edge_spans(grid[0], tap, tap_2):
            left, right = near[:, :, low:high], far[:, :, low + ahead : high + ahead]
            total = _add(total, left.flatten(1, 3), right.flatten(1, 3))
        parts[tap, tap_2] = total
        if symmetric and tap_2 > tap:
            parts[tap_2, tap] = total.transpose(1, 2)
    return torch.cat([torch.cat([parts[k, k_2] for k_2 in taps], 2) for k in taps], 1)


def _extent(x: Tensor, groups: int, unfolded: tuple[Axis, ...]) -> tuple[int, int]:
    """Rows and columns of one cell after some axes are unfolded: (n o..) and (c k..)."""
    rows = x.shape[0] * prod(a.positions for a in unfolded)
    return rows, x.shape[1] // groups * prod(a.kernel for a in unfolded)


def _rows(x: Tensor, groups: int, unfolded: tuple[Axis, ...], kept: int) -> Tensor:
    """A view with the kept last axes outermost, the last of all first: `[g, i.., n, o.., c, k..]`."""
    count = len(unfolded)
    x = _unfold(x, 2, unfolded)
    x = x.view(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])  # [n, g, c, o.., i.., k..]
    middle, end = 3 + count, 3 + count + kept
    return x.permute(1, *range(end - 1, middle - 1, -1), 0, *range(3, middle), 2, *range(end, end + count))


def _unfold(x: Tensor, dim: int, axes: tuple[Axis, ...]) -> Tensor:
    """Pad the dimensions from `dim` on and exchange their cells for positions; the taps come last."""
    amounts = [(-a.offset, a.reach + a.offset - a.size) for a in axes]
    if any(amount != (0, 0) for amount in amounts):
        rest = [0] * (2 * (x.dim() - dim - len(axes)))
        x = F.pad(x, [*rest, *(v for amount in reversed(amounts) for v in amount)])
    for place, axis in enumerate(axes, dim):
        x = x.unfold(place, axis.dilation * (axis.kernel - 1) + 1, axis.stride)[..., :: axis.dilation]
    return x


def _add(total: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    """`total + firstᵀ second` for each group; a plain product is faster than a batch of one."""
    one = first.shape[0] == 1
    if total is None:
        return torch.mm(first[0].t(), second[0])[None] if one else torch.bmm(first.transpose(1, 2), second)
    if one:
        return torch.addmm(total[0], first[0].t(), second[0])[None]
    return torch.baddbmm(total, first.transpose(1, 2), second)


def _assemble(made: dict[tuple[int, int], Tensor], taps: int, inner: int, in_place: bool) -> Tensor:
    """Blocks `[g, (k1 c), (k1 c)]` for tap <= tap_2 to one matrix `[g, (c k1 k2), (c k1 k2)]`; k1 < inner."""
    groups, size, _ = made[0, 0].shape
    width = size // inner
    split = (groups, inner, width, inner, width)
    pairs = tap_pairs(taps, symmetric=False)
    blocks = [(made[k, j] if k <= j else made[j, k].mT).reshape(split) for k, j in pairs]
    if in_place:
        out = blocks[0].new_empty(groups, width, inner, taps, width, inner, taps)
        for (k, j), block in zip(pairs, blocks, strict=True):
            out[:, :, :, k, :, :, j].copy_(block.permute(0, 2, 1, 4, 3))
    else:
        out = torch.stack(blocks, 1).reshape(groups, taps, taps, *split[1:]).permute(0, 4, 3, 1, 6, 5, 2)
    return out.reshape(groups, size * taps, size * taps)
