"""Cells that are read, written and added up at places: rows of tables, cells moved apart, padding taken back."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.context import are_plain
from tnconv.errors import ArgumentError


def picked(x: Tensor, places: Tensor) -> Tensor:
    """The rows of a matrix at some places; the place behind the last row has zeros.

    Args:
        x: `[r, a]`.
        places: integers from 0 to r, of any shape.

    Returns:
        `[*places, a]`.
    """
    return F.pad(x, (0, 0, 0, 1))[places]


def picked_windows(x: Tensor, places: Tensor) -> Tensor:
    """Cells of each row at the same places; the place behind the last has a zero.

    Args:
        x: `[b, i]`.
        places: integers from 0 to i, `[w]`.

    Returns:
        `[b, w]`.
    """
    return F.pad(x, (0, 1)).index_select(1, places)


def table(rows: Tensor, count: int, name: str) -> Tensor:
    """The rows of a selection, once they are known to be in range; on other devices the kernels check that.

    Args:
        rows: integers, `[s]`.
        count: what they select from.
        name: of the argument, for the message.

    Raises:
        ArgumentError: a row is negative, or not below `count`.
    """
    if rows.device.type == "cpu" and rows.numel() and are_plain((rows,)):
        low, high = (int(end) for end in rows.aminmax())
        if low < 0 or high >= count:
            raise ArgumentError(
                f"argument {name!r} has rows from {low} to {high} but selects from {count}; "
                f"give rows from 0 to {count - 1}"
            )
    return rows


def rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """The rows of a table at some places; any row in range of the selection, or 0, at a place that it does not have.

    Args:
        rows: integers, `[s]`.
        places: integers, of any shape and value.

    Returns:
        As places.
    """
    return F.pad(rows, (0, 1))[places.clamp(0, rows.shape[0])]


def selected(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """The cells of one axis at some places; the place behind the last cell has zeros.

    Args:
        x: any.
        axis: along which.
        places: integers from 0 to the size of the axis, `[p]`.

    Returns:
        As x, with size p on the axis.
    """
    behind = x.dim() - 1 - axis
    return F.pad(x, (0, 0) * behind + (0, 1)).index_select(axis, places)


def spread_rows(x: Tensor, axis: int, rows: Tensor, count: int) -> Tensor:
    """The transpose of a selection of rows: what has one row is added up.

    Args:
        x: any.
        axis: along which.
        rows: integers from 0 to `count - 1`, one for each cell of the axis.
        count: size of the axis of the result.

    Returns:
        As x, with size `count` on the axis.
    """
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return x.new_zeros(shape).index_add(axis, rows, x)


def added(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """The sums of the rows of a matrix that have one place; what goes behind the last place is left out.

    Args:
        rows: `[r, a]`.
        places: integers from 0 to `count`, `[r]`.
        count: number of places.

    Returns:
        `[count, a]`.
    """
    zeros = rows.new_zeros((count + 1, rows.shape[1]))
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(places):
        return zeros.index_add(0, places, rows)[:-1]  # `vmap` may map over the places alone
    return zeros.index_add_(0, places, rows)[:-1]


def apart(x: Tensor, axis: int, step: int) -> Tensor:
    """The cells of an axis `step` apart, with zeros between them: size I becomes `step * (I - 1) + 1`."""
    behind = (0, 0) * (x.dim() - axis - 1)
    spread = F.pad(x.unsqueeze(axis + 1), (*behind, 0, step - 1)).flatten(axis, axis + 1)
    return spread.narrow(axis, 0, max(0, step * (x.shape[axis] - 1) + 1))


def unwrapped(x: Tensor, axis: int, size: int, runs: tuple[tuple[int, int, int], ...]) -> Tensor:
    """The transpose of padding with cells of the input: the runs of an axis are added up.

    Args:
        x: any shape.
        axis: that was padded.
        size: of the axis before.
        runs: (first cell, step, length) of each run, one behind the other.
    """
    total, start = x.new_zeros((*x.shape[:axis], size, *x.shape[axis + 1 :])), 0
    for cell, step, length in runs:
        part = x.narrow(axis, start, length)
        if step == 0:
            part = part.sum(axis, keepdim=True)
        elif step < 0:
            part = part.flip(axis)
        first = cell + min(0, step * (length - 1))
        total.narrow(axis, first, part.shape[axis]).add_(part)
        start += length
    return total
