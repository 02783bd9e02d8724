"""Work in processes that talk by gloo, with a deadline: what waits for another for ever is stopped and said."""

import multiprocessing
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PROCESSES = 2
IMPORTED = ["hypothesis", "pytest", "tnconv", "torch._dynamo", "torch.distributed.fsdp"]  # once, not in each
DEADLINE = 120  # seconds; alone it takes about five


def in_two(folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of two processes with a common process group; see `in_processes`."""
    return in_processes(PROCESSES, folder, work, *arguments)


def in_processes(
    count: int,
    folder: Path,
    work: Callable[..., Any],
    *arguments: Any,
    lost: Collection[int] = (),
    deadline: float = DEADLINE,
    anew: bool = False,
) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of some processes with a common process group.

    Args:
        count: how many.
        folder: an empty one, where the processes meet and leave their results.
        work: of a module, so that another process finds it.
        arguments: of the work, behind the rank.
        deadline: seconds.
        lost: the ranks that end in the midst of it, with `os._exit(0)`; what they return is left out.
        anew: each imports all by itself, and its sets of words have an order of their own (some seconds more);
            else they are forks of one process, which has imported all and computed nothing.
    """
    method = "spawn" if anew else "forkserver"
    multiprocessing.set_forkserver_preload(IMPORTED)
    given = (str(folder), count, deadline, work, arguments)
    context = mp.start_processes(_process, given, nprocs=count, join=False, start_method=method)
    results = [folder / f"{rank}.pt" for rank in range(count) if rank not in lost]
    end = time.monotonic() + deadline
    while not context.join(timeout=1) and time.monotonic() < end:
        pass
    for process in context.processes:
        process.kill()  # also one that has left its result and does not come to its end
    if not all(path.exists() for path in results):
        raise TimeoutError(f"{work.__module__}.{work.__name__} in {count} processes took over {deadline} s")
    return [torch.load(path) for path in results]


def _process(
    rank: int, folder: str, count: int, deadline: float, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=deadline / 2),
    )
    result = Path(folder) / f"{rank}.pt"
    torch.save(work(rank, *arguments), result.with_suffix(".part"))
    result.with_suffix(".part").rename(result)
    dist.destroy_process_group()
