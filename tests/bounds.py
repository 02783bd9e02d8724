"""How far a value may be off, from the arithmetic: the dtype, the number of terms, and their sizes."""

import numpy as np
import torch

from tnconv.backends import reference
from tnconv.ir import Expression

ROUNDINGS = 16  # of scales, of products of a few factors, of what is added up apart


def error_bound(
    expression: Expression, arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float32
) -> np.ndarray:
    """`n·eps·Σ|terms|` for each cell: what a sum of n products may be off by, in whichever order it is made.

    Args:
        expression: a network or a sum, whose scales are positive.
        arrays: its arguments.
        dtype: that the sum is made in.
    """
    numbers = {n: a for n, a in arrays.items() if n not in expression.tables}
    sizes = reference.evaluate(
        expression, arrays | {n: np.abs(a).astype(np.float64) for n, a in numbers.items()}
    )
    terms = reference.evaluate(
        expression, arrays | {n: np.ones_like(a, np.int64) for n, a in numbers.items()}
    )
    return (terms.astype(np.float64) + ROUNDINGS) * torch.finfo(dtype).eps * sizes


def dependence(
    expression: Expression, arrays: dict[str, np.ndarray], name: str, cell: tuple[int, ...]
) -> np.ndarray:
    """Which cells of a value have a cell of an argument in their sum: they change where all is positive."""
    ones = {
        argument: array if argument in expression.tables else np.ones_like(array, np.int64)
        for argument, array in arrays.items()
    }
    before = reference.evaluate(expression, ones)
    ones[name][cell] += 1
    return np.asarray(reference.evaluate(expression, ones) != before)
