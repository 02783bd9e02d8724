"""Join and homogeneous: a weight and its bias as one matrix.

join{arguments=[weight, bias], rows=[d], into=parameters}
weight = parameter [d, c, k]   ->   parameters   = parameter                [d, 3*c + k < 10]
bias   = parameter [d]              parameters_2 = parameter{of=parameters} [d, 9 < 10]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Expression, Index, Network, Node, Tensor, fresh, group, make_sum, product
from tnconv.passes.cells import pack
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import taken_names


@dataclass(frozen=True)
class Join(Pass):
    """Several arguments become one matrix: a weight's rows, and a bias as its last column.

    The rows are those of the indices named, in their order; the columns those of all the other indices of
    the first argument, in its order, then those of the second, and so on.

    Args:
        arguments: names of the arguments, each on one node.
        rows: indices that each of them has, and that make the rows.
        into: name of the new argument.
    """

    name: ClassVar[str] = "join"
    whole: ClassVar[bool] = True
    arguments: tuple[str, ...]
    rows: tuple[str, ...]
    into: str

    def apply(self, expression: Expression) -> PassResult:
        """Exchange the nodes for nodes that read a part of the new argument."""
        blocks = self._blocks(expression)
        parts: dict[str, tuple[Axis, ...]] = {}
        start = 0
        total = sum(size for _, _, size in blocks.values())
        for name, (rows, columns, size) in blocks.items():
            width = group(*columns)
            last = width if size == total else Axis(columns, width.strides, start, total)
            parts[name] = (group(*rows), last)
            start += size

        def changed(term: Network) -> Network:
            taken = taken_names(term)
            nodes: list[Node] = []
            for node in term.nodes:
                if isinstance(node, Tensor) and node.argument in parts:
                    name = fresh(self.into, taken)
                    taken.add(name)
                    axes = parts[node.argument]
                    node = replace(node, name=name, axes=axes, of=self.into)  # noqa: PLW2901
                nodes.append(node)
            return term.with_nodes(nodes)

        after = make_sum(expression.name, [changed(term) for term in expression.terms])
        return PassResult(after, True, (f"{' and '.join(self.arguments)} as {self.into}",))

    def _blocks(self, expression: Expression) -> dict[str, tuple[tuple[Index, ...], tuple[Index, ...], int]]:
        """Rows, columns and number of columns of each argument."""
        used = {name for term in expression.terms for name in taken_names(term)} | set(expression.arguments)
        if self.into in used:
            raise PassError(f"the name {self.into!r} is taken; choose another for the new argument")
        blocks = {}
        for name in self.arguments:
            nodes = [t for term in expression.terms for t in term.tensors if t.argument == name]
            if len(nodes) != 1:
                raise PassError(
                    f"join needs argument {name!r} on one node, but it is on {len(nodes)}; the arguments are "
                    f"{', '.join(expression.arguments)}"
                )
            (node,) = nodes
            known = {i.name: i for i in node.indices}
            if missing := [row for row in self.rows if row not in known]:
                raise PassError(
                    f"argument {name!r} has no index {missing[0]!r} for the rows; it has {', '.join(known)}"
                )
            if len(known) < len(node.indices) or not all(axis.is_group for axis in node.axes):
                raise PassError(
                    f"argument {name!r} has an affine axis or an index twice; join takes groups only"
                )
            columns = tuple(i for i in node.indices if i.name not in self.rows)
            size = product(i.size for i in columns)
            if not isinstance(size, int):
                raise PassError(f"argument {name!r} has {size} columns; join needs a number of them")
            blocks[name] = (tuple(known[row] for row in self.rows), columns, size)
        return blocks

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with each argument cut out of the matrix."""
        matrix = arguments[self.into]
        own = {t.argument: t.axes for term in before.terms for t in term.tensors}
        start, given = 0, {k: v for k, v in arguments.items() if k != self.into}
        for name, (rows, columns, size) in self._blocks(before).items():
            block = matrix[:, start : start + size].reshape([i.size for i in (*rows, *columns)])
            given[name] = pack(block, (*rows, *columns), own[name])
            start += size
        return evaluate(before, given)


@dataclass(frozen=True)
class Homogeneous(Pass):
    """A one behind the last cell of an output axis: homogeneous coordinates, which make a bias a column.

    Args:
        axis: its place in the output.
    """

    name: ClassVar[str] = "homogeneous"
    whole: ClassVar[bool] = True
    axis: int

    def apply(self, expression: Expression) -> PassResult:
        """Make room for a cell, and add the network that is one there."""
        size = self._size(expression)
        terms = [
            term.with_nodes(term.nodes, self._exchanged(term.output, replace(axis, size=size + 1)))
            for term in expression.terms
            for axis in (term.output[self.axis],)
        ]
        one = Axis((), (), size, size + 1)
        axes = self._exchanged(expression.terms[0].output, one)
        ones = Network(f"{expression.name}.ones", (), axes, expression.terms[0].real)
        return PassResult(make_sum(expression.name, [*terms, ones]), True, (f"a one behind {size} cells",))

    def _exchanged(self, axes: Sequence[Axis], axis: Axis) -> tuple[Axis, ...]:
        return (*axes[: self.axis], axis, *axes[self.axis + 1 :])

    def _size(self, expression: Expression) -> int:
        rank = len(expression.output)
        if not 0 <= self.axis < rank:
            raise PassError(
                f"homogeneous has axis={self.axis} but the output has {rank} axes; name one of them"
            )
        others = [a for place, a in enumerate(expression.output) if place != self.axis]
        size = expression.output[self.axis].size
        if not isinstance(size, int) or not all(axis.is_group for axis in others):
            raise PassError(
                f"homogeneous adds a cell to axis {expression.output[self.axis]} of "
                f"{[str(a) for a in expression.output]}; its size must be a number, and the other axes groups"
            )
        return size

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with a slice of ones."""
        value = np.asarray(evaluate(before, arguments))
        ones = np.ones_like(np.take(value, [0], axis=self.axis))
        return np.concatenate([value, ones], axis=self.axis)
