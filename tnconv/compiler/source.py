"""What a user compiles, as forward networks: a layer, a module, a network."""

from dataclasses import dataclass, replace
from typing import Any

from tnconv.errors import OperationError, SpecError
from tnconv.ir import Expression, Network, Scale, Sum
from tnconv.ops.parts import batch_of
from tnconv.spec import Layer, as_spec
from tnconv.spec.fields import Symbolic
from tnconv.spec.load import an_input

LETTER = "N"  # the symbol that is the batch size where nobody says another


class KnowsNetwork:
    """A module that is a network of several parameters: a mixin."""

    def network(self, input_size: Any, batch_size: Symbolic = LETTER) -> Expression:
        """The forward network for inputs of a size.

        Raises:
            SpecError: the kernel does not fit into the input.
        """
        raise NotImplementedError(f"{type(self).__name__} has no network")


@dataclass(frozen=True, slots=True)
class Source:
    """What is compiled.

    Args:
        spec: the layer, if it is one.
        network: the network, if it is none.
        single: whether calls may leave the batch axis out, as those of a layer may.
    """

    spec: Layer | None
    network: Expression | None
    single: bool

    def forward(self, bias: bool | None) -> Expression:
        """The forward network.

        Args:
            bias: whether it has the bias; None for what the layer has. A network has what it has.
        """
        if self.spec is not None:
            return self.spec.network(bias=bias)
        assert self.network is not None
        return self.network


def source_of(
    source: object, input_size: int | tuple[int, ...] | None = None, batch_size: int | None = None
) -> Source:
    """What a user means by a spec, a module or a network.

    Args:
        source: one of these.
        input_size: spatial size of the input, of a module.
        batch_size: a number in place of the symbol for it.

    Raises:
        SpecError: it is none of these, or a size is missing or contradicts it.
        OperationError: a network is given an input size, or a batch size that it has no symbol for.
    """
    if batch_size is not None and (
        not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1
    ):
        raise SpecError(f"batch_size is {batch_size!r}; give the number of examples, an int of at least 1")
    if isinstance(source, Network | Sum):
        if input_size is not None:
            raise OperationError(
                "input_size is given with a network, which has its sizes already; leave it out"
            )
        return Source(None, _of_batch(source, batch_size), False)
    if isinstance(source, KnowsNetwork):
        if input_size is None:
            raise SpecError(
                f"{type(source).__name__} does not know its input's size; give input_size, such as {an_input(source)}"
            )
        return Source(None, source.network(input_size, LETTER if batch_size is None else batch_size), True)
    spec = as_spec(source, input_size)
    return Source(spec if batch_size is None else _with_batch(spec, batch_size), None, True)


def _with_batch(spec: Any, batch_size: int) -> Layer:
    if isinstance(spec.batch_size, int) and spec.batch_size != batch_size:
        raise SpecError(
            f"batch_size is {batch_size} but the spec has {spec.batch_size}; give it in the spec alone"
        )
    made: Layer = replace(spec, batch_size=batch_size)
    return made


def _of_batch(network: Expression, batch_size: int | None) -> Expression:
    if batch_size is None:
        return network
    found = batch_of(network.terms, network.terms[0])
    size = found[0].size if found else None
    if size == batch_size:
        return network
    if isinstance(size, int) or size is None or not size.is_Symbol:
        has = f"a batch of {size}" if found else "none"
        raise OperationError(
            f"batch_size is {batch_size} but {network.name!r} has {has}; leave it out, or let the size be a symbol"
        )

    mapping = {i: i.sized(batch_size) for term in network.terms for i in term.indices if i.size == size}
    number = {size: batch_size}

    def bound(term: Network) -> Network:
        made = term.substitute(mapping)
        nodes = (replace(n, value=n.value.subs(number)) if isinstance(n, Scale) else n for n in made.nodes)
        return made.with_nodes(nodes)

    return network.map_terms(bound)
