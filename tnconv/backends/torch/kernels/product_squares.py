"""A product that is only squared and summed is never in memory as a whole: one example of it is, at a time.

result[d, c] = Σ_n (Σ_o a[n, d, o] b[n, o, c])²      the diagonal of a Gauss-Newton matrix
result[n] = Σ_{d, c} (Σ_o a[n, d, o] b[n, o, c])²    the norm of each gradient
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.contract import best_layout, contract, dot_options
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.layout_candidates import Candidate
from tnconv.backends.torch.kernels.operand_copies import transposed
from tnconv.backends.torch.kernels.window_views import Windows
from tnconv.ir import Index, product
from tnconv.ir.size import normal
from tnconv.program import Call, Dims

_OPERANDS = 4  # those of a product, and once more


@dataclass(frozen=True, slots=True)
class _Squares:
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


def factor_of(problem: Problem) -> Problem | None:
    """The product that a step of four operands squares; None where it does none."""
    if len(problem.operands) != _OPERANDS:
        return None
    first, second = problem.operands[:2], problem.operands[2:]
    one, two = ([(v.name, list(map(len, v.dims))) for v in half] for half in (first, second))
    if one != two:
        return None
    if len({a.conj == b.conj for a, b in zip(first, second, strict=True)}) > 1:
        return None
    again = {i for v in second for i in v.legs}.difference(i for v in first for i in v.legs)
    relations = tuple(r for r in problem.relations if again.isdisjoint(r.indices))
    once = {i for v in first for i in v.legs} - {i for v in second for i in v.legs}
    kept = {i for r in problem.relations if once.isdisjoint(r.indices) for i in r.indices}
    legs = [*(i for v in first for i in v.legs), *(i for r in relations for i in r.indices)]
    kept |= {i for v in second for i in v.legs}
    output = sorted(dict.fromkeys(i for i in legs if i in kept), key=lambda i: i.kind.rank)  # as planners do
    return replace(problem, operands=first, relations=relations, output=tuple(output))


def squares(problem: Problem, opened: frozenset[Index]) -> _Squares | None:
    """How a product is streamed into the sum of its squares; None where it has no examples in front.

    Args:
        problem: the product, without relations.
        opened: indices of the result.
    """
    layout = best_layout(problem)
    if layout is None or not layout.batch or layout.sum_batch or (layout.expand and not layout.stacks):
        return None
    keep = layout.batch[0] in opened
    front = next((p for p, i in enumerate(layout.batch) if (i in opened) != keep), len(layout.batch))
    examples, rest = layout.batch[:front], layout.batch[front:]
    if front < layout.stacks:
        return None
    if rest and any(i not in opened for i in rest):
        return None
    groups = (rest, layout.left, layout.right)
    dims = tuple(run for legs in groups for run in _runs(legs, opened))
    every = {i for dim in dims for i in dim} | set(examples)
    return _Squares(layout, examples, rest, keep, dims, frozenset(every - opened))


def _runs(legs: Sequence[Index], opened: frozenset[Index]) -> list[tuple[Index, ...]]:
    """The legs in runs of those that stay and those that are summed."""
    runs: list[tuple[Index, ...]] = []
    for leg in legs:
        if runs and (runs[-1][-1] in opened) == (leg in opened):
            runs[-1] = (*runs[-1], leg)
        else:
            runs.append((leg,))
    return runs


class StreamedSquares(Kernel):
    """`Σ |a b|²`, with window views or none: the product of one example is made and squared at a time."""

    name = "streamed squares"
    takes_scaled = False
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """The operands of a product twice, so large that it had better not be written, with examples in front."""
        return self._price(problem) is not None

    def cost(self, problem: Problem) -> float:
        """The product, not copied into another order, and a pass over each example of it, which is in a cache."""
        found = self._price(problem)
        assert found is not None
        return found

    def _price(self, problem: Problem) -> float | None:
        if "squares" not in problem.memo:
            problem.memo["squares"] = _price(problem)
        found: float | None = problem.memo["squares"]
        return found

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write one call of the runtime; the result has the legs of the square in the order of the product."""
        factor = factor_of(problem)
        assert factor is not None
        factor = Windows().opened(factor, em) if factor.relations else factor
        found = squares(factor, problem.open)
        plain = problem.operands[0].conj == problem.operands[2].conj
        if found is None:  # the windows came to lie otherwise
            whole = contract(factor, em)
            em.allocated("product", product(i.size for i in whole.legs))
            pair = whole, replace(whole, conj=whole.conj if plain else not whole.conj)
            return contract(replace(factor, operands=pair, relations=(), output=problem.output), em)
        a, b, lead = _operands(found, em)
        places = tuple(p for p, dim in enumerate(found.dims) if set(dim) & found.summed)
        kept = tuple(dim for p, dim in enumerate(found.dims) if p not in places)
        dims = ((found.examples,) if found.keep else ()) + kept
        # Where examples are summed, rows that stand in front are added one by one in any case.
        options = dot_options(em, found.dims, places) if places and (found.keep or places != (0,)) else {}
        options |= {"plain": True} if plain else {}
        dimensions = {"lead": lead} if lead > 1 else {}
        made = call("squares", a, b, em.sizes(found.dims), places, found.keep, **options, **dimensions)
        em.allocated("one example of the product", normal(product(i.size for dim in found.dims for i in dim)))
        return em.make("squares", made, dims, fresh=True)


def _operands(found: _Squares, em: Emitter) -> tuple[Value | Call, Value | Call, int]:
    """What is multiplied, example by example, and how many dimensions the examples have: two if they have stacks."""
    layout, stacks = found.layout, found.layout.stacks
    front = [legs for legs in (found.examples[stacks:], found.rest) if legs]
    every = (found.examples[:stacks], *front) if stacks else (*front,)
    made: list[Value | Call] = []
    for value, rest in ((layout.a, (layout.left, layout.summed)), (layout.b, (layout.summed, layout.right))):
        lacks = any(i not in value.legs for i in found.examples)
        each = em.conj(transposed(em, value, (*(front if lacks else every), *rest)))
        size = product(i.size for i in found.examples[:stacks])
        made.append(call("expand", each, (size, *(-1 for _ in each.dims))) if lacks else each)
    return made[0], made[1], 2 if stacks and len(found.examples) > stacks else 1


def _price(problem: Problem) -> float | None:
    factor = factor_of(problem)
    if factor is None or factor.count(factor.output) < problem.profile.streamed:
        return None
    opening = 0.0
    if factor.relations:
        if not Windows().accepts(factor):
            return None
        opening, factor = Windows().product(factor)
    found = squares(factor, problem.open)
    if found is None:
        return None
    profile, layout = factor.profile, found.layout
    every = factor.count(dict.fromkeys(i for value in factor.operands for i in value.legs))
    examples = factor.count(found.examples)
    passed = profile.streaming(*(factor.count(value.legs) for value in factor.operands))
    passed += examples * profile.streaming(factor.count(i for dim in found.dims for i in dim))
    copied = profile.copying(layout.copied - layout.turned)
    made = opening + profile.call + profile.multiplying(every, examples) + copied + passed
    return made + 2 * profile.call * examples + profile.copying(factor.count(factor.output) / 4)
