"""Convolutions with large kernels by Fourier transforms: what generated source calls as `rt.fourier`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.numerics.depthwise import NATIVE
from tnconv.backends.torch.numerics.remembered import remembered

_SINGLE = 4  # bytes of a cell; no transform is as exact in fewer


@remembered
def length(cells: int) -> int:
    """The least length from some cells on that transforms quickly: a power of 2 times 1, 3, 5, 9 or 15."""
    return min(odd << max(0, (-(-cells // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


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
    """`F.convNd` at stride and dilation 1, by the product of transforms; the native call for other types.

    Errors are of the size of rounding errors of the largest value, not of each.

    Args:
        image: `[n, (g c), *i]`.
        weight: `[(g d), c, *k]`.
        bias: `[(g d)]`.
        stride: of ones.
        padding: on both sides of each axis.
        dilation: of ones.
        groups: g.

    Returns:
        `[n, (g d), *o]`.
    """
    rank = len(stride)
    if (
        not image.is_floating_point()
        or image.dtype.itemsize < _SINGLE
        or not image.numel()
        or not weight.numel()
    ):
        options: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        native: Tensor = NATIVE[rank](image, weight, bias, **options)
        return native
    dims = tuple(range(-rank, 0))
    wide = F.pad(image, [cells for p in reversed(padding) for cells in (p, p)])
    sizes = [length(i) for i in wide.shape[2:]]
    x = torch.fft.rfftn(wide, sizes, dims).unflatten(1, (groups, -1))
    w = torch.fft.rfftn(weight, sizes, dims).conj().unflatten(0, (groups, -1))
    alone = weight.shape[1] == 1
    product = x * w[:, :, 0] if alone else torch.einsum("ngc...,gdc...->ngd...", x, w)
    result: Tensor = torch.fft.irfftn(product.flatten(1, 2), sizes, dims)
    for place, (i, k) in enumerate(zip(wide.shape[2:], weight.shape[2:], strict=True), 2):
        result = result.narrow(place, 0, i - k + 1)
    result = result.contiguous()
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)
