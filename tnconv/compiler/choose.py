"""The one choice among candidates: the fastest by prediction, or by trial, or the fastest within a limit of memory.

Strategies yield candidates; what one costs in inference, in training and with constant arguments a `Candidate` knows.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf

import torch

from tnconv.backends.backend import Slower
from tnconv.backends.tuning import tune
from tnconv.compiler.candidate import Candidate, Task
from tnconv.compiler.chunks import in_chunks, in_many_chunks
from tnconv.errors import LoweringError, PlanError
from tnconv.ir import Network
from tnconv.ir.quantities import format_memory
from tnconv.ir.size import symbol_names
from tnconv.planner import candidate_plans
from tnconv.planner.large import MANY
from tnconv.planner.memory_limit import does_not_fit


def choose(task: Task, memory_limit: int | None = None, autotune: bool = False) -> Candidate:
    """The candidate that is kept.

    Args:
        task: what is computed.
        memory_limit: bytes besides the arguments, for torch's default dtype and sizes at the hints.
        autotune: whether candidates are timed.

    Raises:
        PlanError: no plan was found, or the limit is below the least peak.
        LoweringError: a plan cannot be written as a program, or a backward pass that is to be timed not be planned.
    """
    if memory_limit is not None:
        return _within(task, memory_limit)
    return _tuned(task) if autotune else fastest(task.candidates())


def fastest(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate that is predicted to take the least time; the first of equals."""
    least, best = inf, None
    for each in candidates:
        try:
            time = each.predicted(least)
        except Slower:
            continue
        if best is None or time < least:
            least, best = time, each
    assert best is not None
    return best


def _tuned(task: Task) -> Candidate:
    """The candidate that is fastest on this machine, for the default dtype."""
    candidates = task.candidates()
    plan, prefer, trials = tune(
        str(task),
        [each.plan for each in candidates],
        lambda plan, prefer: Candidate(task, plan, prefer).timed,
        task.sizes,
        str(task.device),
        torch.get_default_dtype(),
    )
    return Candidate(task, plan, prefer, trials=trials)


def _within(task: Task, limit: int) -> Candidate:
    """The fastest candidate where that fits; the first that does; or one that runs in a loop over chunks.

    In training, what is saved for the backward pass counts, and what does not fit is computed again in it.
    """
    itemsize, training = torch.get_default_dtype().itemsize, task.objective.training
    most = limit // itemsize
    peaks: list[int] = []
    first, many = fastest(task.candidates()), len(task.network.terms[0].tensors) > MANY
    for each in [first] if many else chain([first], _smaller(task, most)):
        if each.peak > most:
            peaks.append(each.peak)
        elif not training:
            return each
        elif found := _checkpointed(each, most, peaks):
            return found
    # Where a scale depends on a size, chunks are of an index that has it, or the total is scaled.
    by_steps = many and isinstance(task.network, Network) and not symbol_names(task.network.scale)
    if not training and by_steps and (found := in_many_chunks(task, first, most, peaks)):
        return found
    if not training and not by_steps and (found := in_chunks(task, most, peaks)):
        return found
    if not peaks:
        raise PlanError(
            f"memory_limit={format_memory(limit)} and training=True are given, but the backward pass of "
            f"{task.network.name!r} cannot be planned, and what autograd keeps is not known; leave one of them out"
        )
    raise does_not_fit(min(peaks), len(peaks), limit, itemsize, task.network.symbols, "plans")


def _smaller(task: Task, most: int) -> Iterator[Candidate]:
    """Candidates for less and less memory.

    Where an order does not fit, it is tried with kernels that call no native convolution, too.
    """
    for plan in candidate_plans(task.network, planner=task.planner, hints=task.sizes, search=task.search):
        for prefer in ((), task.made_by.frugal):
            candidate = Candidate(task, task.returning(plan), prefer)
            yield candidate
            if candidate.peak <= most and not task.objective.training:  # the backward pass may yet not fit
                break


def _checkpointed(candidate: Candidate, most: int, peaks: list[int]) -> Candidate | None:
    """Both passes in `most` elements: what is largest and quickest to make is saved last, and made again instead."""
    sizes = {step.result: step.elements_at(candidate.task.sizes) for step in candidate.plan.steps}
    times = {choice.step: choice.predicted for choice in candidate.program.choices}
    while True:
        try:
            made = candidate.both
        except LoweringError:  # autograd keeps what it keeps: nothing is known of its memory
            return None
        peak = made.peak_at(candidate.task.sizes)
        if peak <= most:
            return candidate
        peaks.append(peak)
        if not made.trained.saved:
            return None
        worst = max(made.trained.saved, key=lambda name: sizes[name] / (1 + times.get(name, 0.0)))
        candidate = candidate.recomputing(worst)
