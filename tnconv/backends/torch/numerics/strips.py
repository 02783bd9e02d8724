"""Thin 0/1 matrices that window sums are products with: made once for each geometry, and kept.

What is kept is real, whatever is on when it is made. A dispatch mode, such as that of `torch.export`, is given it as
the constant that it is; `torch.compile` traces how it is made. A CUDA graph keeps no memory that is not its own, and
nothing is copied to the device while one is recorded: it makes the matrix there, at each replay.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.torch.context import aside, is_captured, under_mode

Terms = tuple[tuple[int, int], ...]
_KEPT = 512  # matrices
_HOST = torch.device("cpu")
_constant: Any = torch.ops.aten.lift_fresh.default


def strip(
    size: int, kept: Terms, summed: Terms, offset: int, dtype: torch.dtype, device: torch.device
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

    Returns:
        A tensor of shape [size, product of the kept sizes].
    """
    return _found(((size, kept, summed, offset),), dtype, device)


def strips(
    first: tuple[int, Terms, Terms, int],
    second: tuple[int, Terms, Terms, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The strips of two axes as one matrix, `[(i1 i2), (k1 k2)]`; each is given as to `strip`."""
    return _found((first, second), dtype, device)


def _found(
    axes: tuple[tuple[int, Terms, Terms, int], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if torch.compiler.is_dynamo_compiling() or is_captured(device):
        return _made(axes, dtype, device, device if device.type == "cuda" else _HOST)
    if not under_mode():
        return _kept(axes, dtype, device)
    lifted: Tensor = _constant(_kept(axes, dtype, _HOST))  # a mode may stand for a device that is not there
    return lifted.to(device)


@lru_cache(maxsize=_KEPT)
def _kept(
    axes: tuple[tuple[int, Terms, Terms, int], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    with aside():
        return _made(axes, dtype, device, _HOST)


def _made(
    axes: tuple[tuple[int, Terms, Terms, int], ...],
    dtype: torch.dtype,
    device: torch.device,
    where: torch.device,
) -> Tensor:
    """Counted on one device, and copied to another when it is complete: all streams find it there.

    Its factors are brought to the dtype, for they are small; the product would take three times its memory.
    """
    first, *others = [_counts(*axis, where).to(dtype) for axis in axes]
    for other in others:
        first = torch.kron(first, other)
    return first.to(device)


def _counts(size: int, kept: Terms, summed: Terms, offset: int, where: torch.device) -> Tensor:
    columns = _sums(kept, where)
    cells = columns[:, None] + _sums(summed, where)[None, :] + offset
    column = torch.arange(len(columns), device=where)[:, None]
    inside = ((cells >= 0) & (cells < size)).to(torch.int64)
    places = cells.clamp(0, size - 1) * len(columns) + column
    counts = torch.zeros(size * len(columns), dtype=torch.int64, device=where)
    counts.scatter_add_(0, places.flatten(), inside.flatten())
    return counts.view(size, len(columns))


def _sums(terms: Terms, where: torch.device) -> Tensor:
    """All values of `Σ coefficient·x`, row-major."""
    values = torch.zeros(1, dtype=torch.int64, device=where)
    for coefficient, size in terms:
        values = (values[:, None] + coefficient * torch.arange(size, device=where)[None, :]).flatten()
    return values
