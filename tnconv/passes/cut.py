"""Cut: take one node away; its legs dangle.

cut{node=w}
x = input     [n, c, i]                x = input   [n, c, i]
p = pattern   [i = o + k]        ->    p = pattern [i = o + k]
w = parameter [d, c, k]                output      [n, o, c, k]
output        [n, d, o]
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Expression, Index, Network, Tensor, group
from tnconv.passes.cells import pack, unit, unpack
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import counted, names, without_indices


@dataclass(frozen=True)
class Cut(Pass):
    """The rest of the network without one node.

    The output keeps its axes, but for indices that only the node had; behind them comes an axis for each of
    the node's other indices that is still on a node.

    Args:
        node: name of a tensor node.
    """

    name: ClassVar[str] = "cut"
    check_cells: ClassVar[int] = 300
    node: str

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """Terms without the node drop out, as in a derivative."""
        terms = tuple(t for t in expression.terms if any(x.name == self.node for x in t.tensors))
        if not terms:
            known = ", ".join(t.name for term in expression.terms for t in term.tensors) or "none"
            raise PassError(f"there is no tensor node {self.node!r}; the tensor nodes are {known}")
        return self, terms

    def apply(self, network: Network) -> PassResult:
        """Take the node away and open its legs."""
        rest = network.without(self.node)
        output, opened, dropped = self._output(network)
        after = counted(network.declared(real=False), rest, output, ())
        notes = (f"opened {names(opened)}",) + ((f"dropped {names(dropped)}",) if dropped else ())
        return PassResult(after, True, notes)

    def _output(self, network: Network) -> tuple[tuple[Axis, ...], tuple[Index, ...], tuple[Index, ...]]:
        """Axes of the result, indices that open, indices that leave the output."""
        node = self._node(network)
        held = {i for other in network.without(self.node) for i in other.indices}
        dropped = tuple(i for i in node.indices if i in network.open_indices and i not in held)
        opened = tuple(i for i in node.indices if i in held and i not in network.open_indices)
        kept = without_indices(network.output, dropped, "cut")
        return (*kept, *(group(i) for i in opened)), opened, dropped

    def _node(self, network: Network) -> Tensor:
        for node in network.tensors:
            if node.name == self.node:
                return node
        raise PassError(
            f"there is no tensor node {self.node!r}; they are {', '.join(t.name for t in network.tensors)}"
        )

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with each unit tensor in the place of the node; it is linear in it, so this is it."""
        return np.asarray(sum([self._rest(term, arguments, evaluate) for term in before.terms]))

    def _rest(self, network: Network, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        node = self._node(network)
        axes, opened, dropped = self._output(network)
        seed = network.fresh_name("unit")
        unit_node = replace(node, name=seed, of=None)
        probe = network.declared(real=False).with_nodes((*network.without(self.node), unit_node))
        legs = network.open_indices
        kept = tuple(i for i in legs if i not in dropped)
        result = np.zeros(tuple(i.size for i in (*kept, *opened)), dtype=object)
        free = tuple(i for i in node.indices if i in kept or i in opened)
        for values in product(*(range(i.size) for i in free)):
            at = dict.fromkeys(node.indices, 0) | dict(zip(free, values, strict=True))
            value = evaluate(probe, arguments | {seed: unit(node.axes, at)})
            cells = unpack(value, network.output, legs)
            read = tuple(at[i] if i in node.indices else slice(None) for i in legs)
            write = tuple(at[i] if i in node.indices else slice(None) for i in (*kept, *opened))
            result[write] = cells[read]
        return pack(result, (*kept, *opened), axes)
