"""A distribution that adds a pass and a kernel to tnconv: found by entry points, imported by nobody."""

from dataclasses import dataclass
from typing import ClassVar

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.ir import Delta, Network, Pattern
from tnconv.passes import Pass, PassResult


@dataclass(frozen=True)
class SharePatterns(Pass):
    """Of patterns that say the same one is enough: the square of a 0/1 tensor is itself."""

    name: ClassVar[str] = "share_patterns"
    preserves_value: ClassVar[bool] = True

    def apply(self, network: Network) -> PassResult:
        """Keep the first of equal relations."""
        first = {}
        gone = []
        for node in network.patterns:
            kept = first.setdefault(node.relation_text(), node)
            if kept is not node:
                gone.append(node.name)
        if not gone:
            return PassResult(network, changed=False)
        return PassResult(network.with_nodes(network.without(*gone)), True, (f"dropped {', '.join(gone)}",))

    def ensures(self, before: Network, after: Network) -> None:
        """Tensors are never touched."""
        assert before.tensors == after.tensors
        assert all(isinstance(p, Pattern | Delta) for p in after.patterns)


class Total(Kernel):
    """The sum of all cells of one tensor in one call; it wins by its price."""

    name: ClassVar[str] = "total"

    def accepts(self, problem: Problem) -> bool:
        """One operand, nothing left to relate, and a scalar result."""
        return len(problem.operands) == 1 and not problem.relations and not problem.output

    def cost(self, problem: Problem) -> float:
        """Less than any built-in kernel asks."""
        return 0.0

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write `total = x.sum()`."""
        (value,) = problem.operands
        return em.assign("total", f"{value.name}.sum()", [value.name], ())
