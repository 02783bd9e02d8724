"""Thin 0/1 matrices that window sums are products with: made once for each geometry, and kept.

What is kept is real, whatever is on when it is made. A dispatch mode, such as that of `torch.export`, is given it as
the constant that it is; `torch.compile` traces how it is made. A CUDA graph keeps no memory that is not its own, and
nothing is copied to the device while one is recorded: it makes the matrix there, at each replay.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tnconv.backends.torch.context import aside, is_captured, under_mode
from tnconv.backends.torch.numerics.remembered import remembered

Terms = tuple[tuple[int, int], ...]
Axis = tuple[Any, ...]  # size, kept, summed and offset, and maybe a run: as `strip` takes them
_KEPT = 512  # matrices
_COUNTED = 1 << 24  # cells of windows, at most, that are counted to find a run
_HOST = torch.device("cpu")
_constant: Any = torch.ops.aten.lift_fresh.default


class Run(NamedTuple):
    """Cells of an axis that are in the same windows in turn, so that they are summed before they go into any.

    What is left of an axis are the sums of some cells of a period, then the cells in front of the run, then those
    behind it.

    Args:
        low: the first cell of the run.
        high: the cell behind its last, a multiple of the period after the first.
        period: of so many cells in a row, each is in the windows that the one a period further is in.
        first: the first cell of a period that is in a window.
        used: cells of a period that are kept, from the first.
    """

    low: int
    high: int
    period: int
    first: int
    used: int

    def cells(self, size: int) -> int:
        """What is left of an axis of so many cells."""
        return self.used + size - (self.high - self.low)


@remembered
def run_of(size: int, kept: Terms, summed: Terms, offset: int) -> Run | None:
    """The run that leaves the fewest cells of an axis; None where none saves any, or windows are too many to count.

    Arguments as for `strip`.
    """
    windows = prod([n for _, n in (*kept, *summed)])
    if max(windows, size * prod([n for _, n in kept])) > _COUNTED:
        return None
    with aside():
        counts = _counts(_HOST, size, kept, summed, offset).numpy()
    found = [run for coefficient, _ in summed for run in _runs(counts, abs(coefficient))]
    best = min(found, key=lambda run: run.cells(size), default=None)
    return best if best is not None and best.cells(size) < size else None


def _runs(counts: np.ndarray[Any, Any], period: int) -> Iterator[Run]:
    """Runs of a period, each as long as it can be."""
    alike = (counts[period:] == counts[:-period]).all(1)
    edges = np.flatnonzero(np.diff(alike, prepend=False, append=False))
    for low, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        used = np.flatnonzero(counts[low : low + period].any(1)).tolist() or [0]
        high = low + (last + period - low) // period * period
        yield Run(low, high, period, used[0], used[-1] + 1 - used[0])


def strip(
    size: int,
    kept: Terms,
    summed: Terms,
    offset: int,
    dtype: torch.dtype,
    device: torch.device,
    run: tuple[int, ...] | None = None,
) -> Tensor:
    """How often each input cell is in the windows of each kernel offset: `S[i, k] = Σ_o [i = s·o + d·k + offset]`.

    A thin matrix, one column a kernel offset: the window sum along one axis is a product with it.

    Args:
        size: number of input cells.
        kept: (coefficient, size) of the indices that stay, in the order of the columns.
        summed: (coefficient, size) of the indices that are summed.
        offset: in cells.
        dtype: of the result.
        device: of the result.
        run: what `run_sums` has left of the cells; all if left out.

    Returns:
        A tensor of shape [cells, product of the kept sizes].
    """
    return _found(((size, kept, summed, offset, run),), dtype, device)


def strips(
    first: Axis,
    second: Axis,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The strips of two axes as one matrix, `[(i1 i2), (k1 k2)]`; each is given as to `strip`, maybe with its run."""
    return _found((first, second), dtype, device)


def window_places(axes: tuple[Axis, ...], device: torch.device) -> Tensor:
    """The cells that windows read, as places of an image whose axes are one; that behind the last for what is outside.

    Args:
        axes: size, (coefficient, size, position in the result) of the terms, and offset of each.
        device: of the result.

    Returns:
        Integers, of one dimension, row-major by position.
    """
    return _found(axes, torch.int64, device)


def _places(axes: tuple[Axis, ...], where: torch.device) -> Tensor:
    count = sum([len(terms) for _, terms, _ in axes])
    places, inside = (
        torch.zeros((), dtype=torch.int64, device=where),
        torch.ones((), dtype=torch.bool, device=where),
    )
    for size, terms, offset in axes:
        cell = torch.full((), offset, device=where)
        for coefficient, steps, position in terms:
            shape = [steps if place == position else 1 for place in range(count)]
            cell = cell + (coefficient * torch.arange(steps, device=where)).view(shape)
        inside = inside & (cell >= 0) & (cell < size)
        places = places * size + cell
    return torch.where(inside, places, prod([size for size, _, _ in axes])).flatten()


def _found(axes: tuple[Axis, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if torch.compiler.is_dynamo_compiling() or is_captured(device):
        return _made(axes, dtype, device, device if device.type == "cuda" else _HOST)
    if not under_mode():
        return _kept(axes, dtype, device)
    lifted: Tensor = _constant(_kept(axes, dtype, _HOST))  # a mode may stand for a device that is not there
    return lifted.to(device)


@lru_cache(maxsize=_KEPT)
def _kept(axes: tuple[Axis, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with aside():
        return _made(axes, dtype, device, _HOST)


def _made(
    axes: tuple[Axis, ...],
    dtype: torch.dtype,
    device: torch.device,
    where: torch.device,
) -> Tensor:
    """Counted on one device, and copied to another when it is complete: all streams find it there.

    Of axes with a size, terms and an offset alone, it is a table of cells. Factors of strips are brought to the dtype,
    for they are small; the product would take three times its memory.
    """
    if len(axes[0]) == 3:  # those of `window_places`; integers have strips, too
        return _places(axes, where).to(device)
    first, *others = [_counts(where, *axis).to(dtype) for axis in axes]
    for other in others:
        first = torch.kron(first, other)
    return first.to(device)


def _counts(
    where: torch.device,
    size: int,
    kept: Terms,
    summed: Terms,
    offset: int,
    run: tuple[int, ...] | None = None,
) -> Tensor:
    columns = _sums(kept, where)
    cells = columns[:, None] + _sums(summed, where)[None, :] + offset
    column = torch.arange(len(columns), device=where)[:, None]
    inside = ((cells >= 0) & (cells < size)).to(torch.int64)
    places = cells.clamp(0, size - 1) * len(columns) + column
    counts = torch.zeros(size * len(columns), dtype=torch.int64, device=where)
    counts.scatter_add_(0, places.flatten(), inside.flatten())
    counts = counts.view(size, len(columns))
    if run is None:
        return counts
    low, high, _, first, count = run
    return torch.cat((counts[low + first : low + first + count], counts[:low], counts[high:]))


def _sums(terms: Terms, where: torch.device) -> Tensor:
    """All values of `Σ coefficient·x`, row-major."""
    values = torch.zeros(1, dtype=torch.int64, device=where)
    for coefficient, size in terms:
        values = (values[:, None] + coefficient * torch.arange(size, device=where)[None, :]).flatten()
    return values
