"""What generated source calls besides torch, as `rt`: small constants that are worth keeping."""

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch import depthwise, fourier, spread
from tnconv.backends.torch.context import are_plain, is_recorded, is_traced, may_write
from tnconv.backends.torch.gram import gram
from tnconv.backends.torch.huge_pages import HALF, new_zeros
from tnconv.backends.torch.into import add_into, scale_into
from tnconv.backends.torch.lag import correlate
from tnconv.backends.torch.strips import Terms, strip, strips
from tnconv.errors import ArgumentError

__all__ = [
    "add",
    "add_into",
    "added",
    "apart",
    "axis_sums",
    "batched_product",
    "correlate",
    "depthwise",
    "depthwise_weight_gradient",
    "depthwise_weight_gradients",
    "dot",
    "fourier",
    "gram",
    "grouped",
    "merged_weight_gradient",
    "mirrored_weight_gradient",
    "picked",
    "plain",
    "ratio",
    "real",
    "rows_at",
    "scale_into",
    "selected",
    "slice_sum",
    "spread",
    "spread_rows",
    "squares",
    "strip",
    "strips",
    "table",
    "transposed",
    "undefined",
    "unwrapped",
    "weight_gradient",
    "weight_gradients",
    "window_sums",
    "zeros",
]

_BACKWARD = torch.ops.aten.convolution_backward.default
_WEIGHT_ALONE = (False, True, False)
_LEAST_SHARED, _LEAST_CELLS = (
    40,
    1 << 18,
)  # cells of an axis and of an input whose shared cells are summed first
_LEAST_CALL, _LARGE = (
    1_000_000,
    1 << 22,
)  # multiplications of an example, cells of a result that are worth calls
_FEW_CHANNELS, _LEAST_FEW = 8, 4_000_000  # channels of a group that are slow in one call, and multiplications
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


