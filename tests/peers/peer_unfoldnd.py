"""unfoldNd: im2col and col2im in one to three dimensions; padding by numbers, no padding mode."""

from typing import Any

from torch import Tensor
from unfoldNd import foldNd, unfoldNd


def unfold(layer: Any, x: Tensor) -> Tensor:
    """`[n, (g c k), (o)]`, by a convolution with one-hot kernels and `C_in` groups."""
    return unfoldNd(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)


def fold(layer: Any, columns: Tensor, input_size: tuple[int, ...]) -> Tensor:
    """`[n, C_in, *I]`, its adjoint: overlaps are summed."""
    return foldNd(columns, input_size, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
