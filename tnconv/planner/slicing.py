"""Indices that can be cut into chunks, so that one program runs in a loop and needs less memory at once.

An index that is in no relation, and lies outermost on one axis of each argument that has it, takes a new size
symbol, the size of a chunk. What is computed is linear: over a summed index the results of the chunks are added; along
an open one they lie side by side. Steps that do not have the index are done again for every chunk.
"""

from collections.abc import Iterator
from dataclasses import replace

from tnconv.ir import Expression, Index, Kind, Network, Relational, Scale, Size, Sum, Tensor, fresh, symbol
from tnconv.ir.monomial import ONE, Scalar
from tnconv.ir.size import symbol_names
from tnconv.planner.plan import Plan, Slice

_FIRST = (Kind.BATCH, Kind.VECTOR)  # no weight has them


def sliceable(expression: Expression, packed: int | None = None) -> list[str]:
    """Names of the indices that can be cut: those of examples and vectors first, then the longest.

    Args:
        expression: what is computed.
        packed: of a result whose lower triangle is packed, the axes in front, which alone can be cut.
    """
    first = expression.terms[0]
    found = [
        i for i in first.ordered.indices if i.size != 1 and all(_can_cut(t, i) for t in expression.terms)
    ]
    found = [i for i in found if _lies_alike(expression, i) and _one_scale(expression, i)]
    if any(not term.nodes_with(i) for term in expression.terms for i in term.open_indices):
        found = [i for i in found if i in first.open_indices]  # a result that is expanded cannot be added to
    if packed is not None:
        found = [i for i in found if not any(i in axis.indices for axis in first.output[packed:])]

    def rank(index: Index) -> tuple[bool, int]:
        return index.kind not in _FIRST, -index.size if isinstance(index.size, int) else 0

    return [index.name for index in sorted(found, key=rank)]


def _can_cut(term: Network, index: Index) -> bool:
    """Whether a term has the index, in no relation and outermost on its axes."""
    nodes = term.nodes_with(index)
    if any(isinstance(node, Relational) for node in nodes):
        return False
    axes = [axis for node in nodes if isinstance(node, Tensor) for axis in node.axes if index in axis.indices]
    axes += [axis for axis in term.output if index in axis.indices]
    if not axes:
        return False
    return all(
        axis.is_group and axis.indices[0] == index and isinstance(axis.strides[0], int) for axis in axes
    )


def _lies_alike(expression: Expression, index: Index) -> bool:
    """Whether every tensor that reads an argument has the index on the same axis, and some argument has it."""
    places: dict[str, list[int]] = {}
    for term in expression.terms:
        for tensor in _readers(term, index):
            here = [place for place, axis in enumerate(tensor.axes) if index in axis.indices]
            if places.setdefault(tensor.argument, here) != here or len(here) > 1:
                return False
    outputs = {tuple(p for p, a in enumerate(t.output) if index in a.indices) for t in expression.terms}
    return any(places.values()) and len(outputs) == 1 and len(next(iter(outputs))) <= 1


def _readers(term: Network, index: Index) -> list[Tensor]:
    """The tensors that read an argument which some tensor with the index reads."""
    holders = [node for node in term.nodes_with(index) if isinstance(node, Tensor)]
    return [tensor for name in dict.fromkeys(h.argument for h in holders) for tensor in term.reading(name)]


def _one_scale(expression: Expression, index: Index) -> bool:
    """Whether a scale that depends on the size is that of the whole result."""
    names = set(symbol_names(index.size))
    scales = [term.scale for term in expression.terms]
    depends = any(names & set(symbol_names(scale)) for scale in scales)
    return not depends or all(scale == scales[0] for scale in scales)


def cut(expression: Expression, name: str) -> tuple[Expression, str, Scalar]:
    """What is computed for a chunk of an index.

    Args:
        expression: the whole.
        name: of the index, one of `sliceable`.

    Returns:
        The expression for a chunk, the symbol of the size of a chunk, and what the total of all chunks is to be
        multiplied by: the scale of the expression if it depends on the size of the index, else 1.
    """
    whole = next(i for i in expression.terms[0].indices if i.name == name)
    part = fresh(f"{name}_part", {*expression.symbols, *_names(expression)})
    piece = whole.sized(symbol(part))
    scale = expression.terms[0].scale
    moved = bool(set(symbol_names(scale)) & set(symbol_names(whole.size)))

    def change(term: Network) -> Network:
        made = term.substitute({whole: piece})
        return made.with_nodes(n for n in made.nodes if not (moved and isinstance(n, Scale)))

    made = expression.map_terms(change) if isinstance(expression, Sum) else change(expression)
    return made, part, scale if moved else ONE


def _names(expression: Expression) -> Iterator[str]:
    for term in expression.terms:
        yield from (node.name for node in term.nodes)
        yield from (index.name for index in term.indices)


def with_slices(plan: Plan, slices: tuple[Slice, ...], scale: Scalar) -> Plan:
    """The plan of a chunk as that of the whole: its steps run for every chunk, the total is scaled."""
    return replace(plan, slices=slices, scale=scale)


def of_one_chunk(plan: Plan) -> Plan:
    """The steps of a plan with slices as a plan of their own, called `name_part`."""
    return replace(plan, name=f"{plan.name}_part", slices=(), scale=ONE)


def size_of(expression: Expression, name: str) -> Size:
    """The size of an index."""
    return next(i.size for i in expression.terms[0].indices if i.name == name)
