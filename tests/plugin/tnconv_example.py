"""A distribution that adds a pass to tnconv: found by its entry point, without being imported by anyone."""

from dataclasses import dataclass
from typing import ClassVar

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