def weight_gradient(
    gradient: Tensor,
    image: Tensor,
    shape: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """The weight gradient of a native convolution; the arguments are as for `torch.nn.grad.conv2d_weight`.

    Torch has no complex version on CPU, so complex values are multiplied out, without conjugation; and its second
    derivative has no gradients at all where there are no examples.
    """

    if groups == 0:  # a batch without examples, each of which is a group
        return _empty(shape, gradient, image)
    if is_traced():
        return _by_convolution(gradient, image, shape, stride, padding, dilation, groups)
    if not len(image):
        return _empty(shape, gradient, image)
    options = (stride, padding, dilation, False, (0,) * len(stride), groups, _WEIGHT_ALONE)
    if not image.is_complex():
        weight = image.new_empty(shape)  # wanted for its shape alone; an expanded cell would be copied
        result: Tensor = _BACKWARD(gradient, image, weight, None, *options)[1]
        return result
    weight = image.real.new_empty(shape)

    def real(y: Tensor, x: Tensor) -> Tensor:
        part: Tensor = _BACKWARD(y, x, weight, None, *options)[1]
        return part

    y, x = gradient, image
    return torch.complex(
        real(y.real, x.real) - real(y.imag, x.imag), real(y.real, x.imag) + real(y.imag, x.real)
    )


def _by_convolution(
    gradient: Tensor,
    image: Tensor,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`weight_gradient` as a forward convolution, examples as channels: torch.jit.trace does not take the other."""
    x = image.reshape(image.shape[0], groups, shape[1], *image.shape[2:])
    x = x.movedim(2, 0).transpose(1, 2).flatten(1, 2)  # [c, (g n), *i]
    result = depthwise.NATIVE[len(stride)](
        x, gradient.transpose(0, 1), None, dilation, padding, stride, groups
    )
    return depthwise.first_cells(result, shape[2:]).transpose(0, 1)


def depthwise_weight_gradient(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], *, groups: int, **options: Any
) -> Tensor:
    """`weight_gradient` with one channel a group, as a forward convolution where that is the quicker one."""
    if not math.prod(shape):
        return _empty(shape, gradient, image)
    if depthwise.quick(gradient, image):
        return depthwise.weight_gradient(gradient, image, shape, groups=groups, **options)
    return weight_gradient(gradient, image, shape, groups=groups, **options)


def depthwise_weight_gradients(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], **options: Any
) -> Tensor:
    """`depthwise_weight_gradient` for each of several gradients of one image.

    Args:
        gradient: `[v, n, c, *positions]`.
        image: `[n, c, *cells]`.
        shape: of the result, `[v, c, 1, *kernel]`.
        options: of `depthwise_weight_gradient`.
    """
    if not len(gradient):
        return _empty(shape, gradient, image)
    return torch.stack([depthwise_weight_gradient(y, image, shape[1:], **options) for y in gradient])


def merged_weight_gradient(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], *, groups: int, merged: int, **options: Any
) -> Tensor:
    """`weight_gradient` with so many groups taken as one, of which the blocks on the diagonal are kept.

    Args:
        gradient: as `weight_gradient` takes it.
        image: likewise.
        shape: of the result, `[(g d), c, *kernel]`.
        groups: at least one.
        merged: a divisor of `groups`.
        options: of `weight_gradient`.
    """
    wide = (shape[0], merged * shape[1], *shape[2:])
    result = weight_gradient(gradient, image, wide, groups=groups // merged, **options)
    blocks = result.reshape(groups // merged, merged, shape[0] // groups, merged, shape[1], *shape[2:])
    return blocks.diagonal(0, 1, 3).movedim(-1, 1).reshape(shape)


def mirrored_weight_gradient(
    gradient: Tensor,
    image: Tensor,
    shape: tuple[int, ...],
    *,
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    **options: Any,
) -> Tensor:
    """`weight_gradient` at stride 1 without groups, image and gradient exchanged: for few output channels."""
    around = spread.mirrored(shape[2:], padding, dilation)
    if min(around) < 0:
        return weight_gradient(gradient, image, shape, padding=padding, dilation=dilation, **options)
    turned = (shape[1], shape[0], *shape[2:])
    result = weight_gradient(image, gradient, turned, padding=around, dilation=dilation, **options)
    return result.transpose(0, 1).flip(list(range(2, len(shape))))


def weight_gradients(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], *, groups: int, examples: int, **options: Any
) -> Tensor:
    """Weight gradients of several examples, which lie one behind the other in the groups.

    Large ones are computed one by one, in native calls without groups, the others in one call; see `worth_calls`.

    Args:
        gradient: `[1, (n g d), *positions]`.
        image: `[1, (n g c), *cells]`.
        shape: of the result, `[(n g d), c, *kernel]`.
        groups: `n g`.
        examples: `n`.
        options: of `weight_gradient`.
    """
    cells = math.prod(shape)
    if torch.compiler.is_compiling() or not worth_calls(
        examples, shape[1], cells * math.prod(gradient.shape[2:]), cells
    ):
        return weight_gradient(gradient, image, shape, groups=groups, **options)
    size = (shape[0] // examples, *shape[1:])
    pairs = zip(gradient.chunk(examples, 1), image.chunk(examples, 1), strict=True)
    parts = (weight_gradient(y, x, size, groups=groups // examples, **options) for y, x in pairs)
    first = next(parts)
    result = first.new_empty((examples, *size))
    result[0].copy_(first)
    del first
    for place, part in enumerate(parts, 1):
        result[place].copy_(part)
    return result.flatten(0, 1)


def worth_calls(examples: int, channels: int, work: int, cells: int) -> bool:
    """Whether weight gradients of several examples are quicker one by one than as groups of one native call.

    Args:
        examples: number of them.
        channels: input channels of a group.
        work: multiplications of all.
        cells: of the result.
    """
    if examples < 2 or work < examples * _LEAST_CALL:
        return False
    return cells >= _LARGE or (channels < _FEW_CHANNELS and work >= examples * _LEAST_FEW)


def grouped(
    native: Callable[..., Tensor], shape: tuple[int, ...], image: Tensor, weight: Tensor, *bias: Tensor,
    groups: int = 1, **options: Any,
) -> Tensor:  # fmt: skip
    """A native convolution whose groups or channels are examples, of which there may be none.

    Args:
        native: `F.conv2d` or one of its family.
        shape: of the result.
        image: as `native` takes it.
        weight: as `native` takes it.
        bias: as `native` takes it, if there is one.
        groups: number of groups.
        options: of `native`.
    """
    if groups == 0 or not weight.numel():
        return _empty(shape, image, weight)
    return native(image, weight, *bias, groups=groups, **options)


def _empty(shape: tuple[int, ...], *operands: Tensor) -> Tensor:
    """A product of empty operands: zeros, through which gradients flow."""
    zero = sum((x.sum() for x in operands), operands[0].new_zeros(()))
    return operands[0].new_zeros(shape) + zero


def add(total: Tensor, value: Tensor) -> Tensor:
    """`total + value` in the memory of `total`, but where `vmap` maps over `value` alone, or the call is recorded."""
    if (
        torch.compiler.is_compiling()
        or is_recorded()
        or (torch._C._functorch.is_batchedtensor(value) and not torch._C._functorch.is_batchedtensor(total))
    ):
        return total + value
    return total.add_(value)


def picked(x: Tensor, places: Tensor) -> Tensor:
    """The rows of a matrix at some places; the place behind the last row has zeros.

    Args:
        x: `[r, a]`.
        places: integers from 0 to r, of any shape.

    Returns:
        `[*places, a]`.
    """
    return F.pad(x, (0, 0, 0, 1))[places]


def table(rows: Tensor, count: int, name: str) -> Tensor:
    """The rows of a selection, once they are known to be in range; on other devices the kernels check that.

    Args:
        rows: integers, `[s]`.
        count: what they select from.
        name: of the argument, for the message.

    Raises:
        ArgumentError: a row is negative, or not below `count`.
    """
    if rows.device.type == "cpu" and rows.numel() and are_plain((rows,)):
        low, high = (int(end) for end in rows.aminmax())
        if low < 0 or high >= count:
            raise ArgumentError(
                f"argument {name!r} has rows from {low} to {high} but selects from {count}; "
                f"give rows from 0 to {count - 1}"
            )
    return rows


def rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """The rows of a table at some places; any row in range of the selection, or 0, at a place that it does not have.

    Args:
        rows: integers, `[s]`.
        places: integers, of any shape and value.

    Returns:
        As places.
    """
    return F.pad(rows, (0, 1))[places.clamp(0, rows.shape[0])]


def selected(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """The cells of one axis at some places; the place behind the last cell has zeros.

    Args:
        x: any.
        axis: along which.
        places: integers from 0 to the size of the axis, `[p]`.

    Returns:
        As x, with size p on the axis.
    """
    behind = x.dim() - 1 - axis
    return F.pad(x, (0, 0) * behind + (0, 1)).index_select(axis, places)


def spread_rows(x: Tensor, axis: int, rows: Tensor, count: int) -> Tensor:
    """The transpose of a selection of rows: what has one row is added up.

    Args:
        x: any.
        axis: along which.
        rows: integers from 0 to `count - 1`, one for each cell of the axis.
        count: size of the axis of the result.

    Returns:
        As x, with size `count` on the axis.
    """
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return x.new_zeros(shape).index_add(axis, rows, x)


def added(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """The sums of the rows of a matrix that have one place; what goes behind the last place is left out.

    Args:
        rows: `[r, a]`.
        places: integers from 0 to `count`, `[r]`.
        count: number of places.

    Returns:
        `[count, a]`.
    """
    zeros = rows.new_zeros((count + 1, rows.shape[1]))
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(places):
        return zeros.index_add(0, places, rows)[:-1]  # `vmap` may map over the places alone
    return zeros.index_add_(0, places, rows)[:-1]


def apart(x: Tensor, axis: int, step: int) -> Tensor:
    """The cells of an axis `step` apart, with zeros between them: size I becomes `step * (I - 1) + 1`."""
    behind = (0, 0) * (x.dim() - axis - 1)
    spread = F.pad(x.unsqueeze(axis + 1), (*behind, 0, step - 1)).flatten(axis, axis + 1)
    return spread.narrow(axis, 0, max(0, step * (x.shape[axis] - 1) + 1))


def unwrapped(x: Tensor, axis: int, size: int, runs: tuple[tuple[int, int, int], ...]) -> Tensor:
    """The transpose of padding with cells of the input: the runs of an axis are added up.

    Args:
        x: any shape.
        axis: that was padded.
        size: of the axis before.
        runs: (first cell, step, length) of each run, one behind the other.
    """
    total, start = x.new_zeros((*x.shape[:axis], size, *x.shape[axis + 1 :])), 0
    for cell, step, length in runs:
        part = x.narrow(axis, start, length)
        if step == 0:
            part = part.sum(axis, keepdim=True)
        elif step < 0:
            part = part.flip(axis)
        first = cell + min(0, step * (length - 1))
        total.narrow(axis, first, part.shape[axis]).add_(part)
        start += length
    return total


def batched_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """`a @ b + bias`, which is rounded once in half precision.

    Args:
        a: `[n, l, t]`.
        b: `[n, t, r]`.
        bias: what broadcasts to `[n, l, r]`.
    """
    if a.dtype.itemsize <= HALF:
        return torch.baddbmm(bias, a, b)
    return add(torch.bmm(a, b), bias)


def transposed(
    call: Callable[..., Tensor], image: Tensor, weight: Tensor, bias: Tensor, **options: Any
) -> Tensor:
    """A transposed convolution with a bias, which is rounded once in half precision; else torch is slow at it."""
    if image.dtype.itemsize <= HALF:
        return call(image, weight, bias, **options)
    return add(call(image, weight, **options), bias.view(-1, *(1,) * (weight.dim() - 2)))


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
        return _empty((*([len(a)] if keep else []), *kept), a, b)
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


def real(x: Tensor) -> Tensor:
    """The real part of a value that is real by construction: a real one as it is."""
    return x.real.contiguous() if x.is_complex() else x


def plain(form: Callable[..., Tensor], x: Tensor, *options: Any, **more: Any) -> Tensor:
    """`Σ x xᵀ` where `form` computes `Σ x xᴴ`: of complex values by three forms of real ones.

    Args:
        form: `gram` or `correlate`.
        x: as `form` takes it.
        options: of `form`.
        more: likewise.
    """
    if not x.is_complex():
        return form(x, *options, **more)
    one, two = form(x.real, *options, **more), form(x.imag, *options, **more)
    return torch.complex(one - two, form(x.real + x.imag, *options, **more) - one - two)


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


def ratio(numerator: float, denominator: float) -> float:
    """A scale such as 1/N; not a number where the batch is empty, as torch's mean says."""
    if isinstance(denominator, Tensor):  # a size that torch.jit.trace leaves open
        quotient: Any = numerator / denominator.double()
        return quotient
    return numerator / denominator if denominator else float("nan")


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros with the dtype and the device of a tensor, in huge pages where they are many."""
    return new_zeros(like, shape) if may_write(like) else like.new_zeros(shape)


def undefined(result: Tensor) -> Tensor:
    """A mean over an empty batch: not a number in every cell, and gradients flow through."""
    return result * float("nan")
