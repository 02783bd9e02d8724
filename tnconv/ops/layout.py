"""Which index of a weight is what, and which nodes come before and behind it.

The *input side* is what the layer of a weight is given: the input; the parameters that are connected to it by channels
without the weight; the patterns with an index of the weight, its *windows*; the patterns between the input and a
window, or of such a parameter, with the parameters whose kernels they hold; what shares an index with the weight that
ends there. The *output side* is the rest. What may be before the weight or behind it is refused. So

    a[n, g, t, (c k)] = the input side              open where the weight was: the patches
    y[n, g, t, d]     = Σ a[n, g, t, (c k)] W       the output of the layer
    ḡ[n, g, t, d]     = the output side times ȳ     the gradient there

An index of the weight is a *group* where both sides have it, a *column* on the input side alone, an *out-channel* on
the output side alone; an index that both sides have and the weight has not is an example or a *position*.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tnconv.errors import OperationError
from tnconv.ir import Index, Network, Node, Role, Scale, Tensor
from tnconv.ir.nodes import Relational
from tnconv.ops.restore import channel_places, inputs_of

Indices = tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the indices of a weight are to the layer that it makes.

    Args:
        groups: on both sides.
        columns: on the input side, in the order of the weight's axes.
        kernel: those columns that are no channels of the input.
        outs: on the output side, in the order of the weight's axes.
        positions: that both sides share, in the order of the output.
        inner: names of the nodes of the input side, scales among them.
        outer: names of the nodes of the output side.
    """

    groups: Indices
    columns: Indices
    kernel: Indices
    outs: Indices
    positions: Indices
    inner: tuple[str, ...]
    outer: tuple[str, ...]

    def renamed(self, letters: Mapping[Index, Index], nodes: Mapping[str, str]) -> "Layout":
        """The same with other names of indices and nodes."""

        def other(indices: Indices) -> Indices:
            return tuple(letters.get(i, i) for i in indices)

        return Layout(
            other(self.groups),
            other(self.columns),
            other(self.kernel),
            other(self.outs),
            other(self.positions),
            tuple(nodes[name] for name in self.inner),
            tuple(nodes[name] for name in self.outer),
        )


def layout_of(term: Network, weight: Tensor, batch: Indices) -> Layout:
    """The layout of a weight in the one term that has it.

    Raises:
        OperationError: the weight does not meet the input, or what is before and behind it cannot be told apart.
    """
    return _Sides(term, weight, batch).layout()


def _connected(nodes: Sequence[Node], without: Collection[Index]) -> list[list[Node]]:
    """The connected parts of some nodes, by the indices that they share but for some."""
    parts: list[list[Node]] = []
    for node in nodes:
        legs = {i for i in node.indices if i not in without}
        touching = [p for p in parts if any(legs.intersection(n.indices) for n in p)]
        parts = [p for p in parts if p not in touching] + [[n for p in touching for n in p] + [node]]
    return parts


