"""What the indices of an equation are to a layer, by where they are: names in an equation are free."""

from tnconv.ir import Index, Kind, Network, Role


def with_kinds(network: Network) -> Network:
    """The network with the kind of every index, as if the first operand were a layer's input, the others weights.

    An affine index is a kernel's on a weight alone, else a position; an ordinary one of the input that no weight has is
    an example, one that all have a group, one that a weight shares with the input or the result a channel.
    """
    tied = {i for relation in network.patterns for i in relation.indices}
    inputs, weights = (
        {i for tensor in network.tensors if (tensor.role == Role.INPUT) == first for i in tensor.indices}
        for first in (True, False)
    )
    opened = set(network.open_indices)

    def kind(index: Index) -> Kind:
        held, shared, known = index in weights, index in inputs, index in opened
        if index in tied:
            return Kind.KERNEL if held and not (shared or known) else Kind.POSITION
        if not held:
            return Kind.BATCH if known else Kind.NONE
        return Kind.GROUP if shared and known else Kind.CHANNEL if shared or known else Kind.NONE

    return network.map_indices(lambda i: Index(i.name, i.size, kind(i)))
