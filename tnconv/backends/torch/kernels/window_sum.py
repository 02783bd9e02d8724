"""Window sums by thin matrix products; cells that are in the same windows are summed before they are multiplied."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.link import integer
from tnconv.backends.torch.kernels.summed_axes import presum
from tnconv.backends.torch.numerics.strips import Run, Terms, run_of
from tnconv.ir import Index, Relational, product, solve


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of the operand whose windows are summed, as `strip` is told of it.

    Args:
        index: of the operand.
        made: the indices that stay, in the order of the strip's columns.
        terms: size, (coefficient, size) of the indices that stay and of those that are summed, and offset.
        run: the cells that are summed first; None for none.
    """

    index: Index
    made: tuple[Index, ...]
    terms: tuple[int, Terms, Terms, int]
    run: Run | None = None

    @property
    def kept(self) -> int:
        """Columns of the strip."""
        return prod(size for _, size in self.terms[1])

    @property
    def geometry(self) -> tuple[object, ...]:
        """What `strips` takes."""
        return self.terms if self.run is None else (*self.terms, tuple(self.run))


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How window sums are computed.

    Args:
        axes: the first axis first; of each, whether a run is summed before.
        last: how many axes, the last ones, are summed by one product with the strips of all of them.
        predicted: microseconds.
    """

    axes: tuple[_Axis, ...]
    last: int
    predicted: float


class WindowSum(Kernel):
    """Thin matrix products: `Σ_o x[s*o + d*k - p]` for every k, nothing unfolded."""

    name = "window sum"

    def accepts(self, problem: Problem) -> bool:
        """One operand; each relation determines an index of it and has a summed index of its own."""
        return (
            len(problem.operands) == 1
            and bool(problem.relations)
            and all(_solved(problem, r) is not None for r in problem.relations)
        )

    def cost(self, problem: Problem) -> float:
        """A pass over the operand for the runs of an axis, or the product, each of which leaves fewer cells."""
        return _scheme(problem).predicted

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the sums of runs and the products, the first axis first."""
        scheme = _scheme(problem)
        value = presum(em, problem.operands[0], problem.open | problem.related)
        *first, last = scheme.axes
        for axis in first[: len(first) + 1 - scheme.last]:
            value = _one_axis(axis, value, em)
        together = scheme.axes[-scheme.last :]
        cells: list[Index] = []
        for axis in together:
            value, left = _runs_summed(axis, value, em)
            cells.append(left)
        before = tuple(i for i in value.legs if i not in cells)
        flat = em.arrange(value, (before, tuple(cells)))
        given = (call("dtype", flat), call("device", flat))
        if scheme.last == 1:
            run = {} if last.run is None else {"run": tuple(last.run)}
            strip = em.helper("strip", call("strip", *last.terms, *given, **run))
        else:
            strip = em.helper("strip", call("strips", *(a.geometry for a in together), *given))
        made = tuple(i for axis in together for i in axis.made)
        return em.make("sums", call("mm", call("T", strip), call("T", flat)), (made, before))


def _one_axis(axis: _Axis, value: Value, em: Emitter) -> Value:
    """Write the window sums along an axis that others follow."""
    place = value.legs.index(axis.index)
    before, after = value.legs[:place], value.legs[place + 1 :]
    flat = em.arrange(value, (before, (axis.index,), after))
    run = () if axis.run is None else (tuple(axis.run),)
    if axis.run is not None:
        left = axis.run.used + axis.run.cells(axis.terms[0])
        em.allocated("runs", product(i.size for i in (*before, *after)) * left)
    made = em.make("sums", call("window_sums", flat, *axis.terms[1:], *run), (before, axis.made, after))
    em.allocated("sums", product(i.size for i in made.legs))
    return made


def _runs_summed(axis: _Axis, value: Value, em: Emitter) -> tuple[Value, Index]:
    """Write the sums of the run of an axis; return what is left of the cells, under an index of its own."""
    if axis.run is None:
        return value, axis.index
    place = value.legs.index(axis.index)
    before, after = value.legs[:place], value.legs[place + 1 :]
    dims = (before, (axis.index,), after) if after else (before, (axis.index,))
    left = Index(f"{axis.index.name}_cells", axis.run.cells(axis.terms[0]))
    if left.size > axis.run.used:
        em.allocated("runs", product(i.size for i in (*before, *after)) * axis.run.used)
    made = call("run_sums", em.arrange(value, dims), tuple(axis.run))
    return em.make("sums", made, tuple((left,) if dim == (axis.index,) else dim for dim in dims)), left


