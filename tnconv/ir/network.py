"""Network: an immutable product of nodes.

A `Network` is verified and brought into canonical order when it is built, so two networks with the same
content are equal, print the same text, and do not remember how they were made.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, TypeVar

from tnconv.errors import NetworkError, meant
from tnconv.ir.drawn import Drawn
from tnconv.ir.index import Axis, Index
from tnconv.ir.monomial import ONE, Scalar, as_scalar
from tnconv.ir.network_printer import format_network
from tnconv.ir.nodes import Delta, Node, Pattern, Relational, Scale, Select, Tensor, node_sort_key, pattern
from tnconv.ir.size import NETWORK_NAME, Size, check_name, evaluate, integers_of, put, symbol, symbol_names
from tnconv.ir.structural_order import Ordered, class_of_index, input_indices, ordered
from tnconv.ir.verify import faults

if TYPE_CHECKING:
    import networkx as nx

    from tnconv.ir.network_sum import Sum

Part = TypeVar("Part", Node, Index)


@dataclass(frozen=True)
class Network(Drawn):
    """A product of nodes, summed over the indices that are not in the output.

    The value at the output's cell is `Σ_{summed indices} Π nodes`. An output index that is on no node is
    a broadcast: the value does not depend on it.

    Args:
        name: letters, digits, `_` and `.`.
        nodes: in any order; kept in canonical order.
        output: the axes of the result, in order.
        real: whether the value is real by construction, as a sum of squared magnitudes is: of complex arguments too,
            the result has the real dtype.

    Raises:
        NetworkError: the network is invalid; the message shows it with the bad lines marked.
    """

    name: str
    nodes: tuple[Node, ...]
    output: tuple[Axis, ...]
    real: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "network", NETWORK_NAME)
        object.__setattr__(self, "nodes", tuple(sorted(map(_canonical, self.nodes), key=node_sort_key)))
        object.__setattr__(self, "output", tuple(self.output))
        found = faults(self)
        if found:
            listing = "\n".join(f"  - {message}" for _, message in found)
            marked = format_network(self, marks=dict(found))
            raise NetworkError(f"network {self.name!r} is invalid:\n{listing}\n{marked}")

    def __str__(self) -> str:
        return format_network(self)

    # -- queries ---------------------------------------------------------------------------------

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """Every index, in canonical order."""
        found = dict.fromkeys(i for node in self.nodes for i in node.indices)
        found |= dict.fromkeys(i for axis in self.output for i in axis.indices)
        return tuple(sorted(found, key=lambda i: i.sort_key))

    @cached_property
    def ordered(self) -> Ordered:
        """Indices and nodes ordered by structure and kinds alone: `tnconv.ir.structural_order`."""
        return ordered(self.nodes, self.indices, self.output)

    def in_order(self, indices: Collection[Index]) -> Iterator[Index]:
        """Some indices in the order of `ordered`, of which no more is found out than takes to tell them apart."""
        inputs = input_indices(self.nodes)
        ranks = {index: class_of_index(index, inputs) for index in indices}
        for _, tied in groupby(sorted(ranks, key=ranks.__getitem__), ranks.__getitem__):
            alike = list(tied)
            yield from alike if len(alike) == 1 else [i for i in self.ordered.indices if i in alike]

    @cached_property
    def open_indices(self) -> tuple[Index, ...]:
        """The indices of the output, in its order."""
        return tuple(i for axis in self.output for i in axis.indices)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensor nodes, in canonical order."""
        return tuple(node for node in self.nodes if isinstance(node, Tensor))

    @cached_property
    def patterns(self) -> tuple[Relational, ...]:
        """The relations: patterns, deltas and selections, in canonical order."""
        return tuple(node for node in self.nodes if isinstance(node, Relational))

    @cached_property
    def selects(self) -> tuple[Select, ...]:
        """The selections, in canonical order."""
        return tuple(node for node in self.nodes if isinstance(node, Select))

    @cached_property
    def scale(self) -> Scalar:
        """The product of the scale nodes."""
        return as_scalar(prod((node.value for node in self.nodes if isinstance(node, Scale)), start=ONE))

    @property
    def terms(self) -> tuple["Network", ...]:
        """The network itself: so that code can treat it as a sum of one."""
        return (self,)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments, each once: the tensors in canonical order of the nodes, then the tables."""
        return tuple(self.shapes)

    @cached_property
    def shapes(self) -> dict[str, tuple[Size, ...]]:
        """The shape of every argument, sizes by axis, in the order of `arguments`."""
        found = {t.argument: tuple(axis.size for axis in t.axes) for t in reversed(self.tensors)}
        shapes = {t.argument: found[t.argument] for t in self.tensors}
        return shapes | {s.table: (s.right.size,) for s in self.selects}

    @cached_property
    def tables(self) -> dict[str, Size]:
        """The arguments that are tables of integers, each with the size of what it selects from."""
        return {s.table: s.left.size for s in self.selects}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols in the sizes and scales, sorted."""
        axes = (axis for axes in (self.output, *(t.axes for t in self.tensors)) for axis in axes)
        sizes = dict.fromkeys((*(i.size for i in self.indices), *(axis.size for axis in axes), self.scale))
        names = {name for size in sizes for name in symbol_names(size)}
        return tuple(sorted(names))

    @cached_property
    def graph(self) -> "nx.Graph":
        """The bipartite graph of nodes and indices, for queries, matching and layout.

        Nodes are keyed by name (`bipartite=0`, `node=` the node), indices by the `Index` itself
        (`bipartite=1`, `open=` whether it is in the output).
        """
        import networkx as nx  # noqa: PLC0415 - 0.1 s that compiling a layer never needs

        graph = nx.Graph(name=self.name)
        for index in self.indices:
            graph.add_node(index, bipartite=1, open=index in self.open_indices)
        for node in self.nodes:
            graph.add_node(node.name, bipartite=0, node=node)
            graph.add_edges_from((node.name, index) for index in node.indices)
        return nx.freeze(graph)

    def node(self, name: str) -> Node:
        """The node called `name`.

        Raises:
            NetworkError: there is none.
        """
        return self._called("node", name, self.nodes)

    def index(self, name: str) -> Index:
        """The index called `name`.

        Raises:
            NetworkError: there is none.
        """
        return self._called("index", name, self.indices)

    def _called(self, what: str, name: str, parts: Sequence[Part]) -> Part:
        for part in parts:
            if part.name == name:
                return part
        known = [part.name for part in parts]
        raise NetworkError(
            f"network {self.name!r} has no {what} {name!r}{meant(name, known)}; it has {', '.join(known)}"
        )

    @cached_property
    def _users(self) -> dict[Index, tuple[Node, ...]]:
        users: dict[Index, list[Node]] = {}
        for node in self.nodes:
            for index in node.indices:
                users.setdefault(index, []).append(node)
        return {index: tuple(nodes) for index, nodes in users.items()}

    def nodes_with(self, index: Index) -> tuple[Node, ...]:
        """The nodes that have a leg on `index`, in canonical order."""
        return self._users.get(index, ())

    @cached_property
    def _readers(self) -> dict[str, tuple[Tensor, ...]]:
        readers: dict[str, list[Tensor]] = {}
        for tensor in self.tensors:
            readers.setdefault(tensor.argument, []).append(tensor)
        return {name: tuple(tensors) for name, tensors in readers.items()}

    def reading(self, argument: str) -> tuple[Tensor, ...]:
        """The tensors that read an argument, in canonical order."""
        return self._readers.get(argument, ())

    # -- derived networks ------------------------------------------------------------------------

    def with_nodes(self, nodes: Iterable[Node], output: Iterable[Axis] | None = None) -> "Network":
        """The network with other nodes and, if given, another output."""
        return replace(self, nodes=tuple(nodes), output=self.output if output is None else tuple(output))

    def declared(self, *, real: bool) -> "Network":
        """The network with an output that is declared real, or is not."""
        return replace(self, real=real)

    def without(self, *names: str) -> tuple[Node, ...]:
        """The nodes but for those named."""
        return tuple(node for node in self.nodes if node.name not in names)

    def map_indices(self, exchange: Callable[[Index], Index]) -> "Network":
        """The network with every index exchanged, on nodes and in the output."""
        mapping = {i: exchange(i) for i in self.indices}
        output = tuple(axis.substitute(mapping) for axis in self.output)
        return self.with_nodes((node.map_indices(lambda i: mapping[i]) for node in self.nodes), output)

    def map_terms(self, change: "Callable[[Network], Network]") -> "Network":
        """The changed network, which is a sum of itself alone."""
        return change(self)

    def substitute(self, mapping: Mapping[Index, Index]) -> "Network":
        """The network with some indices exchanged for others."""
        return self.map_indices(lambda i: mapping.get(i, i))

    def rename(self, name: str) -> "Network":
        """The same network under another name."""
        return replace(self, name=name)

    def bind(self, values: Mapping[str, int]) -> "Network":
        """The network with integers in place of the symbols named.

        Raises:
            NetworkError: a size has a symbol that is not named, or a value is no integer.
        """
        values = integers_of(values)
        if not self.symbols:
            return self
        return self._resized(values, lambda size: evaluate(size, values))

    def at(self, **sizes: int) -> "Network":
        """The network with integers in place of some symbols: `network.at(H=56, W=56)`; those not named stay.

        Raises:
            NetworkError: there is no such symbol, a value is no integer, or a size is not one at these values.
        """
        values = check_symbols(self, sizes)
        return self._resized(values, lambda size: put(size, values))

    def _resized(self, values: Mapping[str, int], change: Callable[[Size], Size]) -> "Network":
        """The network with every size changed, and with integers in place of the symbols of its scales."""
        numbers = {symbol(name): value for name, value in values.items()}

        def sized(index: Index) -> Index:
            return index.sized(change(index.size))

        nodes: list[Node] = []
        for node in self.nodes:
            match node:
                case Tensor():
                    nodes.append(replace(node, axes=tuple(axis.resized(change) for axis in node.axes)))
                case Scale():
                    made = replace(node, value=node.value.subs(numbers))
                    nodes += [made] if made.value != 1 or node.value == 1 else []
                case Select():
                    nodes.append(replace(node, left=sized(node.left), right=sized(node.right)))
                case Pattern() | Delta():
                    modulus = None if node.modulus is None else change(node.modulus)
                    terms = tuple((a, sized(x)) for a, x in node.terms)
                    nodes.append(pattern(node.name, sized(node.left), terms, node.offset, modulus, node.mode))
        return self.with_nodes(nodes, (axis.resized(change) for axis in self.output))

    def fresh_name(self, base: str) -> str:
        """`base`, or `base_2`, `base_3`, …: a name that no node and no index has."""
        return fresh(base, {n.name for n in self.nodes} | {i.name for i in self.indices})

    def fresh_index(self, base: str, size: Size) -> Index:
        """A new index whose name starts with `base`."""
        return Index(self.fresh_name(base), size)


def _canonical(node: Node) -> Node:
    """A pattern that is a delta as a delta, so that equal networks have equal nodes and texts."""
    if isinstance(node, Pattern):
        return pattern(node.name, node.left, node.terms, node.offset, node.modulus, node.mode)
    return node


def check_symbols(expression: "Network | Sum", sizes: Mapping[str, object]) -> dict[str, int]:
    """Integers for some symbols of a network.

    Raises:
        NetworkError: there is no such symbol, or a value is no integer.
    """
    unknown = sorted(sizes.keys() - set(expression.symbols))
    if unknown:
        raise NetworkError(
            f"{unknown[0]}={sizes[unknown[0]]!r} is given, but {expression.name!r} has no such symbol; it has "
            f"{', '.join(expression.symbols) or 'none'}"
        )
    return integers_of(sizes)


def fresh(base: str, taken: set[str]) -> str:
    """`base`, or the first of `base_2`, `base_3`, … that is not taken; a second copy of `x_2` is `x_3`."""
    if base not in taken:
        return base
    stem, _, tail = base.rpartition("_")
    stem = stem if stem and tail.isdigit() else base
    count = 2
    while f"{stem}_{count}" in taken:
        count += 1
    return f"{stem}_{count}"
