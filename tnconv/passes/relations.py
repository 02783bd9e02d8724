"""Affine arithmetic on relations and axes: ranges, and one index written through others, everywhere at once.

`replace_index` is the one place where a network is rewritten along a relation. It is exact if the caller
has made sure that `Σ coefficient·index + offset` lies in the range of the index that it replaces.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tnconv.ir import Axis, Index, Network, Node, Relational, Select, Tensor, pattern
from tnconv.ir.nodes import Terms
from tnconv.passes.tools import counted


def span(terms: Iterable[tuple[int, Index]], offset: int = 0) -> tuple[int, int] | None:
    """Least and largest value of `Σ coefficient·index + offset`; None if a size is a symbol."""
    low = high = offset
    for coefficient, index in terms:
        if not isinstance(index.size, int):
            return None
        reach = coefficient * (index.size - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def fits(terms: Sequence[tuple[int, Index]], offset: int, index: Index) -> bool:
    """Whether `Σ coefficient·index + offset` is always a value of `index`."""
    bounds = span(terms, offset)
    if bounds is None:
        return False
    low, high = bounds
    return low >= 0 and (high == 0 or (isinstance(index.size, int) and high < index.size))


def injective(terms: Sequence[tuple[int, Index]]) -> bool:
    """Whether different index values give different positions, as a mixed radix number does."""
    reach = 1
    for coefficient, index in sorted(terms, key=lambda t: t[0]):
        if coefficient < reach or not isinstance(index.size, int):
            return False
        reach += coefficient * (index.size - 1)
    return True


def occurs_only_on(network: Network, index: Index, *relations: Relational) -> bool:
    """Whether `index` is on these relations and nowhere else, the output included."""
    return network.nodes_with(index) == relations and index not in network.open_indices


def solved(name: str, zero: dict[Index, int], offset: int, left: Index) -> tuple[Relational, ...] | None:
    """The relation `Σ zero·index + offset = 0` as nodes: none if always true, None if nothing can be left.

    `left` is taken if its coefficient is ±1, else the first index in canonical order that has one.
    """
    zero = {index: c for index, c in zero.items() if c}
    if not zero:
        return () if offset == 0 else None
    candidates = sorted(
        (i for i, c in zero.items() if abs(c) == 1), key=lambda i: (i != left, i.kind.rank, i.sort_key)
    )
    if not candidates:
        return None
    left = candidates[0]
    sign = -zero[left]
    return (pattern(name, left, tuple((sign * c, i) for i, c in zero.items() if i != left), sign * offset),)


def solution(relation: Relational, index: Index) -> tuple[Terms, int] | None:
    """Terms and offset that `index` equals, folded where there is a modulus; None if its coefficient is not ±1."""
    zero = relation.zero_form
    sign = -zero[index]
    if abs(sign) != 1 or (relation.modulus is not None and index != relation.left):
        return None
    return tuple((sign * c, i) for i, c in zero.items() if i != index), sign * relation.offset


def relation_with(
    relation: Relational, index: Index, terms: Terms, offset: int
) -> tuple[Relational, ...] | None:
    """A relation with `Σ terms + offset` in place of `index`, as nodes: see `solved`.

    A selection may only be renamed, and never goes: its table is an argument.
    """
    if isinstance(relation, Select):
        if not _is_rename(index, terms, offset) or terms[0][1] in relation.indices:
            return None
        return (relation.map_indices(lambda i: terms[0][1] if i == index else i),)
    zero = dict(relation.zero_form)
    coefficient = zero.pop(index)
    for c, x in terms:
        zero[x] = zero.get(x, 0) + coefficient * c
    constant = relation.offset + coefficient * offset
    if relation.modulus is None:
        return solved(relation.name, zero, constant, relation.left)
    if relation.modulus == 1:
        return ()
    left = relation.left
    if left == index:
        if not _is_rename(index, terms, offset):
            return None  # only an index of this very size can be left of a modulus
        left = terms[0][1]
    if zero.get(left) != -1:
        return None
    rest = tuple((c, x) for x, c in zero.items() if x != left)
    return (pattern(relation.name, left, rest, constant, relation.modulus, relation.mode),)


def axis_with(axis: Axis, index: Index, terms: Terms, offset: int) -> Axis | None:
    """An axis with `Σ terms + offset` in place of `index`; None if no axis can say that."""
    if _is_rename(index, terms, offset):
        return axis.substitute({index: terms[0][1]})
    if axis.indices.count(index) > 1 or any(x in axis.indices for _, x in terms):
        return None
    place = axis.indices.index(index)
    stride = axis.strides[place]
    inner = sorted(terms, key=lambda t: -t[0])
    indices = (*axis.indices[:place], *(x for _, x in inner), *axis.indices[place + 1 :])
    strides = (*axis.strides[:place], *(stride * c for c, _ in inner), *axis.strides[place + 1 :])
    start = axis.start + stride * offset if offset else axis.start
    if not isinstance(start, int):
        return None
    made = Axis(indices, strides, start, axis.size)
    numbers = (made.size, *strides, *(i.size for i in indices))
    return made if made.is_group or all(isinstance(v, int) for v in numbers) else None


def _is_rename(index: Index, terms: Terms, offset: int) -> bool:
    return offset == 0 and len(terms) == 1 and terms[0][0] == 1 and terms[0][1].size == index.size


def replace_index(
    network: Network,
    index: Index,
    terms: Terms,
    offset: int,
    via: Relational | None = None,
    *,
    partly: bool = False,
) -> Network | None:
    """The network with `Σ terms + offset` in place of `index`, on all nodes and in the output.

    Args:
        network: what to rewrite.
        index: what goes.
        terms: what comes, within the range of `index` for all values.
        offset: added to it.
        via: the relation that says so, which goes as well.
        partly: leave `index` on relations that cannot be written without it.

    Returns:
        The network, or None where the IR cannot say it.
    """
    if any(coefficient < 1 for coefficient, _ in terms) and not _only_relations(network, index):
        return None
    if index in network.open_indices and any(x in network.open_indices for _, x in terms):
        return None
    nodes: list[Node] = []
    for node in network.nodes:
        if node == via:
            continue
        if index not in node.indices:
            nodes.append(node)
        elif isinstance(node, Tensor):
            axes = axes_with(node.axes, index, terms, offset)
            if axes is None:
                return None
            nodes.append(replace(node, axes=axes))
        else:
            made = relation_with(node, index, terms, offset)  # type: ignore[arg-type]
            if made is None and not partly:
                return None
            nodes += (node,) if made is None else made
    output = axes_with(network.output, index, terms, offset)
    if output is None:
        return None
    return counted(network, nodes, output, (i for i in network.indices if i != index))


def axes_with(axes: Sequence[Axis], index: Index, terms: Terms, offset: int) -> tuple[Axis, ...] | None:
    """`axis_with` on each axis that holds `index`; None if one of them is None."""
    result = []
    for axis in axes:
        made = axis_with(axis, index, terms, offset) if index in axis.indices else axis
        if made is None:
            return None
        result.append(made)
    return tuple(result)


def _only_relations(network: Network, index: Index) -> bool:
    users = network.nodes_with(index)
    return index not in network.open_indices and not any(isinstance(node, Tensor) for node in users)
