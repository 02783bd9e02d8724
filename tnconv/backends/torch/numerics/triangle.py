"""The lower triangles of matrices, packed row by row: row r has r + 1 cells, behind the `r·(r + 1)/2` of earlier ones.

A block of rows of the matrix is one run of the packed cells, so that whoever computes blocks needs one of them besides
the packed result. Rows are copied one by one, as they have no common stride: numbers of cells would take twice the
memory that is saved.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnconv.backends.torch.context import may_write, under_mode
from tnconv.backends.torch.numerics.huge_pages import new_empty
from tnconv.backends.torch.numerics.into import add_into
from tnconv.errors import ArgumentError

SHORT = 96  # rows up to which a matrix is no larger than a block of a larger one
MANY = 8  # short matrices whose cells are picked by their numbers, which take three times the cells of one
_BLOCK = 128  # rows of a block that is mirrored at once
_BITS = {torch.bfloat16: torch.int16, torch.complex32: torch.int32}  # in place of what NumPy does not have


def triangle_cells(rows: int) -> int:
    """Cells on and below the diagonal."""
    return rows * (rows + 1) // 2


def triangle_rows(shape: Sequence[int]) -> int:
    """Rows of the matrices whose packed lower triangles have a shape.

    Raises:
        ArgumentError: there are none.
    """
    if not shape:
        raise ArgumentError("an array without axes is no packed triangle; give [..., r*(r + 1)/2]")
    cells = shape[-1]
    rows = int((2 * cells) ** 0.5)  # or one too many
    rows -= triangle_cells(rows) > cells
    if triangle_cells(rows) != cells:
        below, above = triangle_cells(rows), triangle_cells(rows + 1)
        raise ArgumentError(
            f"the last axis has {cells} cells, but a packed triangle of {rows} rows has {below} and one of {rows + 1} "
            f"has {above}; give what packed=True or pack_triangle returned"
        )
    return rows


def check_square(shape: Sequence[int]) -> None:
    """Refuse a shape that is none of square matrices.

    Raises:
        ArgumentError: it is.
    """
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ArgumentError(f"an array of shape {tuple(shape)} has no square matrices; give [..., r, r]")


def pack_triangle(x: Tensor) -> Tensor:
    """The cells on and below the diagonal of matrices, row by row; those above are not read.

    Args:
        x: `[…, r, r]`.

    Returns:
        `[…, r·(r + 1)/2]`, with memory of its own.

    Raises:
        ArgumentError: the last two axes are not of one size.
    """
    check_square(x.shape)
    rows = x.shape[-1]
    if not may_write(x):
        return x.flatten(-2).index_select(-1, _numbers(rows, x.device, torch.int64))
    if rows <= SHORT and x.shape[:-2].numel() >= MANY:
        return x.flatten(-2).index_select(-1, _numbers(rows, x.device, torch.int32))
    made = new_empty(x, (*x.shape[:-2], triangle_cells(rows)))
    count = x.shape[:-2].numel()
    for matrix, out in zip(x.reshape(count, rows, rows), made.view(count, triangle_cells(rows)), strict=True):
        pack_rows(matrix, 0, out)
    return made


def unpack_triangle(packed: Tensor, *, conj: bool = True) -> Tensor:
    """Matrices from their lower triangles.

    Args:
        packed: `[…, r·(r + 1)/2]`, row by row.
        conj: whether cells above the diagonal are the conjugates of those below.

    Returns:
        `[…, r, r]`, Hermitian; without `conj` symmetric.

    Raises:
        ArgumentError: the last axis has no number of cells that a triangle has.
    """
    rows = triangle_rows(packed.shape)
    if not may_write(packed) or (rows <= SHORT and packed.shape[:-1].numel() >= MANY):
        return _picked(packed, rows, conj)
    made = new_empty(packed, (*packed.shape[:-1], rows, rows))
    count = packed.shape[:-1].numel()
    for cells, matrix in zip(
        packed.reshape(count, packed.shape[-1]), made.view(count, rows, rows), strict=True
    ):
        spread_rows_of(cells, matrix)
        for low in range(0, rows, _BLOCK):
            high = min(low + _BLOCK, rows)
            below, square = matrix[low:high, :low], matrix[low:high, low:high].tril()
            matrix[:low, low:high] = below.mH if conj else below.mT
            strict = square.tril(-1)
            matrix[low:high, low:high] = square + (strict.mH if conj else strict.mT)
    return made


def spread_triangle(packed: Tensor) -> Tensor:
    """Matrices with zeros above the diagonal: what `pack_triangle` is differentiated to.

    Args:
        packed: `[…, r·(r + 1)/2]`.

    Returns:
        `[…, r, r]`.
    """
    rows = triangle_rows(packed.shape)
    made = packed.new_zeros((*packed.shape[:-1], rows * rows))
    made.index_copy_(-1, _numbers(rows, packed.device, torch.int64), packed)
    return made.view(*packed.shape[:-1], rows, rows)


def pack_rows(block: Tensor, low: int, out: Tensor, beta: float = 0.0) -> None:
    """Write rows of a matrix up to the diagonal side by side: `out = beta · out + …`.

    Args:
        block: `[h, w]`, rows `low` to `low + h` of the matrix, with `low + h` columns at least.
        low: number of the first row.
        out: the packed cells of these rows, side by side in memory.
        beta: of what is there.
    """
    made = out if beta == 0 else out.new_empty(out.shape)
    if out.is_meta or not len(block):  # there is nothing to copy
        pass
    elif _has_cells(block) and _has_cells(made):
        cells, flat, start = _array(block), _array(made), 0
        for count, row in enumerate(cells, low + 1):
            flat[start : start + count] = row[:count]
            start += count
    else:
        torch.cat([row[:count] for count, row in enumerate(block.unbind(), low + 1)], out=made)
    if made is not out:
        add_into(out, made, beta)


def spread_rows_of(cells: Tensor, out: Tensor) -> None:
    """Write packed cells to the lower triangle of a matrix; the others stay as they are."""
    if out.is_meta:
        return
    if _has_cells(cells) and _has_cells(out):
        flat, rows = _array(cells), _array(out)
        for count, start in _runs(len(out)):
            rows[count - 1, :count] = flat[start : start + count]
        return
    for row, (count, start) in zip(out.unbind(), _runs(len(out)), strict=True):
        row[:count].copy_(cells[start : start + count])


def _runs(rows: int) -> Iterator[tuple[int, int]]:
    """How many cells each row has, and the first of them."""
    return ((row + 1, triangle_cells(row)) for row in range(rows))


def _numbers(rows: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The places of the cells of the triangle in a row-major matrix."""
    places: Tensor = torch.tril_indices(rows, rows, device=device, dtype=dtype)
    return places[0] * rows + places[1]


def _picked(packed: Tensor, rows: int, conj: bool) -> Tensor:
    """`unpack_triangle` by the numbers of cells, of which each but those of the diagonal is read twice."""
    place = torch.arange(rows, device=packed.device)
    row, column = place[:, None], place
    high, low = torch.maximum(row, column), torch.minimum(row, column)
    numbers = (high * (high + 1) // 2 + low).flatten()
    whole: Tensor = packed.index_select(-1, numbers).reshape(*packed.shape[:-1], rows, rows)
    if conj and packed.is_complex():
        whole = torch.where(row < column, whole.conj(), whole)
    return whole


def _has_cells(x: Tensor) -> bool:
    """Whether NumPy may read and write the cells of a tensor."""
    plain = type(x) is Tensor and x.device.type == "cpu" and not under_mode()
    return plain and not (x.is_conj() or x.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(x))


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    """The cells of a tensor; the bits of what NumPy does not have."""
    x = x.detach()
    return x.view(_BITS.get(x.dtype, x.dtype)).numpy()
