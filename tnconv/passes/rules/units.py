"""Indices with one value: those of size one, and those that a relation fixes."""

from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Network, fits
from tnconv.ir.guards import equal
from tnconv.ir.nodes import fold
from tnconv.passes.relations import replace_index
from tnconv.passes.rewrite import RewritePass, Rule, rule


@rule
def drop_unit_index(network: Network) -> Network | None:
    """An index of size one has the value zero and need not be written.

    Before:
        network example {
          index [g=1, c=3, i=8, k=1, o=4]
          x = input   [(g c), i]
          p = pattern [i = 2*o + 3*k]
          output [(g c), o]
        }
    After:
        network example {
          index [c=3, i=8, k=1, o=4]
          x = input   [c, i]
          p = pattern [i = 2*o + 3*k]
          output [c, o]
        }
    """
    for index in network.in_order([index for index in network.indices if equal(index.size, 1)]):
        after = replace_index(network, index, (), 0, partly=True)
        if after is not None and after != network:
            return after
    return None


@rule
def fix_index(network: Network) -> Network | None:
    """A relation without terms fixes its index.

    Before:
        network example {
          index [c=3, i=8]
          x = input   [c, i]
          p = pattern [i = 3]
          output [c]
        }
    After:
        network example {
          index [c=3]
          x = input [c, 3 < 8]
          output [c]
        }
    """
    if all(relation.terms for relation in network.patterns):
        return None
    for relation in network.ordered.patterns:
        if not relation.terms:
            index, value = relation.left, relation.offset
            if isinstance(relation.modulus, int):
                value = fold(value, relation.modulus, relation.mode)
            if fits((), value, index):
                after = replace_index(network, index, (), value, relation)
                if after is not None:
                    return after
    return None


@dataclass(frozen=True)
class DropUnitIndices(RewritePass):
    """Indices of size one disappear from axes and relations; a relation without terms fixes its index."""

    name: ClassVar[str] = "drop_unit_indices"
    rules: ClassVar[tuple[Rule, ...]] = (drop_unit_index, fix_index)
