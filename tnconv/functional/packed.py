"""Lower triangles of symmetric matrices, packed: what `tnconv.compile(…, packed=True)` returns, there and back.

The cell in row r and column c ≤ r is number `r·(r + 1)/2 + c`: row by row, as LAPACK packs the upper triangle of a
column-major matrix (`uplo="U"`), and as `matrix[torch.tril_indices(r, r).unbind()]` has them.
"""

from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from tnconv.backends.torch.numerics import triangle

Array = TypeVar("Array")  # of torch, or what NumPy indexes: its own arrays, those of JAX


def pack_triangle(matrix: Array) -> Array:
    """The cells on and below the diagonal of matrices, row by row: half the memory of symmetric ones.

    Args:
        matrix: `[…, r, r]`, of PyTorch, JAX or NumPy; cells above the diagonal are not read.

    Returns:
        `[…, r·(r + 1)/2]`, with memory of its own, differentiable.

    Raises:
        ArgumentError: the last two axes are not of one size.
    """
    if isinstance(matrix, Tensor):
        return triangle.pack_triangle(matrix)  # type: ignore[return-value]
    array: Any = matrix
    triangle.check_square(array.shape)
    return array[(..., *np.tril_indices(array.shape[-1]))]  # type: ignore[no-any-return]


def unpack_triangle(packed: Array, *, conj: bool = True) -> Array:
    """Symmetric matrices from their packed lower triangles: of `pack_triangle`, of `tnconv.compile(…, packed=True)`.

    Args:
        packed: `[…, r·(r + 1)/2]`, row by row, of PyTorch, JAX or NumPy. Where groups are axes in front, they stay.
        conj: whether complex matrices are Hermitian, as symmetric operations of tnconv are: cells above the diagonal
            are the conjugates of those below. Without, they are those cells themselves.

    Returns:
        `[…, r, r]`, with memory of its own, differentiable.

    Raises:
        ArgumentError: the number of cells is no `r·(r + 1)/2`.
    """
    if isinstance(packed, Tensor):
        return triangle.unpack_triangle(packed, conj=conj)  # type: ignore[return-value]
    array: Any = packed
    rows = triangle.triangle_rows(array.shape)
    row, column = np.indices((rows, rows), sparse=True)
    high, low = np.maximum(row, column), np.minimum(row, column)
    whole = array[..., high * (high + 1) // 2 + low]
    if conj and array.dtype.kind == "c":
        whole = array.__array_namespace__().where(row < column, whole.conj(), whole)
    return whole  # type: ignore[no-any-return]
