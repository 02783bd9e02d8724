"""Batch: a new leg, in front, on some arguments and on the output.

batch{index=v, over=[dy]}
dy = cotangent [n, d, o]   ->   dy = cotangent [v, n, d, o]
output         [d, c, k]   ->   output         [v, d, c, k]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError, meant
from tnconv.ir import Expression, Index, Kind, Network, Role, as_integer, as_size, evaluate, group
from tnconv.ir.size import symbol_names
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import taken_names


@dataclass(frozen=True)
class Batch(Pass):
    """The value for every entry of a batch: `after[v, ...] = before[...]` with `x[v]` in place of `x`.

    Args:
        index: name of the new index.
        over: the arguments that get the leg; those of the first role that occurs, of cotangent, tangent and
            input, if left out.
        size: of the index; the symbol that is the index in capitals if left out.
    """

    name: ClassVar[str] = "batch"
    index: str
    over: tuple[str, ...] = ()
    size: str | None = None

    def __post_init__(self) -> None:
        number = as_integer(self.size)
        if number is not None:
            object.__setattr__(self, "size", str(number))
        super().__post_init__()

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """Choose the arguments if none are named; all terms get the leg."""
        for name in self.over:
            if name not in expression.arguments:
                raise PassError(
                    f"there is no argument {name!r}{meant(name, expression.arguments)}; "
                    f"the arguments are {', '.join(expression.arguments)}"
                )
            if name in expression.tables:
                raise PassError(
                    f"argument {name!r} is a table of integers, which takes no new axis; batch the tensors, or give "
                    "the network a table for each"
                )
        chosen = self.over or _first_role(expression)
        if not chosen:
            raise PassError(
                "no argument is an input, a tangent or a cotangent; name the arguments in over=[...]"
            )
        return replace(self, over=chosen), expression.terms

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the size of the new index."""
        return symbol_names(self._index.size)

    def bind(self, values: Mapping[str, int]) -> Self:
        """The size as an integer."""
        return replace(self, size=str(evaluate(self._index.size, values)))

    def apply(self, network: Network) -> PassResult:
        """Add the leg to each node that reads one of the arguments, and to the output."""
        if self.index in taken_names(network):
            raise PassError(f"the name {self.index!r} is taken; choose another for the new index")
        over = self.over or _first_role(network)
        leg = group(self._index)
        nodes = tuple(
            replace(node, axes=(leg, *node.axes))
            if node in network.tensors and node.argument in over
            else node
            for node in network.nodes
        )
        after = network.with_nodes(nodes, (leg, *network.output))
        reading = [t.name for name in over for t in network.reading(name)]
        return PassResult(after, True, (f"{self.index} on {', '.join(reading) or 'the output only'}",))

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """A loop over the batch."""
        over = self.over or _first_role(before)
        size = arguments[over[0]].shape[0]
        rows = ({k: v[b] if k in over else v for k, v in arguments.items()} for b in range(size))
        return np.stack([evaluate(before, row) for row in rows])

    @property
    def _index(self) -> Index:
        return Index(self.index, as_size(self.size or self.index.upper()), Kind.VECTOR)


def _first_role(expression: Expression) -> tuple[str, ...]:
    for role in (Role.COTANGENT, Role.TANGENT, Role.INPUT):
        found = {t.argument for term in expression.terms for t in term.tensors if t.role == role}
        if found:
            return tuple(name for name in expression.arguments if name in found)
    return ()
