"""What generated JAX source calls besides `jax.numpy`, as `rt`. Shapes are known while JAX traces.

Cells are arrays of positions along an axis. No 0/1 pattern is ever made of them: reading is a gather (or a strided
slice), writing a scatter (or a padding), and what is outside reads as zero and is not written. Under `jax.jit` XLA
computes a gather where it is summed, so that only a product of matrices needs windows in memory.
"""

from collections.abc import Sequence
from math import nan, prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

Cells = Any  # positions: of NumPy where they are known, of JAX where a table tells them


# -- positions ---------------------------------------------------------------------------------------


def cells(*terms: tuple[int, int], start: int = 0) -> Cells:
    """The positions `Σ step·t + start`, one axis a term.

    Args:
        terms: (step, count) of each.
        start: the first.
    """
    axes = mesh(*(count for _, count in terms))
    return start + sum((step * axis for (step, _), axis in zip(terms, axes, strict=True)), np.int64(0))


def mesh(*sizes: int) -> list[Cells]:
    """The values of some indices, each along its own axis of as many as there are."""
    return list(np.ogrid[tuple(slice(size) for size in sizes)]) if sizes else []


def folded(position: Cells, size: int, mode: str) -> Cells:
    """The cells that positions fold into.

    Args:
        position: any integers.
        size: number of cells.
        mode: `"circular"`, `"reflect"` or `"replicate"`, as of a pattern.
    """
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return position.clip(0, size - 1)
    last = size - 1
    return last - abs(position % max(2 * last, 1) - last)  # a triangle wave


def inside(position: Cells, size: int) -> Any:
    """Whether positions are cells."""
    return (position >= 0) & (position < size)


def looked_up(table: Any, position: Cells) -> Cells:
    """The rows of a table at positions; any row where there is none."""
    return table[position.clip(0, len(table) - 1)]


# -- reading -----------------------------------------------------------------------------------------


def read(x: Any, axis: int, position: Cells) -> Any:
    """`x[..., position, ...]`, zero outside; the axis is exchanged for those of the positions."""
    at = np.where(inside(position, x.shape[axis]), position, x.shape[axis])
    return jnp.take(x, at, axis, mode="fill", fill_value=0)


def strided(x: Any, axis: int, start: int, step: int, count: int) -> Any:
    """`x[start + step·t]` for `t < count`, zero outside; the step is positive."""
    return lax.slice_in_dim(_spanning(x, axis, start, step * (count - 1) + 1), 0, None, step, axis)


def windows(x: Any, axis: int, start: int, first: tuple[int, int], second: tuple[int, int]) -> Any:
    """`x[..., start + step·t + step_2·t_2, ...]`, zero outside: a strided slice for each value of the shorter term.

    Args:
        x: what is read.
        axis: exchanged for those of both terms.
        start: of the first window.
        first: (step, count) of `t`; the step is positive.
        second: those of `t_2`.
    """
    (step, count), (inner, cells_of_one) = first, second
    spanning = _spanning(x, axis, start, step * (count - 1) + inner * (cells_of_one - 1) + 1)
    place = axis + 1
    if count < cells_of_one:
        (step, count), (inner, cells_of_one), place = second, first, axis
    reach = step * (count - 1) + 1
    slices = [
        lax.slice_in_dim(spanning, inner * t, inner * t + reach, step, axis) for t in range(cells_of_one)
    ]
    return jnp.stack(slices, place)


def rows(x: Any, axis: int, table: Any) -> Any:
    """`x[table]`; a row that is out of range is not a number."""
    return jnp.take(x, table, axis, mode="fill")


def picked(x: Any, position: Sequence[Cells]) -> Any:
    """`x[position, position, …]`, one array of positions an axis, broadcast; zero outside."""
    within = True
    for at, size in zip(position, x.shape, strict=True):
        within = within & inside(at, size)
    found = x[tuple(jnp.clip(at, 0, size - 1) for at, size in zip(position, x.shape, strict=True))]
    return jnp.where(within, found, jnp.zeros((), x.dtype))


def window_sum(x: Any, axis: int, start: int, step: int, count: int, dilation: int, window: int) -> Any:
    """`y[k] = Σ_o x[start + step·k + dilation·o]` for `k < count`, `o < window`, zero outside; no window is made."""
    reach = step * (count - 1) + dilation * (window - 1) + 1
    ones = [1] * x.ndim
    windows, steps, dilations = ([*ones[:axis], n, *ones[axis + 1 :]] for n in (window, step, dilation))
    spanning = _spanning(x, axis, start, reach)
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(spanning, zero, lax.add, windows, steps, "VALID", window_dilation=dilations)


