"""Patterns that are axes: an index that others determine one to one is written through them.

`i = 7*o + k` with 7 values of k *is* the grouped axis `(o k)`; `i = 2*o` is every second cell of an axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Index, Network, Pattern, fits, group, injective, solve
from tnconv.ir.guards import equal
from tnconv.ir.nodes import Terms
from tnconv.passes.relations import replace_index
from tnconv.passes.rewrite import RewritePass, Rule, rule


@rule
def dense_pattern(network: Network) -> Network | None:
    """A pattern whose windows tile the axis without gap or overlap is a grouped axis.

    Before:
        network example {
          index [n=N, i=12, k=3, o=4]
          x = input   [n, i]
          p = pattern [i = 3*o + k]
          output [n, k, o]
        }
    After:
        network example {
          index [n=N, k=3, o=4]
          x = input [n, (o k)]
          output [n, k, o]
        }
    """
    return _substitute(network, _covers)


@rule
def narrow_pattern(network: Network) -> Network | None:
    """A pattern whose windows do not overlap reads some cells of an axis, each once.

    Before:
        network example {
          index [n=N, i=17, k=3, o=4]
          x = input   [n, i]
          p = pattern [i = 4*o + k + 1]
          output [n, k, o]
        }
    After:
        network example {
          index [n=N, k=3, o=4]
          x = input [n, 4*o + k + 1 < 17]
          output [n, k, o]
        }
    """
    return _substitute(network, _narrows)


@rule
def unit_kernel(network: Network) -> Network | None:
    """A pattern between two indices, in range, is a strided axis.

    Before:
        network example {
          index [c=3, i=8, o=4]
          x = input   [c, i]
          p = pattern [i = 2*o + 1]
          output [c, o]
        }
    After:
        network example {
          index [c=3, o=4]
          x = input [c, 2*o + 1 < 8]
          output [c, o]
        }
    """
    for relation in network.ordered.patterns:
        if isinstance(relation, Pattern) and len(relation.terms) == 1 and relation.modulus is None:
            for index in relation.indices:
                found = solve(relation, index)
                if found is not None and fits(found.terms, found.offset, index):
                    after = replace_index(network, index, found.terms, found.offset, relation)
                    if after is not None:
                        return after
    return None


def _substitute(network: Network, applies: Callable[[Index, Terms, int], bool]) -> Network | None:
    """Write the left index of a pattern through the others, if it is on no second pattern."""
    for relation in network.ordered.patterns:
        if not isinstance(relation, Pattern) or relation.modulus is not None or len(relation.terms) < 2:
            continue
        index, terms, offset = relation.left, relation.terms, relation.offset
        alone = sum(index in other.indices for other in network.patterns) == 1
        if alone and applies(index, terms, offset):
            after = replace_index(network, index, terms, offset, relation)
            if after is not None:
                return after
    return None


def _covers(index: Index, terms: Terms, offset: int) -> bool:
    if offset or any(c < 1 for c, _ in terms):
        return False
    ordered = sorted(terms, key=lambda t: -t[0])
    axis = group(*(x for _, x in ordered))
    strides = zip(axis.strides, (c for c, _ in ordered), strict=True)
    return all(equal(stride, c) for stride, c in strides) and equal(axis.size, index.size)


def _narrows(index: Index, terms: Terms, offset: int) -> bool:
    return injective((c, x.size) for c, x in terms) and fits(terms, offset, index)


@dataclass(frozen=True)
class Dense(RewritePass):
    """Patterns that tile an axis become grouped axes."""

    name: ClassVar[str] = "dense"
    rules: ClassVar[tuple[Rule, ...]] = (dense_pattern,)


@dataclass(frozen=True)
class Downsample(RewritePass):
    """Patterns with gaps between their windows become axes that skip cells."""

    name: ClassVar[str] = "downsample"
    rules: ClassVar[tuple[Rule, ...]] = (narrow_pattern,)


@dataclass(frozen=True)
class UnitKernels(RewritePass):
    """Patterns between two indices become strided axes."""

    name: ClassVar[str] = "unit_kernels"
    rules: ClassVar[tuple[Rule, ...]] = (unit_kernel,)
