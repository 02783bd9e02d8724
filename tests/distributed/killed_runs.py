"""A sliced contraction that several processes share, some of which are killed: what is run in processes of their own."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

import tnconv
from tests.distributed.sharding_cases import CLOSE, GROUPED, SIZES, distance, values_of
from tests.processes import IMPORTED
from tnconv.compiler.chunk_jobs import ChunkJob
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed import run
from tnconv.errors import DistributedError

TIMEOUT = 20  # seconds, of the group
PATIENCE = 120  # seconds


def limited(op: str, limit: int | None = 1000) -> CompiledFunction:
    """An operation in chunks, of five examples."""
    return tnconv.compile(GROUPED, op, memory_limit=limit, hints={"N": SIZES["N"]})


def contraction(rank: int, ranks: int, folder: Path, attempt: int, pause: float) -> None:
    """Take part in the ten jobs of a factor, and leave what came of it.

    Args:
        rank: of this process.
        ranks: how many take part.
        folder: of files `job-ATTEMPT-RANK-NUMBER` of jobs that were begun, and `outcome-ATTEMPT-RANK`.
        attempt: number of the attempt.
        pause: seconds that each job takes besides.
    """
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-{attempt}"
    time_out = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=time_out)
    before = ChunkJob.__call__

    def call(job: ChunkJob, *tensors: torch.Tensor) -> torch.Tensor:
        (folder / f"job-{attempt}-{rank}-{job.number}").touch()
        time.sleep(pause)
        return before(job, *tensors)

    ChunkJob.__call__ = call  # type: ignore[method-assign]
    fn = limited("kfac_expand", 700)
    values = values_of(fn)
    try:
        error = distance(run(fn, resume=folder / "sums", every=0)(*values), fn(*values))
        outcome = "equal" if error <= CLOSE else f"off by {error}"
    except DistributedError as error:
        outcome = str(error)
    part = folder / f"unfinished-{attempt}-{rank}"
    part.write_text(outcome, encoding="utf-8")
    part.rename(folder / f"outcome-{attempt}-{rank}")
    os._exit(0)


def start(folder: Path, attempt: int, ranks: int, pause: float = 0.0) -> list[BaseProcess]:
    """Start the processes of an attempt."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    context = multiprocessing.get_context("forkserver")
    arguments = [(rank, ranks, folder, attempt, pause) for rank in range(ranks)]
    found = [context.Process(target=contraction, args=given, daemon=True) for given in arguments]
    for process in found:
        process.start()
    return found


def begun(folder: Path, attempt: int, rank: int | str = "*") -> list[int]:
    """The jobs that were begun in an attempt, by one rank or by all."""
    return sorted(int(path.name.split("-")[-1]) for path in folder.glob(f"job-{attempt}-{rank}-*"))


def wait(until: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened in {PATIENCE} s")
        time.sleep(0.02)


def outcomes(folder: Path, attempt: int, processes: list[BaseProcess]) -> dict[int, str]:
    """What became of each process that was not killed, once all have ended."""
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"a process of attempt {attempt} did not end in {PATIENCE} s")
    paths = {rank: folder / f"outcome-{attempt}-{rank}" for rank in range(len(processes))}
    return {rank: path.read_text(encoding="utf-8") for rank, path in paths.items() if path.exists()}


def killed_again_and_again(times: int, seed: int = 0) -> list[str]:
    """What is wrong where two to four processes go on in turn, and one of them, any, is killed at any moment."""
    draw, found = random.Random(seed), []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sums").mkdir()
        for attempt in range(times):
            ranks = draw.randint(2, 4)
            processes = start(folder, attempt, ranks, pause=0.1)
            wait(lambda attempt=attempt: begun(folder, attempt) or list(folder.glob(f"outcome-{attempt}-*")))
            time.sleep(draw.uniform(0, 0.3))
            lost = draw.randrange(ranks)
            processes[lost].kill()
            ended = outcomes(folder, attempt, processes)
            good = ("equal", "is lost")
            found += [
                f"attempt {attempt}: {each}" for each in ended.values() if not any(g in each for g in good)
            ]
            if len(ended) < ranks - 1:
                found.append(f"attempt {attempt}: {sorted(ended)} of {ranks} ended, {lost} was killed")
        last = outcomes(folder, times, start(folder, times, 2))
        if list(last.values()) != ["equal"] * 2:
            found.append(f"at last: {last}")
    return found
