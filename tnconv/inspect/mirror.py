"""The symmetry of second-order networks: which node and which index is the copy of which.

`square` and `tie` build a network from two copies of another. A diagram of such a network is drawn as a picture
and its mirror image; for that the exchange of the copies must leave the network as it is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tnconv.ir import Index, Network, Node, Scale, Tensor


@dataclass(frozen=True)
class Mirror:
    """An exchange of nodes and of indices that leaves a network as it is.

    Args:
        nodes: name of a node to the name of its image; its own where it stays.
        indices: the same of indices.
        copies: names of the nodes that are images of others, and stand on the right.
    """

    nodes: Mapping[str, str]
    indices: Mapping[Index, Index]
    copies: frozenset[str]


def mirror_of(network: Network, nodes: Sequence[Node]) -> Mirror | None:
    """The exchange of every `a` with its copy `a_2` among the nodes of a component; None if it is no symmetry."""
    pairs = _pairs(nodes)
    if not any(isinstance(network.node(name), Tensor) for name in pairs):
        return None
    image = {n.name: n.name for n in nodes} | pairs | {b: a for a, b in pairs.items()}
    indices: dict[Index, Index] = {}
    for name, other in pairs.items():
        for a, b in _matched(network.node(name), network.node(other)):
            if indices.setdefault(a, b) != b or indices.setdefault(b, a) != a:
                return None
    for index in {i: None for n in nodes for i in n.indices}:
        other_index = indices.setdefault(index, index)
        users = sorted(image[n.name] for n in _users(network, index))
        if users != sorted(n.name for n in _users(network, other_index)):
            return None
        if (index in network.open_indices) != (other_index in network.open_indices):
            return None
    return Mirror(image, indices, frozenset(pairs.values()))


def _pairs(nodes: Sequence[Node]) -> dict[str, str]:
    """Names of nodes and of their one copy, of the same kind and argument."""
    by_name = {n.name: n for n in nodes}
    found: dict[str, str] = {}
    for node in nodes:
        base = by_name.get(re.sub(r"_\d+$", "", node.name))
        if base is None or base is node or type(base) is not type(node):
            continue
        if isinstance(node, Tensor) and isinstance(base, Tensor) and node.argument != base.argument:
            continue
        if base.name in found:
            return {}
        found[base.name] = node.name
    return found


def _matched(one: Node, other: Node) -> Iterable[tuple[Index, Index]]:
    if len(one.indices) != len(other.indices):
        return ()
    return zip(one.indices, other.indices, strict=True)


def _users(network: Network, index: Index) -> Iterable[Node]:
    return (n for n in network.nodes_with(index) if not isinstance(n, Scale))
