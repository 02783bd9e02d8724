"""From the blocks that `lag` computes for pairs of taps to one matrix `[g, (c k1 ..), (c k1 ..)]`."""

from collections.abc import Callable, Sequence
from itertools import product as combinations
from math import prod

import torch
from torch import Tensor

from tnconv.backends.torch.numerics.huge_pages import new_empty
from tnconv.backends.torch.numerics.into import add_into
from tnconv.backends.torch.numerics.lag_schedule import tile_cells
from tnconv.backends.torch.numerics.triangle import pack_rows, pack_triangle, triangle_cells
from tnconv.ir.shapes import ConvAxis, covered

CHANNELS = -1  # beside the numbers of axes
Made = dict[tuple[int, int], Tensor]
Taps = tuple[int, ...]
_PARTS, _LEAST_ROWS = 8, 64  # blocks of rows of a packed result, and rows of one


def at_taps(block: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """`[g, c, c]` for taps of the rows and taps of the columns of `[g, k.., c, k.., c]`."""
    for tap in rows:
        block = block.select(1, tap)
    for tap in columns:
        block = block.select(2, tap)
    return block


def place_blocks(
    part: Callable[[Taps, Taps], Tensor],
    axes: tuple[ConvAxis, ...],
    write: bool,
    out: Tensor | None = None,
    beta: float = 0.0,
    packed: bool = False,
) -> Tensor:
    """`[g, (c k1 ..), (c k1 ..)]` from `[g, c, c]` for each pair of taps: written once, each into its place.

    With `out`, which has that shape, they are added there, the rows of one tap at a time: `beta · out + …`. With
    `packed`, of result and `out` there is the lower triangle alone, which is made by the rows of some channels.
    """
    kernel = [a.kernel for a in axes]
    taps = list(combinations(*map(range, kernel)))
    some = part(taps[0], taps[0])
    groups, channels = some.shape[:2]
    width = channels * len(taps)
    if not write:
        stack = torch.stack([part(k, j) for k in taps for j in taps])
        stack = stack.reshape(len(taps), len(taps), groups, channels, channels)
        whole = stack.permute(2, 3, 0, 4, 1).reshape(groups, width, width)
        return pack_triangle(whole) if packed else whole
    if packed:
        made = new_empty(some, (groups, triangle_cells(width))) if out is None else out
        _place_lower([[part(k, j) for j in taps] for k in taps], made, beta)
        return made
    if out is not None:
        places = out.view(groups, channels, len(taps), channels, len(taps))
        rows = some.new_empty((groups, channels, channels, len(taps)))
        for row, k in enumerate(taps):
            for column, j in enumerate(taps):
                rows[..., column].copy_(part(k, j))
            add_into(places[:, :, row], rows, beta)
        return out
    made = new_empty(some, (groups, channels, len(taps), channels, len(taps)))
    for row, k in enumerate(taps):
        for column, j in enumerate(taps):
            made[:, :, row, :, column].copy_(part(k, j))
    return made.reshape(groups, width, width)


def _place_lower(parts: Sequence[Sequence[Tensor]], out: Tensor, beta: float) -> None:
    """`beta · out + …` of packed lower triangles, from `[g, c, c]` for each pair of taps."""
    taps, (groups, channels, _) = len(parts), parts[0][0].shape
    step = max(-(-channels // _PARTS), -(-_LEAST_ROWS // taps))
    aside = parts[0][0].new_empty((min(step, channels) * taps * channels * taps,))
    for start in range(0, channels, step):
        stop = min(start + step, channels)
        rows, width = (stop - start) * taps, stop * taps
        block = aside[: rows * width].view(stop - start, taps, stop, taps)
        for group in range(groups):
            for row, of_row in enumerate(parts):
                for column, each in enumerate(of_row):
                    block[:, row, :, column].copy_(each[group, start:stop, :stop])
            cells = slice(triangle_cells(start * taps), triangle_cells(width))
            pack_rows(block.view(rows, width), start * taps, out[group, cells], beta)


def assemble(
    made: Made,
    axes: tuple[ConvAxis, ...],
    tile: int,
    order: tuple[int, ...],
    lag: int | None,
    out: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """Blocks for tap <= tap_2 of the lag axis, rows and columns as in `order`, to `[g, (c k1 ..), (c k1 ..)]`.

    With `out`, which has that shape, they are added there: `beta · out + …`.
    """
    some = next(iter(made.values()))
    kernel = [a.kernel for a in axes]
    others = prod([axes[n].kernel for n in order if n != CHANNELS])
    cells = others // kernel[-1] * tile_cells(axes[-1], tile) if tile > 1 else others
    groups, channels = some.shape[0], some.shape[1] // cells
    if tile > 1:
        made = _diagonals(made, axes[-1], tile)
    width, depth = channels * prod(kernel), len(order)
    side = [channels if n == CHANNELS else kernel[n] for n in order]
    wanted = (CHANNELS, *range(len(axes)))
    if lag is None:
        places = [1 + order.index(n) for n in wanted]
        block = made[0, 0].reshape(groups, *side, *side).permute(0, *places, *(depth + p for p in places))
        return _handed_over(block, width, out, beta)
    # Side by side in memory lie the second taps, then the columns' channels: what a copy into place runs along.
    taps, before = range(kernel[lag]), prod(side[: order.index(CHANNELS)])

    def row(tap: int) -> Tensor:
        blocks = [made[tap, k] if k >= tap else made[k, tap].mH for k in taps]
        return torch.stack([b.reshape(groups, others * channels, before, -1) for b in blocks], 2)

    stack = torch.stack([row(tap) for tap in taps]).reshape(len(taps), groups, *side, len(taps), *side)
    rows = [2 + order.index(n) if n != lag else 0 for n in wanted]
    columns = [2 + depth + (order.index(n) + 1 if n != lag else 0) for n in wanted]
    return _handed_over(stack.permute(1, *rows, *columns), width, out, beta)


def _handed_over(blocks: Tensor, width: int, out: Tensor | None, beta: float) -> Tensor:
    """`[g, c, k1, .., c, k1, ..]` as a matrix of so many rows for each group; or `out` with it."""
    if out is None:
        return blocks.reshape(len(blocks), width, width)
    add_into(out.view(blocks.shape), blocks, beta)
    return out


def _diagonals(made: Made, axis: ConvAxis, tile: int) -> Made:
    """From products of the cells of tiles to those of taps: the sums of diagonals of each block.

    The cells are the last of the rows and the columns.
    """
    cells, reach = tile_cells(axis, tile), covered(axis.kernel, axis.dilation)
    read = axis.stride * (tile - 1) + reach
    folded: dict[int, Tensor] = {}
    for block in made.values():
        if id(block) in folded:
            continue
        groups, width, _ = block.shape
        view = block.reshape(groups, width // cells, cells, width // cells, cells)
        for dim in (2, 4):  # [g, c, o, c, o, k, k]
            view = view.narrow(dim, 0, read).unfold(dim, reach, axis.stride)[..., :: axis.dilation]
        sums = view.diagonal(0, 2, 4).sum(-1).transpose(2, 3)  # [g, c, k, c, k]
        folded[id(block)] = sums.flatten(3).flatten(1, 2)
    return {pair: folded[id(block)] for pair, block in made.items()}
