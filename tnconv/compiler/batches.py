"""Batches of a layer's operation: where their axes are, so that one example needs none; a second one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tnconv.backends.arrays import Arrays
from tnconv.errors import ArgumentError
from tnconv.ir import Axis, Expression, Kind


@dataclass(frozen=True, slots=True)
class BatchAxes:
    """Where the arguments and the result of a layer's operation have their batch axes.

    Args:
        arguments: (place of the argument, its number of axes, which of them is the batch).
        result: the axes of the result that are batches.
    """

    arguments: tuple[tuple[int, int, int], ...]
    result: tuple[int, ...]

    @classmethod
    def of(cls, network: Expression, batch: Sequence[str]) -> "BatchAxes | None":
        """The batch axes of an operation's network as it was derived from a layer's; None if no argument has one.

        Args:
            network: what was derived; a copy of an index is of its kind.
            batch: the name of the index of examples, or none.
        """
        tensors = {t.argument: t.axes for term in network.terms for t in term.tensors}
        places = ((n, tensors[name]) for n, name in enumerate(network.arguments) if name in tensors)
        found = [(n, len(axes), axis) for n, axes in places for axis in _batches(axes, batch)]
        return cls(tuple(found), tuple(_batches(network.output, batch))) if found else None

    def missing(self, tensors: Sequence[Any]) -> bool:
        """Whether every argument that has a batch axis comes without it."""
        dims = (getattr(tensors[place], "ndim", None) == rank - 1 for place, rank, _ in self.arguments)
        return all(dims)

    def added(self, given: Sequence[Any], arrays: Arrays) -> list[Any]:
        """The arguments as a batch of one."""
        made = list(given)
        for place, _, axis in self.arguments:
            made[place] = arrays.with_axis(made[place], axis)
        return made


def _batches(axes: Sequence[Axis], batch: Sequence[str]) -> Iterator[int]:
    """The axes of examples, and of their second copy."""
    for place, axis in enumerate(axes):
        if batch and [i.kind for i in axis.indices] == [Kind.BATCH]:
            yield place


def of_two_batches(
    first: tuple[str, ...], both: tuple[str, ...], given: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of two batches by name: those of the first in order, then those of the second.

    Args:
        first: names of the arguments of the function of one batch.
        both: of that of two, where an argument of the second is called as in the first, with `_other` behind.
        given: arguments by place.
        named: by name.

    Raises:
        ArgumentError: there are too many, or one is given twice.
    """
    order = (*first, *(f"{name}_other" for name in first if f"{name}_other" in both))
    if len(given) > len(order):
        raise ArgumentError(
            f"{len(given)} arguments were given but the function takes {len(first)}, or {len(order)} for two "
            f"batches: {', '.join(order)}"
        )
    twice = [name for name in order[: len(given)] if name in named]
    if twice:
        raise ArgumentError(f"argument {twice[0]!r} is given twice, by place and by name; give it once")
    return dict(zip(order, given, strict=False)) | dict(named)
