"""Candidates that run in a loop over chunks of indices, where no order fits into a limit of memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

from tnconv.compiler.candidate import Candidate, Task
from tnconv.errors import LoweringError
from tnconv.ir import Expression, evaluate, symbol
from tnconv.ir.monomial import ONE, Scalar
from tnconv.planner import candidate_plans
from tnconv.planner.chunk_plan import cuts_of, plan_of_chunk
from tnconv.planner.plan import Plan, Slice
from tnconv.planner.slicing import cut, size_of, sliceable, with_slices

_ORDERS = 6  # contraction orders that are tried for one size of the chunks
_INDICES = 6  # indices that are tried for a slice
_DEPTH = 3  # indices that are sliced together
_TARGETS = 12  # sizes of an intermediate that are tried of a large network


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What is computed for one chunk.

    Args:
        network: of a chunk.
        slices: the indices that are cut so far.
        scale: what the total is to be multiplied by.
        packed: as of a task.
    """

    network: Expression
    slices: tuple[Slice, ...] = ()
    scale: Scalar = ONE
    packed: int | None = None

    def sliceable(self) -> list[str]:
        """The indices that can be cut and are not yet."""
        parts = [each.part for each in self.slices]
        return [n for n in sliceable(self.network, self.packed) if str(size_of(self.network, n)) not in parts]

    def cut(self, name: str, chunk: int) -> "_Chunk":
        """The same with one more index in chunks."""
        network, part, scale = cut(self.network, name)
        made = Slice(part, size_of(self.network, name), chunk)
        return _Chunk(network, (*self.slices, made), self.scale * scale, self.packed)


def in_chunks(task: Task, most: int, peaks: list[int]) -> Candidate | None:
    """The candidate with the least work, of those that fit and slice the fewest indices; None where none fits.

    Args:
        task: what is computed.
        most: elements.
        peaks: is given the peaks of all that was tried.
    """
    start = _Chunk(task.network, packed=task.packed)
    for _ in range(_DEPTH):
        least: tuple[int, _Chunk] | None = None
        found: list[Candidate] = []
        for name in start.sliceable()[:_INDICES]:
            smallest = start.cut(name, 1)
            tried = _first_that_fits(task, smallest, most, peaks)
            if tried is None:
                continue
            candidate, peak = tried
            if least is None or peak < least[0]:
                least = peak, smallest
            if peak <= most:
                found.append(_with_largest_chunk(task, start, name, most, peaks) or candidate)
        if found:
            return min(found, key=_work)
        if least is None:
            return None
        start = least[1]
    return None


def _with_largest_chunk(
    task: Task, start: _Chunk, name: str, most: int, peaks: list[int]
) -> Candidate | None:
    """The candidate with the fewest chunks that fits, halving their size each time; None below two values."""
    for chunk in _halved(evaluate(size_of(start.network, name), task.sizes)):
        tried = _first_that_fits(task, start.cut(name, chunk), most, peaks)
        if tried is not None and tried[1] <= most:
            return tried[0]
    return None


def _halved(size: int) -> Iterator[int]:
    """The halves of a size, rounded up, down to two."""
    while size > 2:
        size = -(-size // 2)
        yield size


def in_many_chunks(task: Task, whole: Candidate, most: int, peaks: list[int]) -> Candidate | None:
    """The steps of a large network in a loop over the values of as many indices as it takes; None where none fits.

    Args:
        task: what is computed.
        whole: all at once.
        most: elements.
        peaks: is given the peaks of all that was tried.
    """
    allowed, target = sliceable(task.network, task.packed), most // 2
    for _ in range(_TARGETS):
        cuts = cuts_of(whole.plan, allowed, target, task.sizes) if target else None
        if cuts is None:
            return None
        if not cuts:
            target //= 2
            continue
        smallest = _cut_by(task, whole.plan, cuts)
        peak = smallest.peak
        peaks.append(peak)
        if peak <= most:
            return _with_larger_chunk(task, whole.plan, cuts, most) or smallest
        target = min(target // 2, target * most // peak)
    return None


def _with_larger_chunk(task: Task, whole: Plan, cuts: Sequence[str], most: int) -> Candidate | None:
    """The candidate with the fewest chunks of the last index that fits; None below two values."""
    chunks = _halved(evaluate(size_of(task.network, cuts[-1]), task.sizes))
    candidates = (_cut_by(task, whole, cuts, chunk) for chunk in chunks)
    return next((candidate for candidate in candidates if candidate.peak <= most), None)


def _cut_by(task: Task, whole: Plan, cuts: Sequence[str], chunk: int = 1) -> Candidate:
    """The candidate for chunks of a value of some indices, of `chunk` of the last; no scale depends on their sizes."""
    made = _Chunk(task.network)
    for name in cuts:
        made = made.cut(name, chunk if name == cuts[-1] else 1)
    values = task.sizes | {each.part: each.chunk for each in made.slices}
    pieces = {name: symbol(each.part) for name, each in zip(cuts, made.slices, strict=True)}
    plan = plan_of_chunk(whole, pieces, made.network.shapes, values)
    return Candidate(task, task.returning(with_slices(plan, made.slices, made.scale)), chunk=made.network)


def _work(candidate: Candidate) -> tuple[int, int]:
    """Multiplications and number of chunks, to compare candidates by."""
    plan = candidate.plan
    return evaluate(plan.multiplications, plan.hints), prod(evaluate(s.runs, plan.hints) for s in plan.slices)


def _first_that_fits(task: Task, made: _Chunk, most: int, peaks: list[int]) -> tuple[Candidate, int] | None:
    """The first order that fits for given chunks, or that with the least peak; None if it cannot be written."""
    hints = task.sizes | {each.part: each.chunk for each in made.slices}
    best: tuple[Candidate, int] | None = None
    plans = candidate_plans(made.network, planner=task.planner, hints=hints, search=task.search)
    for inner in islice(plans, _ORDERS):
        whole = task.returning(with_slices(inner, made.slices, made.scale))
        candidate = Candidate(task, whole, chunk=made.network)
        try:
            peak = candidate.peak
        except LoweringError:  # a size that only the whole tells
            return None
        peaks.append(peak)
        if best is None or peak < best[1]:
            best = candidate, peak
        if peak <= most:
            break
    return best
