"""Arrays by axes and by indices: what the oracles of the passes read and write results with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tnconv.ir import Axis, Index

Array = np.ndarray[Any, Any]


def unpack(value: Array, axes: Sequence[Axis], indices: Sequence[Index]) -> Array:
    """The array over `indices` whose cells are those that the axes point to in `value`."""
    cells = np.asarray(value)[tuple(_positions(axis, indices) for axis in axes)]
    return np.broadcast_to(cells, tuple(i.size for i in indices)).copy()


def pack(array: Array, indices: Sequence[Index], axes: Sequence[Axis]) -> Array:
    """The inverse of `unpack`: every cell of `array` goes where the axes say, the other cells are zero."""
    array = np.asarray(array)  # einsum over objects gives a bare number where no axis is left
    value = np.zeros(tuple(axis.size for axis in axes), dtype=array.dtype)
    value[tuple(_positions(axis, indices) for axis in axes)] = array
    return value


def unit(axes: Sequence[Axis], values: dict[Index, int]) -> Array:
    """The tensor that is one at the cell of `values` and zero elsewhere."""
    value = np.zeros(tuple(axis.size for axis in axes), dtype=np.int64)
    cell = (
        axis.start + sum(s * values[i] for s, i in zip(axis.strides, axis.indices, strict=True))
        for axis in axes
    )
    value[tuple(cell)] = 1
    return value


def _positions(axis: Axis, indices: Sequence[Index]) -> Array:
    places = [np.arange(i.size).reshape([-1 if j == i else 1 for j in indices]) for i in indices]
    position = np.full([1] * len(indices), axis.start)
    for stride, index in zip(axis.strides, axis.indices, strict=True):
        position = position + stride * places[indices.index(index)]
    return position
