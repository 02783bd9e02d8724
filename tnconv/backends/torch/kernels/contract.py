"""Contractions without relations: sums, products and matrix products (`torch.bmm`).

The layout is chosen so that as little as possible is copied: a left leg in front of the contracted ones
(the batch of a 1x1 convolution) becomes a batch leg over which the other operand is expanded, and a
contracted leg in front (the batch of its weight gradient) may be summed behind a batched product.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, takewhile
from math import prod

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.profile import Profile
from tnconv.ir import Index, product
from tnconv.program import Call, Var
from tnconv.program.program_text import INSERT
from tnconv.program.statements import flatten

Legs = tuple[Index, ...]
Copies = dict[tuple[int, Legs, Legs, Legs], float]  # by operand and dimensions


@dataclass(frozen=True, slots=True)
class Split:
    """Legs of a product by what they do: `batch` on both and open, `summed` on both, `left`, `right`."""

    batch: Legs
    summed: Legs
    left: Legs
    right: Legs


def split_legs(a: Value, b: Value, output: frozenset[Index]) -> Split:
    """Sort the legs of two values by what they do in the product."""
    one, other = a.legs, b.legs
    both = [i for i in one if i in other]
    return Split(
        tuple([i for i in both if i in output]),
        tuple([i for i in both if i not in output]),
        tuple([i for i in one if i not in other]),
        tuple([i for i in other if i not in one]),
    )


def presum(em: Emitter, value: Value, keep: frozenset[Index]) -> Value:
    """Sum a value over the indices that are not kept."""
    gone = tuple(i for i in value.legs if i not in keep)
    if not gone:
        return value
    if any(set(dim) & set(gone) and set(dim) - set(gone) for dim in value.dims):
        value = em.isolate(value, gone)
    places = [p for p, dim in enumerate(value.dims) if set(dim) & set(gone)]
    apart = not value.contiguous and places[-1] - places[0] >= len(places)
    if apart and all(em.count(value.dims[p]) <= em.profile.short_axes for p in places):
        return _summed(em, value, places, _axis_sums(em, value, places))
    runs = _runs(value, gone)
    if value.contiguous and len(runs) > 1 and (which := _in_turn(em, value, runs)) is not None:
        while len(runs) > 1:
            value = _summed(em, value, runs[which], call("sum", value, runs[which]))
            runs = _runs(value, gone)
    places = [p for run in runs for p in run]
    return _summed(em, value, places, call("sum", value, tuple(places)))


def _summed(em: Emitter, value: Value, places: Sequence[int], made: Call) -> Value:
    """Write the sum of a value over some dimensions."""
    dims = tuple(dim for p, dim in enumerate(value.dims) if p not in places)
    return em.derive(value, "sum", made, dims, copied=True)


def _runs(value: Value, gone: Sequence[Index]) -> list[tuple[int, ...]]:
    """Dimensions that are summed, those in a row together."""
    places = [p for p, dim in enumerate(value.dims) if set(dim) & set(gone)]
    starts = [n for n, p in enumerate(places) if n == 0 or places[n - 1] != p - 1]
    return [tuple(places[a:b]) for a, b in pairwise((*starts, len(places)))]


def _in_turn(em: Emitter, value: Value, runs: Sequence[tuple[int, ...]]) -> int | None:
    """Which of several runs is summed first, by a call of its own, 0 or -1; None for one call for all at once.

    Torch sums one run of dimensions at the speed of memory, but several at once row by row.
    """
    profile, sizes = em.profile, [em.count(dim) for dim in value.dims]
    behind = runs[-1][-1] + 1 < len(sizes)
    at_once = prod(sizes) * profile.at_once_apart / profile.added
    if not behind:
        at_once = profile.at_once * _one_run(sizes, runs[-1], profile)
    taken = {}
    for which, order in ((0, runs), (-1, runs[::-1])):
        left, taken[which] = list(sizes), (len(runs) - 1) * profile.call
        for run in order:
            taken[which] += _one_run(left, run, profile)
            left = [1 if place in run else size for place, size in enumerate(left)]
    first = min(taken, key=taken.__getitem__)
    return first if taken[first] < at_once else None


def _one_run(sizes: Sequence[int], run: tuple[int, ...], profile: Profile) -> float:
    """Predicted microseconds of a sum over some dimensions in a row."""
    cells, outer, inner = prod(sizes), prod(sizes[: run[0]]), prod(sizes[run[-1] + 1 :])
    if inner == 1:
        return (cells + outer * profile.begun_row) / profile.added
    return (2 * cells + outer * profile.begun) / profile.added


def _axis_sums(em: Emitter, value: Value, places: Sequence[int]) -> Call:
    """The sum over several short dimensions, one after another: torch sums short rows slowly."""
    made: Var | Call = Var(value.name)
    dims = list(value.dims)
    for place in reversed(places):
        made = slice_sum(em, made, dims, (place,))
        del dims[place]
    assert isinstance(made, Call)
    return made


def slice_sum(em: Emitter, value: Var | Call, dims: Sequence[Legs], places: Sequence[int]) -> Call:
    """The sum over some dimensions: slice by slice where these are few and large, for their cells are near then."""
    most = em.profile.slices_added
    return call("slice_sum" if in_slices(em, dims, places, most) else "sum", value, tuple(places))


def in_slices(em: Emitter, dims: Sequence[Legs], places: Sequence[int], most: float) -> bool:
    """Whether the slices at each cell of some dimensions are few, and large enough for calls of their own."""
    count, cells = em.count(flatten(tuple(dims[p] for p in places))), em.count(flatten(tuple(dims)))
    return _few_and_large(count, cells, most, em.profile)


def _few_and_large(count: int, cells: int, most: float, profile: Profile) -> bool:
    """Whether so many slices, with so many cells together, are added one after another."""
    return 0 < count <= most and cells >= count * profile.slice_cells


def _sliced(problem: Problem, summed: Legs) -> float | None:
    """Microseconds to add up the slices of `Σ a * b` over leading legs, which reads each operand once; else None."""
    (a, b), profile = problem.operands, problem.profile
    leading = a.legs == b.legs and set(a.legs[: len(summed)]) == set(summed) and len(summed) < len(a.legs)
    count, cells = problem.count(summed), problem.count(a.legs)
    if not leading or not _few_and_large(count, cells, profile.slices_multiplied, profile):
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
        return _predicted(problem, min(c.copied - problem.loose * c.turned for c in _candidates(problem)))

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the product in the layout that copies least."""
        return contract(problem, em)


