"""Convolutions with one channel a group, where PyTorch has no fast code for them on a CPU.

PyTorch is quick at the forward convolution with little padding, whatever the kernel, and up to thirty times slower
at gradients of some kernels. Those are forward convolutions too: the weight gradient with the output's gradient as
kernel, its examples as groups, stride and dilation exchanged; the input gradient with the kernel reversed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.numerics.huge_pages import HOST
from tnconv.ir.shapes import window_count

# The native code for a row holds so many positions at once; padding beyond them is not foreseen there.
ROW = 6
_QUICK = (torch.float32, torch.bfloat16)
NATIVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d
}  # fmt: skip


def quick(*tensors: Tensor) -> bool:
    """Whether the forward convolution of these, which must not be empty, is one of the quick ones."""
    return all(x.device.type in HOST and x.dtype in _QUICK and x.numel() > 0 for x in tensors)


def pads_slowly(padding: tuple[int, ...], positions: tuple[int, ...]) -> bool:
    """Whether PyTorch has no fast code for a forward convolution with this padding and so many output positions."""
    return padding[-1] > min(ROW, positions[-1])


def convolution(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`F.convNd`, with zeros written around the image where that makes it quick; arguments as there."""
    padded = [i + 2 * p for i, p in zip(image.shape[2:], padding, strict=True)]
    positions = tuple(map(window_count, padded, weight.shape[2:], stride, dilation))
    if pads_slowly(padding, positions) and quick(image, weight):
        image = F.pad(image, [p for amount in reversed(padding) for p in (amount, amount)])
        padding = (0,) * len(padding)
    return NATIVE[len(padding)](image, weight, bias, stride, padding, dilation, groups)


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
    """The weight gradient as a forward convolution: `W[c, k] = Σ_n Σ_o x[n, c, s·o + d·k - p] · y[n, c, o]`.

    Args:
        gradient: `y`, `[n, c, *positions]`, with at least one example.
        image: `x`, `[n, c, *cells]`.
        shape: of the result, `[c, 1, *kernel]`.
        stride: of the convolution whose weight it is.
        padding: of the same convolution.
        dilation: of the same convolution.
        groups: `c`.
    """
    examples, kernel = image.shape[0], shape[2:]
    result = convolution(
        image.reshape(1, examples * groups, *image.shape[2:]),
        gradient.reshape(examples * groups, 1, *gradient.shape[2:]),
        stride=dilation,
        padding=padding,
        dilation=stride,
        groups=examples * groups,
    )
    result = first_cells(result, kernel).reshape(examples, *shape)
    return result[0] if examples == 1 else result.sum(0)


def first_cells(result: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The first `kernel` cells of `[a, b, *cells]`: a stride that skips the last cells leaves room for more of them."""
    for axis, size in enumerate(kernel, 2):
        result = result.narrow(axis, 0, size)
    return result


def transposed(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`F.conv_transposeNd` at stride 1, as a forward convolution with the kernel reversed; arguments as there."""
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    around = tuple(r - p for r, p in zip(reach, padding, strict=True))
    empty = any(o + a <= p for o, a, p in zip(image.shape[2:], around, padding, strict=True))
    if not quick(image, weight) or any(output_padding) or empty or min(around) < 0 or max(stride) > 1:
        native = TRANSPOSED[len(stride)]
        return native(image, weight, bias, stride, padding, output_padding, groups, dilation)
    axes = list(range(2, weight.dim()))
    return convolution(
        image, weight.flip(axes), bias, stride=stride, padding=around, dilation=dilation, groups=groups
    )
