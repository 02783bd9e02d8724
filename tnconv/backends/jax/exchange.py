"""Relations of a step one by one: what is read from an operand, and what is written to the result."""

from collections.abc import Sequence

from tnconv.backends.jax.writer import Value, Writer
from tnconv.ir import Index, Pattern, Reach, Relational, Select, fresh, solve
from tnconv.ir.affine import reach_of_sizes


def terms_of(relation: Relational) -> list[Index]:
    """The indices on the right side."""
    return [x for _, x in relation.terms]


def reach_of(relation: Relational) -> Reach:
    """What the right side reaches."""
    return reach_of_sizes(((a, x.size) for a, x in relation.terms), relation.offset)


def apart(relations: Sequence[Relational]) -> list[Relational]:
    """The relations, each that folds a sum of indices written as two: `i = fold(j + low)` and `j = the sum`.

    What is padded so is one axis and not its windows.
    """
    found: list[Relational] = []
    taken = {i.name for r in relations for i in r.indices}
    for relation in relations:
        plain = len(relation.terms) == 1 and relation.terms[0][0] == 1
        reach = reach_of(relation)
        low = reach.low
        if relation.modulus is None or plain or not relation.terms or not isinstance(low, int):
            found.append(relation)
            continue
        inner = Index(fresh(f"{relation.left.name}_padded", taken), reach.length)
        taken.add(inner.name)
        found.append(
            Pattern(relation.name, relation.left, ((1, inner),), low, relation.left.size, relation.mode)
        )
        found.append(Pattern(relation.name, inner, relation.terms, relation.offset - low))
    return found


def readable(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: Sequence[Index]
) -> Relational | None:
    """The relation solved for an index that operands alone have, and whose terms these lack; None if there is none."""
    for index in relation.indices:
        solved = solve(relation, index)
        if solved is None or index in output or any(index in r.indices for r in rest):
            continue
        holders = [v for v in operands if index in v.legs]
        if holders and not any(x in v.legs for v in holders for x in terms_of(solved)):
            return solved
    return None


def writable(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: Sequence[Index]
) -> Relational | None:
    """The relation solved for an index that the output alone has; None if there is none."""
    for index in relation.indices:
        solved = solve(relation, index)
        elsewhere = any(index in r.indices for r in rest) or any(index in v.legs for v in operands)
        if solved is not None and index in output and not elsewhere:
            return solved
    return None


def matched(w: Writer, value: Value) -> Value:
    """The diagonal of a value that has an index twice."""
    while twice := next((i for i in value.legs if value.legs.count(i) > 1), None):
        first = value.legs.index(twice)
        second = value.legs.index(twice, first + 1)
        legs = (*(i for p, i in enumerate(value.legs) if p not in (first, second)), twice)
        value = w.assign("diagonal", f"jnp.diagonal({value.name}, 0, {first}, {second})", legs)
    return value


def read(w: Writer, value: Value, relation: Relational) -> Value:
    """A value with the terms of a relation in place of its left index."""
    axis = value.legs.index(relation.left)
    legs = (*value.legs[:axis], *terms_of(relation), *value.legs[axis + 1 :])
    if isinstance(relation, Select):
        return w.assign("selected", f"rt.rows({value.name}, {axis}, {w.arguments[relation.table]})", legs)
    if len(relation.terms) == 1 and relation.modulus is None:
        return _strided(w, value, relation, axis, legs)
    if len(relation.terms) == 2 and relation.modulus is None and all(a > 0 for a, _ in relation.terms):
        terms = ", ".join(f"({a}, {w.text(x.size)})" for a, x in relation.terms)
        return w.assign("windows", f"rt.windows({value.name}, {axis}, {relation.offset}, {terms})", legs)
    return w.assign("cells", f"rt.read({value.name}, {axis}, {positions(w, relation)})", legs)


def _strided(w: Writer, value: Value, relation: Relational, axis: int, legs: Sequence[Index]) -> Value:
    """The cells `step·t + offset`, backwards where the step is negative."""
    ((step, index),) = relation.terms
    low = reach_of(relation).low
    text = f"rt.strided({value.name}, {axis}, {w.text(low)}, {abs(step)}, {w.text(index.size)})"
    return w.assign("cells", f"jnp.flip({text}, {axis})" if step < 0 else text, legs)


def window_sum(w: Writer, value: Value, relation: Relational, latent: Index) -> Value:
    """A value summed over one term of a relation, the other term in place of the left index; see `rt.window_sum`."""
    axis = value.legs.index(relation.left)
    (dilation,) = (a for a, x in relation.terms if x == latent)
    step, kept = next((a, x) for a, x in relation.terms if x != latent)
    low = reach_of(relation).low
    numbers = (low, abs(step), kept.size, abs(dilation), latent.size)
    text = f"rt.window_sum({value.name}, {axis}, {', '.join(map(w.text, numbers))})"
    legs = (*value.legs[:axis], kept, *value.legs[axis + 1 :])
    return w.assign("sums", f"jnp.flip({text}, {axis})" if step < 0 else text, legs)


def write(w: Writer, value: Value, relation: Relational, kept: Sequence[Index] = ()) -> Value:
    """A value with the left index of a relation, which it is added up at; its terms are summed but for those kept."""
    terms = terms_of(relation)
    value = w.broadcast(value, terms)
    if isinstance(relation, Pattern) and len(terms) == 1 and not kept and relation.modulus is None:
        return _placed(w, value, relation)
    rest = [i for i in value.legs if i not in terms]
    value = w.order(value, [*rest, *terms])
    places = f", {tuple(terms.index(x) for x in kept)}" if kept else ""
    text = f"rt.written({value.name}, {positions(w, relation)}, {w.text(relation.left.size)}{places})"
    return w.assign("written", text, [*rest, *kept, relation.left])


def _placed(w: Writer, value: Value, relation: Pattern) -> Value:
    ((step, index),) = relation.terms
    axis = value.legs.index(index)
    low = reach_of(relation).low
    legs = (*value.legs[:axis], relation.left, *value.legs[axis + 1 :])
    turned = f"jnp.flip({value.name}, {axis})" if step < 0 else value.name
    size = w.text(relation.left.size)
    return w.assign("placed", f"rt.placed({turned}, {axis}, {w.text(low)}, {abs(step)}, {size})", legs)


def positions(w: Writer, relation: Relational) -> str:
    """The source of the cells of a relation, one axis a term."""
    if isinstance(relation, Select):
        return w.arguments[relation.table]
    terms = "".join(f"({a}, {w.text(x.size)}), " for a, x in relation.terms)
    text = f"rt.cells({terms}start={relation.offset})"
    if relation.modulus is None:
        return text
    return f"rt.folded({text}, {w.text(relation.modulus)}, {relation.mode!r})"
