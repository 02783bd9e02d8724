"""The axes of an argument or a result as dimensions of indices, those of affine axes with what ties their cells."""

from collections.abc import Sequence

from tnconv.ir import Axis, Index, Pattern, fresh


def renaming(made: Sequence[Axis], read: Sequence[Axis]) -> dict[Index, Index]:
    """The names that a step gives to the indices of an earlier result, by those that this was made with."""
    return {i: j for a, b in zip(made, read, strict=True) for i, j in zip(a.indices, b.indices, strict=True)}


def tie(cell: Index, axis: Axis) -> Pattern:
    """The pattern of an index that counts the cells of an affine axis, such as `2*o + k`."""
    return Pattern("axis", cell, tuple(zip(axis.strides, axis.indices, strict=True)), axis.start)


def untied(axes: Sequence[Axis], taken: set[str]) -> tuple[list[tuple[Index, ...]], list[Pattern]]:
    """The indices of each dimension, and the patterns of those that are made for it.

    Args:
        axes: in order.
        taken: names of indices, to which those of new ones are added.

    Returns:
        For a group its indices; for an affine axis, such as `2*o + k < 225`, one index of its cells. The patterns tie
        these to the indices of the axis.
    """
    dims: list[tuple[Index, ...]] = []
    ties: list[Pattern] = []
    for axis in axes:
        if axis.is_group:
            dims.append(axis.indices)
            continue
        cell = Index(fresh("cell", taken), axis.size)
        taken.add(cell.name)
        dims.append((cell,))
        ties.append(tie(cell, axis))
    return dims, ties