def best_layout(problem: Problem) -> "Candidate | None":
    """The layout that copies least, of a product of two operands with legs that one alone has; else None.

    Of those that are about as good, the one whose result is nearest to the order of the output.
    """
    a, b = problem.operands
    split = split_legs(a, b, problem.open)
    reduced = [i for i in (*split.left, *split.right) if i not in problem.open]
    if reduced or not split.summed or not (split.left or split.right):
        return None
    found = _candidates(problem)
    best = _nearest(problem, found)
    others = [c for c in found if c.last != best.last] if problem.swapped else []
    return _nearest(problem, others) if others else best


def _nearest(problem: Problem, found: Sequence["Candidate"]) -> "Candidate":
    profile, (a, b) = problem.profile, problem.operands
    alike = profile.alike * problem.count(dict.fromkeys((*a.legs, *b.legs))) / profile.matmul * profile.copy
    # Squares are summed in any order, but not as quickly.
    costs = [c.copied - problem.loose * c.turned / 2 for c in found]
    least = min(costs)
    near = [
        (c.disorder(problem.output), cost, place)
        for place, (c, cost) in enumerate(zip(found, costs, strict=True))
        if cost <= least + (0 if c.stacks else alike)
    ]
    return found[min(near)[2]]


def _predicted(problem: Problem, copied: float) -> float:
    """Microseconds of a product in a layout for which so many cells are copied."""
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
    return [(each, c.last, _predicted(problem, c.copied - c.turned)) for each, c in found]


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


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout of a product: legs by dimension, and the cells that it copies."""

    a: Value
    b: Value
    batch: Legs
    summed: Legs
    left: Legs
    right: Legs
    expand: str  # "", "a" or "b": the operand that is expanded over the batch legs it lacks
    stacks: int  # so many batch legs, which it lacks, are gone through, with one product of batches for each
    sum_batch: int  # so many batch legs are summed behind the product
    copied: float
    turned: float  # cells of these that are copied because the result is in another order than the output

    @property
    def last(self) -> Legs:
        """The last leg of the result, if it has one."""
        return (*self.batch[self.sum_batch :], *self.left, *self.right)[-1:]

    def disorder(self, output: Legs) -> int:
        """Number of pairs of legs of the result that stand in another order than in the output."""
        places = [output.index(i) for i in (*self.batch[self.sum_batch :], *self.left, *self.right)]
        return sum(a > b for n, a in enumerate(places) for b in places[n + 1 :])

    def emit(self, em: Emitter) -> Value:
        """Write the product."""
        if self.stacks:
            return self._stacked(em)
        dims_a, dims_b = (self.batch, self.left, self.summed), (self.batch, self.summed, self.right)
        x, y = em.conj(self._operand(em, self.a, dims_a)), em.conj(self._operand(em, self.b, dims_b))
        one, other = self._expanded(em, x, dims_a), self._expanded(em, y, dims_b)
        if not self.batch:
            return em.make("product", call("mm", one, other), (self.left, self.right), fresh=True)
        out = em.make("product", call("bmm", one, other), (self.batch, self.left, self.right), fresh=True)
        if not self.sum_batch:
            return out
        return em.make("product", call("sum", out, 0), (self.left, self.right))

    def _stacked(self, em: Emitter) -> Value:
        """Write a product of batches for each of the stacks of one operand."""
        front, batch = self.batch[: self.stacks], self.batch[self.stacks :]
        pairs = (self.a, (batch, self.left, self.summed)), (self.b, (batch, self.summed, self.right))
        x, y = (
            em.conj(transposed(em, value, (front, *dims) if front[0] in value.legs else dims))
            for value, dims in pairs
        )
        out = (front, batch, self.left, self.right)
        return em.make("product", call("stacked_product", x, y), out, fresh=True)

    def _operand(self, em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Value:
        if any(i not in value.legs for i in dims[0]):
            return transposed(em, value, dims[1:])
        return transposed(em, value, dims if self.batch else dims[1:])

    def _expanded(self, em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Var | Call:
        if not self.batch or len(value.dims) == 3:
            return Var(value.name)
        return call("expand", value, (product(i.size for i in dims[0]), -1, -1))


def transposed(em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Value:
    """Arrange for a matrix product: a transposition of the last two dimensions stays a view.

    What has to be copied is copied with the last two dimensions in the order of longer runs.
    """
    swapped = (*dims[:-2], dims[-1], dims[-2])
    turned = value.legs == flatten(swapped)
    if not turned and value.legs != flatten(dims) and not all(adjacent(value, d) for d in dims):
        turned = slowness(value, swapped, em.count, em.profile) < slowness(value, dims, em.count, em.profile)
    if turned:
        flat = em.arrange(value, swapped)
        return em.derive(flat, "t", call("mT", flat), dims, contiguous=False)
    return em.arrange(value, dims)


def _candidates(problem: Problem) -> list[Candidate]:
    """All layouts, with either operand on the left; among equals the first is taken."""
    a, b = problem.operands
    copies: Copies = {}
    return [*_layouts(problem, a, b, copies), *_layouts(problem, b, a, copies)]


def _layouts(problem: Problem, a: Value, b: Value, copies: Copies) -> list[Candidate]:
    split = split_legs(a, b, problem.open)
    lead = a if problem.count(a.legs) >= problem.count(b.legs) else b
    summed = tuple(i for i in lead.legs if i in split.summed)
    batch = tuple(i for i in lead.legs if i in split.batch)
    make = partial(_make, problem, copies, a, b)
    found = [make(batch, summed, split.left, split.right, "", 0)]
    if batch:
        return found + _stacks(make, a, b, split, batch, summed)
    for value, own, tag in ((a, split.left, "b"), (b, split.right, "a")):
        front = _front(value, own, summed)
        if len(front) == len(own):  # the first of them alone, so that the result may have the others last
            front = front[:1]
        if front and len(front) < len(own):
            rest = tuple(i for i in own if i not in front)
            legs = (rest, split.right) if tag == "b" else (split.left, rest)
            found.append(make(front, summed, *legs, tag, 0))
    front = _front(lead, summed, (*split.left, *split.right))
    if front and len(front) < len(summed):
        rest = tuple(i for i in summed if i not in front)
        found.append(make(front, rest, split.left, split.right, "", len(front)))
    return found


def _stacks(
    make: Callable[..., Candidate], a: Value, b: Value, split: Split, batch: Legs, summed: Legs
) -> list[Candidate]:
    """The layouts in which legs in front of an operand's batch are gone through, so that it is not copied."""
    found: list[Candidate] = []
    for value, own, tag in ((a, split.left, "b"), (b, split.right, "a")):
        front = _front(value, own, (*batch, *summed))
        if front and len(front) < len(own) and not adjacent(value, own):
            rest = tuple(i for i in own if i not in front)
            legs = (rest, split.right) if tag == "b" else (split.left, rest)
            found.append(make((*front, *batch), summed, *legs, tag, 0, len(front)))
    return found


