"""Contractions without relations: sums, products and matrix products (`torch.bmm`).

The layout is chosen so that as little as possible is copied: `layout_candidates.py` has them.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.layout_candidates import Candidate, candidates
from tnconv.backends.torch.kernels.operand_copies import Legs, slowness, split_legs
from tnconv.backends.torch.kernels.summed_axes import few_and_large, in_slices, presum
from tnconv.program import Call, Var
from tnconv.program.program_text import INSERT


def _sliced(problem: Problem, summed: Legs) -> float | None:
    """Microseconds to add up the slices of `Σ a * b` over leading legs, which reads each operand once; else None."""
    (a, b), profile = problem.operands, problem.profile
    leading = a.legs == b.legs and set(a.legs[: len(summed)]) == set(summed) and len(summed) < len(a.legs)
    count, cells = problem.count(summed), problem.count(a.legs)
    if not leading or not few_and_large(count, cells, profile.slices_multiplied, profile):
        return None
    passed = (cells,) if a.name == b.name else (cells, cells)
    return count * profile.call + max(sum(passed) / profile.added, profile.streaming(*passed))


def _passed(problem: Problem) -> float:
    """Microseconds to add up what one operand has more than the output, or to write it in the output's order."""
    (value,), profile, wanted = problem.operands, problem.profile, problem.output
    cells, gaps = problem.count(value.legs), not value.contiguous
    if set(value.legs) == set(wanted):
        if gaps or value.legs == wanted:
            return profile.writing(cells, gaps=gaps)
        return profile.copying(cells * slowness(value, singles(wanted), problem.count, profile))
    summed = tuple(takewhile(lambda i: i not in problem.open, reversed(value.legs)))
    return profile.summing(cells, problem.count(summed), gaps=gaps)


