"""Which values of an index each part of a mesh has, and what that says of the indices that a relation ties to it.

An index of size `I` over `R` ranks has the values that `torch.chunk` would give: `ceil(I / R)` each, the last ones
fewer or none. A relation such as `i = 2*o + k - 1` then leaves `i` the values that some `o` of the range and some `k`
reach: the range of the rank and its halo.

Around a circle, `i = o + k - 1 mod I`, a range may go beyond both ends: its cells are those of `[0, I)` that they fold
into, and within it the relation needs no modulus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tnconv.ir import Expression, Index, Kind, Network
from tnconv.ir.nodes import Delta, Pattern, Relational, Select

Range = tuple[int, int]  # the first value, and one behind the last
Ranges = Mapping[str, Range]


def chunks(size: int, count: int) -> tuple[Range, ...]:
    """The cells that each of `count` ranks has of an axis that is sharded, as `torch.chunk` and DTensor cut it."""
    length = -(-size // count)
    return tuple((min(size, length * n), min(size, length * (n + 1))) for n in range(count))


@dataclass(frozen=True, slots=True)
class Division:
    """One index over one dimension of a mesh.

    Args:
        dim: the dimension of the mesh.
        index: name of the index whose values are shared out.
        parts: the range of the index at each coordinate.
        terms: for each term and coordinate, the ranges of the indices that this changes; None where the term has
            no value there, as nothing that it reads is reached.
        around: for each term, the indices whose ranges go around a circle.
    """

    dim: int
    index: str
    parts: tuple[Range, ...]
    terms: tuple[tuple[Ranges | None, ...], ...]
    around: tuple[frozenset[str], ...]

    def changes(self, term: int) -> frozenset[str]:
        """The indices of a term that are narrowed at some coordinate."""
        return frozenset(name for ranges in self.terms[term] for name in ranges or ())

    def slabs(self, term: int, name: str, size: int) -> tuple[Range, ...]:
        """The values of an index of a term at each coordinate: without a value, those of the index shared out alone."""
        nothing = self.parts if name == self.index else ((0, 0),) * len(self.parts)
        return tuple(
            here if each is None else each.get(name, (0, size))
            for here, each in zip(nothing, self.terms[term], strict=True)
        )


def pieces(cells: Range, size: int) -> list[Range]:
    """A range that may go around a circle of so many cells, as ranges of these, in its order."""
    low, high = cells
    found = []
    while low < high:
        first = low % size
        length = min(high - low, size - first)
        found.append((first, first + length))
        low += length
    return found


def divide(expression: Expression, index: str, dim: int, count: int, *, around: bool = True) -> Division:
    """Share out an index of a network, or a sum, without size symbols over `count` ranks.

    Args:
        expression: the network.
        index: name of the index.
        dim: the dimension of the mesh.
        count: its size.
        around: whether ranges may go around a circle.
    """
    size = next(i.size for term in expression.terms for i in term.indices if i.name == index)
    parts = chunks(size, count)
    found = [_of_term(term, index, parts, around) for term in expression.terms]
    return Division(dim, index, parts, tuple(each for each, _ in found), tuple(circle for _, circle in found))


def _of_term(
    term: Network, name: str, parts: Sequence[Range], around: bool
) -> tuple[tuple[Ranges | None, ...], frozenset[str]]:
    index = next((i for i in term.indices if i.name == name), None)
    if index is None:  # one rank has the term: it is added once
        return tuple({} if place == 0 else None for place in range(len(parts))), frozenset()
    whole = _reached(term, index, (0, index.size)) or {}
    found = [_reached(term, index, part) for part in parts]
    changed = {
        i.name
        for i in term.indices
        if i == index or any(each is not None and each[i.name] != whole[i.name] for each in found)
    }
    circles = _circles(term, index, changed, [each for each in found if each]) if around else frozenset()
    changed |= circles
    return tuple(
        None if each is None else {n: each[n] for n in each if n in changed} for each in found
    ), circles


def _circles(
    term: Network, index: Index, changed: set[str], found: Sequence[dict[str, Range]]
) -> frozenset[str]:
    """The indices that circles leave a range of; it is put into what was found for each rank."""
    made = set()
    for relation in term.patterns:
        for target in unrolled(term, relation, index):
            if not changed.intersection(i.name for i in relation.indices if i != target):
                continue
            ranges = [_bounds(relation, target, each) for each in found]
            if index != relation.left and any(high - low >= target.size for low, high in ranges):
                continue  # as many cells as the whole
            for each, cells in zip(found, ranges, strict=True):
                each[target.name] = cells
            made.add(target.name)
    return frozenset(made)


def unrolled(term: Network, relation: Relational, index: Index) -> list[Index]:
    """The indices of a circle that have a range, which may go around it, where another one has.

    That is the folded index, where the others have ranges, or, where it is the one that is shared out, an index that
    goes around with it: `o` of `i = s*o + k mod s*O`. They must be summed, and on tensors alone.

    Args:
        term: the network.
        relation: one of its relations.
        index: that is shared out.
    """
    if not isinstance(relation, Pattern) or relation.modulus is None or relation.mode != "circular":
        return []
    if relation.left == index:
        size = relation.modulus
        targets = [i for a, i in relation.terms if i.kind is not Kind.KERNEL and abs(a) * i.size == size]
    else:
        targets = [relation.left]
    return [
        i
        for i in targets
        if i not in term.open_indices and [n for n in term.patterns if i in n.indices] == [relation]
    ]


def _reached(term: Network, index: Index, part: Range) -> dict[str, Range] | None:
    """The values of all indices that take part where one of them is in a range; None where none do."""
    ranges: dict[str, Range] = {i.name: (0, i.size) for i in term.indices}
    if index.name in ranges:
        ranges[index.name] = part
    if part[0] >= part[1]:
        return None
    fixed = {*term.open_indices, index, *(i for p in term.patterns for i in _folded(p))}
    free = {i for i in term.indices if i not in fixed and i.kind is not Kind.KERNEL}
    relations = [p for p in term.patterns if isinstance(p, Pattern | Delta) and p.modulus is None]
    for _ in range(len(relations) + 1):  # a chain of layers is as long as it has relations
        before = dict(ranges)
        for relation in relations:
            for each in relation.indices:
                if each in free:
                    low, high = _bounds(relation, each, ranges)
                    here = ranges[each.name]
                    ranges[each.name] = max(low, here[0]), min(high, here[1])
                    if ranges[each.name][0] >= ranges[each.name][1]:
                        return None
        if before == ranges:
            break
    return ranges


def _folded(relation: Relational) -> tuple[Index, ...]:
    """The indices of a relation that have no range of their own: a folded one, and those of a table."""
    if isinstance(relation, Select):
        return relation.indices
    return () if relation.modulus is None else (relation.left,)


def _bounds(relation: Relational, index: Index, ranges: Ranges) -> Range:
    """The values of an index that a relation leaves for the ranges of the others."""
    form = relation.zero_form
    low = high = relation.offset
    for other, factor in form.items():
        if other != index:
            ends = [factor * ranges[other.name][0], factor * (ranges[other.name][1] - 1)]
            low, high = low + min(ends), high + max(ends)
    own = form[index]  # own·index = -(the rest)
    least, most = (-high, -low) if own > 0 else (low, high)
    return -(-least // abs(own)), most // abs(own) + 1


def selected(expression: Expression) -> dict[str, str]:
    """The indices that a table of rows ties to others, each with the name of the table."""
    selects = [p for term in expression.terms for p in term.patterns if isinstance(p, Select)]
    return {i.name: s.table for s in selects for i in s.indices}