def _front(value: Value, legs: Sequence[Index], before: Sequence[Index]) -> Legs:
    """The legs, of `legs`, that stand in front of the first of `before` in the value."""
    places = [value.legs.index(i) for i in before if i in value.legs]
    first = min(places, default=0)
    return tuple(i for i in value.legs[:first] if i in legs)


def _make(
    problem: Problem,
    copies: Copies,
    a: Value,
    b: Value,
    batch: Legs,
    summed: Legs,
    left: Legs,
    right: Legs,
    expand: str,
    extra: int,
    stacks: int = 0,
) -> Candidate:
    profile = problem.profile
    every = problem.count((*batch, *summed, *left, *right)) / profile.matmul * profile.copy
    copied = problem.count(batch[:stacks]) * profile.call * profile.copy if stacks else 0.0
    for value, other in ((a, left), (b, right)):
        own = tuple([i for i in batch if i in value.legs]), summed, other
        dims = id(value), *own
        if dims not in copies:
            copies[dims] = _copied(problem, value, own)
        copied += copies[dims]
    if expand and not stacks:
        copied += _packed(problem, a if expand == "a" else b, batch, left if expand == "a" else summed)
    result = (*batch, *left, *right)
    wanted = tuple([i for i in problem.output if i in result])
    turned = problem.count(result) if wanted != result and not extra else 0
    copied += 2 * problem.count(result) if extra else turned
    rows, columns = problem.count(left), problem.count(right)
    narrow = profile.narrowness(rows, columns)
    copied += profile.batched * profile.copy * problem.count(batch) if batch else 0.0
    if not batch and not profile.is_whole(columns) and rows * columns > profile.cache:
        copied += profile.ragged_rows * problem.count(result)
    # A copy brings operands into a cache: narrow products, which wait for memory, are slower without it.
    copied += narrow * every * (1 + profile.unseen if stacks else 1)
    return Candidate(a, b, batch, summed, left, right, expand, stacks, extra, copied, turned)


