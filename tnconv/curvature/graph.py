"""The history of a tensor: how often a leaf is used in it."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from torch import Tensor

# Nodes that only hand a parameter on: what uses their result uses the parameter.
_ALIASES = (
    "ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "UnsqueezeBackward", "SqueezeBackward",
    "ToCopyBackward", "AliasBackward",
)  # fmt: skip


class Users:
    """What uses what in a history.

    Args:
        output: whose history it is.
        opaque: nodes that are a use, though they only hand on.

    Attributes:
        nodes: all nodes.
    """

    def __init__(self, output: Tensor, opaque: Collection[Any] = ()) -> None:
        self.nodes: set[Any] = set()
        self._direct: Counter[Any] = Counter()
        self._aliases: dict[Any, list[Any]] = {}
        waiting: list[Any] = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in self.nodes:
                continue
            self.nodes.add(node)
            alias = node not in opaque and node.name().startswith(_ALIASES)
            for child, _ in node.next_functions:
                if child is None:
                    continue
                if alias:
                    self._aliases.setdefault(child, []).append(node)
                else:
                    self._direct[child] += 1
                waiting.append(child)

    def of(self, node: Any) -> int:
        """How many functions use the tensor of a node, of which `node` is the accumulator."""
        return self._direct[node] + sum(self.of(alias) for alias in self._aliases.get(node, ()))
