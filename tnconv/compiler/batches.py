"""Batch axes of a layer's operation, so that one example needs none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tnconv.backends.arrays import Arrays
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
        """Those of an operation's network as it was derived from a layer's; None if no argument has one.

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
