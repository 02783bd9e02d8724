"""Sums of cells, of windows, of products and of squares of products, in the order that memory likes."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.numerics.huge_pages import HALF
from tnconv.backends.torch.numerics.inner import inner_product, inner_products
from tnconv.backends.torch.numerics.strips import Terms, strip
from tnconv.backends.torch.numerics.weight_gradients import of_nothing


def run_sums(x: Tensor, run: tuple[int, ...]) -> Tensor:
    """What is left of the second dimension once the cells of a run are summed.

    Args:
        x: `[b, i]` or `[b, i, a]`.
        run: as `strips.Run` says.

    Returns:
        The sums, then the cells that are not in the run, in the place of i.
    """
    low, high, period, first, count = run
    inner = x[:, low:high]
    if period == 1:
        sums = inner.sum(1, keepdim=True)
    else:
        inner = inner.view(x.shape[0], (high - low) // period, period, *x.shape[2:])
        sums = (inner if count == period else inner[:, :, first : first + count]).sum(1)
    rest = [x[:, :low]] if low else []
    if high < x.shape[1]:
        rest.append(x[:, high:])
    return torch.cat((sums, *rest), 1) if rest else sums


def window_sums(
    x: Tensor, kept: Terms, summed: Terms, offset: int, run: tuple[int, ...] | None = None
) -> Tensor:
    """Window sums along the second of three dimensions.

    Args:
        x: `[b, i, a]`.
        kept: as for `strip`.
        summed: as for `strip`.
        offset: as for `strip`.
        run: cells that are summed first, as `strips.Run` says; None for none.

    Returns:
        The sums `[b, k, a]`.
    """
    matrix = strip(x.shape[1], kept, summed, offset, x.dtype, x.device, run)
    return torch.matmul(matrix.T, x if run is None else run_sums(x, run))


def dot(a: Tensor, b: Tensor, places: tuple[int, ...], *, slices: bool = False) -> Tensor:
    """`Σ a * b` over some dimensions, without conjugation.

    Args:
        a: any shape.
        b: of the same shape.
        places: the dimensions that are summed, ascending, at least one.
        slices: whether a sum over leading dimensions, but not all, adds slice by slice, so that the product is never in
            memory as a whole; a sum in half precision is rounded once, not at every slice.
    """
    if len(places) == a.dim():
        return torch.dot(a.reshape(-1), b.reshape(-1))
    if not slices or a.dtype.itemsize <= HALF or not (may_write(a) and may_write(b)) or not a.numel():
        return (a * b).sum(places)
    a, b = a.flatten(0, len(places) - 1), b.flatten(0, len(places) - 1)
    total = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        total.addcmul_(one, other)
    return total


def squares(
    a: Tensor,
    b: Tensor,
    shape: tuple[int, ...],
    places: tuple[int, ...],
    keep: bool,
    *,
    plain: bool = False,
    slices: bool = False,
    lead: int = 1,
) -> Tensor:
    """`Σ |a @ b|²`, one example after another, so that one product is in memory at a time.

    Args:
        a: `[n, …, l, t]`.
        b: `[n, …, t, r]`, of the same number of dimensions.
        shape: of the product of one example.
        places: dimensions of it that are summed.
        keep: whether the examples stay apart, in front of the result; they are summed otherwise.
        plain: whether complex values are multiplied with themselves, not with their conjugates.
        slices: as for `dot`, of one example.
        lead: number of dimensions of the examples; they are one of the result.

    Returns:
        The kept dimensions of the shape, behind n if it is kept.
    """
    kept = [size for place, size in enumerate(shape) if place not in places]
    if not a.numel() or not b.numel():
        return of_nothing((*([math.prod(a.shape[:lead])] if keep else []), *kept), a, b)
    write = may_write(a) and may_write(b)
    buffer = a.new_empty((*a.shape[lead:-1], b.shape[-1])) if write else None
    parts, total = [], None
    for x, y in _examples(a, b, lead):
        made = _product(x, y, buffer).view(shape)
        other = made if plain else made.conj()
        if keep:
            parts.append(dot(made, other, places, slices=slices) if places else made * other)
            continue
        total = _with_squares(total, made, other, places, slices)
    return torch.stack(parts) if total is None else total


def _product(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    """`a @ b`, in the memory of `out` maybe."""
    if a.dim() == b.dim() == 2:
        return inner_product(a, b, out)
    if a.dim() == b.dim() == 3:
        return inner_products(a, b, out)
    return torch.matmul(a, b, out=out)


def _examples(a: Tensor, b: Tensor, lead: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of cells of the leading dimensions: an expanded operand is not copied."""
    pairs = zip(a, b, strict=True)
    return pairs if lead == 1 else itertools.chain.from_iterable(_examples(x, y, lead - 1) for x, y in pairs)


def _with_squares(
    total: Tensor | None, values: Tensor, others: Tensor, places: tuple[int, ...], slices: bool
) -> Tensor:
    """`total + Σ values · others`, in the memory of the total where nothing records it."""
    if places == (0,) and may_write(values):
        for part, other in zip(values, others, strict=True):
            total = part * other if total is None else total.addcmul_(part, other)
        assert total is not None
        return total
    if not places and total is not None and may_write(values):
        return total.addcmul_(values, others)
    part = dot(values, others, places, slices=slices) if places else values * others
    return part if total is None else total + part


def slice_sum(windows: Tensor, places: tuple[int, ...]) -> Tensor:
    """The sum of a window view over some dimensions, slice by slice; of half precision at once, so rounded once."""
    if torch.compiler.is_compiling() or not windows.numel() or windows.dtype.itemsize <= HALF:
        return windows.sum(places)
    front = windows.movedim(places, tuple(range(len(places))))
    slices = (front[cell] for cell in itertools.product(*(range(windows.shape[p]) for p in places)))
    total = next(slices).clone(memory_format=torch.contiguous_format)
    for part in slices:
        total += part
    return total
