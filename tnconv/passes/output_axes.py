"""Open, flatten and unsqueeze: axes of the output.

open{index=[n]}            summed indices become axes in front
flatten{start=1, end=-1}   neighbouring axes become one, in row-major order
unsqueeze{axis=0}          an axis of one cell
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Expression, Index, Network, Role, Tensor, group, make_sum
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import names


@dataclass(frozen=True)
class Open(Pass):
    """Summed indices become the first axes of the output, one each.

    Args:
        index: summed indices of every term, in the order of their axes.
    """

    name: ClassVar[str] = "open"
    check_cells: ClassVar[int] = 1000
    index: tuple[str, ...]

    def apply(self, network: Network) -> PassResult:
        """Write the axes."""
        opened = self._summed(network)
        after = network.with_nodes(network.nodes, (*(group(i) for i in opened), *network.output))
        return PassResult(after, after != network, (f"opened {names(opened)}",))

    def _summed(self, network: Network) -> tuple[Index, ...]:
        known = {i.name: i for i in network.indices if i not in network.open_indices}
        for place, name in enumerate(self.index):
            if name not in known or name in self.index[:place]:
                raise PassError(
                    f"open names index {name!r}, which is not a summed index of {network.name!r} or is named twice; "
                    f"they are {', '.join(known) or 'none'}"
                )
        return tuple(known[name] for name in self.index)

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with a unit vector on the index, for each of its values."""
        sizes = [i.size for i in self._summed(before.terms[0])]
        slices = []
        for values in product(*map(range, sizes)):
            units = {f"unit_{name}": np.eye(size, dtype=np.int64)[value] for name, size, value in
                     zip(self.index, sizes, values, strict=True)}  # fmt: skip
            slices.append(evaluate(self._probed(before), arguments | units))
        shape = np.shape(slices[0])
        return np.stack(slices).reshape((*sizes, *shape))

    def _probed(self, before: Expression) -> Expression:
        def probe(term: Network) -> Network:
            units = (Tensor(f"unit_{i.name}", Role.TANGENT, (group(i),)) for i in self._summed(term))
            return term.with_nodes((*term.nodes, *units))

        return make_sum(before.name, [probe(term) for term in before.terms])


@dataclass(frozen=True)
class Flatten(Pass):
    """Neighbouring axes of the output become one, in row-major order, as by `torch.flatten`.

    Args:
        start: the first of them; a negative number counts from the end.
        end: the last of them.
    """

    name: ClassVar[str] = "flatten"
    start: int = 0
    end: int = -1

    def apply(self, network: Network) -> PassResult:
        """Write the axes as one."""
        first, last = self._range(network)
        joined = network.output[first]
        for axis in network.output[first + 1 : last + 1]:
            joined = _side_by_side(joined, axis)
        after = network.with_nodes(
            network.nodes, (*network.output[:first], joined, *network.output[last + 1 :])
        )
        return PassResult(after, after != network)

    def _range(self, expression: Expression) -> tuple[int, int]:
        rank = len(expression.output)
        first, last = (place + rank if place < 0 else place for place in (self.start, self.end))
        if not 0 <= first <= last < rank:
            raise PassError(
                f"flatten joins axes {self.start} to {self.end} of an output with {rank} axes; name some in order"
            )
        return first, last

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value in another shape."""
        value = np.asarray(evaluate(before, arguments))
        first, last = self._range(before)
        joined = int(np.prod(value.shape[first : last + 1]))
        return value.reshape((*value.shape[:first], joined, *value.shape[last + 1 :]))


def _side_by_side(outer: Axis, inner: Axis) -> Axis:
    if outer.is_group and inner.is_group:
        return group(*outer.indices, *inner.indices)
    if not isinstance(inner.size, int):
        raise PassError(f"flatten joins {outer} with {inner}, whose size is symbolic; arrange both as groups")
    strides = (*(stride * inner.size for stride in outer.strides), *inner.strides)
    start = outer.start * inner.size + inner.start
    return Axis((*outer.indices, *inner.indices), strides, start, outer.size * inner.size)


@dataclass(frozen=True)
class Unsqueeze(Pass):
    """An axis of one cell in the output.

    Args:
        axis: its place.
    """

    name: ClassVar[str] = "unsqueeze"
    axis: int = 0

    def apply(self, network: Network) -> PassResult:
        """Write the axis."""
        if not 0 <= self.axis <= len(network.output):
            raise PassError(
                f"unsqueeze has axis={self.axis} but the output has {len(network.output)} axes; give 0 to as many"
            )
        output = (*network.output[: self.axis], group(), *network.output[self.axis :])
        return PassResult(network.with_nodes(network.nodes, output), True)

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with the axis."""
        return np.expand_dims(evaluate(before, arguments), self.axis)