def _copied(problem: Problem, value: Value, dims: tuple[Legs, Legs, Legs]) -> float:
    """Cells that are copied so that an operand has some dimensions, the last two in either order."""
    first, one, other = dims
    cells, orders = problem.count(value.legs), ((first, one, other), (first, other, one))
    if not (adjacent(value, first) and adjacent(value, one) and adjacent(value, other)):
        return cells * min([slowness(value, order, problem.count, problem.profile) for order in orders])
    if first and value.legs[-1] in first:  # no matrix has neighbours: the library copies each by itself
        return cells * (1 + slowness(value, orders[0], problem.count, problem.profile))
    return 0.0


def _packed(problem: Problem, value: Value, batch: Legs, rows: Legs) -> float:
    """Cells of an expanded operand, each brought into the library's own layout for every batch if there are many."""
    if problem.count(value.legs) < problem.profile.cache / 4:
        return 0.0
    turned = bool(value.legs) and value.legs[0] not in rows
    return (2 if turned else 1) * problem.profile.packed * problem.count((*batch, *value.legs))


def slowness(
    value: Value, dims: Sequence[Legs], count: Callable[[Iterable[Index]], int], profile: Profile
) -> float:
    """How long it takes to copy a cell of a value into a layout, against a copy in runs of some cells."""
    legs = flatten(tuple(dims))
    if copies_in_order(value, legs, count, profile):
        return profile.ordered
    run, rows = _neighbours(value, legs, count)
    return (1.0 if value.contiguous else profile.overlapping) + profile.beginnings(run, rows)


def copies_in_order(
    value: Value, legs: Legs, count: Callable[[Iterable[Index]], int], profile: Profile
) -> bool:
    """Whether a copy of a value into an order of legs is one of long runs of neighbours."""
    inner, other = (next((i for i in reversed(each) if count((i,)) > 1), None) for each in (value.legs, legs))
    return value.contiguous and inner == other and _neighbours(value, legs, count)[0] >= profile.ordered_run


def _neighbours(value: Value, legs: Legs, count: Callable[[Iterable[Index]], int]) -> tuple[int, int]:
    """Cells at one distance both in a value and in an order of legs, and how many such runs are at one distance."""
    runs: list[list[Index]] = []
    for index in reversed([i for i in legs if count((i,)) > 1]):
        if runs and adjacent(value, (index, runs[-1][0])):
            runs[-1].insert(0, index)
        else:
            runs.append([index])
    run, rows = (count(each) for each in (*runs, (), ())[:2])
    return run, rows


def adjacent(value: Value, legs: Legs) -> bool:
    """Whether the legs can be merged into one dimension without a copy."""
    if len(legs) < 2:
        return True
    first = value.legs.index(legs[0])
    in_order = value.legs[first : first + len(legs)] == legs
    return in_order and (value.contiguous or legs in value.dims)
