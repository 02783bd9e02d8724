"""Patterns with an index that occurs nowhere else: window sums.

`Σ_o [i = s*o + k - p]` asks how often the other indices meet. Where they always meet once the pattern is
one and goes; positions that never meet are cropped; what is left is a window sum, which planners lower.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Index, Network, Reach, Relational, Select, fits, solve, substitute
from tnconv.ir.affine import reach_of_sizes
from tnconv.ir.guards import at_most, below, equal
from tnconv.ir.quotient import quotient
from tnconv.ir.size import normal
from tnconv.passes.relations import occurs_only_on
from tnconv.passes.rewrite import RewritePass, Rule, rule
from tnconv.passes.tools import counted


@rule
def drop_free_pattern(network: Network) -> Network | None:
    """A pattern is one if an index that occurs nowhere else always has exactly one value that fits.

    Before:
        network example {
          index [i=8, k=3, o=10]
          x = input     [i]
          p = pattern   [i = o + k - 2]
          w = parameter [k]
          output []
        }
    After:
        network example {
          index [i=8, k=3]
          x = input     [i]
          w = parameter [k]
          output []
        }
    """
    for relation, index in _free(network):
        if _meets_once(relation, index):
            rest = network.without(relation.name)
            return counted(network, rest, network.output, (i for i in network.indices if i != index))
    return None


@rule
def crop_positions(network: Network) -> Network | None:
    """Positions that no value of the other indices reaches are left out.

    Before:
        network example {
          index [i=3, k=3, o=20]
          x = input   [i]
          p = pattern [i = o - k - 4]
          output [k]
        }
    After:
        network example {
          index [i=3, k=3, o=5]
          x = input   [i]
          p = pattern [i = o - k]
          output [k]
        }
    """
    for relation, index in _free(network):
        found = _reached(relation, index)
        if found is None:
            continue
        first = 0 if at_most(found.low, 0) else found.low if at_most(0, found.low) else None
        end = index.size - 1
        last = end if at_most(end, found.high) else found.high if at_most(found.high, end) else None
        if not isinstance(first, int) or last is None:
            continue
        size = normal(last - first + 1)
        if at_most(1, size) and below(size, index.size):
            cropped = index.sized(size)
            made = substitute(relation, index, ((1, cropped),), first)
            if made:
                return network.with_nodes((*network.without(relation.name), *made))
    return None


def _free(network: Network) -> Iterator[tuple[Relational, Index]]:
    """Patterns with each index that is on them alone; a selection stays, for its table is an argument."""
    for relation in network.ordered.patterns:
        for index in () if isinstance(relation, Select) else relation.indices:
            if occurs_only_on(network, index, relation):
                yield relation, index


def _reached(relation: Relational, index: Index) -> Reach | None:
    """Bounds of the values of `index` that fit some value of the others, rounded inwards."""
    if relation.modulus is not None:
        return None
    zero = relation.zero_form
    coefficient = zero[index]
    rest = [(c if coefficient < 0 else -c, i) for i, c in zero.items() if i != index]
    sizes = [(c, i.size) for c, i in rest]
    found = reach_of_sizes(sizes, relation.offset if coefficient < 0 else -relation.offset)
    step = abs(coefficient)
    return Reach(normal(-quotient(-found.low, step)), quotient(found.high, step))


def _meets_once(relation: Relational, index: Index) -> bool:
    if relation.modulus is not None:
        if index == relation.left:
            return True  # every position folds into exactly one cell
        # A full set of residues meets each cell once; folded otherwise, some cells are met more often.
        residues = relation.mode == "circular" and equal(index.size, relation.modulus)
        return residues and abs(relation.zero_form[index]) == 1
    found = solve(relation, index)
    return found is not None and fits(found.terms, found.offset, index)


@dataclass(frozen=True)
class WindowSums(RewritePass):
    """Patterns with an index of their own are dropped where they are one, and cropped where they are zero."""

    name: ClassVar[str] = "window_sums"
    rules: ClassVar[tuple[Rule, ...]] = (drop_free_pattern, crop_positions)

    def remarks(self, network: Network) -> tuple[str, ...]:
        """Name the window sums that are left."""
        left = dict.fromkeys(f"{relation.name} over {index}" for relation, index in _free(network))
        return (f"window sums left: {', '.join(left)}",) if left else ()
