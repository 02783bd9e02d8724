"""What generated source calls besides torch, as `rt`: small constants that are worth keeping."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.torch.lag import correlate

__all__ = ["correlate", "grouped", "ratio", "strip", "thin_product", "weight_gradient"]

Terms = tuple[tuple[int, int], ...]


@lru_cache(maxsize=512)
def strip(
    size: int, kept: Terms, summed: Terms, offset: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """How often each input cell is in the windows of each kernel offset: `S[i, k] = Σ_o [i = s·o + d·k + offset]`.

    A thin matrix, one column a kernel offset: the window sum along one axis is a product with it.

    Args:
        size: number of input cells.
        kept: (coefficient, size) of the indices that stay, in the order of the columns.
        summed: (coefficient, size) of the indices that are summed.
        offset: in cells.
        dtype: of the result.
        device: of the result.

    Returns:
        A tensor of shape [size, product of the kept sizes].
    """
    with torch.inference_mode(False), torch.no_grad():
        columns = _sums(kept)
        cells = columns[:, None] + _sums(summed)[None, :] + offset
        column = torch.arange(len(columns), device="cpu")[:, None].expand_as(cells)
        inside = ((cells >= 0) & (cells < size)).to(torch.int64)
        counts = torch.zeros(size, len(columns), dtype=torch.int64, device="cpu")
        counts.index_put_((cells.clamp(0, size - 1), column), inside, accumulate=True)
        return counts.to(dtype=dtype, device=device)


def _sums(terms: Terms) -> Tensor:
    """All values of `Σ coefficient·x`, row-major."""
    values = torch.zeros(1, dtype=torch.int64, device="cpu")
    for coefficient, size in terms:
        values = (values[:, None] + coefficient * torch.arange(size, device="cpu")[None, :]).flatten()
    return values


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

    Torch has no complex version on CPU, so complex values are multiplied out, without conjugation.
    """

    if groups == 0:  # a batch without examples, each of which is a group
        return _empty(shape, gradient, image)

    def real(y: Tensor, x: Tensor) -> Tensor:
        weight = x.new_empty(1).expand(shape)  # wanted for its shape alone; one cell is enough
        zeros, mask = [0] * len(stride), (False, True, False)
        result: Tensor = torch.ops.aten.convolution_backward(
            y, x, weight, None, stride, padding, dilation, False, zeros, groups, mask
        )[1]
        return result

    if not image.is_complex():
        return real(gradient, image)
    y, x = gradient, image
    return torch.complex(
        real(y.real, x.real) - real(y.imag, x.imag), real(y.real, x.imag) + real(y.imag, x.real)
    )


def grouped(
    native: Callable[..., Tensor], shape: tuple[int, ...], image: Tensor, weight: Tensor, *bias: Tensor,
    groups: int, **options: Any,
) -> Tensor:  # fmt: skip
    """A native convolution whose groups are examples, of which there may be none.

    Args:
        native: `F.conv2d` or one of its family.
        shape: of the result.
        image: as `native` takes it.
        weight: as `native` takes it.
        bias: as `native` takes it, if there is one.
        groups: number of groups.
        options: of `native`.
    """
    if groups == 0:
        return _empty(shape, image, weight)
    return native(image, weight, *bias, groups=groups, **options)


def _empty(shape: tuple[int, ...], *operands: Tensor) -> Tensor:
    """A product of empty operands: zeros, through which gradients flow."""
    zero = sum((x.sum() for x in operands), operands[0].new_zeros(()))
    return operands[0].new_zeros(shape) + zero


def ratio(numerator: float, denominator: float) -> float:
    """A scale such as 1/N; not a number where the batch is empty, as torch's mean says."""
    return numerator / denominator if denominator else float("nan")


def thin_product(a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b` of two matrices with few rows, as a batch of products of 32 columns of `a` where that is faster.

    Args:
        a: `[N, m]`.
        b: `[N, p]`.

    Returns:
        The product `[m, p]`. On a CPU, one product with a short sum and a large result writes it slowly.
    """
    count, rows = a.shape
    if count > 16 or rows < 2048 or rows % 32 or a.device.type != "cpu":
        return torch.mm(a.t(), b)
    strips = a.t().reshape(rows // 32, 32, count)
    return torch.bmm(strips, b.expand(rows // 32, *b.shape)).flatten(0, 1)
