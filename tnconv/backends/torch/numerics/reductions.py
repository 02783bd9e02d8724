"""Sums of cells, of windows, of products and of squares of products, in the order that memory likes."""

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.numerics.huge_pages import HALF
from tnconv.backends.torch.numerics.strips import Terms, strip
from tnconv.backends.torch.numerics.weight_gradients import of_nothing

_LEAST_SHARED, _LEAST_CELLS = (
    40,
    1 << 18,
)  # cells of an axis and of an input whose shared cells are summed first
_MOST_SLICES, _LEAST_SLICE, _MOST_ADDED = 1024, 4096, 128


def window_sums(x: Tensor, kept: Terms, summed: Terms, offset: int) -> Tensor:
    """Window sums along the second of three dimensions.

    Where the windows of a long axis have most cells in common, these are summed once and the few others added.

    Args:
        x: `[b, i, a]`.
        kept: as for `strip`.
        summed: as for `strip`.
        offset: as for `strip`.

    Returns:
        The sums `[b, k, a]`.
    """
    size = x.shape[1]
    matrix = strip(size, kept, summed, offset, x.dtype, x.device)
    low, high = _shared(size, kept, summed, offset)
    if (
        torch.compiler.is_compiling()
        or high - low < max(_LEAST_SHARED, size // 2)
        or x.numel() < _LEAST_CELLS
    ):
        return torch.matmul(matrix.T, x)
    few = [*range(low), *range(high, size)]
    shared = x[:, low:high].sum(1)
    if not few:
        return shared[:, None].repeat(1, matrix.shape[1], 1)
    edges = torch.stack([x[:, cell] for cell in few])  # [e, b, a]
    rest = torch.mm(torch.cat((matrix[:low], matrix[high:])).T, edges.flatten(1))
    return (rest.view(len(rest), *shared.shape) + shared).transpose(0, 1)


@lru_cache(maxsize=512)
def _shared(size: int, kept: Terms, summed: Terms, offset: int) -> tuple[int, int]:
    """The range of the cells that all windows hold exactly once, if these are one run of windows of stride 1."""
    if len(summed) != 1 or summed[0][0] != 1:
        return 0, 0
    reach = [a * (count - 1) for a, count in kept]
    first, last = sum(min(0, r) for r in reach) + offset, sum(max(0, r) for r in reach) + offset
    low, high = max(0, last), min(size, first + summed[0][1])
    return (low, high) if low < high else (0, 0)


def dot(a: Tensor, b: Tensor, places: tuple[int, ...]) -> Tensor:
    """`Σ a * b` over some dimensions, without conjugation.

    A sum over leading dimensions adds slice by slice, so that the product is never in memory as a whole.

    Args:
        a: any shape.
        b: of the same shape.
        places: the dimensions that are summed, ascending, at least one.
    """
    if len(places) == a.dim():
        return torch.dot(a.reshape(-1), b.reshape(-1))
    leading = places == tuple(range(len(places)))
    count = math.prod(a.shape[: len(places)])
    exact = a.dtype.itemsize > HALF  # a half-precision sum is rounded once, not at every slice
    if (
        leading
        and exact
        and may_write(a)
        and may_write(b)
        and 0 < count <= _MOST_SLICES
        and a.numel() >= count * _LEAST_SLICE
    ):
        a, b = a.flatten(0, len(places) - 1), b.flatten(0, len(places) - 1)
        total = a[0] * b[0]
        for place in range(1, count):
            total.addcmul_(a[place], b[place])
        return total
    return (a * b).sum(places)


def squares(
    a: Tensor, b: Tensor, shape: tuple[int, ...], places: tuple[int, ...], keep: bool, *, plain: bool = False
) -> Tensor:
    """`Σ |a @ b|²`, one example after another, so that one product is in memory at a time.

    Args:
        a: `[n, …, l, t]`.
        b: `[n, …, t, r]`.
        shape: of the product of one example.
        places: dimensions of it that are summed.
        keep: whether the examples stay apart, in front of the result; they are summed otherwise.
        plain: whether complex values are multiplied with themselves, not with their conjugates.

    Returns:
        The kept dimensions of the shape, behind n if it is kept.
    """
    kept = [size for place, size in enumerate(shape) if place not in places]
    if not len(a) or not b.numel():
        return of_nothing((*([len(a)] if keep else []), *kept), a, b)
    write = may_write(a) and may_write(b)
    buffer = a.new_empty((*a.shape[1:-1], b.shape[-1])) if write else None
    parts, total = [], None
    for x, y in zip(a, b, strict=True):
        made = torch.matmul(x, y, out=buffer).view(shape)
        other = made if plain else made.conj()
        if keep:
            parts.append(dot(made, other, places) if places else made * other)
            continue
        total = _with_squares(total, made, other, places)
    return torch.stack(parts) if total is None else total


def _with_squares(total: Tensor | None, values: Tensor, others: Tensor, places: tuple[int, ...]) -> Tensor:
    """`total + Σ values · others`, in the memory of the total where nothing records it."""
    if places == (0,) and may_write(values):
        for part, other in zip(values, others, strict=True):
            total = part * other if total is None else total.addcmul_(part, other)
        assert total is not None
        return total
    if not places and total is not None and may_write(values):
        return total.addcmul_(values, others)
    part = dot(values, others, places) if places else values * others
    return part if total is None else total + part


def slice_sum(windows: Tensor, places: tuple[int, ...]) -> Tensor:
    """The sum of a window view over some dimensions: slice by slice while these are large, for cells are near then."""
    count = math.prod([windows.shape[p] for p in places])
    if (
        torch.compiler.is_compiling()  # a choice by size would be a guard on sizes that are left open
        or not 0 < count <= _MOST_ADDED
        or windows.numel() < count * _LEAST_SLICE
        or windows.dtype.itemsize <= HALF
    ):
        return windows.sum(places)
    front = windows.movedim(places, tuple(range(len(places))))
    slices = (front[cell] for cell in itertools.product(*(range(windows.shape[p]) for p in places)))
    total = next(slices).clone(memory_format=torch.contiguous_format)
    for part in slices:
        total += part
    return total


def axis_sums(x: Tensor, places: tuple[int, ...]) -> Tensor:
    """The sum over several short dimensions, one after another: torch sums short rows slowly.

    Args:
        x: any shape.
        places: the dimensions that are summed, ascending.
    """
    for place in reversed(places):
        x = slice_sum(x, (place,))
    return x
