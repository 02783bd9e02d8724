"""Composition: an index on two patterns only is written through the one and disappears from the other."""

from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Delta, Index, Network, Pattern, Relational, fits, solve
from tnconv.ir.guards import equal
from tnconv.ir.quotient import quotient
from tnconv.passes.relations import replace_index
from tnconv.passes.rewrite import RewritePass, Rule, rule


@rule
def compose_patterns(network: Network) -> Network | None:
    """An index on two patterns only, which one determines, is substituted into the other.

    Not so where both patterns are windows of that index: `o = i + k` and `o = i_2 + k_2` each read windows of their own
    tensor, `i + k = i_2 + k_2` would read windows of windows.

    Before:
        network example {
          index [i=10, k=3, l=2, o=3, q=8]
          x  = input   [i]
          p1 = pattern [i = q + k]
          p2 = pattern [q = 2*o + l]
          output [k, l, o]
        }
    After:
        network example {
          index [i=10, k=3, l=2, o=3]
          x  = input   [i]
          p1 = pattern [i = 2*o + k + l]
          output [k, l, o]
        }
    """
    for index in network.ordered.indices:
        users = network.nodes_with(index)
        if len(users) != 2 or index in network.open_indices:
            continue
        for inner, outer in (users, users[::-1]):
            if isinstance(inner, Pattern | Delta) and isinstance(outer, Pattern | Delta):
                found = _determined(inner, outer, index)
                after = replace_index(network, index, found.terms, found.offset, inner) if found else None
                if after is not None:
                    return after
    return None


def _determined(inner: Relational, outer: Relational, index: Index) -> Relational | None:
    """What `index` equals by `inner`, if every value of it is one of `index`; else None."""
    found = solve(inner, index)
    if found is None or (_is_window_of(inner, index) and _is_window_of(outer, index)):
        return None
    if inner.modulus is None:
        return found if fits(found.terms, found.offset, index) else None
    # The remainder always exists; dropping the inner modulus is exact where the outer one absorbs it.
    # Reflected and replicated cells are no sums of a position and a multiple of anything.
    if not inner.mode == outer.mode == "circular" or outer.left == index:
        return None
    if outer.modulus is None:
        return None
    times = outer.zero_form[index] * inner.modulus
    return found if equal(times, outer.modulus * quotient(times, outer.modulus)) else None


def _is_window_of(relation: Relational, index: Index) -> bool:
    """Whether a relation says that an index is a sum of two others at least, or more."""
    signs = {c > 0 for x, c in relation.zero_form.items() if x != index}
    return len(relation.indices) > 2 and signs == {relation.zero_form[index] < 0}


@dataclass(frozen=True)
class ComposePatterns(RewritePass):
    """Chains of patterns, as of a convolution behind a convolution or a pooling, become one pattern."""

    name: ClassVar[str] = "compose_patterns"
    rules: ClassVar[tuple[Rule, ...]] = (compose_patterns,)
