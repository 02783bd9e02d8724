"""Twins: two patterns that differ in one index each say that these are equal.

`i = s*o + d*k - p` and `i = s*o + d*k_2 - p` hold together where `k = k_2` and the first one holds: so the square of a
Toeplitz matrix is the Toeplitz matrix of squares.
"""

from collections.abc import Iterator

from tnconv.ir import Index, Network, Pattern, Relational, pattern
from tnconv.ir.guards import below
from tnconv.passes.rewrite import rule

Key = tuple[frozenset[tuple[Index, int]], int, int]


@rule
def match_twins(network: Network) -> Network | None:
    """Of two patterns that differ in one index each, one is the delta of these two.

    Where a pattern folds, that holds for its left index; for another one if no two of its values fold alike.

    Before:
        network example {
          index [i=8, k=3, k_2=3, o=8]
          p   = pattern       [i = o + k - 1]
          p_2 = pattern       [i = o + k_2 - 1]
          w   = parameter       [k]
          w_2 = parameter{of=w} [k_2]
          y   = cotangent     [o]
          output [i]
        }
    After:
        network example {
          index [i=8, k=3, k_2=3, o=8]
          p   = pattern       [i = o + k - 1]
          p_2 = delta         [k = k_2]
          w   = parameter       [k]
          w_2 = parameter{of=w} [k_2]
          y   = cotangent     [o]
          output [i]
        }
    """
    seen: dict[tuple[object, ...], tuple[Relational, Index]] = {}
    for relation in network.ordered.patterns:
        if not isinstance(relation, Pattern):
            continue
        for index, key in _keys(relation):
            first, other = seen.setdefault((relation.modulus, relation.mode, *key), (relation, index))
            if first is relation or other.size != index.size:
                continue
            if other == index:
                return network.with_nodes(network.without(relation.name))  # the same pattern twice
            if relation.modulus is None or _folds_apart(relation, index):
                made = pattern(relation.name, other, ((1, index),))
                return network.with_nodes((*network.without(relation.name), made))
    return None


def _keys(relation: Pattern) -> Iterator[tuple[Index, Key]]:
    """What a pattern says about each of its indices, whichever index it is solved for."""
    zero = relation.zero_form
    for index, coefficient in zero.items():
        # A relation that folds means something else when all signs are changed.
        sign = -1 if coefficient < 0 and relation.modulus is None else 1
        rest = frozenset((x, sign * c) for x, c in zero.items() if x != index)
        yield index, (rest, sign * coefficient, sign * relation.offset)


def _folds_apart(relation: Pattern, index: Index) -> bool:
    """Whether different values of an index fold into different cells, the others being fixed."""
    if index == relation.left:
        return True
    if relation.mode != "circular":
        return False
    return below(abs(relation.zero_form[index]) * (index.size - 1), relation.modulus)
