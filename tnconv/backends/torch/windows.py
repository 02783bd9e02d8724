"""Relations as views: an index that a relation determines is exchanged for the indices it is made of.

`gather` reads: `x[i]` becomes `x[o, k]` with `i = s*o + d*k - p`, by padding and a window view (no copy
of the windows), or by index arithmetic where no view exists. `scatter` writes: the transpose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tnconv.backends.torch.emit import Emitter, Value, singles
from tnconv.ir import Delta, Index, Relational, Size, fresh, product
from tnconv.ir.nodes import runs

# A view pads an axis to all the cells that its windows reach; beyond this factor cells are picked one by one.
MOST_PADDED = 16
# Padding is written run by run; an axis that folds more often (wide padding of few cells) is picked cell by cell.
MOST_RUNS = 16


@dataclass(frozen=True, slots=True)
class Span:
    """The cells that `Σ |a|·x + offset` reaches once negative terms are flipped."""

    low: int
    high: int

    @property
    def length(self) -> int:
        """Number of cells from the lowest to the highest."""
        return self.high - self.low + 1


def span(relation: Relational) -> Span | None:
    """Lowest and highest value of a relation's right side; None where a size is symbolic."""
    low = high = relation.offset
    for coefficient, index in relation.terms:
        if not isinstance(index.size, int):
            return None
        reach = coefficient * (index.size - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return Span(low, high)


def resized(index: Index, size: Size) -> Index:
    """The index of a dimension that was padded or cropped to `size`."""
    return Index(index.name, size)


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
    expression = value.name
    if all(left <= 0 and right <= 0 for left, right in amounts.values()):
        for index, (left, _) in amounts.items():
            expression += f".narrow({value.position(index)}, {-left}, {em.text(sizes[index])})"
        return em.derive(value, "narrow", expression, dims, contiguous=False)
    for index, (left, right) in amounts.items():
        if max(-left, -right) > index.size:  # no cell is inside: F.pad refuses, so begin with none
            expression += f".narrow({value.position(index)}, 0, 0)"
            amounts[index] = (0, sizes[index])
    flat: list[int] = []
    for dim in reversed(value.dims[min(value.position(i) for i in amounts) :]):
        flat += amounts.get(dim[0], (0, 0)) if len(dim) == 1 else (0, 0)
    em.allocated("padding", product(i.size for dim in dims for i in dim))
    return em.derive(value, "padded", f"F.pad({expression}, ({', '.join(map(str, flat))}))", dims)


def gather(em: Emitter, value: Value, relations: Sequence[Relational]) -> Value:
    """Exchange the left index of each relation for its terms, as a view where possible.

    A term that is on the value already is matched by a diagonal.
    """
    views = [r for r in relations if _has_view(r)]
    wraps = [r for r in relations if is_wrap(r)]
    rest = [r for r in relations if r not in views and r not in wraps]
    for relation in wraps:
        value = _wrap(em, value, relation)
    if views:
        value = window_view(em, value, views)
    for relation in rest:
        value = _gather_cells(em, value, relation)
    return value


def _has_view(relation: Relational) -> bool:
    reach = span(relation)
    if relation.modulus is not None or reach is None or not isinstance(relation.left.size, int):
        return False
    return reach.length <= MOST_PADDED * relation.left.size + MOST_PADDED


def window_view(em: Emitter, value: Value, relations: Sequence[Relational]) -> Value:
    """Exchange the left index of each relation for its terms by padding and a view of the windows."""
    value = em.isolate(value, (i for r in relations for i in r.indices))
    amounts: dict[Index, tuple[int, int]] = {}
    for relation in relations:
        reach = span(relation)
        assert reach is not None
        amounts[relation.left] = (-reach.low, reach.high - (relation.left.size - 1))
    value = pad(em, value, amounts)
    for relation in relations:
        left, right = amounts[relation.left]
        value = _one_window(em, value, relation, resized(relation.left, relation.left.size + left + right))
    return value


def _one_window(em: Emitter, value: Value, relation: Relational, padded: Index) -> Value:
    """The view of one padded dimension whose cell 0 is the lowest cell that the relation reaches."""
    place = value.position(padded)
    terms = sorted(relation.terms, key=lambda t: -abs(t[0]))
    rank = len(value.dims)
    expression, dim, flips = value.name, place, []
    made = list(value.dims)
    if not terms:
        made.pop(place)
        return em.derive(value, "cell", f"{expression}.select({place}, 0)", tuple(made), contiguous=False)
    for number, (coefficient, index) in enumerate(terms):
        rest = sum(abs(a) * (x.size - 1) for a, x in terms[number + 1 :]) + 1
        if number == len(terms) - 1:
            if abs(coefficient) > 1:
                where = ":, " * dim
                expression += f"[{where}::{abs(coefficient)}]"
        else:
            expression += f".unfold({dim}, {rest}, {abs(coefficient)})"
        if number == 0:
            made[place] = (index,)
        else:
            made.append((index,))
        if coefficient < 0:
            flips.append(place if number == 0 else rank + number - 1)
        dim = rank + number
    if flips:
        expression += f".flip({flips})"
    return _diagonals(em, value, "windows", expression, made, copied=bool(flips))


def _diagonals(
    em: Emitter,
    value: Value,
    suffix: str,
    expression: str,
    made: list[tuple[Index, ...]],
    *,
    copied: bool = False,
) -> Value:
    """Write an expression; dimensions that carry one index twice are matched by their diagonal."""
    contiguous = False
    while twice := next((dim for dim in made if dim and made.count(dim) > 1), None):
        first = made.index(twice)
        second = made.index(twice, first + 1)
        expression += f".diagonal(0, {first}, {second})"
        made = [dim for p, dim in enumerate(made) if p not in (first, second)] + [twice]
    return em.derive(value, suffix, expression, tuple(made), contiguous=contiguous, copied=copied)


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
    text = f"torch.diag_embed({value.name}, 0, {first}, {second})"
    return em.derive(value, "diagonal", text, singles(ordered), copied=True)


def match_diagonals(em: Emitter, value: Value) -> Value:
    """The value with each index on one dimension only: `x[i, i]` becomes its diagonal."""
    legs = list(value.legs)
    if len(set(legs)) == len(legs):
        return value
    names: set[str] = {i.name for i in legs}
    unique: list[Index] = []
    for leg in legs:  # reshape with distinct stand-ins, as arrange wants distinct indices
        if leg in unique:
            stand_in = Index(fresh(leg.name, names), leg.size)
            names.add(stand_in.name)
            unique.append(stand_in)
        else:
            unique.append(leg)
    counter = iter(unique)
    distinct = Value(
        value.name, tuple(tuple(next(counter) for _ in dim) for dim in value.dims), value.contiguous
    )
    flat = em.split(distinct)
    return _diagonals(em, flat, "diagonal", flat.name, list(singles(legs)))


def broadcast(em: Emitter, value: Value, output: Sequence[Index]) -> Value:
    """Expand a value over the output's indices that it lacks."""
    missing = [i for i in output if i not in value.legs]
    if not missing:
        return value
    value = em.split(value)
    dims = singles([*missing, *value.legs])
    return em.derive(value, "wide", f"{value.name}.expand{em.shape(dims)}", dims, contiguous=False)


def cells(
    em: Emitter,
    relation: Relational,
    legs: Sequence[Index],
    like: str,
    known: Mapping[Index, str] | None = None,
) -> str:
    """A variable with the value of a relation's right side, one dimension for each of `legs`.

    `like` is a tensor on the device; `known` are indices with a variable that holds their value already.
    """
    known = known or {}
    parts = [f"{a} * {known[x] if x in known else ramp(em, x, legs, like)}" for a, x in relation.terms]
    text = " + ".join([*parts, str(relation.offset)])
    if not parts:
        text = f"torch.full(({'1, ' * len(legs)}), {relation.offset}, device={like}.device)"
    if relation.modulus is not None:
        text = _folded(em, text, relation.modulus, relation.mode)
    return em.scalar("cell", text, [like, *(known[x] for _, x in relation.terms if x in known)])


def _folded(em: Emitter, text: str, modulus: Size, mode: str) -> str:
    """The text of positions folded into `[0, modulus)`."""
    if mode == "circular":
        return f"({text}) % {em.text(modulus)}"
    last = em.text(modulus - 1)
    if mode == "replicate":
        return f"({text}).clamp(0, {last})"
    return f"{last} - (({text}) % max({em.text(2 * (modulus - 1))}, 1) - ({last})).abs()"  # a triangle wave


def ramp(em: Emitter, index: Index, legs: Sequence[Index], like: str) -> str:
    """The values 0, 1, … of an index along its place among `legs`."""
    view = ", ".join("-1" if leg == index else "1" for leg in legs)
    return f"torch.arange({em.text(index.size)}, device={like}.device).view({view})"


def inside(em: Emitter, cell: str, size: Size) -> str:
    """A variable with the mask of the cells that lie in the range of an index."""
    return em.scalar("inside", f"({cell} >= 0) & ({cell} < {em.text(size)})", [cell])


def is_wrap(relation: Relational) -> bool:
    """Whether a relation is padding that is written run by run: `i = j + offset`, folded, with integer sizes."""
    if relation.modulus is None or len(relation.terms) != 1 or relation.terms[0][0] != 1:
        return False
    if not (isinstance(relation.modulus, int) and isinstance(relation.terms[0][1].size, int)):
        return False
    return len(_runs(relation)) <= MOST_RUNS


def _runs(relation: Relational) -> list[tuple[int, int, int]]:
    """The runs (first cell of i, step, length) of a wrap, in the order of j; at most one more than `MOST_RUNS`."""
    length = relation.terms[0][1].size
    found = runs(relation.offset, length, relation.left.size, relation.mode)
    return list(islice(found, MOST_RUNS + 1))


def _wrap(em: Emitter, value: Value, relation: Relational) -> Value:
    """Padding with cells of the input: its runs, one behind the other."""
    value = em.split(value)
    legs = tuple(relation.terms[0][1] if i == relation.left else i for i in value.legs)
    if len(set(legs)) < len(legs):
        return _gather_cells(em, value, relation)
    place, last = value.position(relation.left), len(legs) - 1
    parts = []
    for cell, step, length in _runs(relation):
        first, count = _cells_of(cell, step, length)
        part = f"{value.name}.narrow({place}, {first}, {count})"
        if step < 0 and length > 1:
            part += f".flip({place})"
        elif count < length:
            part += f".expand({'-1, ' * place}{length}{', -1' * (last - place)})"
        parts.append(part)
    text = f"torch.cat(({', '.join(parts)},), {place})"
    return em.derive(value, "wrapped", text, singles(legs), note=relation.mode)


def _unwrap(em: Emitter, value: Value, relation: Relational) -> Value:
    """The transpose of padding with cells of the input: the runs are added up."""
    value = em.split(value)
    inner = relation.terms[0][1]
    place, last = value.position(inner), len(value.dims) - 1
    parts, start = [], 0
    for cell, step, length in _runs(relation):
        first, count = _cells_of(cell, step, length)
        part = f"{value.name}.narrow({place}, {start}, {length})"
        if step < 0 and length > 1:
            part += f".flip({place})"
        elif count < length:
            part += f".sum({place}, keepdim=True)"
        zeros = "0, 0, " * (last - place) + f"{first}, {relation.left.size - first - count}"
        parts.append(f"F.pad({part}, ({zeros}))")
        start += length
    legs = tuple(relation.left if i == inner else i for i in value.legs)
    return em.assign("unwrapped", " + ".join(parts), [value.name], singles(legs), note=relation.mode)


def _cells_of(cell: int, step: int, length: int) -> tuple[int, int]:
    """The lowest cell of a run and how many cells it has; a run that repeats one cell has that one."""
    reach = step * (length - 1)
    return cell + min(reach, 0), abs(reach) + 1


def _gather_cells(em: Emitter, value: Value, relation: Relational) -> Value:
    value = em.split(value)
    legs = [x for _, x in relation.terms]
    kept = [i for i in value.legs if i != relation.left]
    value = em.order(value, [relation.left, *kept])
    cell = cells(em, relation, legs, value.name)
    mask = inside(em, cell, relation.left.size)
    ones = ", 1" * len(kept)
    picked = f"{value.name}[{cell}.clamp(0, {em.text(relation.left.size - 1)})]"
    name = em.scalar("picked", f"{picked} * {mask}.view(*{mask}.shape{ones})", [value.name, cell, mask])
    return _diagonals(em, Value(name, ()), "cells", name, list(singles([*legs, *kept])))


def scatter(em: Emitter, value: Value, relation: Relational, keep: Sequence[Index]) -> Value:
    """Add the cells of a value up at the left index of a relation; `keep` of its terms stay as well."""
    if is_wrap(relation) and not keep:
        return _unwrap(em, value, relation)
    value = em.split(value)
    legs = [x for _, x in relation.terms]
    rest = [i for i in value.legs if i not in legs]
    value = em.order(value, [*legs, *rest])
    cell = cells(em, relation, legs, value.name)
    mask = inside(em, cell, relation.left.size)
    # One linear position for (kept legs, left); cells out of range go to a last row that is cut off.
    position = cell
    stride: Size = relation.left.size
    for index in reversed(list(keep)):
        step = ramp(em, index, legs, value.name)
        position = em.scalar("position", f"{position} + {em.text(stride)} * {step}", [position, value.name])
        stride = stride * index.size
    total = em.text(stride)
    target = em.scalar("target", f"torch.where({mask}, {position}, {total}).flatten()", [mask, position])
    flat = em.scalar("flat", f"{value.name}.reshape({em.span(legs)}, {em.span(rest)})", [value.name])
    dims = (*singles([*keep, relation.left]), *singles(rest))
    zeros = f"{flat}.new_zeros(({total} + 1, {em.span(rest)}))"
    expression = f"{zeros}.index_add(0, {target}, {flat})[:-1].reshape{em.shape(dims)}"
    return em.assign("folded", expression, [flat, target], dims)
