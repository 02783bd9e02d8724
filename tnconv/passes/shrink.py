"""Small instances of a network: every coefficient kept, every size drawn anew.

Sizes from 1 to 5 make the corner cases that real layers lack: kernels larger than inputs, cells that no
window reaches, strides larger than kernels. Some draws keep small sizes, make sizes equal a coefficient or
let an index just cover a pattern, so that the guards of rewriting rules hold now and then. Instances that shall
be alike keep what guards look at: sizes up to eight, and by how much an index covers its pattern.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from tnconv.errors import NetworkError
from tnconv.ir import (
    Axis,
    Expression,
    Index,
    Network,
    Node,
    Pattern,
    Relational,
    Scale,
    Sum,
    Tensor,
    evaluate,
    pattern,
    product,
    reach,
    solve,
)
from tnconv.ir.affine import reach_of_sizes
from tnconv.ir.nodes import Delta, Select
from tnconv.ir.size import normal

_ATTEMPTS = 24
_LARGEST = 5
_KEPT = 8  # sizes that an instance keeps where it shall be alike
_LARGEST_COEFFICIENT = 32
_LARGEST_LEFT = 72
_LARGEST_SLACK = 3


def shrink(
    expression: Expression, rng: np.random.Generator, cells: int, alike: bool = False
) -> tuple[Expression, dict[str, int]] | None:
    """A small instance of an expression, and the values that its size symbols have there.

    Args:
        expression: a network or a sum.
        rng: where the sizes come from.
        cells: bound for the `volume` of each network.
        alike: whether rules and kernels shall find in the instance what they find in the expression.

    Returns:
        The instance and the values; None if none was found, which is rare.
    """
    for attempt in range(_ATTEMPTS):
        values = {name: int(rng.integers(1, 4)) for name in expression.symbols}
        try:
            draw = _Draw(expression, rng, values, attempt / _ATTEMPTS, alike)
            small = _build(expression, draw)
        except NetworkError:
            continue  # these sizes do not go together
        if max(volume(term) for term in small.terms) <= cells:
            return small, values
    return whole(expression, cells)


def whole(
    expression: Expression, cells: int, measure: Callable[[Network], int] | None = None
) -> tuple[Expression, dict[str, int]] | None:
    """The expression itself with two values for each size symbol, or one, where that is small enough.

    Args:
        expression: a network or a sum.
        cells: bound for the measure of each network.
        measure: what is bounded, the `volume` if left out.
    """
    for size in (2, 1):
        values = dict.fromkeys(expression.symbols, size)
        try:
            terms = tuple(term.bind(values) if term.symbols else term for term in expression.terms)
            if max((measure or volume)(term) for term in terms) <= cells:
                return (Sum(expression.name, terms) if isinstance(expression, Sum) else terms[0]), values
        except NetworkError:
            continue  # sizes that do not go together
    return None


def largest(network: Network) -> int:
    """Cells of the largest tensor, result or dense pattern."""
    axes = [*(tensor.axes for tensor in network.tensors), network.output]
    dense = [product(i.size for i in relation.indices) for relation in network.patterns]
    return int(max(*(product(axis.size for axis in each) for each in axes), *dense, 1))


def volume(network: Network) -> int:
    """Combinations of independent index values (not left of a pattern), or cells of the largest tensor."""
    lefts = {relation.left for relation in network.patterns}
    tensors = [product(axis.size for axis in tensor.axes) for tensor in network.tensors]
    return int(max(product(i.size for i in network.indices if i not in lefts), *tensors, 1))


def total_volume(network: Network) -> int:
    """Combinations of the values of all indices; sizes must be integers."""
    return int(product(i.size for i in network.indices))


@dataclass
class _Draw:
    """Sizes by class of indices that must or shall have one size."""

    expression: Expression
    rng: np.random.Generator
    values: Mapping[str, int]
    strictness: float
    alike: bool = False
    parent: dict[Index, Index] = field(default_factory=dict)
    size: dict[Index, int] = field(default_factory=dict)
    cap: dict[Index, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        indices = dict.fromkeys(i for term in self.expression.terms for i in term.indices)
        self.parent = {i: i for i in indices}
        for first, second in self._equal():
            self.parent[self.root(first)] = self.root(second)
        self._caps()
        keep_small = self.rng.random() < 0.5
        for index in indices:
            self._draw(index, keep_small)
        for term in self.expression.terms:
            for relation in term.patterns:
                self._fit(relation)

    def root(self, index: Index) -> Index:
        while self.parent[index] != index:
            index = self.parent[index]
        return index

    def new(self, index: Index) -> Index:
        return index.sized(self.size[self.root(index)])

    def set(self, index: Index, size: int) -> None:
        root = self.root(index)
        self.size[root] = max(1, min(size, self.cap.get(root, size)))

    def _equal(self) -> Iterator[tuple[Index, Index]]:
        """Pairs that must have one size, and sometimes those that have one by chance."""
        for axes in _columns(self.expression):
            for first, second in combinations(axes, 2):
                if _alike(first, second):
                    yield from zip(first.indices, second.indices, strict=True)
        for term in self.expression.terms:
            yield from ((r.left, r.right) for r in term.patterns if isinstance(r, Delta))
        tables: dict[str, Select] = {}
        for select in (s for term in self.expression.terms for s in term.selects):
            yield from zip(select.indices, tables.setdefault(select.table, select).indices, strict=True)
        if self.rng.random() < 0.5:
            first_of: dict[object, Index] = {}
            for index in self.parent:
                yield index, first_of.setdefault(index.size, index)

    def _caps(self) -> None:
        """Sizes on an affine axis may not grow: fewer values keep different cells."""
        for term in self.expression.terms:
            for axis in (*(a for t in term.tensors for a in t.axes), *term.output):
                if not axis.is_group:
                    for index in axis.indices:
                        root = self.root(index)
                        self.cap[root] = min(
                            self.cap.get(root, _LARGEST_LEFT), evaluate(index.size, self.values)
                        )

    def _draw(self, index: Index, keep_small: bool) -> None:
        if self.root(index) in self.size:
            return
        if not isinstance(index.size, int):
            self.set(index, evaluate(index.size, self.values))
        elif self.alike and self.rng.random() > self.strictness / 2:
            self.set(index, index.size if index.size <= _KEPT else int(self.rng.integers(2, _KEPT + 1)))
        elif self.rng.random() < self.strictness:
            self.set(index, 1)
        elif index.size <= _LARGEST and (keep_small or (index.size == 1 and self.rng.random() < 0.6)):
            self.set(index, index.size)
        else:
            largest = _LARGEST if self.strictness < 0.3 else 3
            self.set(index, int(self.rng.integers(1, largest + 1)))

    def _fit(self, relation: Relational) -> None:
        """Sometimes a size that equals a coefficient, and a left index that just covers the pattern."""
        if self.alike:
            self._fit_alike(relation)
            return
        if len(relation.terms) > 1 and self.rng.random() < 0.4:
            large, small = relation.terms[0], relation.terms[-1]
            if abs(large[0]) <= _LARGEST_COEFFICIENT:
                self.set(small[1], abs(large[0]))
        if isinstance(relation, Delta) or relation.modulus is not None or self.rng.random() < 0.3:
            return
        if self.rng.random() < 0.3:  # cover it by another index
            units = [made for i in relation.indices if (made := solve(relation, i))]
            relation = units[int(self.rng.integers(len(units)))]
        found = reach([(c, self.new(i)) for c, i in relation.terms], relation.offset)
        if found is not None and 0 <= found.high < _LARGEST_LEFT:
            self.set(relation.left, found.high + 1 + int(self.rng.choice([0, 0, 0, 1, 2, -1])))

    def _fit_alike(self, relation: Relational) -> None:
        """A left index that covers the pattern by as much as it does in the expression."""
        if isinstance(relation, Delta) or relation.modulus is not None:
            return
        old = reach_of_sizes([(c, evaluate(i.size, self.values)) for c, i in relation.terms], relation.offset)
        new = reach([(c, self.new(i)) for c, i in relation.terms], relation.offset)
        if new is not None and 0 <= new.high < _LARGEST_LEFT:
            more = evaluate(relation.left.size, self.values) - old.high - 1
            self.set(relation.left, new.high + 1 + max(-_LARGEST_SLACK, min(_LARGEST_SLACK, more)))


def _alike(first: Axis, second: Axis) -> bool:
    """Whether the indices of two axes that must have one size have the same sizes in turn, as far as that is simple."""
    if first.is_group and second.is_group:
        return len(first.indices) == len(second.indices)
    sizes = ([i.size for i in axis.indices] for axis in (first, second))
    return first.strides == second.strides and next(sizes) == next(sizes)


def _columns(expression: Expression) -> list[list[Axis]]:
    """Axes that must have one size: of all nodes that read an argument, and of the outputs."""
    columns: dict[tuple[str, int], list[Axis]] = {}
    for term in expression.terms:
        for name, axes in (*((t.argument, t.axes) for t in term.tensors), ("", term.output)):
            for place, axis in enumerate(axes):
                columns.setdefault((name, place), []).append(axis)
    return [axes for axes in columns.values() if len(axes) > 1]


def _build(expression: Expression, draw: _Draw) -> Expression:
    for axes in _columns(expression):
        sizes = [_axis(axis, draw).size for axis in axes]
        groups = [
            size for axis, size in zip(axes, sizes, strict=True) if axis.is_group and len(axis.indices) != 1
        ]
        target = groups[0] if groups else max(sizes)
        for axis in axes:
            if axis.is_group and len(axis.indices) == 1:
                draw.set(axis.indices[0], target)
    starts = {axis: start for axes in _columns(expression) for axis, start in _starts(axes, draw).items()}
    made = {
        axis: _axis(axis, draw, starts.get(axis))
        for term in expression.terms
        for axis in (*(a for t in term.tensors for a in t.axes), *term.output)
    }
    for axes in _columns(expression):
        size = max(made[axis].size for axis in axes)
        made |= {axis: replace(made[axis], size=size) for axis in axes if not axis.is_group}
    terms = tuple(_network(term, draw, made) for term in expression.terms)
    return Sum(expression.name, terms) if isinstance(expression, Sum) else terms[0]


def _starts(axes: Iterable[Axis], draw: _Draw) -> dict[Axis, int]:
    """First cells of axes that are laid on one another: one that lies behind another does so in the instance."""
    found: dict[Axis, int] = {}
    for axis in sorted(dict.fromkeys(axes), key=lambda a: a.start):
        ends = {other: evaluate(other.reach, draw.values) for other in found}
        before = {other: end for other, end in ends.items() if end <= axis.start}
        gap = axis.start - max(before.values(), default=0)
        reach = max((_axis(other, draw, found[other]).reach for other in before), default=0)
        found[axis] = reach + min(gap, _LARGEST_SLACK)
    return found


def _axis(axis: Axis, draw: _Draw, start: int | None = None) -> Axis:
    """The axis in an instance, from a start if that is known."""
    indices = tuple(draw.new(i) for i in axis.indices)
    if axis.is_group:
        return Axis(indices)
    slack = min(evaluate(normal(axis.size - axis.reach), draw.values), _LARGEST_SLACK)
    start = min(axis.start, _LARGEST_SLACK) if start is None else start
    made = Axis(indices, tuple(evaluate(s, draw.values) for s in axis.strides), start)
    return replace(made, size=made.reach + slack)


def _network(network: Network, draw: _Draw, made: Mapping[Axis, Axis]) -> Network:
    nodes: list[Node] = []
    for node in network.nodes:
        match node:
            case Tensor():
                nodes.append(replace(node, axes=tuple(made[a] for a in node.axes)))
            case Scale():
                nodes.append(node)
            case Select():
                nodes.append(node.map_indices(draw.new))
            case Pattern() | Delta():
                left = draw.new(node.left)
                terms = tuple((c, draw.new(i)) for c, i in node.terms)
                modulus = None if node.modulus is None else left.size
                nodes.append(pattern(node.name, left, terms, node.offset, modulus, node.mode))
    small = network.with_nodes(nodes, (made[a] for a in network.output))
    return small.bind(draw.values) if small.symbols else small
