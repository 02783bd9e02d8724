"""Weight gradients of native convolutions: of groups without examples, of complex values, in other roles."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.torch.context import is_traced
from tnconv.backends.torch.numerics import depthwise

_BACKWARD = torch.ops.aten.convolution_backward.default
_WEIGHT_ALONE = (False, True, False)


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
        return of_nothing(shape, gradient, image)
    if is_traced():
        return _by_convolution(gradient, image, shape, stride, padding, dilation, groups)
    if not len(image):
        return of_nothing(shape, gradient, image)
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
        return of_nothing(shape, gradient, image)
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
        return of_nothing(shape, gradient, image)
    return torch.stack([depthwise_weight_gradient(y, image, shape[1:], **options) for y in gradient])


def merged_weight_gradient(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], *, groups: int, merged: int, **options: Any
) -> Tensor:
    """`weight_gradient` with so many groups taken as one, of which the blocks on the diagonal are kept.

    Args:
        gradient: as `weight_gradient` takes it.
        image: as `weight_gradient` takes it.
        shape: of the result, `[(g d), c, *kernel]`.
        groups: at least one.
        merged: a divisor of `groups`.
        options: of `weight_gradient`.
    """
    wide = (shape[0], merged * shape[1], *shape[2:])
    result = weight_gradient(gradient, image, wide, groups=groups // merged, **options)
    blocks = result.reshape(groups // merged, merged, shape[0] // groups, merged, shape[1], *shape[2:])
    return blocks.diagonal(0, 1, 3).movedim(-1, 1).reshape(shape)


def weight_gradients(
    gradient: Tensor, image: Tensor, shape: tuple[int, ...], *, groups: int, examples: int, **options: Any
) -> Tensor:
    """Weight gradients of several examples, which lie one behind the other in the groups, in a native call for each.

    Args:
        gradient: `[1, (n g d), *positions]`.
        image: `[1, (n g c), *cells]`.
        shape: of the result, `[(n g d), c, *kernel]`.
        groups: `n g`.
        examples: `n`.
        options: of `weight_gradient`.
    """
    if torch.compiler.is_compiling() or not math.prod(shape) or examples == 1:
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
        return of_nothing(shape, image, weight)
    return native(image, weight, *bias, groups=groups, **options)


def of_nothing(shape: tuple[int, ...], *operands: Tensor) -> Tensor:
    """A product of empty operands: zeros, through which gradients flow."""
    zero = sum((x.sum() for x in operands), operands[0].new_zeros(()))
    return operands[0].new_zeros(shape) + zero
