"""One index of a network written through others, everywhere at once: relations (`tnconv.ir.affine`) and axes.

`replace_index` is the one place where a network is rewritten along a relation. It is exact if the caller
has made sure that `Σ coefficient·index + offset` lies in the range of the index that it replaces.
"""

from collections.abc import Sequence
from dataclasses import replace

from tnconv.ir import Axis, Index, Network, Node, Relational, Tensor, substitute
from tnconv.ir.affine import is_rename
from tnconv.ir.nodes import Terms
from tnconv.passes.tools import counted


def occurs_only_on(network: Network, index: Index, *relations: Relational) -> bool:
    """Whether `index` is on these relations and nowhere else, the output included."""
    return network.nodes_with(index) == relations and index not in network.open_indices


def axis_with(axis: Axis, index: Index, terms: Terms, offset: int) -> Axis | None:
    """An axis with `Σ terms + offset` in place of `index`; None if no axis can say that."""
    if is_rename(index, terms, offset):
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
    return made if made.is_group or all(isinstance(s, int) for s in strides) else None


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
            made = substitute(node, index, terms, offset)  # type: ignore[arg-type]
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
