"""An order of the indices and nodes of a network that does not depend on how they are called.

Planners and kernels break ties by it: two networks that differ in names alone have the same plan, up to names. What is
alike is told apart step by step (the colour refinement of Weisfeiler and Leman 1968): nodes by role, number of axes and
the ranks of their indices; indices by kind, by the nodes that they are on and their places there and in the output;
then by sizes and arguments. What is alike even then, an automorphism exchanges, but for conjugates, as both halves of a
square: of the first two such nodes the one that is read conjugated, else the first by name, comes first, and with it
all its half.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tnconv.ir.index import Axis, Index
from tnconv.ir.nodes import Delta, Node, Pattern, Relational, Role, Scale, Select, Tensor, node_class
from tnconv.ir.size import Size

_OTHERS = -1  # stands for the items of a cell that need no look


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
    """Cells of nodes, by their places in the network, and of indices; what is alike is in one cell.

    Only what has a neighbour that has moved to another cell since it was looked at is looked at again: all others of
    its cell still have the same neighbours. As the largest part of a cell does not move, n nodes take some n·log(n)
    looks, whatever the shape of the network.
    """

    def __init__(self, nodes: Sequence[Node], indices: Sequence[Index], output: Sequence[Axis]) -> None:
        self.nodes, self.indices = nodes, indices
        number = {index: place for place, index in enumerate(indices)}
        self.opened = {number[i]: (p, q) for p, axis in enumerate(output) for q, i in enumerate(axis.indices)}
        self.legs = [[(number[i], role) for i, role in _legs(node)] for node in nodes]
        self.users: list[list[tuple[int, Hashable]]] = [[] for _ in indices]
        for place, legs in enumerate(self.legs):
            for i, role in legs:
                self.users[i].append((place, role))
        inputs = input_indices(nodes)
        self.of_nodes = _Cells([(node_class(node), _form(node)) for node in nodes])
        self.of_indices = _Cells([class_of_index(i, inputs) for i in indices])
        kinds = [node_class(node)[0] for node in nodes]
        classes = {each: place for place, each in enumerate(sorted(set(kinds)))}
        self.class_of = [classes[kind] for kind in kinds]
        # What is still to be looked at, by the class of the nodes.
        self.places: list[set[int]] = [set() for _ in classes]
        for place, each in enumerate(self.class_of):
            self.places[each].add(place)
        self.around: list[set[int]] = [set(range(len(indices))) for _ in classes]
        self.readers: dict[str, list[int]] = {}
        for place, node in enumerate(nodes):
            if (name := _argument(node)) is not None:
                self.readers.setdefault(name, []).append(place)
        self.arguments = set(self.readers)

    def run(self) -> Ordered:
        self.refine()
        if not self.done:
            sizes = [_comparable(i.size) for i in self.indices]
            self._moved_indices(self.of_indices.refine(range(len(sizes)), sizes.__getitem__))
            self._share()
            self.refine()
        while not self.done:
            if moved := self.of_nodes.split(lambda p: _detail(self.nodes[p])):
                self._moved_nodes(moved)
            else:
                self._moved_indices(self.of_indices.split(lambda _: 0))
            self._share()
            self.refine()
        return Ordered(
            tuple(self.indices[i] for i in self.of_indices.row),
            tuple(self.nodes[p] for p in self.of_nodes.row),
        )

    @property
    def done(self) -> bool:
        return self.of_nodes.done and self.of_indices.done

    def refine(self) -> None:
        """Tell apart what has different neighbours, class by class from the inputs on, until nothing changes."""
        while not self.done and (any(self.places) or any(self.around)):
            for number in range(len(self.places)):
                self._look(number)

    def _look(self, number: int) -> None:
        """Tell apart nodes of a class by their indices, then indices by these nodes and by the output."""
        places, self.places[number] = self.places[number], set()
        rank = self.of_indices.rank
        self._moved_nodes(
            self.of_nodes.refine(places, lambda p: sorted((role, rank(i)) for i, role in self.legs[p]))
        )
        around, self.around[number] = self.around[number], set()
        last, of_node, class_of = (len(self.indices), 0), self.of_nodes.rank, self.class_of

        def neighbours(index: int) -> Any:
            legs = sorted((of_node(p), role) for p, role in self.users[index] if class_of[p] == number)
            return legs, self.opened.get(index, last)

        self._moved_indices(self.of_indices.refine(around, neighbours))

    def _moved_nodes(self, places: Iterable[int]) -> None:
        for place in places:
            self.around[self.class_of[place]].update(i for i, _ in self.legs[place])
            name = _argument(self.nodes[place])
            if name is not None and len(self.readers[name]) > 1:
                self.arguments.add(name)

    def _moved_indices(self, indices: Iterable[int]) -> None:
        for index in indices:
            for place, _ in self.users[index]:
                self.places[self.class_of[place]].add(place)

    def _share(self) -> None:
        """Tell apart nodes by those that read the same argument."""
        places = [place for name in self.arguments for place in self.readers[name]]
        self.arguments = set()
        keys: dict[str, list[int]] = {}

        def key(place: int) -> list[int]:
            name = _argument(self.nodes[place])
            assert name is not None  # others are in other cells
            if name not in keys:
                keys[name] = sorted(map(self.of_nodes.rank, self.readers[name]))
            return keys[name]

        self._moved_nodes(self.of_nodes.refine(places, key))


class _Cells:
    """An ordered partition of the numbers below a count; the rank of one is the number of those in earlier cells.

    Args:
        keys: one for each; equal ones are in one cell.
    """

    def __init__(self, keys: Sequence[Any]) -> None:
        self.row = sorted(range(len(keys)), key=keys.__getitem__)
        self.place, self.cell = [*self.row], [0] * len(keys)
        for place, item in enumerate(self.row):
            self.place[item] = place
        self.start: list[int] = []
        self.size: list[int] = []
        start = 0
        for _, group in groupby([*self.row], key=keys.__getitem__):
            start += self._new(start, list(group))
        self._first = 0  # each cell before this place has one
        self._waiting: dict[int, list[int]] = {}

    def _new(self, start: int, items: Sequence[int]) -> int:
        """Make a cell of items, which it puts where the cell is in the row; return their number."""
        for place, item in enumerate(items, start):
            self.cell[item] = len(self.start)
            other, before = self.row[place], self.place[item]
            self.row[before], self.place[other] = other, before
            self.row[place], self.place[item] = item, place
        self.start.append(start)
        self.size.append(len(items))
        return len(items)

    @property
    def done(self) -> bool:
        return len(self.start) == len(self.row)

    def rank(self, item: int) -> int:
        return self.start[self.cell[item]]

    def refine(self, items: Iterable[int], key: Callable[[int], Any]) -> list[int]:
        """Split cells by a key, which the items of a cell that are not given have in common.

        Returns:
            The items that are in a new cell; the largest part of a cell stays.
        """
        touched: dict[int, list[int]] = {}
        for item in items:
            if self.size[self.cell[item]] > 1:
                touched.setdefault(self.cell[item], []).append(item)
        parts = [(cell, self._parts(cell, given, key)) for cell, given in touched.items()]
        return [item for cell, found in parts for item in self._taken_apart(cell, found)]

    def split(self, key: Callable[[int], Any]) -> list[int]:
        """Of the first cell with several items, put the least by a key before the others; as `refine`."""
        while self._first < len(self.row) and self.size[self.cell[self.row[self._first]]] == 1:
            self._first += 1
        if self._first == len(self.row):
            return []
        cell = self.cell[self.row[self._first]]
        if cell not in self._waiting:
            items = self.row[self._first : self._first + self.size[cell]]
            self._waiting[cell] = sorted(items, key=lambda item: (key(item), item), reverse=True)
        waiting = self._waiting[cell]
        while self.cell[waiting[-1]] != cell:  # it was told apart since
            waiting.pop()
        return self._taken_apart(cell, [[waiting.pop()], []])

    def _parts(self, cell: int, given: list[int], key: Callable[[int], Any]) -> list[list[int]]:
        """The items of a cell by ascending keys; an empty part stands for those that are not given, and their like."""
        keys = {item: key(item) for item in given}
        if len(given) < self.size[cell]:
            start = self.start[cell]
            other = next(each for each in self.row[start : start + len(given) + 1] if each not in keys)
            common = key(other)
            given = [item for item in given if keys[item] != common]
            keys[_OTHERS] = common
            given.append(_OTHERS)
        groups = [list(group) for _, group in groupby(sorted(given, key=keys.__getitem__), keys.__getitem__)]
        return [[] if group == [_OTHERS] else group for group in groups]

    def _taken_apart(self, cell: int, parts: list[list[int]]) -> list[int]:
        """Make cells of all parts but the largest, and return their items."""
        start, size = self.start[cell], self.size[cell]
        others = size - sum(map(len, parts))
        stays = max(range(len(parts)), key=lambda place: len(parts[place]) or others)
        if [] in parts and parts[stays]:
            named = {item for part in parts for item in part}
            parts[parts.index([])] = [i for i in self.row[start : start + size] if i not in named]
        for part in parts[:stays]:
            start += self._new(start, part)
        end = self.start[cell] + size
        for part in parts[:stays:-1]:
            end -= len(part)
            self._new(end, part)
        self.start[cell], self.size[cell] = start, end - start
        return [item for place, part in enumerate(parts) if place != stays for item in part]


def input_indices(nodes: Iterable[Node]) -> set[Index]:
    """The indices of inputs."""
    return {i for node in nodes if isinstance(node, Tensor) and node.role is Role.INPUT for i in node.indices}


def class_of_index(index: Index, inputs: Collection[Index]) -> tuple[int, bool]:
    """What indices are told apart by first: their kind, then whether they are those of an input."""
    return index.kind.rank, index not in inputs


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
    return (size, "") if isinstance(size, int) else (2**62, str(size))
