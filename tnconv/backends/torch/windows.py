"""Relations as views: an index that a relation determines is exchanged for the indices it is made of.

`gather` reads: `x[i]` becomes `x[o, k]` with `i = s*o + d*k - p`, by padding and a window view (no copy
of the windows), or by index arithmetic where no view exists. `scatter` writes: the transpose.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.ir import Delta, Index, Relational, Select, Size, fresh, product, reach
from tnconv.ir.affine import reach_of_sizes, reverse
from tnconv.ir.nodes import runs
from tnconv.program import Call, Dims, Var
from tnconv.program.program_text import EVERY

# A view pads an axis to all the cells that its windows reach; beyond this factor cells are picked one by one.
MOST_PADDED = 16
# Padding is written run by run; an axis that folds more often (wide padding of few cells) is picked cell by cell.
MOST_RUNS = 16
_MOST_GROWN = (
    4  # times as many cells may an operand have once it is padded for a view of which a diagonal is read
)


def resized(index: Index, size: Size) -> Index:
    """The index of a dimension that was padded or cropped to `size`."""
    return index.sized(size)


def pad(em: Emitter, value: Value, amounts: dict[Index, tuple[int, int]]) -> Value:
    """Pad indices with zeros on (left, right); negative amounts crop. Each must be alone on its dimension.

    A dimension that changes its size is on the result as `resized` index.
    """
    amounts = {i: a for i, a in amounts.items() if a != (0, 0)}
    if not amounts:
        return value
    sizes = {i: i.size + left + right for i, (left, right) in amounts.items()}
    dims = tuple(
        (resized(dim[0], sizes[dim[0]]),) if len(dim) == 1 and dim[0] in sizes else dim for dim in value.dims
    )
    source: Var | Call = Var(value.name)
    if all(left <= 0 and right <= 0 for left, right in amounts.values()):
        for index, (left, _) in amounts.items():
            source = call("narrow", source, value.position(index), -left, sizes[index])
        assert isinstance(source, Call)
        return em.derive(value, "narrow", source, dims, contiguous=False)
    for index, (left, right) in amounts.items():
        if max(-left, -right) > index.size:  # no cell is inside: F.pad refuses, so begin with none
            source = call("narrow", source, value.position(index), 0, 0)
            amounts[index] = (0, sizes[index])
    flat: list[int] = []
    for dim in reversed(value.dims[min(value.position(i) for i in amounts) :]):
        flat += amounts.get(dim[0], (0, 0)) if len(dim) == 1 else (0, 0)
    em.allocated("padding", product(i.size for dim in dims for i in dim))
    return em.derive(value, "padded", call("pad", source, tuple(flat)), dims, copied=True)


def gather(
    em: Emitter, value: Value, relations: Sequence[Relational], anyhow: Collection[Index] = ()
) -> Value:
    """Exchange the left index of each relation for its terms, as a view where possible.

    A term that is on the value already, or in a second relation, is matched by a diagonal.

    Args:
        em: the statements.
        value: has the left indices.
        relations: each solved for an index of the value.
        anyhow: indices whose values may stand in any order, for they are only summed.
    """
    views: list[Relational] = []
    for group in _tangled(relations):
        if len(group) == 1 and is_wrap(group[0]):
            value = _wrap(em, value, group[0])
        elif len(group) == 1 and isinstance(group[0], Select) and group[0].right not in value.legs:
            value = _select(em, value, group[0])
        elif has_views(value, group):
            views += group
        else:
            value = _gather_cells(em, value, group)
    return window_view(em, value, views, anyhow) if views else value


def has_views(value: Value, relations: Sequence[Relational]) -> bool:
    """Whether windows of a value are views, with nothing in memory on the way that is larger than they are."""
    return all(
        all(_has_view(r) for r in group) and (_is_free(value, group) or _has_small_view(value, group))
        for group in _tangled(relations)
    )


def _tangled(relations: Sequence[Relational]) -> list[list[Relational]]:
    """The relations in groups that have terms in common, however remotely."""
    groups: list[list[Relational]] = []
    for relation in relations:
        terms = {x for _, x in relation.terms}
        near = [g for g in groups if any(terms & {x for _, x in r.terms} for r in g)]
        groups = [g for g in groups if g not in near] + [[*(r for g in near for r in g), relation]]
    return groups


def _is_free(value: Value, relations: Sequence[Relational]) -> bool:
    """Whether the terms are on one relation each, and not on the value."""
    return len(relations) == 1 and not any(x in value.legs for _, x in relations[0].terms)


def _has_small_view(value: Value, relations: Sequence[Relational]) -> bool:
    """Whether a view of windows and its diagonal take a small copy, of the padded cells, and none of the windows."""
    if any(a < 0 for r in relations for a, _ in r.terms):
        return False
    terms = dict.fromkeys(x for r in relations for _, x in r.terms)
    reaches = [found.length for r in relations if (found := reach(r.terms, r.offset))]
    shared = prod(i.size for i in terms if i in value.legs and isinstance(i.size, int))
    before = prod(r.left.size for r in relations if isinstance(r.left.size, int))
    wanted = prod(i.size for i in terms if isinstance(i.size, int))
    return bool(prod(reaches) * shared <= max(wanted, _MOST_GROWN * before * shared))


def _has_view(relation: Relational) -> bool:
    found = reach(relation.terms, relation.offset)
    if relation.modulus is not None or found is None or not isinstance(relation.left.size, int):
        return False
    return bool(found.length <= MOST_PADDED * relation.left.size + MOST_PADDED)


def window_view(
    em: Emitter, value: Value, relations: Sequence[Relational], anyhow: Collection[Index] = ()
) -> Value:
    """Exchange the left index of each relation for its terms by padding and a view of the windows.

    Arguments as for `gather`.
    """
    value = em.isolate(value, (i for r in relations for i in r.indices))
    turned = [r.left for r in relations if _is_turned(r, anyhow)]
    if turned:
        places = [value.position(i) for i in turned]
        value = em.derive(value, "flip", call("flip", value, tuple(places)), value.dims, copied=True)
        relations = [reverse(r, r.left) if r.left in turned else r for r in relations]
    amounts: dict[Index, tuple[int, int]] = {}
    for relation in relations:
        found = reach(relation.terms, relation.offset)
        assert found is not None
        amounts[relation.left] = (-found.low, found.high - (relation.left.size - 1))
    value = pad(em, value, amounts)
    flips: list[Index] = []
    for relation in relations:
        left, right = amounts[relation.left]
        value = _one_window(em, value, relation, resized(relation.left, relation.left.size + left + right))
        flips += [x for a, x in relation.terms if a < 0 and x not in anyhow]
    if not flips:
        return value
    places = [value.position(i) for i in flips]
    return em.derive(value, "windows", call("flip", value, tuple(places)), value.dims, copied=True)


def _is_turned(relation: Relational, anyhow: Collection[Index]) -> bool:
    """Whether it takes fewer copies to reverse the cells than to reverse the windows."""
    signs = {a > 0 for a, x in relation.terms if x not in anyhow}
    return signs == {False}


def _one_window(em: Emitter, value: Value, relation: Relational, padded: Index) -> Value:
    """The view of one padded dimension whose cell 0 is the lowest cell that the relation reaches.

    A term with a negative coefficient is in reverse order.
    """
    place = value.position(padded)
    terms = sorted(relation.terms, key=lambda t: -abs(t[0]))
    source: Var | Call = Var(value.name)
    dim, overlaps = place, False
    made = list(value.dims)
    if not terms:
        made.pop(place)
        return em.derive(value, "cell", call("select", source, place, 0), tuple(made), contiguous=False)
    for number, (coefficient, index) in enumerate(terms):
        rest = reach_of_sizes((abs(a), x.size) for a, x in terms[number + 1 :]).length
        overlaps |= abs(coefficient) < rest
        if number < len(terms) - 1:
            source = call("unfold", source, dim, rest, abs(coefficient))
        elif abs(coefficient) > 1:
            source = call(EVERY, source, dim, abs(coefficient))
        if number == 0:
            made[place] = (index,)
        else:
            made.append((index,))
        dim = len(value.dims) + number
    return _diagonals(em, value, "windows", source, made, overlaps=overlaps)


def _diagonals(
    em: Emitter,
    value: Value,
    suffix: str,
    source: Var | Call,
    made: list[tuple[Index, ...]],
    *,
    overlaps: bool = False,
) -> Value:
    """Write an expression; dimensions that carry one index twice are matched by their diagonal."""
    while twice := next((dim for dim in made if dim and made.count(dim) > 1), None):
        first = made.index(twice)
        second = made.index(twice, first + 1)
        source = call("diagonal", source, 0, first, second)
        made = [dim for p, dim in enumerate(made) if p not in (first, second)] + [twice]
    if isinstance(source, Var):
        return replace(value, dims=tuple(made), contiguous=False, fresh=False)
    return em.derive(value, suffix, source, tuple(made), contiguous=False, overlaps=overlaps)


def diagonal(em: Emitter, value: Value, delta: Delta, wanted: Sequence[Index]) -> Value:
    """Both indices of a delta on a value that has one of them or none: zeros beside the diagonal.

    Args:
        em: the statements.
        value: with any of its legs in any order.
        delta: of two indices of the output.
        wanted: the output's legs, whose order the result has.
    """
    legs = (*value.legs, *(i for i in delta.indices if i not in value.legs))
    ordered = [i for i in wanted if i in legs]
    others = [i for i in ordered if i not in delta.indices]
    kept = next((i for i in delta.indices if i in value.legs), delta.left)
    value = em.order(broadcast(em, value, (*others, kept)), (*others, kept))
    first, second = sorted(ordered.index(i) for i in delta.indices)
    made = call("diag_embed", value, 0, first, second)
    return em.derive(value, "diagonal", made, singles(ordered), copied=True)


def match_diagonals(em: Emitter, value: Value) -> Value:
    """The value with each index on one dimension only: `x[i, i]` becomes its diagonal."""
    legs = list(value.legs)
    if len(set(legs)) == len(legs):
        return value
    names: set[str] = {i.name for i in legs}
    unique: list[Index] = []
    for leg in legs:  # reshape with distinct stand-ins, as arrange wants distinct indices
        if leg in unique:
            stand_in = leg.named(fresh(leg.name, names))
            names.add(stand_in.name)
            unique.append(stand_in)
        else:
            unique.append(leg)
    counter = iter(unique)
    distinct = replace(
        value, dims=tuple(tuple(next(counter) for _ in dim) for dim in value.dims), fresh=False
    )
    flat = em.split(distinct)
    return _diagonals(em, flat, "diagonal", Var(flat.name), list(singles(legs)))


def broadcast(em: Emitter, value: Value, output: Sequence[Index]) -> Value:
    """Expand a value over the output's indices that it lacks."""
    missing = [i for i in output if i not in value.legs]
    if not missing:
        return value
    value = em.split(value)
    dims = singles([*missing, *value.legs])
    made = call("expand", value, em.sizes(dims))
    return em.derive(value, "wide", made, dims, contiguous=False, overlaps=True)


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


