"""Adding to memory that is there: `out = beta · out + value`, with one pass over it."""

from torch import Tensor
from torch import add as _add


def add_into(out: Tensor, value: Tensor, beta: float = 1.0) -> Tensor:
    """`out = beta · out + value`; with `beta=0` what was in `out` does not matter, not a number either.

    Args:
        out: any shape; no two of its cells at one place.
        value: what broadcasts to it.
        beta: of what is there.

    Returns:
        `out`.
    """
    if beta == 0:
        return out.copy_(value)
    if beta == 1:
        return out.add_(value)
    return _add(value, out, alpha=beta, out=out)


def scale_into(out: Tensor, beta: float) -> Tensor:
    """`out = beta · out`, for what is added behind it."""
    if beta == 0:
        return out.zero_()
    return out if beta == 1 else out.mul_(beta)
