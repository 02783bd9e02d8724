"""Average pooling, as `torch.nn.functional.avg_pool2d`, for any number of dimensions."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tnconv.compiler.function import CompiledFunction
from tnconv.functional import by_torch
from tnconv.functional.by_size import compiled_layer
from tnconv.functional.compiled_calls import (
    OpenSizes,
    Shape,
    cached,
    check_axes,
    dims_with,
    no_tensors,
    spatial_axes,
    without_batch,
)
from tnconv.functional.types import Ints, NumericPadding
from tnconv.spec import PoolSpec
from tnconv.spec.fields import typed
from tnconv.spec.layer_spec import of_numbers


def avg_poolNd(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: NumericPadding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average over windows.

    The number of spatial dimensions is the length of the longest argument that is a tuple. Where all are ints, the
    input has a batch axis.

    Args:
        input: `[N, C, *I]` or `[C, *I]`.
        kernel_size: extent of the window, an int or one for each dimension.
        stride: step of the window; the kernel size if left out.
        padding: zeros around the input, at most half of the kernel size.
        ceil_mode: whether a last window counts that begins within the input or its left padding, and reaches beyond
            the right one.
        count_include_pad: whether cells of the padding count in the divisor; cells beyond it never do.
        divisor_override: of the sum over a window; the number of its cells if left out.

    Returns:
        `[N, C, *O]` or `[C, *O]`.

    Raises:
        SpecError: a hyper-parameter is invalid, or two do not fit together.
        ArgumentError: the input has the wrong shape or dtype.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if not isinstance(input, Tensor):
        return no_tensors(avg_poolNd, {"input": input}, input, *options)
    return _pooled(avg_poolNd, dims_with(input.shape, kernel_size, stride, padding), input, options)


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: NumericPadding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`avg_poolNd` in one spatial dimension; torch's has no divisor."""
    return _pooled(avg_pool1d, 1, input, (kernel_size, stride, padding, ceil_mode, count_include_pad, None))


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: NumericPadding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`avg_poolNd` in two spatial dimensions."""
    return _pooled(
        avg_pool2d, 2, input, (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    )


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: NumericPadding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`avg_poolNd` in three spatial dimensions."""
    return _pooled(
        avg_pool3d, 3, input, (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    )


def _pooled(function: Callable[..., Tensor], dims: int, input: Tensor, options: tuple[Any, ...]) -> Tensor:
    if not isinstance(input, Tensor):
        given = options if function is not avg_pool1d else options[:-1]
        return no_tensors(function, {"input": input}, input, *given)
    *_, ceil_mode, counted, divisor = options
    try:
        layer = _pool(dims, without_batch(input.shape, dims + 1), *options)
    except OpenSizes:
        _pool(dims, by_torch.example(dims), *options)  # refuses what is not represented
        return by_torch.avg_pool(dims, input, options)
    if divisor is not None or (counted and not ceil_mode):
        return layer(input)
    spec: Any = layer.spec
    if not _differ(spec, counted):
        return layer(input)
    return layer(input) * _shares(spec, counted, input.dtype, input.device)


@cached
def _pool(
    dims: int,
    sizes: Shape,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor: Any,
) -> CompiledFunction:
    """The sums over the windows, divided by the divisor, or by the number of kernel cells."""
    check_axes(sizes, spatial_axes(dims))
    over, _ = typed("ceil_mode", ceil_mode, bool), typed("count_include_pad", count_include_pad, bool)
    made = PoolSpec(
        sizes[0],
        kernel_size,
        tuple(sizes[1:]),
        stride=stride,
        padding=padding,
        divisor=1 if over and divisor is None else divisor,
        ceil_mode=over,
    )
    spec = of_numbers(made)
    if over and divisor is None:
        spec = replace(spec, divisor=math.prod(spec.kernel_sizes))
    return compiled_layer(spec.spelled_out())


def _differ(spec: PoolSpec, counted: bool) -> bool:
    return spec.reaches_over or (not counted and any(map(any, spec.paddings)))


def _shares(spec: PoolSpec, counted: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of every window, the number of kernel cells over that of the cells that count: `[*O]`."""
    sizes = zip(
        spec.input_sizes, spec.kernel_sizes, spec.strides, spec.paddings, spec.output_sizes, strict=True
    )
    found = torch.ones((), dtype=torch.int64, device=device)
    for size, kernel, stride, (left, right), outputs in sizes:
        low, high = (0, size + left + right) if counted else (left, left + size)
        first = stride * torch.arange(outputs, device=device)  # made there: a copy from the host would wait
        found = found[..., None] * ((first + kernel).clamp(max=high) - first.clamp(min=low))
    return (math.prod(spec.kernel_sizes) / found.double()).to(dtype)
