"""Square and tie: second-order networks from two copies, and diagonals.

square{over=[n, o], keep=[g]}
x = input   [n, (g c), i]              x   = input       [n, (g c), i]
p = pattern [i = o + k]          ->    x_2 = input{of=x} [n, (g c_2), i_2]
output      [n, (g c k), o]            p   = pattern     [i = o + k]
                                       p_2 = pattern     [i_2 = o + k_2]
                                       output            [g, (c k), (c_2 k_2)]
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Delta, Expression, Index, Network, Node, Tensor, fresh, group
from tnconv.passes.base import Array, Evaluate, Pass, PassResult
from tnconv.passes.cells import pack, unpack
from tnconv.passes.tools import counted, open_named, taken_names, without_indices


@dataclass(frozen=True)
class Square(Pass):
    """The product of a network with a copy of itself, joined on some open indices.

    The result has an axis for each index of `keep`, then the first copy's other axes, then the second's.

    Args:
        over: open indices that both copies share and that are summed.
        keep: open indices that both copies share and that stay in the output.
    """

    name: ClassVar[str] = "square"
    over: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """Only one network can be squared."""
        if len(expression.terms) > 1:
            raise PassError(
                f"the expression is a sum of {len(expression.terms)} networks, whose square has mixed terms; "
                "square one network"
            )
        return self, expression.terms

    def apply(self, network: Network) -> PassResult:
        """Write the copy beside the network."""
        joined = open_named(network, (*self.keep, *self.over), "square")
        axes = without_indices(network.output, joined, "square")
        taken = taken_names(network)
        copies: dict[Index, Index] = {}
        for index in network.indices:
            if index not in joined:
                copies[index] = Index(fresh(index.name, taken), index.size)
                taken.add(copies[index].name)
        nodes: list[Node] = list(network.nodes)
        for node in network.nodes:
            copy = node.map_indices(lambda i: copies.get(i, i))
            if copy == node and not isinstance(node, Tensor) and node.indices:
                continue  # a relation among joined indices: once is enough, for its square is itself
            name = fresh(node.name, taken)
            taken.add(name)
            copy = replace(copy, name=name)
            nodes.append(
                replace(copy, of=node.argument)
                if isinstance(copy, Tensor) and isinstance(node, Tensor)
                else copy
            )
        second = tuple(axis.substitute(copies) for axis in axes)
        output = (*(group(i) for i in joined[: len(self.keep)]), *axes, *second)
        after = counted(network, nodes, output, joined)
        return PassResult(
            after, after != network, (f"joined on {', '.join(i.name for i in joined) or 'nothing'}",)
        )

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The outer product of two copies of the value, summed."""
        (network,) = before.terms
        legs = network.open_indices
        value = unpack(evaluate(network, arguments), network.output, legs)
        joined = open_named(network, (*self.keep, *self.over), "square")
        keep, rest = joined[: len(self.keep)], tuple(i for i in legs if i not in joined)
        second = {i: Index(f"{i.name}_copy", i.size) for i in rest}
        legs_2 = [second.get(i, i) for i in legs]
        result = (*keep, *rest, *second.values())
        number = {i: place for place, i in enumerate(dict.fromkeys((*legs, *legs_2)))}
        array = np.einsum(
            value, [number[i] for i in legs], value, [number[i] for i in legs_2], [number[i] for i in result]
        )
        axes = without_indices(network.output, joined, "square")
        mirrored = tuple(axis.substitute(second) for axis in axes)
        return pack(array, result, (*(group(i) for i in keep), *axes, *mirrored))


@dataclass(frozen=True)
class Tie(Pass):
    """The diagonal over two open indices of one size; the first one's axis stays.

    Args:
        left: an open index; it stays where it is in the output.
        right: an open index of the same size; it leaves the output.
    """

    name: ClassVar[str] = "tie"
    left: str
    right: str

    def apply(self, network: Network) -> PassResult:
        """Add a delta, and take the second index from the output."""
        left, right, output = self._tied(network)
        delta = Delta(fresh(f"delta_{self.right}", taken_names(network)), left, right)
        after = network.with_nodes((*network.nodes, delta), output)
        return PassResult(after, True, (f"{self.right} = {self.left}",))

    def _tied(self, network: Network) -> tuple[Index, Index, tuple[Axis, ...]]:
        left, right = open_named(network, (self.left, self.right), "tie")
        if left.size != right.size:
            raise PassError(
                f"tie joins index {self.left!r} of size {left.size} and {self.right!r} of size {right.size}; "
                "choose two of one size"
            )
        return left, right, without_indices(network.output, (right,), "tie")

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The diagonal of the value."""
        parts = []
        for term in before.terms:
            left, right, output = self._tied(term)
            legs = term.open_indices
            rest = tuple(i for i in legs if i != right)
            value = unpack(evaluate(term, arguments), term.output, legs)
            labels = [rest.index(left if i == right else i) for i in legs]
            parts.append(pack(np.einsum(value, labels, list(range(len(rest)))), rest, output))
        return sum(parts[1:], parts[0])
