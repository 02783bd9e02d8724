"""The pass `select{index=o1, at=3}`: one value of an open index, as `result[:, :, 3]` would give it.

    output [n, d, o1]      =>      p = pattern [o1 = 3]
                                   output [n, d]

A pattern says it, so that every other pass and kernel knows what it means. Operations that were derived before, such
as a Jacobian, are then computed for that row alone.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Expression, Index, Network, Pattern
from tnconv.passes import Evaluate, Pass, PassResult


@dataclass(frozen=True)
class Select(Pass):
    """Fix an open index at one of its values.

    Args:
        index: name of the index; alone on its axis of the output.
        at: its value, from 0.
    """

    name: ClassVar[str] = "select"

    index: str
    at: int = 0

    def requires(self, network: Network) -> None:
        """The index has an axis of the output for itself, and the value is one that it has.

        Raises:
            PassError: it has not.
        """
        index = network.output[self._place(network)].indices[0]
        if self.at < 0 or (isinstance(index.size, int) and self.at >= index.size):
            raise PassError(
                f"at={self.at} is no value of index {index.name!r} of size {index.size}; count from 0"
            )

    def apply(self, network: Network) -> PassResult:
        """Take the axis away, and say by a pattern which value its index has."""
        place = self._place(network)
        (index,) = network.output[place].indices
        fixed = Pattern(network.fresh_name("p"), index, (), self.at)
        output = (*network.output[:place], *network.output[place + 1 :])
        after = network.with_nodes((*network.nodes, fixed), output)
        return PassResult(after, changed=True, notes=(f"{self.index} is {self.at}",))

    def ensures(self, before: Network, after: Expression) -> None:
        """Arguments are read as they were.

        Raises:
            PassError: they are not.
        """
        if before.arguments != after.arguments:
            raise PassError(f"arguments {before.arguments} became {after.arguments}")

    def expected(
        self, before: Expression, arguments: dict[str, np.ndarray], evaluate: Evaluate
    ) -> np.ndarray:
        """The value by another route, with which the exact check compares: a slice of the value before."""
        return np.take(evaluate(before, arguments), self.at, self._place(before.terms[0]))

    def _place(self, network: Network) -> int:
        for place, axis in enumerate(network.output):
            if axis == Axis((Index(self.index, axis.size),), (1,), 0, axis.size):
                return place
        listing = ", ".join(map(str, network.output)) or "no axis"
        raise PassError(f"{self.index!r} is not alone on an axis of the output, which has {listing}")