def is_wrap(relation: Relational) -> bool:
    """Whether a relation is padding that is written run by run: `i = j + offset`, folded, with integer sizes."""
    if relation.modulus is None or len(relation.terms) != 1 or relation.terms[0][0] != 1:
        return False
    if isinstance(relation, Select):
        return False
    if not (isinstance(relation.modulus, int) and isinstance(relation.terms[0][1].size, int)):
        return False
    return len(_runs(relation)) <= MOST_RUNS


def _runs(relation: Relational) -> list[tuple[int, int, int]]:
    """The runs (first cell of i, step, length) of a wrap, in the order of j; at most one more than `MOST_RUNS`."""
    length = relation.terms[0][1].size
    found = runs(relation.offset, length, relation.left.size, relation.mode)
    return list(islice(found, MOST_RUNS + 1))


def _select(em: Emitter, value: Value, select: Select) -> Value:
    """The rows of a table along one dimension."""
    value = em.isolate(value, [select.left])
    place, table = value.position(select.left), em.table(select)
    dims = (*value.dims[:place], (select.right,), *value.dims[place + 1 :])
    return selected(em, value, call("index_select", value, place, table), dims)


def selected(em: Emitter, value: Value, made: Call, dims: Dims) -> Value:
    """Write a selection along one dimension of a value."""
    return replace(em.make("selected", made, dims, fresh=True), conj=value.conj)