def _spanning(x: Any, axis: int, start: int, length: int) -> Any:
    """The cells from `start` on, padded with zeros and cropped."""
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (-start, start + length - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


# -- writing -----------------------------------------------------------------------------------------


def placed(x: Any, axis: int, start: int, step: int, size: int) -> Any:
    """`y[start + step·t] = x[t]` on an axis of `size` cells; the others are zero. The step is positive."""
    amounts = [(0, 0, 0)] * x.ndim
    reach = step * (x.shape[axis] - 1) + 1
    amounts[axis] = (start, size - start - reach, step - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


def written(x: Any, position: Cells, size: int, kept: Sequence[int] = ()) -> Any:
    """`y[..., kept, i] = Σ x[..., t]` over all `t` with `position[t] = i`; the last axes of `x` are the `t`.

    Args:
        x: what is added up.
        position: of the last axes.
        size: number of cells.
        kept: those of the last axes that stay, in front of the new one.
    """
    axes = mesh(*position.shape)
    front = x.shape[: x.ndim - position.ndim]
    at = [*(axes[place] for place in kept), jnp.where(inside(position, size), position, size)]
    zeros = jnp.zeros((*front, *(position.shape[place] for place in kept), size), x.dtype)
    return zeros.at[(..., *at)].add(x, mode="drop")


def added(x: Any, position: Sequence[Cells], sizes: Sequence[int]) -> Any:
    """`y[position, position, …] += x`, one array of positions an axis of the result, broadcast with `x`."""
    at = tuple(
        jnp.broadcast_to(jnp.where(inside(each, size), each, size), x.shape)
        for each, size in zip(position, sizes, strict=True)
    )
    return jnp.zeros(tuple(sizes), x.dtype).at[at].add(x, mode="drop")


# -- products ----------------------------------------------------------------------------------------


def convolution(
    x: Any,
    w: Any,
    sizes: Sequence[int],
    *,
    start: Sequence[int],
    stride: Sequence[int],
    spread: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Any:
    """`y[n, (g d), o] = Σ_{c,k} x'[n, (g c), stride·o + dilation·k + start] w[(g d), c, k]`, zero outside.

    `x'` is `x` with `spread - 1` zeros between cells, as for a transposed convolution; none is made.

    Args:
        x: `[n, (g c), i, …]`.
        w: `[(g d), c, k, …]`.
        sizes: of the axes `o`.
        start: where the first window begins, an axis.
        stride: of windows.
        spread: of the cells of `x`.
        dilation: of the cells of `w`.
        groups: `g`.
    """
    if 0 in (*x.shape, *w.shape):
        return jnp.zeros((x.shape[0], w.shape[0], *sizes), x.dtype)
    padding = []
    for o, i, k, first, s, a, d in zip(
        sizes, x.shape[2:], w.shape[2:], start, stride, spread, dilation, strict=True
    ):
        padding.append((-first, s * (o - 1) + d * (k - 1) + first - a * (i - 1)))
    return lax.conv_general_dilated(
        x, w, tuple(stride), padding, tuple(spread), tuple(dilation), feature_group_count=groups
    )


def total(x: Any, sizes: Sequence[int], axes: Sequence[int], keepdims: bool = False) -> Any:
    """The sum over some axes of what is first broadcast to these sizes."""
    return jnp.sum(jnp.broadcast_to(x, tuple(sizes)), tuple(axes), keepdims=keepdims)


def ratio(top: int, bottom: int) -> float:
    """A quotient; not a number over zero, as the mean over nothing."""
    return top / bottom if bottom else nan


def undefined(x: Any) -> Any:
    """Not a number in every cell."""
    return jnp.full_like(x, nan) if prod(x.shape) else x


def pack_triangle(x: Any, shared: int) -> Any:
    """The cells on and below the diagonal of matrices, row by row.

    Args:
        x: behind some axes those of rows, then as many of columns.
        shared: the number of axes in front.
    """
    rows = prod(x.shape[shared : (shared + x.ndim) // 2])
    return x.reshape(*x.shape[:shared], rows, rows)[..., *np.tril_indices(rows)]
