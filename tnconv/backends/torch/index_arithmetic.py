"""Positions of cells, computed by a program: affine sums of ramps, folds of padding, masks of what is in range."""

from collections.abc import Mapping, Sequence
from typing import Any

from tnconv.backends.torch.emit import Emitter, call
from tnconv.ir import Index, Relational, Select, Size
from tnconv.program import Call, Var


def cells(
    em: Emitter,
    relation: Relational,
    legs: Sequence[Index],
    like: Var,
    known: Mapping[Index, Var] | None = None,
) -> Var:
    """A variable with the value of a relation's right side, one dimension for each of `legs`.

    `like` is a tensor on the device; `known` are indices with a variable that holds their value already, which may lie
    out of range where something else is zero.
    """
    known = known or {}
    if isinstance(relation, Select):
        table, place = em.table(relation), known.get(relation.right)
        return em.helper(
            "cell", along(table, relation.right, legs) if place is None else call("rows_at", table, place)
        )
    parts = [(a, known[x] if x in known else ramp(x, legs, like)) for a, x in relation.terms]
    found = affine(parts, relation.offset)
    if not parts:
        found = call("full", (1,) * len(legs), relation.offset, device=call("device", like))
    if relation.modulus is not None:
        found = _folded(found, relation.modulus, relation.mode)
    return em.helper("cell", found)


def both(masks: Sequence[Var]) -> Var | Call:
    """The mask of the cells that all masks have."""
    found: Var | Call = masks[0]
    for mask in masks[1:]:
        found = call("and", found, mask)
    return found


def affine(parts: Sequence[tuple[int, Var | Call]], offset: int) -> Call:
    """`a·x + b·y + offset` of (coefficient, positions)."""
    total: Any = None
    for factor, positions in parts:
        part = call("mul", factor, positions)
        total = part if total is None else call("add", total, part)
    return call("add", total, offset)


def linear(places: Sequence[tuple[Var | Call, Size]]) -> Var | Call:
    """The position of a cell among all, row-major, of its position along each axis and the size of that."""
    (found, _), *others = places
    for place, size in others:
        found = call("add", call("mul", found, size), place)
    return found


def _folded(found: Call, modulus: Size, mode: str) -> Call:
    """Positions folded into `[0, modulus)`."""
    if mode == "circular":
        return call("mod", found, modulus)
    last = modulus - 1
    if mode == "replicate":
        return call("clamp", found, 0, last)
    wave = call("mod", found, call("max", 2 * last, 1))
    return call("sub", last, call("abs", call("sub", wave, last)))  # a triangle wave


def along(positions: Var | Call, index: Index, legs: Sequence[Index]) -> Call:
    """A vector over an index, at the place of that among `legs`."""
    return call("view", positions, tuple(-1 if leg == index else 1 for leg in legs))


def ramp(index: Index, legs: Sequence[Index], like: Var) -> Call:
    """The values 0, 1, … of an index along its place among `legs`."""
    return along(call("arange", index.size, device=call("device", like)), index, legs)


def inside(em: Emitter, cell: Var, size: Size) -> Var:
    """A variable with the mask of the cells that lie in the range of an index."""
    return em.helper("inside", call("and", call("ge", cell, 0), call("lt", cell, size)))
