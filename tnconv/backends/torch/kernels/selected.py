"""Relations of which one index is selected by a table: the cells that the rows of the table reach are read at once."""

from typing import NamedTuple

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.index_arithmetic import affine, along, both, inside, linear, ramp
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.summed_axes import presum
from tnconv.backends.torch.runs_and_rows import selected
from tnconv.ir import Index, Relational, Select, product
from tnconv.program import Var


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
    """The cells that windows at the rows of tables reach, copied in runs: `index_select` with zeros outside."""

    name = "selected windows"
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """One operand, and relations in pairs: `i = s*o + d*k - p` with one index selected, another on the operand."""
        return pairs_of(problem) is not None

    def cost(self, problem: Problem) -> float:
        """A pass over the operand, in another order, and one over what is made of it."""
        profile, legs = problem.profile, problem.operands[0].legs
        pairs = pairs_of(problem) or []
        made = {*legs, *(i for pair in pairs for i in _places(pair))} - {pair.read for pair in pairs}
        cells = profile.copying(problem.count(legs)) + profile.copying(problem.count(made))
        return (3 + 6 * len(pairs)) * profile.call + cells

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the places along each axis, those of all axes, and one selection.

        The first index stays outside and the others go inside, so that what is copied at once is long, and the result
        is ready to be multiplied over rows.
        """
        pairs, value = pairs_of(problem), problem.operands[0]
        assert pairs is not None
        reads = [pair.read for pair in pairs]
        lead = [i for i in value.legs[:1] if i not in reads]
        rest = [i for i in value.legs if i not in reads and i not in lead]
        value = em.arrange(value, (*singles(lead), tuple(reads), *singles(rest)))
        legs = [*(p.select.right for p in pairs), *(i for pair in pairs for i in _kernel(pair))]
        found = [_cell(em, pair, legs, Var(value.name)) for pair in pairs]
        place = linear([(cell, pair.read.size) for pair, (cell, _) in zip(pairs, found, strict=True)])
        masks = both([mask for _, mask in found])
        where = call("flatten", call("where", masks, place, product(i.size for i in reads)))
        made = call("selected", value, len(lead), em.helper("places", where))
        dims = (*singles(lead), tuple(legs), *singles(rest))
        return presum(em, em.split(selected(em, value, made, dims)), problem.open)


def _kernel(pair: Pair) -> list[Index]:
    """The indices of the relation besides that which is selected and that which is read."""
    return [i for i in pair.relation.indices if i not in (pair.select.left, pair.read)]


def _places(pair: Pair) -> list[Index]:
    """The indices in place of that which is read."""
    return [pair.select.right, *_kernel(pair)]


def _cell(em: Emitter, pair: Pair, legs: list[Index], like: Var) -> tuple[Var, Var]:
    """Variables with the cell that is read for each value of `legs`, and whether there is one."""
    zero, step = pair.relation.zero_form, pair.relation.zero_form[pair.read]
    sign, table = (-1 if step > 0 else 1), em.table(pair.select)
    parts = [(sign * zero[pair.select.left], along(table, pair.select.right, legs))]
    parts += [(sign * zero[i], ramp(i, legs, like)) for i in _kernel(pair)]
    cell = em.helper("cell", affine(parts, sign * pair.relation.offset))
    size, gap = pair.read.size, abs(step)
    if gap == 1:
        return cell, inside(em, cell, size)
    whole = call("eq", call("mod", cell, gap), 0)
    mask = call("and", call("and", whole, call("ge", cell, 0)), call("lt", cell, gap * size))
    return em.helper("cell", call("div", cell, gap)), em.helper("inside", mask)
