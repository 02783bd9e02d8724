"""Results that are symmetric in pairs of axes, of which the lower triangle says all: read off the network.

    output [g, (c k), (c_2 k_2)]        [g, t]    t = r·(r + 1)/2 cells of r = c·k rows
    output [n, i, n_2, i_2]             [t]       of r = n·i rows

Behind some axes that both halves share come the axes of the rows, then as many of the columns, of the same sizes. The
cell in row r and column c ≤ r is number `r·(r + 1)/2 + c`: row by row, as LAPACK packs the upper triangle of a
column-major matrix.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, permutations
from itertools import product as every

from tnconv.ir.index import Axis, Index
from tnconv.ir.network import Network
from tnconv.ir.network_sum import Expression
from tnconv.ir.nodes import Delta, Node, Pattern, Scale, Select, Tensor, conjugate
from tnconv.ir.quotient import quotient
from tnconv.ir.size import Size, normal, product

Pairs = list[tuple[Index, Index]]
_MOST_NODES = 500  # of a term; a larger one is not looked at


def shared_axes(expression: Expression) -> int | None:
    """The number of axes in front of those of rows and columns whose exchange conjugates the value, or leaves it.

    As many axes as possible are exchanged. None where the network is not its own mirror image in any: a value may be
    symmetric that is written otherwise.
    """
    count = len(expression.output)
    conjugated = any(tensor.conj for term in expression.terms for tensor in term.tensors)
    for shared in range(count % 2, count - 1, 2):
        if _are_same(expression.terms, [_mirrored(term, shared, conjugated) for term in expression.terms]):
            return shared
    return None


def triangle(rows: Size) -> Size:
    """Cells on and below the diagonal of a matrix with so many rows."""
    if isinstance(rows, int):
        return rows * (rows + 1) // 2
    return quotient(normal(rows * (rows + 1)), 2)


def packed_sizes(sizes: Sequence[Size], shared: int | None) -> tuple[Size, ...]:
    """The sizes of the axes of a result once its lower triangle is packed.

    Args:
        sizes: of all axes.
        shared: as `shared_axes` says; None where nothing is packed.
    """
    if shared is None:
        return tuple(sizes)
    return (*sizes[:shared], triangle(product(sizes[shared : (shared + len(sizes)) // 2])))


def span(axis: Axis) -> tuple[int, int] | None:
    """The run of cells that the indices of an axis have, in row-major order, from the first to behind the last.

    None where they leave cells out, or a size is no integer.
    """
    numbers = (axis.start, axis.size, *(i.size for i in axis.indices))
    if not all(isinstance(each, int) for each in numbers) or axis.strides != Axis(axis.indices).strides:
        return None
    return axis.start, axis.start + int(product(i.size for i in axis.indices))


def run_of_cells(output: Sequence[Axis], shared: int) -> tuple[int, int, bool] | None:
    """Where a term of a sum lies in the packed triangle: its first cell, their number, and whether it is a square.

    A square begins in the first cell, and its own lower triangle is the run; else it is a part of one row. No cell is
    above the diagonal, `(0, 0, False)`. None where it is no run.
    """
    if len(output) != shared + 2 or not all(axis.is_group for axis in output[:shared]):
        return None
    rows, columns = map(span, output[shared:])
    if rows is None or columns is None:
        return None
    if columns[0] >= rows[1]:
        return 0, 0, False
    if rows == columns and rows[0] == 0:
        return 0, triangle(rows[1]), True
    if rows[1] - rows[0] == 1 and columns[1] <= rows[1]:
        return triangle(rows[0]) + columns[0], columns[1] - columns[0], False
    return None


def _mirrored(term: Network, shared: int, conjugated: bool) -> Network | None:
    """A network with rows and columns exchanged, and conjugated; None where they differ in size."""
    middle = (shared + len(term.output)) // 2
    front, rows, columns = term.output[:shared], term.output[shared:middle], term.output[middle:]
    if [axis.size for axis in rows] != [axis.size for axis in columns]:
        return None
    nodes = map(conjugate, term.nodes) if conjugated else term.nodes
    return term.with_nodes(nodes, (*front, *columns, *rows))


def _are_same(terms: Sequence[Network], others: Sequence[Network | None]) -> bool:
    """Whether two sums differ in names alone."""
    left = list(others)
    for term in terms:
        found = next((other for other in left if other is not None and _is_same(term, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _is_same(term: Network, other: Network) -> bool:
    if term.real != other.real or not len(term.nodes) == len(other.nodes) <= _MOST_NODES:
        return False
    known = _extended({}, _pairs_of_axes(term.output, other.output))
    return known is not None and _match(list(term.nodes), list(other.nodes), known)


def _match(nodes: Sequence[Node], others: Sequence[Node], known: Mapping[Index, Index]) -> bool:
    """Whether nodes are others under other names, with some indices known: those that have most of them go first."""
    if not nodes:
        return True
    node = max(nodes, key=lambda each: (sum(i in known for i in each.indices), len(each.indices)))
    for other in others:
        for pairs in _pairs_of_nodes(node, other):
            more = _extended(known, pairs)
            if more is not None:
                rest = (
                    [each for each in nodes if each is not node],
                    [each for each in others if each is not other],
                )
                if _match(*rest, more):
                    return True
    return False


def _extended(known: Mapping[Index, Index], pairs: Pairs | None) -> dict[Index, Index] | None:
    """The known pairs with more; None where an index would have two partners, or one of another kind or size."""
    if pairs is None:
        return None
    found, back = dict(known), {other: index for index, other in known.items()}
    for index, other in pairs:
        if (index.size, index.kind) != (other.size, other.kind):
            return None
        if found.setdefault(index, other) != other or back.setdefault(other, index) != index:
            return None
    return found


def _pairs_of_nodes(node: Node, other: Node) -> Iterator[Pairs | None]:
    """The ways in which the indices of a node are those of another; none where that is something else."""
    match node, other:
        case Tensor(), Tensor():
            alike = (node.argument, node.role, node.conj) == (other.argument, other.role, other.conj)
            if alike and len(node.axes) == len(other.axes):
                yield _pairs_of_axes(node.axes, other.axes)
        case Scale(), Scale():
            if node.value == other.value:
                yield []
        case Select(), Select():
            if node.table == other.table:
                yield [(node.left, other.left), (node.right, other.right)]
        case Delta(), Delta():
            yield [(node.left, other.left), (node.right, other.right)]
            yield [(node.left, other.right), (node.right, other.left)]
        case Pattern(), Pattern():
            if (node.offset, node.modulus, node.mode) == (other.offset, other.modulus, other.mode):
                yield from _pairs_of_patterns(node, other)


def _pairs_of_patterns(node: Pattern, other: Pattern) -> Iterator[Pairs]:
    """Left with left, and terms with terms of the same coefficient."""
    one, two = (sorted(each.terms, key=lambda term: term[0]) for each in (node, other))
    if [a for a, _ in one] != [a for a, _ in two]:
        return
    groups = [[x for _, x in found] for _, found in groupby(two, key=lambda term: term[0])]
    for orders in every(*map(permutations, groups)):
        others = [x for order in orders for x in order]
        yield [(node.left, other.left), *zip((x for _, x in one), others, strict=True)]


def _pairs_of_axes(axes: Sequence[Axis], others: Sequence[Axis]) -> Pairs | None:
    """Indices on the same places of axes; None where the axes differ."""
    found: Pairs = []
    for axis, other in zip(axes, others, strict=True):
        if (axis.start, axis.strides, axis.size) != (other.start, other.strides, other.size):
            return None
        found += zip(axis.indices, other.indices, strict=True)
    return found
