"""Integers in place of some size symbols, in networks and plans: what was made once serves many sizes."""

import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from tnconv.ir import (
    Axis,
    Expression,
    Index,
    Network,
    Node,
    Pattern,
    Relational,
    Scale,
    Select,
    Size,
    Tensor,
    evaluate,
    pattern,
    symbol,
)
from tnconv.ir.monomial import Monomial, Scalar, as_scalar
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.count import count_factors
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step

_rest = operator.attrgetter("name", "offset", "mode")  # what a size has no part in


class Binding:
    """Integers in place of the size symbols that are named; others stay.

    Args:
        values: by name of the symbol.
    """

    def __init__(self, values: Mapping[str, int]) -> None:
        self.values = dict(values)
        self._sizes: dict[Size, Size] = {}
        self._indices: dict[Index, Index] = {}
        self._axes: dict[int, tuple[Axis, Axis]] = {}  # by identity: hashing one takes as long as binding it

    @cached_property
    def _numbers(self) -> dict[Monomial, int]:
        return {symbol(name): value for name, value in self.values.items()}

    def size(self, size: Size) -> Size:
        """A size with these values."""
        if isinstance(size, int):
            return size
        found = self._sizes.get(size)
        if found is None:
            found = self._sizes[size] = self._size(size)
        return found

    def _size(self, size: Size) -> Size:
        names = symbol_names(size)
        if all(name in self.values for name in names):
            return evaluate(size, self.values)
        if not any(name in self.values for name in names):
            return size
        return normal(size.subs(self._numbers))

    def scalar(self, value: Scalar) -> Scalar:
        """A scale with these values."""
        names = symbol_names(value)
        return as_scalar(value.subs(self._numbers)) if any(name in self.values for name in names) else value

    def index(self, index: Index) -> Index:
        """An index with these values."""
        if isinstance(index.size, int):
            return index
        found = self._indices.get(index)
        if found is None:
            found = self._indices[index] = index.sized(self.size(index.size))
        return found

    def axis(self, axis: Axis) -> Axis:
        """An axis with these values."""
        found = self._axes.get(id(axis))
        if found is None:
            found = self._axes[id(axis)] = axis, self._axis(axis)
        return found[1]

    def _axis(self, axis: Axis) -> Axis:
        indices = tuple([self.index(index) for index in axis.indices])
        if axis.is_group:
            return axis if all(map(operator.is_, indices, axis.indices)) else Axis(indices)
        return Axis(indices, tuple(map(self.size, axis.strides)), axis.start, self.size(axis.size))

    def relation(self, relation: Relational) -> Relational:
        """A relation with these values."""
        if all(isinstance(index.size, int) for index in relation.indices):
            return relation
        if isinstance(relation, Select):
            return replace(relation, left=self.index(relation.left), right=self.index(relation.right))
        terms = tuple([(a, self.index(x)) for a, x in relation.terms])
        modulus = None if relation.modulus is None else self.size(relation.modulus)
        return pattern(
            relation.name, self.index(relation.left), terms, relation.offset, modulus, relation.mode
        )

    def node(self, node: Node) -> Node:
        """A node with these values."""
        if isinstance(node, Tensor):
            axes = tuple(map(self.axis, node.axes))
            return node if all(map(operator.is_, axes, node.axes)) else replace(node, axes=axes)
        return (
            replace(node, value=self.scalar(node.value)) if isinstance(node, Scale) else self.relation(node)
        )

    def network(self, network: Network) -> Network:
        """A network with these values."""
        return network.with_nodes(map(self.node, network.nodes), map(self.axis, network.output))

    def gives(self, expression: Expression, other: Expression) -> bool:
        """Whether an expression with these values is another one: told without building it."""
        if type(expression) is not type(other) or len(expression.terms) != len(other.terms):
            return False
        return expression.name == other.name and all(map(self._gives, expression.terms, other.terms))

    def _gives(self, network: Network, other: Network) -> bool:
        return (
            (network.name, network.real) == (other.name, other.real)
            and len(network.nodes) == len(other.nodes)
            and all(map(self._gives_node, network.nodes, other.nodes))
            and tuple(map(self.axis, network.output)) == other.output
        )

    def _gives_node(self, node: Node, other: Node) -> bool:
        if isinstance(node, Pattern) and isinstance(other, Pattern):
            rest = _rest(node) == _rest(other) and self.index(node.left) == other.left
            terms = {self.index(x): a for a, x in node.terms}
            return (
                rest
                and self.size(node.modulus or 0) == (other.modulus or 0)
                and terms == {x: a for a, x in other.terms}
            )
        return self.node(node) == other

    def expression(self, expression: Expression) -> Expression:
        """A network or a sum with these values."""
        return expression.map_terms(self.network)

    def plan(self, plan: Plan) -> Plan:
        """A plan without slices with these values: the same steps."""
        return replace(
            plan,
            arguments={name: tuple(map(self.size, sizes)) for name, sizes in plan.arguments.items()},
            steps=tuple([self._step(step, plan) for step in plan.steps]),
            hints={name: hint for name, hint in plan.hints.items() if name not in self.values},
            tables={name: self.size(size) for name, size in plan.tables.items()},
        )

    def _step(self, step: Step, plan: Plan) -> Step:
        operands = tuple([Operand(o.source, tuple(map(self.axis, o.axes)), o.conj) for o in step.operands])
        relations = tuple(map(self.relation, step.relations))
        factors = tuple(map(self.size, step.factors))
        if relations and len(operands) > 1:  # which indices count depends on their sizes
            names = {
                name
                for each in (*operands, *relations)
                for i in each.indices
                for name in symbol_names(i.size)
            }
            factors = count_factors(operands, relations, {n: plan.hints.get(n, DEFAULT_HINT) for n in names})
        output = tuple(map(self.axis, step.output))
        return Step(step.result, operands, relations, output, self.scalar(step.scale), factors)