def _spread(em: Emitter, value: Value, select: Select) -> Value:
    """The transpose of a selection: the rows are added up where the table says, the other cells are zero."""
    value = em.isolate(value, [select.right])
    place, table = value.position(select.right), em.table(select)
    dims = (*value.dims[:place], (select.left,), *value.dims[place + 1 :])
    return em.make("spread", call("spread_rows", value, place, table, select.left.size), dims, fresh=True)


def _wrap(em: Emitter, value: Value, relation: Relational) -> Value:
    """Padding with cells of the input: its runs, one behind the other."""
    value = em.split(value)
    legs = tuple(relation.terms[0][1] if i == relation.left else i for i in value.legs)
    if len(set(legs)) < len(legs):
        return _gather_cells(em, value, [relation])
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


def _unwrap(em: Emitter, value: Value, relation: Relational) -> Value:
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


def _gather_cells(em: Emitter, value: Value, relations: Sequence[Relational]) -> Value:
    """One gather at computed places, of the size of its result; places outside read a zero behind the cells."""
    value = em.split(value)
    legs = list(dict.fromkeys(x for r in relations for _, x in r.terms))
    lefts = [r.left for r in relations]
    shared = [i for i in value.legs if i in legs and i not in lefts]
    kept = [i for i in value.legs if i not in lefts and i not in shared]
    value = em.order(value, [*lefts, *shared, *kept])
    like = Var(value.name)
    masks: list[Var] = []
    places: list[tuple[Var | Call, Size]] = []
    for relation in relations:
        cell = cells(em, relation, legs, like)
        places.append((cell, relation.left.size))
        if relation.modulus is None:
            masks.append(inside(em, cell, relation.left.size))
    places += [(ramp(index, legs, like), index.size) for index in shared]
    found = linear(places)
    if masks:
        found = call("where", both(masks), found, product(i.size for i in (*lefts, *shared)))
    position = em.helper("position", found) if isinstance(found, Call) else found
    flat = em.arrange(value, ((*lefts, *shared), tuple(kept)))
    dims = singles([*legs, *kept])
    made = call("reshape", call("picked", flat, position), em.sizes(dims))
    return replace(em.make("cells", made, dims, fresh=True), conj=value.conj)


