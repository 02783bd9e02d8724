"""Candidates that run in a loop over chunks of indices, where no order fits into a limit of memory."""

from dataclasses import dataclass
from itertools import islice
from math import prod

from tnconv.compiler.candidate import Candidate, Task
from tnconv.errors import LoweringError
from tnconv.ir import Expression, evaluate
from tnconv.ir.monomial import ONE, Scalar
from tnconv.planner import candidate_plans
from tnconv.planner.plan import Slice
from tnconv.planner.slicing import cut, size_of, sliceable, with_slices

_ORDERS = 6  # contraction orders that are tried for one size of the chunks
_INDICES = 6  # indices that are tried for a slice
_DEPTH = 3  # indices that are sliced together


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What is computed for one chunk.

    Args:
        network: of a chunk.
        slices: the indices that are cut so far.
        scale: what the total is to be multiplied by.
    """

    network: Expression
    slices: tuple[Slice, ...] = ()
    scale: Scalar = ONE

    def sliceable(self) -> list[str]:
        """The indices that can be cut and are not yet."""
        parts = [each.part for each in self.slices]
        return [n for n in sliceable(self.network) if str(size_of(self.network, n)) not in parts]

    def cut(self, name: str, chunk: int) -> "_Chunk":
        """The same with one more index in chunks."""
        network, part, scale = cut(self.network, name)
        made = Slice(part, size_of(self.network, name), chunk)
        return _Chunk(network, (*self.slices, made), self.scale * scale)


def in_chunks(task: Task, most: int, peaks: list[int]) -> Candidate | None:
    """The candidate with the least work, of those that fit and slice the fewest indices; None where none fits.

    Args:
        task: what is computed.
        most: elements.
        peaks: is given the peaks of all that was tried.
    """
    start = _Chunk(task.network)
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
    chunk = -(-evaluate(size_of(start.network, name), task.sizes) // 2)
    while chunk > 1:
        tried = _first_that_fits(task, start.cut(name, chunk), most, peaks)
        if tried is not None and tried[1] <= most:
            return tried[0]
        chunk = -(-chunk // 2)
    return None


def _work(candidate: Candidate) -> tuple[int, int]:
    """Multiplications and number of chunks, to compare candidates by."""
    plan = candidate.plan
    return evaluate(plan.multiplications, plan.hints), prod(evaluate(s.runs, plan.hints) for s in plan.slices)


def _first_that_fits(task: Task, made: _Chunk, most: int, peaks: list[int]) -> tuple[Candidate, int] | None:
    """The first order that fits for given chunks, or that with the least peak; None if it cannot be written."""
    hints = task.sizes | {each.part: each.chunk for each in made.slices}
    best: tuple[Candidate, int] | None = None
    for inner in islice(candidate_plans(made.network, planner=task.planner, hints=hints), _ORDERS):
        candidate = Candidate(task, with_slices(inner, made.slices, made.scale), chunk=made.network)
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
