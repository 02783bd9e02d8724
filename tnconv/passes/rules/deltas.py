"""Deltas: the two indices that one joins are one index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Delta, Index, Network, Pattern, Select
from tnconv.passes.relations import replace_index
from tnconv.passes.rewrite import RewritePass, Rule, rule
from tnconv.passes.rules.twins import match_twins
from tnconv.passes.tools import counted


@rule
def absorb_delta(network: Network) -> Network | None:
    """Two indices that a delta joins are one index; an open one keeps its name.

    Before:
        network example {
          index [c=3, d=4, d_2=4]
          x     = input [d, c]
          delta = delta [d = d_2]
          output [d_2, c]
        }
    After:
        network example {
          index [c=3, d_2=4]
          x = input [d_2, c]
          output [d_2, c]
        }
    """
    for delta in network.ordered.patterns:
        if isinstance(delta, Delta):
            kept, gone = _ordered(delta, network.open_indices)
            if gone not in network.open_indices:
                after = replace_index(network, gone, ((1, kept),), 0, delta)
                if after is not None:
                    return after
    return None


@rule
def absorb_plain_deltas(network: Network) -> Network | None:
    """Deltas among indices that are on no pattern are absorbed all at once: networks may have hundreds.

    Before:
        network example {
          index [a=2, b=2, c=2, d=3]
          x  = input     [a, d]
          y  = input     [b]
          d1 = delta     [a = b]
          d2 = delta     [b = c]
          output [c]
        }
    After:
        network example {
          index [c=2, d=3]
          x = input [c, d]
          y = input [c]
          output [c]
        }
    """
    related = {i for p in network.patterns if not isinstance(p, Delta) for i in p.indices}
    root: dict[Index, Index] = {}
    gone: set[str] = set()
    for delta in network.ordered.patterns:
        if isinstance(delta, Delta):
            kept, dropped = _ordered(delta, network.open_indices, root)
            if dropped == kept or not (dropped in network.open_indices or related & {kept, dropped}):
                gone.add(delta.name)
                if dropped != kept:
                    root[dropped] = kept
    if not gone:
        return None
    mapping = {index: _find(root, index) for index in root}
    nodes = [
        node if isinstance(node, Pattern | Select) else node.map_indices(lambda i: mapping.get(i, i))
        for node in network.nodes
        if node.name not in gone
    ]
    output = tuple(axis.substitute(mapping) for axis in network.output)
    return counted(network, nodes, output, (i for i in network.indices if i not in root))


def _ordered(
    delta: Delta, kept: tuple[Index, ...], root: Mapping[Index, Index] | None = None
) -> tuple[Index, Index]:
    """The index of a delta that stays, an open one if there is one, and the one that goes."""
    left, right = _find(root or {}, delta.left), _find(root or {}, delta.right)
    return (right, left) if right in kept else (left, right)


def _find(root: Mapping[Index, Index], index: Index) -> Index:
    while index in root:
        index = root[index]
    return index


@dataclass(frozen=True)
class AbsorbDeltas(RewritePass):
    """Identify the two indices of every delta, and of patterns that differ in these alone, unless both are open."""

    name: ClassVar[str] = "absorb_deltas"
    rules: ClassVar[tuple[Rule, ...]] = (absorb_plain_deltas, absorb_delta, match_twins)
