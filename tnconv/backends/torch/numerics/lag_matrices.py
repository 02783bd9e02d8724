"""The cells of an input as the matrices that correlations multiply: by lag along one axis, the others in windows."""

from math import prod

import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.numerics.lag_assemble import CHANNELS
from tnconv.backends.torch.numerics.lag_schedule import line, tile_cells
from tnconv.ir.shapes import ConvAxis, covered


def matrices(
    x: Tensor,
    groups: int,
    axes: tuple[ConvAxis, ...],
    order: tuple[int, ...],
    lag: int | None,
    *,
    tile: int,
    last: bool,
) -> list[Tensor]:
    """One matrix `[g, rows, columns]` a phase of the lag axis: rows are (cells, n, tiles), columns as in `order`.

    They lie in memory so that the runs of what is copied are long: with the columns outermost where the last axis
    is unfolded, else its tiles' cells innermost; rows in the order (cells, tiles, n) where that has longer runs.
    """
    view = windows(x, groups, axes, tile, () if lag is None else (lag,), last=last)
    others = [n for n in range(len(axes)) if n != lag]
    taps = {n: 3 + len(axes) + count for count, n in enumerate(others)} | {CHANNELS: 2}
    columns = [taps[n] for n in order]
    cells = [] if lag is None else [3 + lag]
    positions = [3 + n for n in others]
    rows = [*cells, *positions, 0] if last else [*cells, 0, *positions]
    outermost = tile == 1
    view = view.permute(1, *(columns + rows if outermost else rows + columns))
    dim = 1 + len(columns) if outermost else 1
    width = prod(view.shape[1 : 1 + len(columns)] if outermost else view.shape[1 + len(rows) :])
    parts = [view] if lag is None else [_line(view, dim, axes[lag], p) for p in range(_phases(axes[lag]))]
    if outermost:
        return [part.reshape(groups, width, prod(part.shape[dim:])).mT for part in parts]
    return [part.reshape(groups, prod(part.shape[1 : 1 + len(rows)]), width) for part in parts]


def _phases(axis: ConvAxis) -> int:
    return min(axis.phases, axis.kernel)


def _line(view: Tensor, dim: int, axis: ConvAxis, phase: int) -> Tensor:
    """The cells of one phase along a dimension."""
    low, high = line(axis, phase)
    if high <= low:
        return view.narrow(dim, 0, 0)
    origin = axis.dilation * phase + axis.offset
    first, last = axis.stride * low + origin, axis.stride * (high - 1) + origin
    return view[(slice(None),) * dim + (slice(first, last + 1, axis.stride),)]


def windows(
    x: Tensor,
    groups: int,
    axes: tuple[ConvAxis, ...],
    tile: int,
    kept: tuple[int, ...],
    *,
    last: bool = False,
) -> Tensor:
    """Windows of all axes but those that are kept: `[n, g, c, cells or windows of each axis.., their cells..]`.

    With `last`, of a copy with the inputs innermost in memory.
    """
    amounts = [(0, 0) if n in kept else a.padding for n, a in enumerate(axes)]
    tiles = [*(1 for _ in axes[:-1]), tile]
    if tile > 1:
        left, right = amounts[-1]
        end = axes[-1]
        amounts[-1] = left, right + end.stride * (end.positions - tile) + tile_cells(end, tile) - end.reach
    padding = [v for amount in reversed(amounts) for v in amount]
    if last:
        x = x.movedim(0, -1)
        x = (F.pad(x, [0, 0, *padding]) if any(padding) else x.contiguous()).movedim(-1, 0)
    elif any(padding):
        x = F.pad(x, padding)
    for place, (axis, positions) in enumerate(zip(axes, tiles, strict=True)):
        if place not in kept:
            x = _unfolded(x, 2 + place, axis, positions)
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _unfolded(x: Tensor, dim: int, axis: ConvAxis, positions: int) -> Tensor:
    """Exchange the padded cells of a dimension for tiles of so many positions; their cells come last."""
    if positions == 1:
        return x.unfold(dim, covered(axis.kernel, axis.dilation), axis.stride)[..., :: axis.dilation]
    return x.unfold(dim, tile_cells(axis, positions), axis.stride * positions)
