"""`tnconv.distributed.run`: the chunks of a plan with slices, shared out over the ranks of a group and added up."""

import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tnconv.compiler.any_size.any_size_function import AnySizeFunction
from tnconv.compiler.chunk_jobs import ChunkJob
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.finished_sums import FinishedSum, Folder, digest
from tnconv.distributed.local_function import refuse_several
from tnconv.distributed.placements import all_reduce
from tnconv.distributed.sharded_explanation import JobsExplanation
from tnconv.errors import ArgumentError, DistributedError


def run(
    fn: CompiledFunction, group: Any = None, *, resume: str | Path | None = None, every: float = 60.0
) -> "SharedJobs":
    """Share out the chunks of a function that was compiled with a memory limit.

    Every rank has the arguments as a whole, computes the jobs `rank`, `rank + ranks`, … of `fn.jobs`, and gets the
    result. Where a rank dies, all others end with a `DistributedError`, at the latest when the group's time-out is
    over.

    Args:
        fn: of `tnconv.compile(…, memory_limit=…)`; where its plan has no slices, one rank computes all.
        group: a process group of `torch.distributed`; that of all processes if left out, or this process alone where
            there is none.
        resume: a folder that all ranks see. Each writes the sum of its finished jobs there, and a later run of the same
            computation, with as many ranks or others, goes on from these.
        every: seconds after which a rank writes its sum, once a job is done; and before results are added up.

    Returns:
        A function on tensors, of the arguments of `fn`. Gradients do not go through: `shard` has them.

    Raises:
        OperationError: the function is of several operations.
    """
    return SharedJobs(fn, group, None if resume is None else Folder(Path(resume)), every)


