"""Steps as problems for kernels: relations of two indices are applied to operands, or wait for the result."""

from collections.abc import Sequence

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.summed_axes import presum
from tnconv.backends.torch.padded_views import diagonal, match_diagonals
from tnconv.backends.torch.profile import Profile
from tnconv.backends.torch.windows import gather, scatter
from tnconv.ir import Delta, Index, Relational, solve
from tnconv.planner.plan import Step

After = tuple[Relational, tuple[Index, ...]]


def problem_of(
    step: Step, operands: Sequence[Value], em: Emitter, profile: Profile, ties: Sequence[Relational] = ()
) -> tuple[Problem, list[After]]:
    """A step as kernels see it, and what is done behind it.

    Operands have each index once, relations of two indices are applied, indices that one operand alone has are summed.

    Args:
        step: of a plan.
        operands: its operands, any index on any number of dimensions.
        em: the statements, to which views are written.
        profile: rates of the machine.
        ties: of the cells of axes of the one operand to indices that are summed, which are left to kernels.

    Returns:
        The problem, and relations with the legs that the result has then, in the order in which they are written.
    """
    operands = [match_diagonals(em, value) for value in operands]
    on_values = {i for v in operands for i in v.legs} | {
        i for r in (*step.relations, *ties) for i in r.indices
    }
    output = tuple(i for axis in step.output for i in axis.indices if i in on_values)
    relations = [*step.relations, *ties]
    after: list[After] = []
    for relation in [r for r in step.relations if len(r.indices) <= 2]:
        rest = [r for r in relations if r is not relation]
        solved = _readable(relation, rest, operands, output)
        if solved is not None:
            operands = [gather(em, v, [solved]) if solved.left in v.legs else v for v in operands]
            relations = rest
            continue
        beside = _diagonal(relation, rest, operands, output)
        if beside is not None:
            kept, gone = beside
            after.append((relation, output))
            operands = [v.rename({gone: kept}) if gone in v.legs else v for v in operands]
            output = tuple(
                i for i in output if i != gone and (i != kept or any(i in v.legs for v in operands))
            )
            relations = rest
            continue
        placed = _writable(relation, rest, operands, output)
        if placed is not None:
            after.append((placed, output))
            output = tuple(placed.terms[0][1] if i == placed.left else i for i in output)
            relations = rest
    keep = frozenset(output) | {i for r in relations for i in r.indices}
    if len(operands) > 1:
        every = [i for v in operands for i in v.legs]
        keep |= {i for i in every if every.count(i) > 1}
        operands = [presum(em, v, keep) for v in operands]
    return Problem(tuple(operands), tuple(relations), output, em.hints, profile), after[::-1]


def _readable(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
) -> Relational | None:
    for index in relation.indices:
        solved = solve(relation, index)
        elsewhere = index in output or any(index in r.indices for r in rest)
        if solved is not None and not elsewhere and any(index in v.legs for v in operands):
            return solved
    return None


def _diagonal(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
) -> tuple[Index, Index] | None:
    """A delta of two indices of the output as (kept, gone), where no operand has both and nothing else has them."""
    if not isinstance(relation, Delta) or not set(relation.indices) <= set(output):
        return None
    if any(i in r.indices for i in relation.indices for r in rest):
        return None
    kept, gone = sorted(relation.indices, key=lambda i: not any(i in v.legs for v in operands))
    return None if any(kept in v.legs and gone in v.legs for v in operands) else (kept, gone)


def _writable(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
) -> Relational | None:
    """A relation `i = a*j + b` with i in the output only, and j not: the step computes j, then writes i."""
    for index in relation.indices:
        solved = solve(relation, index)
        if solved is None or len(solved.terms) != 1 or index not in output:
            continue
        other = solved.terms[0][1]
        reduced = not any(index in v.legs for v in operands) and not any(index in r.indices for r in rest)
        known = any(other in v.legs for v in operands) or any(other in r.indices for r in rest)
        if reduced and known and other not in output:
            return solved
    return None


def applied(em: Emitter, value: Value, after: Sequence[After]) -> Value:
    """A result with the relations that were left for it."""
    for relation, wanted in after:
        if isinstance(relation, Delta):
            value = diagonal(em, value, relation, wanted)
        else:
            value = scatter(em, value, relation, ())
    return value