def scatter(em: Emitter, value: Value, relation: Relational, keep: Sequence[Index]) -> Value:
    """Add the cells of a value up at the left index of a relation; `keep` of its terms stay as well.

    The value is expanded over the terms that it lacks.
    """
    legs = [x for _, x in relation.terms]
    value = broadcast(em, value, legs)
    if is_wrap(relation) and not keep:
        return _unwrap(em, value, relation)
    if isinstance(relation, Select) and not keep:
        return _spread(em, value, relation)
    value = em.split(value)
    rest = [i for i in value.legs if i not in legs]
    value = em.order(value, [*legs, *rest])
    like = Var(value.name)
    cell = cells(em, relation, legs, like)
    mask = inside(em, cell, relation.left.size)
    # One linear position for (kept legs, left); cells out of range go to a last row that is cut off.
    position = cell
    stride: Size = relation.left.size
    for index in reversed(list(keep)):
        position = em.helper("position", call("add", position, call("mul", stride, ramp(index, legs, like))))
        stride = stride * index.size
    target = em.helper("target", call("flatten", call("where", mask, position, stride)))
    shape = (product(i.size for i in legs), product(i.size for i in rest))
    flat = em.helper("flat", call("reshape", value, shape))
    dims = (*singles([*keep, relation.left]), *singles(rest))
    return em.make("folded", call("reshape", call("added", flat, target, stride), em.sizes(dims)), dims)
