"""Transposed convolution, as `torch.nn.functional.conv_transpose2d`."""

from typing import Any

from torch import Tensor

from tnconv.compiler.function import CompiledFunction
from tnconv.functional import by_torch
from tnconv.functional.by_size import compiled_layer
from tnconv.functional.compiled_calls import (
    Shape,
    cached,
    check_channels,
    check_weight,
    over_groups,
    with_weight,
)
from tnconv.functional.types import Ints, NumericPadding
from tnconv.spec import ConvTransposeSpec


def conv_transposeNd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: NumericPadding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Transposed convolution in as many spatial dimensions as the weight has.

    Args:
        input: `[N, C_in, *I]` or `[C_in, *I]`.
        weight: `[C_in, C_out/groups, *K]`.
        bias: `[C_out]`.
        stride: step of the kernel over the output, an int or one for each dimension.
        padding: cells cut off the output: an int, one for each dimension, or a (left, right) pair for each.
        output_padding: cells added on the right of the output.
        groups: number of channel groups.
        dilation: distance between kernel cells.

    Returns:
        `[N, C_out, *O]` or `[C_out, *O]`.

    Raises:
        SpecError: a hyper-parameter is invalid, or two do not fit together.
        ArgumentError: a tensor has the wrong shape, dtype or device.
    """
    dims = weight.dim() - 2 if isinstance(weight, Tensor) else 0
    return _convolved(
        conv_transposeNd, dims, input, weight, bias, (stride, padding, output_padding, groups, dilation)
    )


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: NumericPadding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`conv_transposeNd` in one spatial dimension."""
    return _convolved(
        conv_transpose1d, 1, input, weight, bias, (stride, padding, output_padding, groups, dilation)
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: NumericPadding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`conv_transposeNd` in two spatial dimensions."""
    return _convolved(
        conv_transpose2d, 2, input, weight, bias, (stride, padding, output_padding, groups, dilation)
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: NumericPadding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`conv_transposeNd` in three spatial dimensions."""
    return _convolved(
        conv_transpose3d, 3, input, weight, bias, (stride, padding, output_padding, groups, dilation)
    )


@cached
def _conv_transpose(
    dims: int,
    sizes: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> CompiledFunction:
    check_weight(weight, dims)
    inside, outside = weight[0], over_groups(weight[1], groups)
    check_channels(sizes, bias, weight, groups, (inside, outside))
    spec = ConvTransposeSpec(
        inside,
        outside,
        tuple(weight[2:]),
        tuple(sizes[1:]),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    return compiled_layer(spec.spelled_out())


_convolved = with_weight(_conv_transpose, by_torch.conv_transpose)
