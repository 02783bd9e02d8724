"""Work in two processes that talk by gloo, with a deadline: what waits for the other for ever is stopped and said."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PROCESSES = 2
DEADLINE = 120  # seconds; alone it takes about five


def in_two(folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of two processes with a common process group.

    Args:
        folder: an empty one, where the processes meet and leave their results.
        work: of a module, so that another process finds it.
        arguments: of the work, behind the rank.
    """
    context = mp.spawn(_process, (str(folder), work, arguments), nprocs=PROCESSES, join=False)
    results = [folder / f"{rank}.pt" for rank in range(PROCESSES)]
    end = time.monotonic() + DEADLINE
    while not context.join(timeout=1) and time.monotonic() < end:
        pass
    for process in context.processes:
        process.kill()  # also one that has left its result and does not come to its end
    if not all(path.exists() for path in results):
        raise TimeoutError(f"{work.__module__}.{work.__name__} in two processes took over {DEADLINE} s")
    return [torch.load(path) for path in results]


def _process(rank: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=DEADLINE / 2),
    )
    result = Path(folder) / f"{rank}.pt"
    torch.save(work(rank, *arguments), result.with_suffix(".part"))
    result.with_suffix(".part").rename(result)
    dist.destroy_process_group()
