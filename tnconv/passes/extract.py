"""Extract: some nodes of a network alone, with an argument in the place of the output if wanted.

extract{nodes=[w2], output=[n, d, o], cotangent=dy}
x  = input     [n, c, o]                w2 = parameter [e, d]
w1 = parameter [d, c]             ->    dy = cotangent [n, e, o]
w2 = parameter [e, d]                   output         [n, d, o]
output         [n, e, o]
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Expression, Index, Network, Role, Tensor, conjugate, group
from tnconv.passes.cells import pack, unpack
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import axes_of, check_free


@dataclass(frozen=True)
class Extract(Pass):
    """The product of some nodes of a network, summed over what is not in the new output.

    Args:
        nodes: their names; none at all for the new argument alone.
        output: axes of the result, as texts.
        cotangent: name of a new argument with the axes of the present output, which is one more factor; the nodes are
            conjugated beside it, as in a derivative.
    """

    name: ClassVar[str] = "extract"
    check_cells: ClassVar[int] = 1000
    nodes: tuple[str, ...]
    output: tuple[str, ...]
    cotangent: str | None = None

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """The one term that has the nodes."""
        terms = [t for t in expression.terms if set(self.nodes) <= {node.name for node in t.nodes}]
        if len(terms) != 1:
            raise PassError(
                f"extract takes nodes of one term, but {len(terms)} terms have {', '.join(self.nodes) or 'none'}; name "
                "nodes of one of them"
            )
        return self, tuple(terms)

    def requires(self, network: Network) -> None:
        """The new argument's name must be free."""
        check_free(network, self.cotangent)

    def apply(self, network: Network) -> PassResult:
        """Leave the other nodes out."""
        nodes = [node for node in network.nodes if node.name in self.nodes]
        if self.cotangent is not None:
            nodes = [*map(conjugate, nodes), Tensor(self.cotangent, Role.COTANGENT, network.output)]
        after = network.with_nodes(nodes, axes_of(network, self.output))
        return PassResult(after, after != network)

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value of each node alone, multiplied."""
        (term,) = self.prepare(before)[1]
        axes = axes_of(term, self.output)
        factors: list[tuple[Array, tuple[Index, ...]]] = []
        for node in term.nodes:
            if node.name in self.nodes:
                alone = Network("alone", (node,), tuple(group(i) for i in node.indices))
                value = np.asarray(evaluate(alone, arguments))
                factors.append((value if self.cotangent is None else np.conj(value), node.indices))
        if self.cotangent is not None:
            legs = term.open_indices
            factors.append((unpack(arguments[self.cotangent], term.output, legs), legs))
        open_legs = tuple(i for axis in axes for i in axis.indices)
        factors += [(np.ones(i.size, dtype=np.int64), (i,)) for i in open_legs]
        place = {i: n for n, i in enumerate(dict.fromkeys(i for _, legs in factors for i in legs))}
        operands = [part for value, legs in factors for part in (value, [place[i] for i in legs])]
        value = (
            np.einsum(*operands, [place[i] for i in open_legs]) if operands else np.ones((), dtype=np.int64)
        )
        return pack(value, open_legs, axes)
