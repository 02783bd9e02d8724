"""Which index is shared out where somebody names an index, or a kind of indices."""

from collections.abc import Mapping

from tnconv.distributed.index_ranges import selected, unrolled
from tnconv.errors import OperationError, meant
from tnconv.ir import Expression, Index, Kind, Network, Tensor
from tnconv.ir.nodes import Delta, Pattern

KINDS = {kind.name.lower(): kind for kind in Kind if kind is not Kind.NONE}


def chosen_indices(expression: Expression, shards: Mapping[str, str]) -> dict[str, str]:
    """For each dimension of a mesh, the name of the index whose values are shared out along it.

    A name is that of an index, or else a kind (`"batch"`, `"channel"`, …), which stands for the first such index of the
    result, or the first that is summed. A convolved index that is summed stands for the position of the result that a
    relation ties it to, so that `{"i1": …}` shards the positions of input and output together.

    Args:
        expression: what is computed.
        shards: the dimension of the mesh for each name.

    Raises:
        OperationError: a name is neither, an index is selected by a table, lies otherwise in another term, or two
            names are for one dimension or mean one index.
    """
    found: dict[str, str] = {}
    for name, dimension in shards.items():
        index = _partner(expression, _named(expression, name))
        _check(expression, index, name)
        if dimension in found:
            raise OperationError(
                f"{name!r} and {found[dimension]!r} are both sharded along {dimension!r} of the mesh; give one index a "
                "dimension"
            )
        if index.name in found.values():
            raise OperationError(
                f"{name!r} stands for index {index.name!r}, which is sharded along another dimension; leave one out"
            )
        found[dimension] = index.name
    return found


def _named(expression: Expression, name: str) -> Index:
    opened = list(expression.terms[0].open_indices)
    every = [*opened, *(i for term in expression.terms for i in term.indices)]
    for index in every:
        if index.name == name:
            return index
    kind = KINDS.get(name)
    for index in every:
        if index.kind is kind and index.name not in selected(expression):
            return index
    names = list(dict.fromkeys(i.name for i in every))
    kinds = list(dict.fromkeys(i.kind.name.lower() for i in every if i.kind in KINDS.values()))
    raise OperationError(
        f"{name!r} is no index of {expression.name!r} and no kind of one{meant(name, kinds + names)}; its indices are "
        f"{', '.join(names)}; their kinds {', '.join(kinds)}"
    )


def _partner(expression: Expression, index: Index) -> Index:
    """The index that a convolved one is shared out with: a position of the result, or one that no argument has."""
    term = next(t for t in expression.terms if index in t.indices)
    if index in term.open_indices or index.kind is Kind.KERNEL:
        return index
    folded = [p.left for p in term.patterns if p.modulus is not None]
    reached = [i for i in _tied(term, index) if i not in folded]
    opened = [i for i in reached if i in term.open_indices]
    alone = [i for i in reached if not any(isinstance(n, Tensor) for n in term.nodes_with(i))]
    others = [*opened, *alone, *(reached if index in folded else ())]
    return others[0] if others else index


def _tied(term: Network, index: Index) -> list[Index]:
    """The positions that relations tie to an index, the nearest first; by deltas also what is no position."""
    found, edge = [index], [index]
    while edge:
        here = edge.pop(0)
        for relation in term.patterns:
            if here in relation.indices and isinstance(relation, Pattern | Delta):
                plain = isinstance(relation, Delta)
                more = [i for i in relation.indices if i not in found and (plain or i.kind is Kind.POSITION)]
                found += more
                edge += more
    return found[1:]


def _check(expression: Expression, index: Index, name: str) -> None:
    tables = selected(expression)
    if index.name in tables:
        raise OperationError(
            f"index {index.name!r}, for {name!r}, is selected by the rows {tables[index.name]!r}; shard another index"
        )
    for term in expression.terms:
        for relation in term.patterns:
            if (
                relation.left == index
                and relation.modulus is not None
                and not unrolled(term, relation, index)
            ):
                raise OperationError(
                    f"index {index.name!r}, for {name!r}, is folded by {relation.name!r} ({relation.relation_text()}); "
                    "shard another index, such as the position of the output"
                )
    places = [
        [n for n, a in enumerate(t.output) if index.name in _names(a.indices)] for t in expression.terms
    ]
    if any(place != places[0] for place in places) or len(places[0]) > 1:
        raise OperationError(
            f"index {index.name!r}, for {name!r}, lies on other axes of the result in another term; shard another index"
        )


def _names(indices: tuple[Index, ...]) -> list[str]:
    return [i.name for i in indices]
