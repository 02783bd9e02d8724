"""What generated source calls besides torch, as `rt`: small constants that are worth keeping."""

from functools import lru_cache

import torch
from torch import Tensor

from tnconv.backends.torch.lag import correlate, thin_product

__all__ = ["correlate", "ratio", "strip", "thin_product"]

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


def ratio(numerator: float, denominator: float) -> float:
    """A scale such as 1/N; not a number where the batch is empty, as torch's mean says."""
    return numerator / denominator if denominator else float("nan")
