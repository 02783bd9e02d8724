"""Random sizes and arguments for an expression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tnconv.ir import Expression, evaluate

Array = npt.NDArray[Any]
_INTEGER_RANGE = (-3, 4)


def random_symbols(expression: Expression, rng: np.random.Generator) -> dict[str, int]:
    """A value from 1 to 4 for every size symbol of an expression."""
    return {name: int(rng.integers(1, 5)) for name in expression.symbols}


def random_arguments(
    expression: Expression,
    rng: np.random.Generator,
    dtype: npt.DTypeLike = np.int64,
    symbols: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """A random array for every argument: small integers, or normal numbers for floats and complex; rows for a table.

    Args:
        expression: a network or a sum.
        rng: where the numbers come from.
        dtype: of the arrays.
        symbols: values of the size symbols; `random_symbols` makes some.
    """
    arrays: dict[str, Array] = {}
    for name, sizes in expression.shapes.items():
        shape = tuple(evaluate(size, symbols or {}) for size in sizes)
        rows = expression.tables.get(name)
        if rows is None:
            arrays[name] = _random(shape, rng, np.dtype(dtype))
        else:
            arrays[name] = rng.integers(0, evaluate(rows, symbols or {}), shape)
    return arrays


def gaussian_arguments(
    expression: Expression, rng: np.random.Generator, symbols: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """A random array of small Gaussian integers `a + bi` for every argument, on which sums and products are exact."""
    real, imaginary = (random_arguments(expression, rng, symbols=symbols) for _ in range(2))
    return {
        name: array if name in expression.tables else np.asarray(array + 1j * imaginary[name])
        for name, array in real.items()
    }


def _random(shape: tuple[int, ...], rng: np.random.Generator, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iuO":
        low = 0 if dtype.kind == "u" else _INTEGER_RANGE[0]
        return np.asarray(rng.integers(low, _INTEGER_RANGE[1], shape)).astype(dtype)
    real: Array = np.asarray(rng.standard_normal(shape))
    return (
        np.asarray(real + 1j * rng.standard_normal(shape)).astype(dtype)
        if dtype.kind == "c"
        else real.astype(dtype)
    )
