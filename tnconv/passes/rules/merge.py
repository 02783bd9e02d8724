"""Merging: indices that always lie side by side on one axis are one index."""

from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.ir import Axis, Index, Network, Node, Tensor, fresh, product
from tnconv.ir.guards import equal
from tnconv.passes.rewrite import RewritePass, Rule, rule
from tnconv.passes.tools import taken_names

_MAX_NAME = 64


@rule
def merge_pair(network: Network) -> Network | None:
    """Two indices that are neighbours in the same order wherever they occur are one.

    Before:
        network example {
          index [c=3, d=2, k1=5, k2=5]
          x = input     [(c k1 k2)]
          w = parameter [d, (c k1 k2)]
          output [d, (c k1 k2)]
        }
    After:
        network example {
          index [d=2, ck1=15, k2=5]
          x = input     [(ck1 k2)]
          w = parameter [d, (ck1 k2)]
          output [d, (ck1 k2)]
        }
    """
    related = {i for relation in network.patterns for i in relation.indices}
    for axis in _axes(network):
        for first, second in zip(axis.indices, axis.indices[1:], strict=False):
            if first not in related and second not in related and _always_adjacent(network, first, second):
                return _merged(network, first, second)
    return None


def _axes(network: Network) -> list[Axis]:
    return [axis for tensor in network.tensors for axis in tensor.axes] + list(network.output)


def _always_adjacent(network: Network, first: Index, second: Index) -> bool:
    return first != second and all(
        _adjacent(axis, first, second)
        for axis in _axes(network)
        if first in axis.indices or second in axis.indices
    )


def _adjacent(axis: Axis, first: Index, second: Index) -> bool:
    if axis.indices.count(first) != 1 or axis.indices.count(second) != 1:
        return False
    place = axis.indices.index(first)
    strides = axis.strides
    return axis.indices[place + 1 : place + 2] == (second,) and equal(
        strides[place], strides[place + 1] * second.size
    )


def _merged(network: Network, first: Index, second: Index) -> Network:
    size = product((first.size, second.size))
    joined = Index(_name(network, first, second), size, first.kind.joined(second.kind))

    def change(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(_merge_axis(axis, first, joined) if first in axis.indices else axis for axis in axes)

    nodes: list[Node] = [
        replace(n, axes=change(n.axes)) if isinstance(n, Tensor) else n for n in network.nodes
    ]
    return network.with_nodes(nodes, change(network.output))


def _merge_axis(axis: Axis, first: Index, joined: Index) -> Axis:
    place = axis.indices.index(first)
    indices = (*axis.indices[:place], joined, *axis.indices[place + 2 :])
    strides = (*axis.strides[:place], *axis.strides[place + 1 :])
    return Axis(indices) if axis.is_group else Axis(indices, strides, axis.start, axis.size)


def _name(network: Network, first: Index, second: Index) -> str:
    """`ck1` for c and k1, `ck1_2` for c_2 and k1_2; the first name alone where that gets too long."""
    (stem, _, copy), (stem_2, _, copy_2) = first.name.partition("_"), second.name.partition("_")
    name = f"{stem}{stem_2}_{copy}" if copy and copy == copy_2 else f"{first.name}{second.name}"
    taken = taken_names(network) - {first.name, second.name}
    made = fresh(name, taken)
    return made if len(made) <= _MAX_NAME else first.name


@dataclass(frozen=True)
class MergeIndices(RewritePass):
    """Indices that always lie side by side are merged into one of the product size."""

    name: ClassVar[str] = "merge_indices"
    rules: ClassVar[tuple[Rule, ...]] = (merge_pair,)
