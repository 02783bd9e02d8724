"""Windows as columns and back, as `torch.nn.functional.unfold` and `fold`, for any number of dimensions."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from tnconv.compiler.function import CompiledFunction
from tnconv.errors import ArgumentError, SpecError
from tnconv.functional import by_torch
from tnconv.functional.by_size import compiled_layer
from tnconv.functional.compiled_calls import (
    OpenSizes,
    Shape,
    cached,
    check_axes,
    dims_of,
    dims_with,
    no_tensors,
    spatial_axes,
    without_batch,
)
from tnconv.functional.types import Ints, NumericPadding
from tnconv.spec import UnfoldSpec
from tnconv.spec.fields import Ints as SpecInts
from tnconv.spec.fields import shown, spread, typed
from tnconv.spec.layer_spec import of_numbers


def unfoldNd(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: NumericPadding = 0, stride: Ints = 1
) -> Tensor:
    """The windows of an input, one a column (im2col).

    The number of spatial dimensions is the length of the arguments that are tuples. Where all are ints, the input
    has a batch axis: `[C, I1, I2]` with kernel size 3 would be one dimension, with (3, 3) it is two.

    Args:
        input: `[N, C, *I]` or `[C, *I]`.
        kernel_size: extent of the window, an int or one for each dimension.
        dilation: distance between its cells.
        padding: zeros around the input: an int, one for each dimension, or a (left, right) pair for each.
        stride: step of the window.

    Returns:
        `[N, C*prod(K), prod(O)]` or `[C*prod(K), prod(O)]`.

    Raises:
        SpecError: a hyper-parameter is invalid, or two do not fit together.
        ArgumentError: the input has the wrong shape or dtype.
    """
    options = (kernel_size, dilation, padding, stride)
    if not isinstance(input, Tensor):
        return no_tensors(unfoldNd, {"input": input}, input, *options)
    dims = dims_with(input.shape, kernel_size, dilation, padding, stride)
    try:
        layer = _unfold(dims, without_batch(input.shape, dims + 1), *options)
    except OpenSizes:
        return by_torch.unfold(dims, input, options)
    return layer(input)


def foldNd(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: NumericPadding = 0,
    stride: Ints = 1,
) -> Tensor:
    """The adjoint of `unfoldNd` (col2im): cells of windows that overlap are summed.

    The number of spatial dimensions is the length of the arguments that are tuples; one has to be.

    Args:
        input: columns, `[N, C*prod(K), prod(O)]` or `[C*prod(K), prod(O)]`.
        output_size: the extent `I` of the input of `unfoldNd`.
        kernel_size: extent of the window, an int or one for each dimension.
        dilation: distance between its cells.
        padding: as of `unfoldNd`.
        stride: step of the window.

    Returns:
        `[N, C, *I]` or `[C, *I]`.

    Raises:
        SpecError: a hyper-parameter is invalid, or two do not fit together.
        ArgumentError: the input has the wrong shape or dtype.
    """
    options = (kernel_size, dilation, padding, stride)
    if not isinstance(input, Tensor):
        return no_tensors(foldNd, {"input": input}, input, output_size, *options)
    try:
        layer = _fold(without_batch(input.shape, 2), output_size, *options)
    except OpenSizes:
        return by_torch.fold(input, _full(output_size, *options), options)
    return layer(input)


@cached
def _unfold(dims: int, sizes: Shape, *options: Any) -> CompiledFunction:
    check_axes(sizes, spatial_axes(dims))
    return compiled_layer(_spec(sizes[0], tuple(sizes[1:]), *options))


@cached
def _fold(sizes: Shape, output_size: Any, *options: Any) -> CompiledFunction:
    check_axes(sizes, "C*prod(K) prod(O)")
    one = _spec(1, _full(output_size, *options), *options)
    cells, windows = math.prod(one.kernel_sizes), math.prod(one.output_sizes)
    if sizes[0] == 0 or sizes[0] % cells:
        raise ArgumentError(
            f"input has {sizes[0]} rows but kernel_size {one.kernel_sizes} has {cells} cells; give a multiple, one row "
            "for each channel and cell"
        )
    if sizes[1] != windows:
        raise ArgumentError(
            f"input has {sizes[1]} columns but output_size {one.input_sizes} has {windows} windows; give one column "
            "for each, or change output_size, dilation, padding or stride"
        )
    return compiled_layer(replace(one, channels=sizes[0] // cells), "input_vjp")


def _full(output_size: Any, kernel_size: Any, *others: Any) -> Shape:
    """The output size with an int for each spatial dimension."""
    dims = dims_of(output_size, kernel_size, *others)
    if dims is None:
        raise SpecError(
            f"output_size {shown(output_size)} and kernel_size {shown(kernel_size)} leave the number of dimensions "
            "open; give output_size as a tuple with one for each"
        )
    return spread("output_size", typed("output_size", output_size, SpecInts), dims)


def _spec(
    channels: int, input_size: Shape, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> UnfoldSpec:
    spec = UnfoldSpec(channels, kernel_size, input_size, stride=stride, padding=padding, dilation=dilation)
    return of_numbers(spec).spelled_out()
