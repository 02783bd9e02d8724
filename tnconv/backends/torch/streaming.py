"""A product that is only squared and summed is never in memory as a whole: one example of it is, at a time.

t = Σ_o a[n, d, o] b[n, o, c];  result[d, c] = Σ_n t²      the diagonal of a Gauss-Newton matrix
t = Σ_o a[n, d, o] b[n, o, c];  result[n] = Σ_{d, c} t²    the norm of each gradient
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.contract import Candidate, Contract, best_layout
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.window_views import Windows
from tnconv.ir import Index, Size, product
from tnconv.ir.size import normal
from tnconv.planner.plan import Plan, Step
from tnconv.program import Dims


@dataclass(frozen=True, slots=True)
class Squares:
    """A product that can be streamed.

    Args:
        layout: of the product.
        examples: the batch legs that are gone through, in front of the others.
        rest: the other batch legs.
        keep: whether the examples are in the result.
        dims: of the product of one example, so that each is summed or kept as a whole.
        summed: the legs that are summed.
    """

    layout: Candidate
    examples: tuple[Index, ...]
    rest: tuple[Index, ...]
    keep: bool
    dims: Dims
    summed: frozenset[Index]

    @property
    def cells(self) -> Size:
        """Of the product of one example."""
        return normal(product(i.size for dim in self.dims for i in dim))


def square_of(plan: Plan, step: Step) -> Step | None:
    """The step that multiplies the result of a step by itself, leg by leg, if nothing else reads it."""
    users = [s for s in plan.steps if any(o.source == step.result for o in s.operands)]
    if len(users) != 1 or step.result in plan.returned or step.scale != 1:
        return None
    (user,) = users
    if len(user.operands) != 2 or user.relations or user.operands[0].axes != user.operands[1].axes:
        return None
    alone = all(operand.source == step.result for operand in user.operands)
    return user if alone and user.operands[0].axes == step.output else None


def squares(problem: Problem, user: Step) -> Squares | None:
    """How a product is streamed into the sum of its squares; None where it has no examples in front."""
    if problem.relations or len(problem.operands) != 2:
        return None
    layout = best_layout(problem)
    if layout is None or not layout.batch or layout.sum_batch or layout.expand:
        return None
    opened = {i for axis in user.output for i in axis.indices}
    keep = layout.batch[0] in opened
    front = next((p for p, i in enumerate(layout.batch) if (i in opened) != keep), len(layout.batch))
    examples, rest = layout.batch[:front], layout.batch[front:]
    if rest and any(i not in opened for i in rest):
        return None
    groups = (rest, layout.left, layout.right)
    dims = tuple(run for legs in groups for run in _runs(legs, opened))
    every = {i for dim in dims for i in dim} | set(examples)
    return Squares(layout, examples, rest, keep, dims, frozenset(every - opened))


def streamed(problem: Problem, kernels: Sequence[Kernel], user: Step) -> dict[str, tuple[float, float]]:
    """Predicted microseconds of a product and of its squares, by the name of each kernel that streams it.

    The product of one example is written and squared at a time, never copied into another order. None does where the
    whole is so small that it had better be written.
    """
    found: dict[str, tuple[float, float]] = {}
    for kernel in kernels if problem.count(problem.output) >= problem.profile.streamed else ():
        if isinstance(kernel, Windows):
            opening, product = kernel.product(problem)
        elif isinstance(kernel, Contract):
            opening, product = 0.0, problem
        else:
            continue
        how = squares(product, user)
        if how is not None:
            made, squared = _prices(product, how)
            found[kernel.name] = opening + made, squared
    return found


def _prices(problem: Problem, found: Squares) -> tuple[float, float]:
    profile, layout = problem.profile, found.layout
    every = problem.count(dict.fromkeys(i for value in problem.operands for i in value.legs))
    examples = problem.count(found.examples)
    passed = profile.streaming(*(problem.count(value.legs) for value in problem.operands))
    passed += examples * profile.streaming(problem.count(i for dim in found.dims for i in dim))
    copied = profile.copying(layout.copied - layout.turned)
    made = profile.call + every / profile.matmul + copied + passed
    return made, 2 * profile.call * examples + profile.copying(problem.count(problem.output) / 4)


def _runs(legs: Sequence[Index], opened: set[Index]) -> list[tuple[Index, ...]]:
    """The legs in runs of those that stay and those that are summed."""
    runs: list[tuple[Index, ...]] = []
    for leg in legs:
        if runs and (runs[-1][-1] in opened) == (leg in opened):
            runs[-1] = (*runs[-1], leg)
        else:
            runs.append((leg,))
    return runs


def emit_squares(found: Squares, user: Step, em: Emitter) -> Value:
    """Write one call of the runtime; the result has the legs of the square in the order of the product."""
    layout = found.layout
    front = (found.examples, found.rest) if found.rest else (found.examples,)
    a = em.conj(em.arrange(layout.a, (*front, layout.left, layout.summed)))
    b = em.conj(em.arrange(layout.b, (*front, layout.summed, layout.right)))
    places = tuple(p for p, dim in enumerate(found.dims) if set(dim) & found.summed)
    kept = tuple(dim for p, dim in enumerate(found.dims) if p not in places)
    dims = ((found.examples,) if found.keep else ()) + kept
    first, second = user.operands
    options = {"plain": True} if first.conj == second.conj else {}
    made = call("squares", a, b, em.sizes(found.dims), places, found.keep, **options)
    em.allocated("one example of the product", found.cells)
    return em.make("squares", made, dims, fresh=True)