class _Sides:
    """The two sides of a weight."""

    def __init__(self, term: Network, weight: Tensor, batch: Indices) -> None:
        self.term, self.weight, self.batch = term, weight, batch
        self.legs = set(weight.indices)
        self.open = set(term.open_indices)
        self.windows = [p for p in term.patterns if self.legs.intersection(p.indices)]
        self.tied = {i for p in term.patterns for i in p.indices}
        rest = [n for n in term.nodes if n.name != weight.name and not isinstance(n, Scale)]
        found = self._before(rest)
        self.inner = [n for n in rest if n in found]
        self.outer = [n for n in rest if n not in found]
        self.before = {i for n in self.inner for i in n.indices}
        self.behind = {i for n in self.outer for i in n.indices} | self.open

    def _before(self, rest: Sequence[Node]) -> list[Node]:
        """The nodes of the input side."""
        tensors = [n for n in rest if isinstance(n, Tensor)]
        others = [n for n in rest if not isinstance(n, Tensor) and n not in self.windows]
        found: list[Node] = [*inputs_of(self.term), *self.windows]
        chains = _connected(others, self.legs)
        while True:
            size = len(found)
            links = {i for n in found if isinstance(n, Tensor) for i in n.indices}
            links -= self.legs | self.open | self.tied | set(self.batch)
            found += [t for t in tensors if t not in found and links.intersection(t.indices)]
            for chain in chains:
                if chain[0] not in found and self._is_before(chain, tensors, found):
                    legs = {i for p in chain for i in p.indices} - self.legs - self.open
                    found += chain
                    found += [t for t in tensors if t not in found and legs.intersection(t.indices)]
            if len(found) == size:
                break
        near = self.legs | {i for n in found for i in n.indices}
        for chain in chains:  # a border that hides some positions
            if not near.intersection(i for p in chain for i in p.indices) and not self._kernels(
                chain, tensors
            ):
                found += chain
        return [*found, *self._ending(found, [n for n in rest if n not in found])]

    def _ending(self, found: Sequence[Node], others: Sequence[Node]) -> list[Node]:
        """The nodes that share with the weight what ends there: an index on the input side, and on nothing behind."""
        before = {i for n in found for i in n.indices}
        ends = self.open - before - self.tied
        outs = self.legs - before
        moved: list[Node] = []
        for part in _connected(others, before | self.legs | set(self.batch)):
            legs = {i for n in part for i in n.indices}
            if legs & self.legs and not legs & (ends | outs):
                moved += part
        taken = {i for n in moved for i in n.indices} & self.legs
        behind = self.open | {i for n in others if n not in moved for i in n.indices}
        return moved if outs and not taken & behind else []

    def _is_before(self, chain: Sequence[Node], tensors: Sequence[Tensor], found: Sequence[Node]) -> bool:
        """Whether patterns that are joined by positions lie between the input and the weight."""
        legs = {i for p in chain for i in p.indices} - self.legs
        if not any(legs.intersection(x.indices) for x in inputs_of(self.term)):
            return False
        if any(legs.intersection(window.indices) for window in self.windows):
            return True
        kernels = self._kernels(chain, tensors)
        if kernels:
            return all(kernel in found for kernel in kernels)
        others = [t for t in tensors if t.role != Role.INPUT]
        if others:
            self._refuse(
                f"pattern {chain[0].name!r}, which has no index of it, may be before it or behind it"
            )
        return True

    def _kernels(self, chain: Sequence[Node], tensors: Sequence[Tensor]) -> list[Tensor]:
        """The parameters whose kernels patterns hold."""
        legs = {i for p in chain for i in p.indices} - self.legs - self.open
        return [t for t in tensors if t.role != Role.INPUT and legs.intersection(t.indices)]

    def layout(self) -> Layout:
        self._check_weight()
        legs = self.weight.indices
        groups = tuple(i for i in legs if i in self.before and i in self.behind)
        columns = tuple(i for i in legs if i in self.before and i not in self.behind)
        outs = tuple(i for i in legs if i not in self.before)
        positions = self._positions()
        for index in outs:
            if index not in self.behind:
                self._refuse(f"its index {index.name!r} is on no other node")
        self._check_windows()
        self._check_positions(positions)
        self._check_outer(columns, outs)
        inner = [n.name for n in self.inner]
        inner += [n.name for n in self.term.nodes if isinstance(n, Scale)]
        return Layout(
            groups,
            columns,
            tuple(i for i in columns if self._is_kernel(i)),
            outs,
            positions,
            tuple(inner),
            tuple(n.name for n in self.outer),
        )

    def _positions(self) -> Indices:
        alone = {i for i in self.open if not self.term.nodes_with(i)}
        shared = {i for i in self.before & self.behind | alone if i not in self.legs and i not in self.batch}
        ordered = [i for i in self.term.open_indices if i in shared]
        ordered += [i for n in self.inner for i in n.indices if i in shared]
        return tuple(dict.fromkeys(ordered))

    def _is_kernel(self, index: Index) -> bool:
        """Whether a column is in a window, or beside positions on the input."""
        if any(index in window.indices for window in self.windows):
            return True
        for x in inputs_of(self.term):
            channels, _ = channel_places(self.term, x, self.weight, len(self.batch))
            for place, axis in enumerate(x.axes):
                if index in axis.indices and place != channels:
                    return True
        return False

    def _check_weight(self) -> None:
        doubled = [i.name for i in self.legs if sum(a.indices.count(i) for a in self.weight.axes) > 1]
        if doubled:
            self._refuse(f"its index {doubled[0]!r} is on it twice")
        if not all(axis.is_group for axis in (*self.weight.axes, *self.term.output)):
            self._refuse("an axis of it or of the output skips cells")
        if not inputs_of(self.term):
            self._refuse("the network has no input")
        others = {n.argument for n in self.inner if isinstance(n, Tensor)}
        if not self.inner or not others:
            self._refuse("it does not meet the input")

    def _check_windows(self) -> None:
        """A window leads from the input to one position, or to those of the output."""
        for window in self.windows:
            outer = [i for i in window.indices if i not in self.legs]
            leaving = [i for i in outer if i in self.behind]
            inside = [i for i in outer if i not in self.behind and self._is_loose(i, window)]
            if inside:
                self._refuse(
                    f"pattern {window.name!r} of its kernel also sums over {inside[0].name!r}, as of pooling behind it"
                )
            ahead = {i for n in self.outer for i in n.indices}
            following = [i.name for i in leaving if i in ahead]
            if len(leaving) > 1 and following:
                self._refuse(
                    f"pattern {window.name!r} joins its kernel with {following[0]!r} of what follows"
                )

    def _is_loose(self, index: Index, window: Relational) -> bool:
        return self.term.nodes_with(index) == (window,)

    def _check_positions(self, positions: Sequence[Index]) -> None:
        """A position is on an input or in a pattern: what only parameters have is an out-channel of theirs."""
        for index in positions:
            nodes = [n for n in self.inner if index in n.indices]
            if nodes and all(isinstance(n, Tensor) and n.role != Role.INPUT for n in nodes):
                self._refuse(
                    f"index {index.name!r} of the output is on {nodes[0].name!r}, which is not behind it: the input "
                    "leads there on another way"
                )

    def _check_outer(self, columns: Indices, outs: Indices) -> None:
        """Parameters of the output side lead to channels of the output: else they may as well come before."""
        ends = self.open - self.before - self.tied
        tensors = [n for n in self.outer if isinstance(n, Tensor)]
        for part in _connected(tensors, self.before | self.legs | self.tied | set(self.batch)):
            legs = {i for n in part for i in n.indices}
            takes = legs.intersection(outs) and columns and not ends.intersection(outs)
            if not legs & ends and not takes:
                self._refuse(f"{part[0].name!r} may be before it or behind it")

    def _refuse(self, why: str) -> NoReturn:
        raise OperationError(
            f"parameter {self.weight.argument!r} of {self.term.name!r} is not the weight of a layer: {why}"
        )
