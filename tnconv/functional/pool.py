"""Average pooling, as `torch.nn.functional.avg_pool2d`, for any number of dimensions."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from tnconv.api import CompiledFunction
from tnconv.errors import SpecError
from tnconv.functional import native
from tnconv.functional.calls import (
    OpenSizes,
    Shape,
    check_axes,
    compiled,
    dims_with,
    kept,
    no_tensors,
    spatial_axes,
    without_batch,
)
from tnconv.functional.types import Ints, NumericPadding
from tnconv.spec import PoolSpec


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

    The number of spatial dimensions is the length of the arguments that are tuples. Where all are ints, the input
    has a batch axis.

    Args:
        input: `[N, C, *I]` or `[C, *I]`.
        kernel_size: extent of the window, an int or one for each dimension.
        stride: step of the window; the kernel size if left out.
        padding: zeros around the input, at most half of the kernel size.
        ceil_mode: only False is represented.
        count_include_pad: only True is represented, unless there is no padding or a divisor.
        divisor_override: of the sum over a window; the number of kernel cells if left out.

    Returns:
        `[N, C, *O]` or `[C, *O]`.

    Raises:
        SpecError: a hyper-parameter is invalid or not represented, or two do not fit together.
        ArgumentError: the input has the wrong shape or dtype.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if not isinstance(input, Tensor):
        return no_tensors(avg_poolNd, {"input": input}, input, *options)
    dims = dims_with(input.shape, kernel_size, stride, padding)
    try:
        layer = _pool(dims, without_batch(input.shape, dims + 1), *options)
    except OpenSizes:
        _pool(dims, native.example(dims), *options)  # refuses what is not represented
        return native.avg_pool(dims, input, (kernel_size, stride, padding, divisor_override))
    return layer(input)


@kept
def _pool(
    dims: int,
    sizes: Shape,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: Any,
) -> CompiledFunction:
    check_axes(sizes, spatial_axes(dims))
    spec = PoolSpec(sizes[0], kernel_size, tuple(sizes[1:]), stride=stride, padding=padding, divisor=divisor)
    if ceil_mode:
        raise SpecError("ceil_mode=True is not represented; give ceil_mode=False, or pad the input first")
    if not count_include_pad and divisor is None and any(map(any, spec.paddings)):
        raise SpecError(
            f"count_include_pad=False with padding {spec.paddings} is not represented; give count_include_pad=True "
            "or padding=0"
        )
    return compiled(replace(spec, kernel_size=spec.kernel_sizes, stride=spec.strides, padding=spec.paddings))
