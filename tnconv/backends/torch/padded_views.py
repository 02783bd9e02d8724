"""Window views: an index that a relation determines is exchanged for those that it is made of; nothing is copied."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.profile import Profile
from tnconv.errors import LoweringError
from tnconv.ir import Delta, Index, Relational, Size, fresh, product, reach
from tnconv.ir.affine import reach_of_sizes, reverse
from tnconv.ir.monomial import expanded
from tnconv.ir.size import normal
from tnconv.program import Call, Var
from tnconv.program.program_text import EVERY

# A slice that takes a whole dimension.
_ALL: tuple[int, int | None, int] = (0, None, 1)


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


def has_views(value: Value, relations: Sequence[Relational], profile: Profile) -> bool:
    """Whether windows of a value are views, with nothing in memory on the way that is larger than they are."""
    return all(
        all(_has_view(r, profile) for r in group)
        and (_is_free(value, group) or _has_small_view(value, group, profile))
        for group in tangled(relations)
    )


def tangled(relations: Sequence[Relational]) -> list[list[Relational]]:
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


def _has_small_view(value: Value, relations: Sequence[Relational], profile: Profile) -> bool:
    """Whether a view of windows and its diagonal take a small copy, of the padded cells, and none of the windows."""
    if any(a < 0 for r in relations for a, _ in r.terms):
        return False
    terms = dict.fromkeys(x for r in relations for _, x in r.terms)
    reaches = [found.length for r in relations if (found := reach(r.terms, r.offset))]
    shared = prod(i.size for i in terms if i in value.legs and isinstance(i.size, int))
    before = prod(r.left.size for r in relations if isinstance(r.left.size, int))
    wanted = prod(i.size for i in terms if isinstance(i.size, int))
    return bool(prod(reaches) * shared <= max(wanted, profile.grown * before * shared))


def _has_view(relation: Relational, profile: Profile) -> bool:
    found = reach(relation.terms, relation.offset)
    if relation.modulus is not None or found is None or not isinstance(relation.left.size, int):
        return False
    return bool(found.length <= profile.padded * (relation.left.size + 1))


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
    amounts = {relation.left: _around(relation) for relation in relations}
    spaced = [r for r in relations if _is_spaced(r) and max(amounts[r.left]) <= 0]
    if spaced:
        value = _every(em, value, {r.left: (*r.terms[0], *amounts[r.left]) for r in spaced})
    value = pad(em, value, {i: around for i, around in amounts.items() if i in value.legs})
    flips: list[Index] = []
    for relation in relations:
        flips += [x for a, x in relation.terms if a < 0 and x not in anyhow]
        if relation in spaced:
            continue
        left, right = amounts[relation.left]
        value = _one_window(em, value, relation, resized(relation.left, relation.left.size + left + right))
    if not flips:
        return value
    places = [value.position(i) for i in flips]
    return em.derive(value, "windows", call("flip", value, tuple(places)), value.dims, copied=True)


def _around(relation: Relational) -> tuple[int, int]:
    """Cells that a relation reaches before the first of its left index and behind the last; negative where it does not.

    Raises:
        LoweringError: their number depends on symbols.
    """
    found = reach_of_sizes(((a, x.size) for a, x in relation.terms), relation.offset)
    before, behind = normal(-found.low), normal(expanded(found.high - (relation.left.size - 1)))
    if not isinstance(before, int) or not isinstance(behind, int):
        raise LoweringError(
            f"windows of axis {relation.left.name!r} reach {before} cells before and {behind} behind it, which depends "
            "on symbols; give integer sizes"
        )
    return before, behind


def _is_spaced(relation: Relational) -> bool:
    """Whether a relation takes cells some steps apart."""
    return len(relation.terms) == 1 and abs(relation.terms[0][0]) > 1 and relation.terms[0][1].size != 0


def _every(em: Emitter, value: Value, taken: dict[Index, tuple[int, Index, int, int]]) -> Value:
    """The view of cells some steps apart, on all dimensions at once.

    Args:
        em: the statements.
        value: each index of `taken` is alone on its dimension.
        taken: the step, the index of the cells, and what is reached before the first and behind the last, both negative
            or zero.
    """
    slices, made = [_ALL] * len(value.dims), list(value.dims)
    for left, (step, index, before, behind) in taken.items():
        place = value.position(left)
        slices[place] = (-before, behind if -behind >= abs(step) else None, abs(step))
        made[place] = (index,)
    last = max(value.position(left) for left in taken)
    found = _diagonals(em, value, "windows", call(EVERY, value, tuple(slices[: last + 1])), made)
    begun = all((first, end) == (0, None) for first, end, _ in slices) and len(found.dims) == len(slices)
    return replace(found, stepped=(value.name, tuple(step for *_, step in slices))) if begun else found


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
            source = call(EVERY, source, (*[_ALL] * dim, (0, None, abs(coefficient))))
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
