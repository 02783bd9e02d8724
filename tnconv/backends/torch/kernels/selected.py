"""Relations of which one index is selected by a table: the cells that the rows of the table reach are read at once."""

from typing import NamedTuple

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.base import Kernel, Problem
from tnconv.backends.torch.kernels.contract import presum
from tnconv.backends.torch.windows import ramp, selected
from tnconv.ir import Index, Relational, Select


class Pair(NamedTuple):
    """A relation and the selection of one of its indices; `read` is the index of the operand that they determine."""

    relation: Relational
    select: Select
    read: Index


def pairs_of(problem: Problem) -> list[Pair] | None:
    """The relations of a step of one operand in pairs; None where some belong to none."""
    found = [p for s in problem.relations if isinstance(s, Select) and (p := _pair(problem, s))]
    complete = len(problem.operands) == 1 and 2 * len(found) == len(problem.relations) > 0
    return found if complete else None


def _pair(problem: Problem, select: Select) -> Pair | None:
    if select.left not in problem.latent or problem.holders(select.right) or problem.uses(select.right) != 1:
        return None
    others = [r for r in problem.relations if r is not select and select.left in r.indices]
    if len(others) != 1 or others[0].modulus is not None:
        return None
    relation = others[0]
    held = [i for i in relation.indices if problem.holders(i)]
    rest = [i for i in relation.indices if i != select.left]
    if len(held) != 1 or held[0] in problem.open or any(problem.uses(i) != 1 for i in rest):
        return None
    return Pair(relation, select, held[0])


class SelectedWindows(Kernel):
    """The cells that windows at the rows of a table reach, an axis at a time: `index_select` with zeros outside."""

    name = "selected windows"
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """One operand, and relations in pairs: `i = s*o + d*k - p` with a selection of one index, another on the operand."""
        return pairs_of(problem) is not None

    def cost(self, problem: Problem) -> float:
        """A pass over what is made of each axis."""
        profile, legs = problem.profile, set(problem.operands[0].legs)
        total = profile.call
        for pair in pairs_of(problem) or ():
            legs = legs - {pair.read} | {i for i in (pair.select.right, *_kernel(pair))}
            total += 6 * profile.call + profile.copying(problem.count(legs))
        return total

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the places and one selection for each axis."""
        value = problem.operands[0]
        for pair in pairs_of(problem) or ():
            value = _read(em, value, pair)
        return presum(em, value, problem.open)


def _kernel(pair: Pair) -> list[Index]:
    """The indices of the relation besides that which is selected and that which is read."""
    return [i for i in pair.relation.indices if i not in (pair.select.left, pair.read)]


def _read(em: Emitter, value: Value, pair: Pair) -> Value:
    """The value with the rows and the other indices of the relation in place of the index that is read."""
    zero, legs = pair.relation.zero_form, [pair.select.right, *_kernel(pair)]
    step = zero[pair.read]
    sign = -1 if step > 0 else 1
    table = em.table(pair.select)
    parts = [f"{sign * zero[pair.select.left]} * {table}.view({_view(pair.select.right, legs)})"]
    parts += [f"{sign * zero[i]} * {ramp(em, i, legs, value.name)}" for i in _kernel(pair)]
    cell = em.scalar("cell", " + ".join([*parts, str(sign * pair.relation.offset)]), [table, value.name])
    size = em.text(pair.read.size)
    inside = f"({cell} >= 0) & ({cell} < {size})"
    if abs(step) > 1:
        inside = f"({cell} % {abs(step)} == 0) & ({cell} >= 0) & ({cell} < {abs(step)} * {size})"
        cell_text = f"{cell} // {abs(step)}"
    else:
        cell_text = cell
    places = em.scalar("places", f"torch.where({inside}, {cell_text}, {size}).flatten()", [cell])
    value = em.isolate(value, [pair.read])
    place = value.position(pair.read)
    dims = (*value.dims[:place], tuple(legs), *value.dims[place + 1 :])
    text = f"rt.selected({value.name}, {place}, {places})"
    return selected(em, value, text, places, dims)


def _view(index: Index, legs: list[Index]) -> str:
    return ", ".join("-1" if leg == index else "1" for leg in legs)
