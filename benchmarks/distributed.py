"""`python -m benchmarks.distributed`: one process against two, of one thread each.

Two processes on two cores share the examples of a layer. What is timed ends when every rank has what it is to have:
gradients of its examples, or the factor as a whole.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import tnconv
from tnconv.distributed import shard

BATCH = 32
LAYERS = {
    "Conv2d(64, 64, 3), 28x28": (torch.nn.Conv2d(64, 64, 3, padding=1), (28, 28)),
    "Conv2d(128, 128, 3), 14x14": (torch.nn.Conv2d(128, 128, 3, padding=1), (14, 14)),
    "Conv2d(256, 256, 1), 14x14": (torch.nn.Conv2d(256, 256, 1), (14, 14)),
}
OPERATIONS = ("per_example_weight_vjp", "kfac_expand", "kfac_grad_expand")


def milliseconds(call: Callable[[], object], runs: int) -> float:
    """The least time of a call, all ranks together."""
    least = float("inf")
    for _ in range(runs):
        dist.barrier()
        begin = time.perf_counter()
        call()
        dist.barrier()
        least = min(least, time.perf_counter() - begin)
    return least * 1e3


def alone(call: Callable[[], object], runs: int) -> float:
    """The least time of a call of this process, while the others wait."""
    least = float("inf")
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - begin)
    return least * 1e3


def whole(found: DTensor) -> torch.Tensor:
    """What every rank is to have: a sum as a whole, shards as they are."""
    partial = any(placement.is_partial() for placement in found.placements)
    return found.full_tensor() if partial else found.to_local()


def work(rank: int, folder: str, runs: int) -> None:
    """Print a row for each layer and operation."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
    for name, (layer, size) in LAYERS.items():
        for op in OPERATIONS:
            fn = tnconv.compile(layer, op, input_size=size, hints={"N": BATCH})
            torch.manual_seed(0)
            shapes = [
                [BATCH if s == tnconv.ir.symbol("N") else s for s in each]
                for each in fn.network.shapes.values()
            ]
            given = [torch.randn(shape) for shape in shapes]
            sharded = shard(fn, mesh, {"batch": "data"})
            mine = sharded.distribute(*given)
            whole(sharded(*mine))
            one = 0.0
            if rank == 0:
                fn(*given)
                one = alone(lambda fn=fn, given=given: fn(*given), runs)
            dist.barrier()
            two = milliseconds(lambda sharded=sharded, mine=mine: whole(sharded(*mine)), runs)
            if rank == 0:
                print(
                    f"{name:28} {op:24} one {one:8.2f} ms   two {two:8.2f} ms   {one / two:5.2f}x", flush=True
                )
    dist.destroy_process_group()


def main() -> None:
    """Start two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="calls, of which the quickest counts")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(exist_ok=True)
        mp.spawn(work, (folder, runs), nprocs=2)


if __name__ == "__main__":
    main()
