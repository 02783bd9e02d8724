"""What generated source calls besides torch, as `rt`: small constants that are worth keeping."""

from functools import lru_cache

import torch
from torch import Tensor

from tnconv.backends.torch.lag import correlate

__all__ = ["correlate", "ratio", "strip", "thin_product", "weight_gradient"]

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
        column = torch.arange(len(columns))[:, None].expand_as(cells)
        inside = (cells >= 0) & (cells < size)
        counts = torch.zeros(size, len(columns), dtype=torch.int64)
        counts.index_put_((cells[inside], column[inside]), torch.ones((), dtype=torch.int64), accumulate=True)
        return counts.to(dtype=dtype, device=device)


def _sums(terms: Terms) -> Tensor:
    """All values of `Σ coefficient·x`, row-major."""
    values = torch.zeros(1, dtype=torch.int64)
    for coefficient, size in terms:
        values = (values[:, None] + coefficient * torch.arange(size)[None, :]).flatten()
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
    """The weight gradient of a native convolution; the arguments are those of `torch.nn.grad.conv2d_weight`.

    That function of torch does not take asymmetric slack and is twice as slow; `convolution_backward` has no
    complex version on CPU, so complex values are multiplied out, without conjugation.
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if not image.is_complex():
        # The operator wants a weight for its shape alone; one cell is enough.
        weight = image.new_empty(1).expand(shape)
        arguments = (
            gradient,
            image,
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
        )
        result: Tensor = torch.ops.aten.convolution_backward(*arguments, (False, True, False))[1]
        return result
    parts = [
        [weight_gradient(g, x, shape, **options) for x in (image.real, image.imag)]
        for g in (gradient.real, gradient.imag)
    ]
    return torch.complex(parts[0][0] - parts[1][1], parts[0][1] + parts[1][0])


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
