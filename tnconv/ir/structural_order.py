"""An order of the indices and nodes of a network that does not depend on how they are called.

Planners and kernels break ties by it: two networks that differ in names alone have the same plan, up to names. What is
alike is told apart step by step (the colour refinement of Weisfeiler and Leman 1968): nodes by role, number of axes and
the ranks of their indices; indices by kind, by the nodes that they are on and their places there and in the output;
then by sizes and arguments. What is alike even then, an automorphism exchanges, but for conjugates, as both halves of a
square: of the first two such nodes the one that is read conjugated, else the first by name, comes first, and with it
all its half.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from tnconv.ir.index import Axis, Index
from tnconv.ir.nodes import Delta, Node, Pattern, Relational, Scale, Select, Tensor, node_class
from tnconv.ir.size import Size

T = TypeVar("T", bound=Hashable)
Ranks = dict[T, int]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The indices and the nodes of a network in an order that is independent of names."""

    indices: tuple[Index, ...]
    nodes: tuple[Node, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensor nodes."""
        return tuple(node for node in self.nodes if isinstance(node, Tensor))

    @property
    def patterns(self) -> tuple[Relational, ...]:
        """The relations."""
        return tuple(node for node in self.nodes if isinstance(node, Relational))


def ordered(nodes: Sequence[Node], indices: Sequence[Index], output: Sequence[Axis]) -> Ordered:
    """The order of a network, whose nodes and indices come in that of their names."""
    return _Refinement(nodes, indices, output).run()


class _Refinement:
    """Ranks of nodes, by their places in the network, and of indices; what is alike has one rank."""

    def __init__(self, nodes: Sequence[Node], indices: Sequence[Index], output: Sequence[Axis]) -> None:
        self.nodes, self.indices = nodes, indices
        self.opened = {i: (p, q) for p, axis in enumerate(output) for q, i in enumerate(axis.indices)}
        self.legs = [_legs(node) for node in nodes]
        self.users: dict[Index, list[tuple[int, Hashable]]] = {index: [] for index in indices}
        for place, legs in enumerate(self.legs):
            for index, role in legs:
                self.users[index].append((place, role))
        inputs = {
            i for node in nodes if isinstance(node, Tensor) and node.role == "input" for i in node.indices
        }
        self.of_nodes = _ranked(range(len(nodes)), lambda p: (node_class(nodes[p]), _form(nodes[p])))
        classes = [node_class(node)[0] for node in nodes]
        self.classes = [[p for p, c in enumerate(classes) if c == each] for each in sorted(set(classes))]
        self.of_indices = _ranked(indices, lambda i: (i.kind.rank, i not in inputs))

    def run(self) -> Ordered:
        """Tell all apart."""
        self.refine()
        if not self.done:
            self.of_indices = _refined(self.of_indices, lambda i: _comparable(i.size))
            self._share()
            self.refine()
        while not self.done:
            if not _split(self.of_nodes, lambda p: _detail(self.nodes[p])):
                _split(self.of_indices)
            self._share()
            self.refine()
        return Ordered(
            tuple(sorted(self.indices, key=self.of_indices.__getitem__)),
            tuple(self.nodes[p] for p in sorted(range(len(self.nodes)), key=self.of_nodes.__getitem__)),
        )

    @property
    def done(self) -> bool:
        """Whether all are told apart."""
        return self._count == len(self.indices) + len(self.nodes)

    def refine(self) -> None:
        """Tell apart what has different neighbours, class by class from the inputs on, until nothing changes."""
        before = -1
        while not self.done and self._count != before:
            before = self._count
            for places in self.classes:
                self._look(places)

    def _look(self, places: Collection[int]) -> None:
        """Tell apart some nodes by their indices, then all indices by these nodes and by the output."""
        indices, here = self.of_indices, self.of_nodes
        found = {p: sorted((role, indices[i]) for i, role in self.legs[p]) for p in places}
        nodes = self.of_nodes = _refined(here, lambda p: found.get(p, []))
        last = (len(indices), 0)

        def neighbours(index: Index) -> Any:
            legs = sorted((nodes[p], role) for p, role in self.users[index] if p in found)
            return legs, self.opened.get(index, last)

        self.of_indices = _refined(indices, neighbours)

    @property
    def _count(self) -> int:
        return len(set(self.of_indices.values())) + len(set(self.of_nodes.values()))

    def _share(self) -> None:
        """Tell apart nodes by those that read the same argument."""
        found: dict[str | None, list[int]] = {}
        names = [_argument(node) for node in self.nodes]
        for place, name in enumerate(names):
            found.setdefault(name, []).append(self.of_nodes[place])
        self.of_nodes = _refined(self.of_nodes, lambda p: sorted(found[names[p]]))


def _ranked(items: Iterable[T], key: Callable[[T], Any]) -> Ranks[T]:
    """The number of items with a lesser key."""
    ranks: Ranks[T] = {}
    for _, group in groupby(
        sorted(((key(item), item) for item in items), key=lambda p: p[0]), key=lambda p: p[0]
    ):
        ranks |= dict.fromkeys([item for _, item in group], len(ranks))
    return ranks


def _refined(ranks: Mapping[T, int], key: Callable[[T], Any]) -> Ranks[T]:
    """Ranks by the old ones, then by a key."""
    return _ranked(ranks, lambda item: (ranks[item], key(item)))


def _split(ranks: Ranks[T], key: Callable[[T], Any] = lambda _: 0) -> bool:
    """Put the least by a key of the first that are alike before the others; whether some are."""
    counts = Counter(ranks.values())
    alike = min((rank for rank, count in counts.items() if count > 1), default=None)
    if alike is None:
        return False
    least = min((item for item, rank in ranks.items() if rank == alike), key=key)
    ranks |= {item: rank + 1 for item, rank in ranks.items() if rank == alike and item != least}
    return True


def _legs(node: Node) -> list[tuple[Index, Any]]:
    """The legs of a node, each with what sets it apart from the others there."""
    if isinstance(node, Tensor):
        return [(i, (p, q)) for p, axis in enumerate(node.axes) for q, i in enumerate(axis.indices)]
    if isinstance(node, Scale):
        return []
    folds = node.modulus is not None
    return [(i, (folds and i == node.left, -c)) for i, c in node.zero_form.items()]


def _form(node: Node) -> Any:
    """What a node is like besides its legs."""
    if isinstance(node, Tensor):
        return [
            (
                len(a.indices),
                a.is_group,
                [] if a.is_group else [*map(_comparable, (a.start, a.size, *a.strides))],
            )
            for a in node.axes
        ]
    if isinstance(node, Scale):
        return []
    # Deltas, which write diagonals, come first, those of groups last: what is written into stays small.
    groups = -min(i.kind.rank for i in node.indices) if isinstance(node, Delta) else 0
    return [(isinstance(node, Pattern | Select), groups, node.mode, node.offset)]


def _detail(node: Node) -> tuple[bool, str]:
    """What of alike nodes comes first."""
    return not (isinstance(node, Tensor) and node.conj), str(node.value) if isinstance(node, Scale) else ""


def _argument(node: Node) -> str | None:
    if isinstance(node, Tensor):
        return node.argument
    return node.table if isinstance(node, Select) else None


def _comparable(size: Size) -> tuple[int, str]:
    """Numbers before expressions."""
    return (size, "") if isinstance(size, int) else (2**62, str(size))