class SharedJobs:
    """A function whose chunks are shared out; see `run`.

    Attributes:
        fn: what is computed.
        group: the process group, or None for this process alone.
    """

    def __init__(self, fn: CompiledFunction, group: Any, folder: Folder | None, every: float) -> None:
        refuse_several(fn)
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        self.fn, self.group, self._folder, self._every = fn, group, folder, every
        self.rank = 0 if group is None else dist.get_rank(group)
        self.ranks = 1 if group is None else dist.get_world_size(group)

    def __call__(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Compute the result, on every rank.

        Args:
            tensors: the arguments in order, the same on every rank.
            named: arguments by name.

        Raises:
            ArgumentError: an argument does not fit or needs a gradient, or the folder is of another computation.
            DistributedError: another rank is lost.
        """
        given = tensors if not named else tuple(self.fn._signature.collect(tensors, named))
        found = [
            n for n, t in zip(self.fn.arguments, given, strict=False) if getattr(t, "requires_grad", False)
        ]
        if found and torch.is_grad_enabled():
            raise ArgumentError(
                f"argument {found[0]!r} requires a gradient, which does not go through jobs; detach it, call within "
                "torch.no_grad(), or use tnconv.distributed.shard"
            )
        with torch.no_grad():
            return self._computed(self._function(given), given)

    def explain(self, *tensors: Tensor) -> JobsExplanation:
        """How many jobs there are, and what adding up their results sends; print it.

        Args:
            tensors: the arguments in order, or others like them, as on the meta device.
        """
        fn = self._function(tensors)
        jobs, dtype = _jobs(fn, tensors)
        traffic = all_reduce("result", dtype.itemsize * prod(jobs[0].shape), self.ranks)
        return JobsExplanation(fn.network.name, len(jobs), self.ranks, 1e-6 * fn.program.predicted, traffic)

    def _function(self, tensors: tuple[Any, ...]) -> CompiledFunction:
        fn = self.fn._of_call(tensors, {}) if isinstance(self.fn, AnySizeFunction) else self.fn
        assert isinstance(fn, CompiledFunction)
        return fn

    def _computed(self, fn: CompiledFunction, tensors: tuple[Any, ...]) -> Tensor:
        jobs, dtype = _jobs(fn, tensors)
        mine = _Mine(torch.zeros(jobs[0].shape, dtype=dtype, device=tensors[0].device), len(jobs), self.rank)
        finished = self._finished(jobs, tensors)
        for number, each in enumerate(finished):
            if number % self.ranks == self.rank:
                mine.take(each)
        done = {int(n) for each in finished for n in each.jobs.nonzero()}
        left = [job for job in jobs if job.number not in done]
        self._work(left[self.rank :: self.ranks], tensors, mine)
        return self._added(mine.total)

    def _finished(self, jobs: Sequence[ChunkJob], tensors: Sequence[Tensor]) -> list[FinishedSum]:
        """What is in the folder: read by one rank, for others may begin to write."""
        found: list[Any] = [digest(jobs), []]
        if self.rank == 0 and self._folder is not None:
            try:
                self._folder.claim(jobs, tensors)
                found[1] = self._folder.sums()
            except ArgumentError as error:
                found[1] = error
        if self.group is not None:
            with _Others(self):
                dist.broadcast_object_list(found, dist.get_global_rank(self.group, 0), self.group)
        if isinstance(found[1], ArgumentError):
            raise found[1]
        if found[0] != digest(jobs):
            raise ArgumentError(
                f"rank {self.rank} of {self.ranks} has other chunks than rank 0, as of another memory limit or other "
                "rates; compile on one rank and broadcast the function, which pickles"
            )
        sums: list[FinishedSum] = found[1]
        return sums

    def _work(self, jobs: Sequence[ChunkJob], tensors: Sequence[Tensor], mine: "_Mine") -> None:
        written = time.monotonic()
        for job in jobs:
            mine.add(job, job(*tensors))
            if self._folder is not None and time.monotonic() - written >= self._every:
                mine.save(self._folder)
                written = time.monotonic()
        if self._folder is not None:
            mine.save(self._folder)

    def _added(self, total: Tensor) -> Tensor:
        if self.group is None:
            return total
        with _Others(self):
            if dist.get_backend(self.group) == "gloo":  # which can tell who is missing
                dist.monitored_barrier(self.group, wait_all_ranks=True)
            dist.all_reduce(torch.view_as_real(total) if total.is_complex() else total, group=self.group)
        return total


def _jobs(fn: CompiledFunction, tensors: tuple[Any, ...]) -> tuple[list[ChunkJob], torch.dtype]:
    arrays, arithmetic = fn._arrays, fn.arithmetic
    sizes = fn._signature.check(tensors, arrays, arithmetic.takes_mixed(tensors, arrays))
    dtype = arithmetic.result_dtype(tensors, arrays)
    jobs = fn.jobs(**{name: sizes[name] for name in fn.network.symbols})
    return jobs, dtype.to_real() if fn.network.real else dtype


class _Mine:
    """The sum of this rank.

    Args:
        total: zeros.
        count: number of all jobs.
        rank: of this process.
    """

    def __init__(self, total: Tensor, count: int, rank: int) -> None:
        self.total, self._rank = total, rank
        self._jobs = torch.zeros(count, dtype=torch.bool)
        self._saved = 0
        self._instead: list[Path] = []

    def take(self, other: FinishedSum) -> None:
        """Add a sum that was finished before, of which this is the only taker."""
        self.total += other.total(self.total)
        self._jobs |= other.jobs
        self._saved = int(self._jobs.sum()) if not self._instead else 0
        self._instead.append(other.path)

    def add(self, job: ChunkJob, part: Tensor) -> None:
        job.add(part, self.total)
        self._jobs[job.number] = True

    def save(self, folder: Folder) -> None:
        """Write the sum, in place of those that it has."""
        count = int(self._jobs.sum())
        if count != self._saved:
            self._instead = [folder.save(self.total, self._jobs, self._rank, self._instead)]
            self._saved = count


class _Others:
    """What waits for other ranks, and says that one is lost where it waits in vain."""

    def __init__(self, shared: SharedJobs) -> None:
        self._shared = shared

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError):
            shared = self._shared
            first = str(error).splitlines()[0]
            where = "" if shared._folder is None else f"; finished sums are in {str(shared._folder.path)!r}"
            raise DistributedError(
                f"rank {shared.rank} of {shared.ranks} waits for another that is lost ({first}){where}; start all "
                "ranks again, with resume= to go on from finished sums"
            ) from error
