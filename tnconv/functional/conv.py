"""Convolution, as `torch.nn.functional.conv2d`."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.numerics.depthwise import NATIVE
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
from tnconv.functional.types import Ints, Padding
from tnconv.spec import ConvSpec


def convNd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution in as many spatial dimensions as the weight has.

    Args:
        input: `[N, C_in, *I]` or `[C_in, *I]`.
        weight: `[C_out, C_in/groups, *K]`.
        bias: `[C_out]`.
        stride: step of the kernel, an int or one for each dimension.
        padding: an int, one for each dimension, a (left, right) pair for each, `"same"` or `"valid"`.
        dilation: distance between kernel cells.
        groups: number of channel groups.
        padding_mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.

    Returns:
        `[N, C_out, *O]` or `[C_out, *O]`.

    Raises:
        SpecError: a hyper-parameter is invalid, or two do not fit together.
        ArgumentError: a tensor has the wrong shape, dtype or device.
    """
    dims = weight.dim() - 2 if isinstance(weight, Tensor) else 0
    return _convolved(convNd, dims, input, weight, bias, (stride, padding, dilation, groups, padding_mode))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """`convNd` in one spatial dimension."""
    return _convolved(conv1d, 1, input, weight, bias, (stride, padding, dilation, groups, padding_mode))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """`convNd` in two spatial dimensions."""
    return _convolved(conv2d, 2, input, weight, bias, (stride, padding, dilation, groups, padding_mode))


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """`convNd` in three spatial dimensions."""
    return _convolved(conv3d, 3, input, weight, bias, (stride, padding, dilation, groups, padding_mode))


@cached
def _conv(
    dims: int,
    sizes: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
) -> Callable[..., Tensor]:
    check_weight(weight, dims)
    inside, outside = over_groups(weight[1], groups), weight[0]
    check_channels(sizes, bias, weight, groups, (inside, outside))
    alone = not inside and dims in NATIVE
    spec = ConvSpec(
        groups if alone else inside,
        outside,
        tuple(weight[2:]),
        tuple(sizes[1:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        padding_mode=padding_mode,
    )
    if alone:
        return _without_channels(spec)
    return compiled_layer(spec.spelled_out())


_convolved = with_weight(_conv, by_torch.conv, "padding_mode")


def _without_channels(spec: ConvSpec) -> Callable[..., Tensor]:
    """PyTorch's own convolution of an input without channels, with the shape that it gives to the result.

    An index has at least one value, so that there is no network for it.
    """
    around = [side for pair in reversed(spec.paddings) for side in pair]
    mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode

    def function(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = F.pad(input, around, mode) if any(around) else input
        convolved: Tensor = NATIVE[spec.spatial_dims](
            padded, weight, bias, spec.strides, 0, spec.dilations, spec.groups
        )
        return convolved

    return function