class Contract(Kernel):
    """`torch.bmm` or `torch.mul` over views, `Σ a * b` where no leg is on one alone, or a sum of one operand."""

    name = "matmul"
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """No relation may be left."""
        return not problem.relations and 1 <= len(problem.operands) <= 2

    def cost(self, problem: Problem) -> float:
        """Multiplications over the rate, and what the best layout copies."""
        profile = problem.profile
        if len(problem.operands) == 1:
            return profile.call + _passed(problem)
        a, b = problem.operands
        every = problem.count(dict.fromkeys((*a.legs, *b.legs)))
        split = split_legs(a, b, problem.open)
        if (
            not split.summed
        ):  # in the order of the operands, and copied once more where that is not the output's
            ordered = all(v.legs == tuple(i for i in problem.output if i in v.legs) for v in (a, b))
            return profile.call + profile.copying(every if ordered or problem.loose else 2 * every)
        alone = [i for i in (*split.left, *split.right) if i in problem.open]
        if not alone:  # one pass over both, another where their layouts differ
            passed = profile.copying(every / 2 if a.legs == b.legs else every)
            return 2 * profile.call + (_sliced(problem, split.summed) or passed)
        return _predicted(problem, min(c.total - problem.loose * c.turned for c in candidates(problem)))

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the product in the layout that copies least."""
        return contract(problem, em)


def best_layout(problem: Problem) -> Candidate | None:
    """The layout that copies least, of a product of two operands with legs that one alone has; else None.

    Of those that are about as good, the one whose result is nearest to the order of the output.
    """
    a, b = problem.operands
    split = split_legs(a, b, problem.open)
    reduced = [i for i in (*split.left, *split.right) if i not in problem.open]
    if reduced or not split.summed or not (split.left or split.right):
        return None
    found = candidates(problem)
    best = _nearest(problem, found)
    others = [c for c in found if c.last != best.last] if problem.swapped else []
    return _nearest(problem, others) if others else best


def _nearest(problem: Problem, found: Sequence[Candidate]) -> Candidate:
    profile, (a, b) = problem.profile, problem.operands
    every = problem.count(dict.fromkeys((*a.legs, *b.legs)))
    alike = profile.alike * profile.multiplying(every) * profile.copy
    # Squares are summed in any order, but not as quickly.
    costs = [c.total - problem.loose * c.turned / 2 for c in found]
    least = min(costs)
    near = [
        (c.disorder(problem.output), cost, place)
        for place, (c, cost) in enumerate(zip(found, costs, strict=True))
        if cost <= least + (0 if c.stacks else alike)
    ]
    return found[min(near)[2]]


def _predicted(problem: Problem, copied: float) -> float:
    """Microseconds of a product in a layout that takes as long as to copy so many cells besides what the BLAS takes."""
    profile, (a, b) = problem.profile, problem.operands
    every = problem.count(dict.fromkeys((*a.legs, *b.legs)))
    sizes = [problem.count(legs) for legs in (a.legs, b.legs, problem.output)]
    return profile.call + every / profile.matmul + profile.copying(copied) + profile.streaming(*sizes)


def product_layouts(problem: Problem) -> list[tuple[Problem, Legs, float]]:
    """The product as it is best by itself, and with another leg last in its result, if there is such a layout.

    Returns:
        For each the problem that asks for it, that leg, and the microseconds that it takes. In which order the result
        has its legs costs nothing here: what reads it knows.
    """
    if problem.relations or len(problem.operands) == 1:
        return []
    asked = [replace(problem, swapped=swapped) for swapped in (False, True)]
    found = [(each, best) for each in asked if (best := best_layout(each))]
    return [(each, c.last, _predicted(problem, c.total - c.turned)) for each, c in found]


def contract(problem: Problem, em: Emitter) -> Value:
    """Write a contraction without relations; return the result."""
    keep = problem.open | frozenset(
        i for v in problem.operands for i in v.legs if all(i in w.legs for w in problem.operands)
    )
    if len(problem.operands) == 1:
        return presum(em, problem.operands[0], problem.open)
    a, b = (presum(em, v, keep) for v in problem.operands)
    problem = replace(problem, operands=(a, b), relations=())
    split = split_legs(a, b, problem.open)
    if not split.summed:
        return _multiply(em, a, b, problem.output)
    if not (split.left or split.right):
        return dot(em, a, b, split.summed)
    best = best_layout(problem)
    assert best is not None
    return best.emit(em)


def dot(em: Emitter, a: Value, b: Value, summed: Legs) -> Value:
    """Write `Σ a * b` of two values over the same legs, in the layout of the first as it is."""
    left = em.conj(em.isolate(a, summed))
    right = em.conj(em.arrange(b if b.legs == left.legs else em.split(b), left.dims))
    places = tuple(p for p, dim in enumerate(left.dims) if set(dim) & set(summed))
    dims = tuple(dim for p, dim in enumerate(left.dims) if p not in places)
    made = call("dot", left, right, places, **dot_options(em, left.dims, places))
    return em.make("dot", made, dims, fresh=True)


def dot_options(em: Emitter, dims: Sequence[Legs], places: Sequence[int]) -> dict[str, bool]:
    """What `dot` is told of its way: slice by slice over leading dimensions, so that no product is there as a whole."""
    leading = tuple(places) == tuple(range(len(places))) and len(places) < len(dims)
    return {"slices": True} if leading and in_slices(em, dims, places, em.profile.slices_multiplied) else {}


def _multiply(em: Emitter, a: Value, b: Value, output: Legs) -> Value:
    """Write the product of each cell with each, in the order of the output where the operands are in that order."""
    order = tuple(i for i in output if i in a.legs or i in b.legs)
    for value in (a, b):
        if value.legs != tuple(i for i in order if i in value.legs):
            split = split_legs(a, b, frozenset(output))
            order = (*split.batch, *split.left, *split.right)
    left, right = (em.conj(em.arrange(v, singles([i for i in order if i in v.legs]))) for v in (a, b))
    return em.make(
        "product", call("mul", _beside(left, order), _beside(right, order)), singles(order), fresh=True
    )


def _beside(value: Value, order: Legs) -> Var | Call:
    """A value with an axis of one cell for each index that it lacks, where it does not broadcast as it is."""
    first = next((place for place, i in enumerate(order) if i in value.legs), len(order))
    keys = tuple(":" if i in value.legs else "None" for i in order[first:])
    while keys[-1:] == (":",):
        keys = keys[:-1]
    return call(INSERT, Var(value.name), keys) if keys else Var(value.name)
