"""Relations as views: an index that a relation determines is exchanged for the indices it is made of.

`gather` reads: `x[i]` becomes `x[o, k]` with `i = s*o + d*k - p`, by padding and a window view (no copy
of the windows), or by index arithmetic where no view exists. `scatter` writes: the transpose.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.index_arithmetic import both, cells, inside, linear, ramp
from tnconv.backends.torch.padded_views import broadcast, has_views, pad, resized, tangled, window_view
from tnconv.backends.torch.runs_and_rows import is_wrap, rows_of, spread_rows, unwrapped, wrapped
from tnconv.ir import Index, Relational, Select, Size, product
from tnconv.program import Call, Var


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
    for group in tangled(relations):
        if (
            len(group) == 1
            and is_wrap(group[0], em.profile)
            and not any(x in value.legs for _, x in group[0].terms)
        ):
            value = wrapped(em, value, group[0])
        elif len(group) == 1 and isinstance(group[0], Select) and group[0].right not in value.legs:
            value = rows_of(em, value, group[0])
        elif has_views(value, group, em.profile):
            views += group
        else:
            value = _gather_cells(em, value, group)
    return window_view(em, value, views, anyhow) if views else value


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
    if is_wrap(relation, em.profile) and not keep:
        return unwrapped(em, value, relation)
    if isinstance(relation, Select) and not keep:
        return spread_rows(em, value, relation)
    if not keep and _is_spaced(relation):
        return _spaced(em, value, relation)
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


def _is_spaced(relation: Relational) -> bool:
    """Whether a relation says that cells lie so many apart: `i = a*j + offset`."""
    sizes = all(isinstance(i.size, int) for i in relation.indices)
    plain = relation.modulus is None and not isinstance(relation, Select)
    return sizes and plain and len(relation.terms) == 1 and relation.terms[0][0] > 0


def _spaced(em: Emitter, value: Value, relation: Relational) -> Value:
    """Cells some steps apart, with zeros between and around them."""
    ((step, index),) = relation.terms
    value = em.isolate(value, [index])
    wide = resized(relation.left, step * (index.size - 1) + 1)
    if step > 1:
        dims = tuple((wide,) if dim == (index,) else dim for dim in value.dims)
        made = call("apart", value, value.position(index), step)
        value = em.derive(value, "apart", made, dims, copied=True, contiguous=False)
    else:
        value = value.rename({index: wide})
    return pad(em, value, {wide: (relation.offset, relation.left.size - relation.offset - wide.size)})
