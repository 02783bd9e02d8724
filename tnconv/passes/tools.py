"""Small helpers that several passes share."""

from collections.abc import Iterable, Sequence

from tnconv.errors import NetworkError, PassError
from tnconv.ir import Axis, Index, Network, Node, Scale, fresh, group, product
from tnconv.ir.network_parser import parse_axes


def taken_names(network: Network) -> set[str]:
    """The names of all nodes and indices, which a new one must avoid."""
    return {n.name for n in network.nodes} | {i.name for i in network.indices}


def check_free(network: Network, argument: str | None) -> None:
    """Refuse the name of a new argument that is taken.

    Raises:
        PassError: it is.
    """
    if argument in (*network.arguments, *taken_names(network)):
        raise PassError(f"the name {argument!r} is taken in the network; choose another for the new argument")


def axes_of(network: Network, texts: Iterable[str]) -> tuple[Axis, ...]:
    """Axes over the indices of a network, from their texts.

    Raises:
        PassError: a text is no axis, or names another index.
    """
    try:
        return parse_axes(", ".join(texts), {i.name: i for i in network.indices})
    except NetworkError as error:
        raise PassError(str(error)) from error


def counted(
    network: Network, nodes: Iterable[Node], output: Sequence[Axis], summed: Iterable[Index]
) -> Network:
    """The network with other nodes and output, with a scale for every index of `summed` that they lost.

    An index that is neither in the output nor on a node is no longer summed, so its sum, a factor of its
    size, has to be written.
    """
    kept = tuple(nodes)
    held = {i for node in kept for i in node.indices} | {i for axis in output for i in axis.indices}
    lost = [i for i in dict.fromkeys(summed) if i not in held and i.size != 1]
    if lost:
        taken = {n.name for n in kept} | {i.name for i in held}
        kept += (Scale(fresh("scale", taken), product(i.size for i in lost)),)
    return network.with_nodes(kept, output)


def without_indices(axes: Sequence[Axis], dropped: Iterable[Index], what: str) -> tuple[Axis, ...]:
    """Axes with some indices taken away; an axis that had others keeps them as a group, an empty one goes.

    Raises:
        PassError: an affine axis would lose a part of its indices.
    """
    gone = frozenset(dropped)
    result = []
    for axis in axes:
        rest = tuple(i for i in axis.indices if i not in gone)
        if len(rest) == len(axis.indices):
            result.append(axis)
        elif rest:
            if not axis.is_group:
                raise PassError(
                    f"{what} cannot take {names(gone)} from axis {axis}; arrange it as a group first"
                )
            result.append(group(*rest))
    return tuple(result)


def open_named(network: Network, wanted: Sequence[str], what: str) -> tuple[Index, ...]:
    """The open indices with the names `wanted`, in that order.

    Raises:
        PassError: a name is not that of an open index, or occurs twice.
    """
    known = {i.name: i for i in network.open_indices}
    for place, name in enumerate(wanted):
        if name not in known:
            raise PassError(
                f"{what} names index {name!r}, which is not in the output; the output has {', '.join(known)}"
            )
        if name in wanted[:place]:
            raise PassError(f"{what} names index {name!r} twice; name it once")
    return tuple(known[name] for name in wanted)


def names(indices: Iterable[Index]) -> str:
    """Names of indices in canonical order, for messages."""
    return ", ".join(i.name for i in sorted(indices, key=lambda i: i.sort_key)) or "no index"
