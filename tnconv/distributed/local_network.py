"""The network of one rank: that of the whole with some indices in a range, and arguments of which it has a part.

An axis whose outermost index alone is narrowed, by one dimension of the mesh, is given as that part, the *slab*. Any
other axis with a narrowed index is given as a whole, and its first cell says where the range begins.

    index [o=5, k=3, i=9]                        index [o=2, k=3, i=5]
    x = input   [i]                              x = input   [i]                   cells 5 to 9 of x
    p = pattern [i = 2*o + k - 1]         ->     p = pattern [i = 2*o + k]         o from 3 on, i from 5 on
    w = parameter [k]                            w = parameter [k]
    output      [o]                              output      [o]                   cells 3 to 4 of the result
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tnconv.distributed.index_ranges import Division, Range, Ranges, divide
from tnconv.errors import OperationError
from tnconv.ir import Axis, Expression, Index, Network, Node, Tensor, fresh, make_sum
from tnconv.ir.nodes import Delta, Pattern, pattern

Place = tuple[int, str, int]  # number of the term, name of the node, axis; the output has no name


@dataclass(frozen=True, slots=True)
class Slab:
    """The cells of an axis that each coordinate along a dimension of a mesh has.

    Args:
        axis: which.
        cells: at each coordinate; around a circle they may go beyond both ends.
    """

    axis: int
    cells: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """What ranks need of an argument.

    Args:
        argument: its name.
        slabs: for each dimension of the mesh the part of it; None for the whole.
    """

    argument: str
    slabs: tuple[Slab | None, ...]


@dataclass(frozen=True)
class LocalNetworks:
    """The networks of all ranks.

    Args:
        whole: the network of the whole, without size symbols.
        divisions: the indices that are shared out.
        dims: number of dimensions of the mesh.
    """

    whole: Expression
    divisions: tuple[Division, ...]
    dims: int

    @classmethod
    def of(cls, whole: Expression, dims: Mapping[int, str], ranks: Sequence[int]) -> "LocalNetworks":
        """The networks of ranks that share out indices.

        Args:
            whole: the network, without size symbols.
            dims: the index along each dimension of the mesh that has one.
            ranks: the sizes of the mesh.

        Raises:
            OperationError: an index is folded, and what goes around with it is shared out as well.
        """
        for around in (True, False):
            divisions = tuple(divide(whole, i, d, ranks[d], around=around) for d, i in dims.items())
            found = cls(whole, divisions, len(ranks))
            if not found._torn():
                break
        for term in whole.terms:
            for relation in term.patterns:
                if relation.modulus is not None and not around and relation.left.name in dims.values():
                    raise OperationError(
                        f"index {relation.left.name!r} is folded by {relation.name!r} ({relation.relation_text()}) and "
                        f"cannot be sharded together with {[i for i in dims.values() if i != relation.left.name]}; "
                        "leave one out"
                    )
        return found

    def _torn(self) -> bool:
        """Whether an index that goes around a circle is on an axis of which a rank gets no part of its own."""
        for division in self.divisions:
            for number, term in enumerate(self.whole.terms):
                others = [d.changes(number) for d in self.divisions if d != division]
                for name in division.around[number]:
                    if any(name in each for each in others):
                        return True
                    for node in term.tensors:
                        slab = self.slabs(number, node.axes)[division.dim]
                        places = [n for n, a in enumerate(node.axes) if name in [i.name for i in a.indices]]
                        if places and (slab is None or places != [slab.axis]):
                            return True
        return False

    def slabs(self, term: int, axes: Sequence[Axis]) -> tuple[Slab | None, ...]:
        """The part of a tensor, or of the result, with these axes, for each dimension of the mesh."""
        found: list[Slab | None] = [None] * self.dims
        changes = {d.dim: d.changes(term) for d in self.divisions}
        for place, axis in enumerate(axes):
            names = [i.name for i in axis.indices]
            narrowing = [d for d in self.divisions if changes[d.dim].intersection(names)]
            if len(narrowing) != 1 or not axis.is_group or found[narrowing[0].dim] is not None:
                continue
            division, first = narrowing[0], outermost(axis)
            if first is not None and changes[division.dim].intersection(names) == {first.name}:
                inner = axis.strides[axis.indices.index(first)]
                parts = division.slabs(term, first.name, first.size)
                found[division.dim] = Slab(place, tuple((low * inner, high * inner) for low, high in parts))
        return tuple(found)

    def use(self, term: int, node: Tensor) -> Use:
        """What is needed of an argument for one node."""
        return Use(node.argument, self.slabs(term, node.axes))

    def uses(self) -> dict[Use, str]:
        """All that is needed, each with a name as an argument of the networks of ranks."""
        found: dict[Use, str] = {}
        taken = {n for t in self.whole.terms for node in t.nodes for n in (node.name, *_arguments(node))}
        taken |= {i.name for t in self.whole.terms for i in t.indices}
        first: set[str] = set()
        for number, term in enumerate(self.whole.terms):
            for node in term.tensors:
                use = self.use(number, node)
                if use not in found:
                    name = use.argument
                    if name in first:
                        name = fresh(f"{use.argument}_{'part' if any(use.slabs) else 'whole'}", taken)
                        taken.add(name)
                    first.add(use.argument)
                    found[use] = name
            for select in term.selects:
                found[Use(select.table, (None,) * self.dims)] = select.table
        return found

    def result(self) -> tuple[Slab | None, ...]:
        """The part of the result that each rank computes; None where results are added up, or are the same."""
        return self.slabs(0, self.whole.output)

    def at(self, coordinate: Sequence[int], names: Mapping[Use, str]) -> Expression | None:
        """The network of a rank; None where it has nothing to compute.

        Args:
            coordinate: in the mesh.
            names: of `uses`.
        """
        terms = []
        for number, term in enumerate(self.whole.terms):
            ranges = self._ranges(number, coordinate)
            if ranges is not None:
                terms.append(self._narrowed(number, term, ranges, names))
        return make_sum(self.whole.name, terms) if terms else None

    def shape(self, coordinate: Sequence[int]) -> tuple[int, ...]:
        """That of the part of the result that a rank computes."""
        sizes = [axis.size for axis in self.whole.output]
        for dim, slab in enumerate(self.result()):
            if slab is not None:
                low, high = slab.cells[coordinate[dim]]
                sizes[slab.axis] = high - low
        return tuple(sizes)

    def _ranges(self, term: int, coordinate: Sequence[int]) -> Ranges | None:
        found: dict[str, Range] = {}
        for division in self.divisions:
            ranges = division.terms[term][coordinate[division.dim]]
            if ranges is None:
                return None
            for name, (low, high) in ranges.items():
                here = found.get(name, (low, high))
                found[name] = max(low, here[0]), min(high, here[1])
        return None if any(low >= high for low, high in found.values()) else found

    def _narrowed(self, number: int, term: Network, ranges: Ranges, names: Mapping[Use, str]) -> Network:
        nodes: list[Node] = []
        change = _Narrowed(ranges, frozenset().union(*(d.around[number] for d in self.divisions)))
        for node in term.nodes:
            if isinstance(node, Tensor):
                use = self.use(number, node)
                axes = change.axes(node.axes, [s.axis for s in use.slabs if s is not None])
                nodes.append(replace(node, axes=axes, of=names[use]))
            elif isinstance(node, Pattern | Delta):
                nodes.append(change.relation(node))
            else:
                nodes.append(node)
        output = change.axes(term.output, [s.axis for s in self.slabs(number, term.output) if s is not None])
        return term.with_nodes(nodes, output)


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """Indices that begin elsewhere than at 0.

    Args:
        ranges: by name of the index.
        around: those that go around a circle, so that nothing folds.
    """

    ranges: Ranges
    around: frozenset[str]

    def index(self, index: Index) -> Index:
        low, high = self._range(index)
        return index.sized(high - low)

    def _range(self, index: Index) -> Range:
        return self.ranges.get(index.name, (0, index.size))

    def axes(self, axes: Sequence[Axis], parts: Collection[int]) -> tuple[Axis, ...]:
        return tuple(self._axis(axis, place in parts) for place, axis in enumerate(axes))

    def _axis(self, axis: Axis, is_part: bool) -> Axis:
        indices = tuple(map(self.index, axis.indices))
        if is_part or indices == axis.indices:
            return Axis(indices) if axis.is_group else axis
        lows = [self._range(i)[0] for i in axis.indices]
        start = axis.start + sum(s * low for s, low in zip(axis.strides, lows, strict=True))
        return replace(axis, indices=indices, start=start)

    def relation(self, node: Pattern | Delta) -> Node:
        offset = node.offset + sum(a * self._range(i)[0] for a, i in node.terms) - self._range(node.left)[0]
        terms = tuple((a, self.index(i)) for a, i in node.terms)
        if node.modulus is None or self.around.intersection(i.name for i in node.indices):
            return pattern(node.name, self.index(node.left), terms, offset)
        return pattern(node.name, self.index(node.left), terms, offset, node.modulus, node.mode)


def outermost(axis: Axis) -> Index | None:
    """The first index of an axis that has more than one value, or the first; None where there is none."""
    return next((i for i in axis.indices if i.size != 1), next(iter(axis.indices), None))


def _arguments(node: Node) -> tuple[str, ...]:
    return (node.argument,) if isinstance(node, Tensor) else ()
