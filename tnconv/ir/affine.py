"""Affine arithmetic: what `Σ a·x + offset` reaches, and relations solved for an index or rewritten without one.

Everything sparse in a network is a relation `left = Σ a·x + offset`, within the ranges of its indices. This file is the
one place that knows the interval such a sum lies in, and how a relation looks once another one has been put into it:

    reach((2, o), (1, k); -1)                       with 4 values of o and 3 of k: the cells -1 to 7
    solve(i = 2*o + k - 1, k)                       k = i - 2*o + 1
    substitute(i = 2*o + k - 1, k, l + m)           i = 2*o + l + m - 1
    reverse(i = 2*o + k - 1, k)                     i = 2*o - k + 1

A relation that folds (`mod`, `reflect`, `replicate`) or that goes by table is only rewritten where that is exact.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from tnconv.ir.guards import at_most, below, impossible
from tnconv.ir.index import Index
from tnconv.ir.nodes import Pattern, Relational, Select, Terms, pattern
from tnconv.ir.size import Size, normal

Key = TypeVar("Key", bound=Hashable)


class Reach(NamedTuple):
    """The least and the greatest value of an affine sum, both of which it takes."""

    low: Size
    high: Size

    @property
    def length(self) -> Size:
        """Number of cells from the lowest to the highest."""
        return normal(self.high - self.low + 1)


def reach_of_sizes(terms: Iterable[tuple[int, Size]], offset: Size = 0) -> Reach:
    """What `Σ coefficient·x + offset` reaches for `0 <= x < size`, the x independent of one another.

    Args:
        terms: (coefficient, size) pairs; sizes may be expressions, and the reach then is one.
        offset: added to the sum.
    """
    low = high = offset
    for coefficient, size in terms:
        if coefficient < 0:
            low = low + coefficient * (size - 1)
        else:
            high = high + coefficient * (size - 1)
    return Reach(normal(low), normal(high))


def reach(terms: Iterable[tuple[int, Index]], offset: int = 0) -> Reach | None:
    """What `Σ coefficient·index + offset` reaches; None where a size is a symbol."""
    sizes = [(coefficient, index.size) for coefficient, index in terms]
    return reach_of_sizes(sizes, offset) if all(isinstance(size, int) for _, size in sizes) else None


def fits(terms: Iterable[tuple[int, Index]], offset: int, index: Index) -> bool:
    """Whether `Σ coefficient·index + offset` is always a value of `index`, as far as that is known."""
    found = reach_of_sizes(((coefficient, x.size) for coefficient, x in terms), offset)
    return at_most(0, found.low) and (found.high == 0 or below(found.high, index.size))


def injective(terms: Iterable[tuple[int, Size]], *, doubt: bool = False) -> bool:
    """Whether different values give different sums, as the digits of a mixed radix number do, as far as that is known.

    Args:
        terms: (stride, size) pairs; strides are numbers.
        doubt: what is said of symbols that leave it open.
    """
    spare: Size = 1  # the least stride that steps over all smaller ones
    legs = [(stride, not isinstance(size, int), size) for stride, size in terms if size != 1]
    for stride, _, size in sorted(legs, key=lambda leg: leg[:2] if leg[1] else leg):
        if impossible(spare, stride) or not (doubt or at_most(spare, stride)):
            return False
        spare = spare + stride * (size - 1)
    return True


def combined(zero: Mapping[Key, int], key: Key, terms: Iterable[tuple[int, Key]]) -> dict[Key, int]:
    """The coefficients of `Σ zero·x` with `Σ terms` in place of one of its x; those that vanish are left out."""
    made = dict(zero)
    factor = made.pop(key)
    for coefficient, x in terms:
        made[x] = made.get(x, 0) + factor * coefficient
    return {x: c for x, c in made.items() if c}


def solved(name: str, zero: Mapping[Index, int], offset: int, left: Index) -> Pattern:
    """The relation `Σ zero·index + offset = 0`, solved for an index whose coefficient is 1 or -1."""
    sign = -zero[left]
    return Pattern(name, left, tuple((sign * c, x) for x, c in zero.items() if x != left), sign * offset)


def solve(relation: Relational, index: Index) -> Relational | None:
    """The same relation with `index` on its left; None where its coefficient is not ±1 or under a modulus."""
    if index == relation.left:
        return relation
    if relation.modulus is not None or abs(relation.zero_form.get(index, 0)) != 1:
        return None
    return solved(relation.name, relation.zero_form, relation.offset, index)


def reverse(relation: Relational, index: Index) -> Pattern:
    """A plain relation for the values of `index` in reverse order: `size - 1 - index` in its place.

    The left index stays on the left, also where it is the one that is reversed.
    """
    last = index.size - 1
    if index == relation.left:
        return Pattern(
            relation.name, index, tuple((-a, x) for a, x in relation.terms), last - relation.offset
        )
    moved = sum(a * last for a, x in relation.terms if x == index)
    terms = tuple((-a if x == index else a, x) for a, x in relation.terms)
    return Pattern(relation.name, relation.left, terms, relation.offset + moved)


def is_rename(index: Index, terms: Terms, offset: int) -> bool:
    """Whether `Σ terms + offset` is another index of the same size."""
    return offset == 0 and len(terms) == 1 and terms[0][0] == 1 and terms[0][1].size == index.size


def substitute(
    relation: Relational, index: Index, terms: Terms, offset: int
) -> tuple[Relational, ...] | None:
    """A relation with `Σ terms + offset` in place of `index`, which is one of its own.

    It holds for the same values of all other indices as the relation does where `index` has the value of that sum. The
    index on its left stays there if it can; else it is the first in canonical order with a coefficient of ±1.

    Returns:
        The relation, or none where it is always true. None where no node can say it: no coefficient is ±1, the left
        of a modulus would be a sum, or a selection would be more than renamed; it never goes, for its table is an
        argument.
    """
    left = relation.left
    renamed = is_rename(index, terms, offset)
    if isinstance(relation, Select):
        if not renamed or terms[0][1] in relation.indices:
            return None
        return (relation.map_indices(lambda i: terms[0][1] if i == index else i),)
    if relation.modulus == 1:
        return ()
    form = relation.zero_form
    zero, constant = combined(form, index, terms), relation.offset + form[index] * offset
    if relation.modulus is None:
        units = sorted(
            (x for x, c in zero.items() if abs(c) == 1), key=lambda x: (x != left, x.kind.rank, x.sort_key)
        )
        if not units:
            return () if not zero and constant == 0 else None
        made = solved(relation.name, zero, constant, units[0])
        return (pattern(made.name, made.left, made.terms, made.offset),)
    if left == index:
        if not renamed:
            return None  # only an index of this very size can be left of a modulus
        left = terms[0][1]
    if zero.get(left) != -1:
        return None
    rest = tuple((c, x) for x, c in zero.items() if x != left)
    return (pattern(relation.name, left, rest, constant, relation.modulus, relation.mode),)


def eliminate(relation: Relational, by: Relational) -> tuple[Relational, ...] | None:
    """A relation without the index that another one is solved for, as `substitute`; both hold as the pair did.

    None too where `by` folds or goes by table, as its left index then is no sum.
    """
    if by.left not in relation.indices:
        return (relation,)
    return None if by.modulus is not None else substitute(relation, by.left, by.terms, by.offset)