def _solved(problem: Problem, relation: Relational) -> Relational | None:
    """The relation solved for the operand's index, if the sum over it is a thin product."""
    for index in relation.indices:
        if not problem.holders(index) or index in problem.open or problem.uses(index) != 1:
            continue
        solved = solve(relation, index)
        if solved is None or solved.modulus is not None or not isinstance(index.size, int):
            continue
        others = [x for _, x in solved.terms]
        if any(not isinstance(x.size, int) or problem.uses(x) != 1 or problem.holders(x) for x in others):
            continue
        kept = problem.count(x for x in others if x in problem.open)
        if kept <= problem.count(x for x in others if x not in problem.open):
            return solved
    return None


def _axis(problem: Problem, relation: Relational) -> _Axis:
    terms = [(a, integer(x.size), x in problem.open) for a, x in relation.terms]
    kept, summed = (tuple((a, n) for a, n, stays in terms if stays is which) for which in (True, False))
    made = tuple(x for _, x in relation.terms if x in problem.open)
    return _Axis(relation.left, made, (integer(relation.left.size), kept, summed, relation.offset))


def _scheme(problem: Problem) -> _Scheme:
    """The fastest way by predicted time."""
    if "window sum" not in problem.memo:
        legs = [i for i in problem.operands[0].legs if i in problem.open | problem.related]
        axes = [_axis(problem, r) for r in (_solved(problem, r) for r in problem.relations) if r]
        axes.sort(key=lambda axis: legs.index(axis.index))
        beside = len(axes) > 1 and legs[-2:] == [axis.index for axis in axes[-2:]]
        options = (1, 2) if beside else (1,)
        found = [_priced(problem, legs, axes, last) for last in options]
        problem.memo["window sum"] = min(found, key=lambda scheme: scheme.predicted)
    scheme: _Scheme = problem.memo["window sum"]
    return scheme


def _priced(problem: Problem, legs: Sequence[Index], axes: Sequence[_Axis], last: int) -> _Scheme:
    """The scheme with so many axes in the last product; a run is summed where that is quicker than to multiply it."""
    profile = problem.profile
    sizes = {i: problem.count((i,)) for i in legs}
    total = profile.streaming(prod(sizes.values()))
    kept_last = prod(axis.kept for axis in axes[-last:])
    chosen: list[_Axis] = []
    for number, axis in enumerate(axes):
        together = number >= len(axes) - last
        kept = kept_last if together else axis.kept
        cells, place = prod(sizes.values()), legs.index(axis.index)
        outer = prod(sizes[i] for i in legs[:place])
        size, run = axis.terms[0], run_of(*axis.terms)
        if run is not None:
            neighbours = place + 1 == len(legs) and run.period == 1
            begun = profile.begun_row if neighbours else profile.begun
            beside = cells * (run.cells(size) - run.used) / size  # are put behind the sums
            taken = (cells + outer * begun) / profile.added + profile.copying(beside / 2)
            taken += profile.run_calls * profile.call
            saved = (1 - run.cells(size) / size) * _product(problem, cells, kept)
            if taken < saved:
                total, sizes[axis.index] = total + taken, run.cells(size)
            else:
                run = None
        chosen.append(_Axis(axis.index, axis.made, axis.terms, run))
        if not together or number == len(axes) - 1:
            strip = kept * prod(sizes[a.index] for a in (axes[-last:] if together else [axis]))
            total += _product(problem, prod(sizes.values()), kept) + profile.copying(strip) + 2 * profile.call
        if not together:
            total += outer * profile.batched
            sizes[axis.index] = axis.kept
    return _Scheme(tuple(chosen), last, total)


def _product(problem: Problem, cells: float, kept: float) -> float:
    """Predicted microseconds of a product that makes so many columns of so many cells."""
    profile = problem.profile
    return cells / profile.added if kept == 1 else cells * (kept + profile.narrow) / profile.matmul
