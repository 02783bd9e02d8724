"""Padding with cells of the input as runs of it, rows of tables, and the transposes of both."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.profile import Profile
from tnconv.ir import Relational, Select
from tnconv.ir.nodes import runs
from tnconv.program import Call, Dims


def is_wrap(relation: Relational, profile: Profile) -> bool:
    """Whether a relation is padding that is written run by run: `i = j + offset`, folded, with integer sizes."""
    if relation.modulus is None or len(relation.terms) != 1 or relation.terms[0][0] != 1:
        return False
    if isinstance(relation, Select):
        return False
    if not (isinstance(relation.modulus, int) and isinstance(relation.terms[0][1].size, int)):
        return False
    found = islice(_runs(relation), int(profile.wraps) + 1)  # wide padding of few cells has no end of them
    return len(list(found)) <= profile.wraps


def _runs(relation: Relational) -> Iterator[tuple[int, int, int]]:
    """The runs (first cell of i, step, length) of a wrap, in the order of j."""
    return runs(relation.offset, relation.terms[0][1].size, relation.left.size, relation.mode)


def rows_of(em: Emitter, value: Value, select: Select) -> Value:
    """The rows of a table along one dimension."""
    value = em.isolate(value, [select.left])
    place, table = value.position(select.left), em.table(select)
    dims = (*value.dims[:place], (select.right,), *value.dims[place + 1 :])
    return selected(em, value, call("index_select", value, place, table), dims)


def selected(em: Emitter, value: Value, made: Call, dims: Dims) -> Value:
    """Write a selection along one dimension of a value."""
    return replace(em.make("selected", made, dims, fresh=True), conj=value.conj)


def spread_rows(em: Emitter, value: Value, select: Select) -> Value:
    """The transpose of a selection: the rows are added up where the table says, the other cells are zero."""
    value = em.isolate(value, [select.right])
    place, table = value.position(select.right), em.table(select)
    dims = (*value.dims[:place], (select.left,), *value.dims[place + 1 :])
    return em.make("spread", call("spread_rows", value, place, table, select.left.size), dims, fresh=True)


def wrapped(em: Emitter, value: Value, relation: Relational) -> Value:
    """Padding with cells of the input: its runs, one behind the other."""
    value = em.split(value)
    legs = tuple(relation.terms[0][1] if i == relation.left else i for i in value.legs)
    place, last = value.position(relation.left), len(legs) - 1
    parts = []
    for cell, step, length in _runs(relation):
        first, count = _cells_of(cell, step, length)
        part = call("narrow", value, place, first, count)
        if step < 0 and length > 1:
            part = call("flip", part, place)
        elif count < length:
            part = call("expand", part, (*(-1,) * place, length, *(-1,) * (last - place)))
        parts.append(part)
    made = call("cat", tuple(parts), place)
    return em.derive(value, "wrapped", made, singles(legs), note=relation.mode, copied=True)


def unwrapped(em: Emitter, value: Value, relation: Relational) -> Value:
    """The transpose of padding with cells of the input: the runs are added up."""
    value = em.split(value)
    inner = relation.terms[0][1]
    size = relation.left.size
    legs = tuple(relation.left if i == inner else i for i in value.legs)
    made = call("unwrapped", value, value.position(inner), size, tuple(_runs(relation)))
    return em.make("unwrapped", made, singles(legs), note=relation.mode, fresh=True)


def _cells_of(cell: int, step: int, length: int) -> tuple[int, int]:
    """The lowest cell of a run and how many cells it has; a run that repeats one cell has that one."""
    reach = step * (length - 1)
    return cell + min(reach, 0), abs(reach) + 1
