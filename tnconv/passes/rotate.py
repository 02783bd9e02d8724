"""Rotate: an axis of the output in another basis, the columns of a new argument.

rotate{axis=2, by=q, index=cq, keep=[g]}
x = input     [n, (g c), i]            x = input     [n, (g c), i]
p = pattern   [i = o + k]        ->    p = pattern   [i = o + k]
output        [n, g, (c k), o]         q = tangent   [g, (c k), cq]
                                       output        [n, g, cq, o]
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Expression, Index, Kind, Network, Role, Tensor, group
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import open_named, taken_names


@dataclass(frozen=True)
class Rotate(Pass):
    """An axis of the output is multiplied by a square matrix, a new argument `[keep, axis, index]`.

    Its columns are directions along the axis, so that its role is that of a tangent. The indices of `keep` that are on
    the axis stay there, in front of the new index; with none in `keep` the first axis of the argument has one cell.

    Args:
        axis: its place in the output.
        by: name of the new argument.
        index: name of the new index, which is as large as what it replaces.
        keep: open indices for each of whose values there is a matrix.
        conj: whether the argument is conjugated, so that the axis is multiplied by `Qᴴ` from the left.
    """

    name: ClassVar[str] = "rotate"
    check_cells: ClassVar[int] = 1000
    axis: int
    by: str
    index: str
    keep: tuple[str, ...] = ()
    conj: bool = False

    def requires(self, network: Network) -> None:
        """The names must be free, and an axis with an index of `keep` must be a group."""
        taken = (*network.arguments, *taken_names(network))
        if wrong := next((name for name in (self.by, self.index) if name in taken), None):
            raise PassError(f"the name {wrong!r} is taken in the network; choose another for rotate")
        if not 0 <= self.axis < len(network.output):
            raise PassError(
                f"rotate has axis={self.axis} but the output has {len(network.output)} axes; name one of them"
            )
        open_named(network, self.keep, "rotate")
        for axis in network.output:
            if not axis.is_group and any(i.name in self.keep for i in axis.indices):
                raise PassError(
                    f"rotate keeps {', '.join(self.keep)} of axis {axis}, which is affine; arrange it as a group"
                )

    def apply(self, network: Network) -> PassResult:
        """Give the axis to the new argument, and write the new index in its place."""
        kept = open_named(network, self.keep, "rotate")
        axis = network.output[self.axis]
        stay = tuple(i for i in axis.indices if i in kept)
        old = group(*(i for i in axis.indices if i not in kept)) if axis.is_group else axis
        new = Index(self.index, old.size, Kind.CHANNEL)
        matrix = Tensor(self.by, Role.TANGENT, (group(*kept), old, group(new)), conj=self.conj)
        output: list[Axis] = list(network.output)
        output[self.axis] = group(*stay, new)
        note = f"{old} as {new.name}"
        return PassResult(network.with_nodes((*network.nodes, matrix), output), True, (note,))

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The product of the value with the matrix of each of the kept values."""
        legs: list[list[str]] = []  # of each axis, by name; an axis that keeps nothing is one leg
        sizes: dict[str, int] = {}
        for place, axis in enumerate(before.terms[0].output):
            apart = any(i.name in self.keep for i in axis.indices)
            found = {i.name: i.size for i in axis.indices} if apart else {f"cell {place}": axis.size}
            legs.append(list(found))
            sizes |= found
        value = np.asarray(evaluate(before, arguments)).reshape([sizes[n] for axis in legs for n in axis])
        stay = [name for name in legs[self.axis] if name in self.keep]
        old = [name for name in legs[self.axis] if name not in self.keep]
        matrix = np.conj(arguments[self.by]) if self.conj else arguments[self.by]
        columns = prod(sizes[n] for n in old)
        matrix = matrix.reshape([*(sizes[n] for n in (*self.keep, *old)), columns])
        number = {name: place for place, name in enumerate((*sizes, "new"))}
        rotated = [*legs[: self.axis], [*stay, "new"], *legs[self.axis + 1 :]]
        array = np.einsum(
            value, [number[n] for axis in legs for n in axis],
            matrix, [number[n] for n in (*self.keep, *old, "new")],
            [number[n] for axis in rotated for n in axis],
        )  # fmt: skip
        sizes["new"] = columns
        return np.asarray(array).reshape([prod(sizes[n] for n in axis) for axis in rotated])
