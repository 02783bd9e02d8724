"""One process against two, of one thread each, and what a sharded call takes besides collectives.

    OMP_NUM_THREADS=1 python -m benchmarks.distributed --out benchmarks

Two processes on two cores share the examples of a layer. What is timed ends when every rank has what it is to
have: gradients of its examples, or the factor as a whole. One process and two take turns, round by round, with two that
know nothing of each other and have half of the examples each: what these lose, to memory that they share and to
work that is not halved, no sharing out can win back.

The overhead of a call is its processor time less that of its collectives, as PyTorch does them, and of the same local
functions on the same parts, in one process whose group is PyTorch's `fake` one.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import tnconv
from benchmarks.machine import describe
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed import Sharded, shard
from tnconv.ir import evaluate

BATCH = 32
LAYERS = {
    "Conv2d(64, 64, 3), 28x28": (torch.nn.Conv2d(64, 64, 3, padding=1), (28, 28)),
    "Conv2d(128, 128, 3), 14x14": (torch.nn.Conv2d(128, 128, 3, padding=1), (14, 14)),
    "Conv2d(256, 256, 1), 14x14": (torch.nn.Conv2d(256, 256, 1), (14, 14)),
}
OPERATIONS = ("per_example_weight_vjp", "kfac_expand", "kfac_grad_expand")
LEAST = 0.1  # seconds of a sample of one process
# Operation, index, how arguments are gathered: nothing is sent, a halo, a whole argument, parts one by one.
CALLS = (
    ("kfac_expand", "batch", "auto"),
    ("forward", "i1", "auto"),
    ("ggn_gram", "batch", "all"),
    ("ggn_gram", "batch", "ring"),
)
RANKS = (2, 4, 64)


@dataclass(frozen=True)
class Scaling:
    """One process against two.

    Args:
        layer: which.
        op: of it.
        one: milliseconds of one process, the median.
        two: of two.
        speedup: median of the ratios, round by round.
        most: that of two processes with half of the examples each, that send nothing.
    """

    layer: str
    op: str
    one: float
    two: float
    speedup: float
    most: float


@dataclass(frozen=True)
class Overhead:
    """What a sharded call takes besides what it computes, and besides collectives.

    Args:
        op: of a small layer.
        index: that is sharded.
        gather: as of `shard`.
        ranks: of the mesh.
        microseconds: the median.
    """

    op: str
    index: str
    gather: str
    ranks: int
    microseconds: float


def arguments(fn: CompiledFunction, **sizes: int) -> list[Tensor]:
    """Arguments at random, the same on every rank."""
    torch.manual_seed(0)
    return [torch.randn([evaluate(size, sizes) for size in shape]) for shape in fn.network.shapes.values()]


# -- one against two ---------------------------------------------------------------------------------------


def whole(found: DTensor) -> Tensor:
    """What every rank is to have: a sum as a whole, shards as they are."""
    partial = any(placement.is_partial() for placement in found.placements)
    return found.full_tensor() if partial else found.to_local()


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Of one of some calls in a row, until all ranks are done."""
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(repeat):
        call()
    dist.barrier()
    return (time.perf_counter() - begin) / repeat


def compared(name: str, op: str, rounds: int) -> Scaling:
    """One process, while the other waits, two, and two that send nothing, in turn."""
    layer, size = LAYERS[name]
    fn = tnconv.compile(layer, op, input_size=size, hints={"N": BATCH})
    given = arguments(fn, N=BATCH)
    sharded = shard(fn, init_device_mesh("cpu", (2,), mesh_dim_names=("data",)), {"batch": "data"})
    mine = sharded.distribute(*given)

    def single() -> None:
        if dist.get_rank() == 0:
            fn(*given)

    def double() -> None:
        whole(sharded(*mine))

    halves = [each.to_local() for each in mine]

    def apart() -> None:
        fn(*halves)

    single(), double(), apart()
    counts = [max(1, round(LEAST / seconds(single, 3)))]
    dist.broadcast_object_list(counts)
    calls = (single, double, apart)
    times = [[seconds(call, counts[0]) for call in calls] for _ in range(rounds)]
    one, two, _ = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
    speedup, most = (statistics.median(each[0] / each[n] for each in times) for n in (1, 2))
    return Scaling(name, op, one, two, speedup, most)


def work(rank: int, folder: str, rounds: int) -> None:
    """Leave a row for each layer and operation in the folder."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    rows = []
    for name in LAYERS:
        for op in OPERATIONS:
            rows.append(compared(name, op, rounds))
            if rank == 0:
                print(line(rows[-1]), flush=True)
    if rank == 0:
        (Path(folder) / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    dist.destroy_process_group()


def scaling(rounds: int) -> list[Scaling]:
    """One process against two, in two processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, rounds), nprocs=2)
        return [Scaling(**row) for row in json.loads((Path(folder) / "rows.json").read_text())]


# -- overhead ----------------------------------------------------------------------------------------------


def overheads(rounds: int, ranks: Sequence[int] = RANKS) -> list[Overhead]:
    """Of all calls, as the first of so many ranks."""
    found = []
    for count in ranks:
        dist.init_process_group("fake", rank=0, world_size=count)
        found += [overhead(op, index, gather, count, rounds) for op, index, gather in CALLS]
        dist.destroy_process_group()
    return found


def overhead(op: str, index: str, gather: str, ranks: int, rounds: int) -> Overhead:
    """Of a call whose work takes no time to speak of."""
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("data",))
    size = (2 * ranks, 6) if index == "i1" else (6, 6)
    fn = tnconv.compile(torch.nn.Conv2d(2, 2, 3, padding=1, bias=False), op, input_size=size)
    sharded = shard(fn, mesh, {index: "data"}, gather=gather)
    mine = sharded.distribute(*arguments(fn, N=2 * ranks if index == "batch" else 2, V=1))
    calls = (lambda: sharded(*mine)), by_hand(sharded, mine)
    repeat = max(1, round(0.02 / processor_seconds(calls[0], 3)))
    found = []
    for _ in range(rounds):
        ours, parts = (processor_seconds(call, repeat) for call in calls)
        found.append(ours - parts)
    return Overhead(op, index, gather, ranks, 1e6 * statistics.median(found))


def processor_seconds(call: Callable[[], object], repeat: int) -> float:
    """Processor time of one of some calls in a row: what else runs on the machine does not count."""
    begin = time.process_time()
    for _ in range(repeat):
        call()
    return (time.process_time() - begin) / repeat


def by_hand(sharded: Sharded, mine: Sequence[DTensor]) -> Callable[[], object]:
    """The collectives of a call, by PyTorch, and what this rank computes, on parts that it has."""
    ready = sharded._ready(tuple(mine))
    parts = [fetch(mine[fetch.argument]) for fetch in ready.fetches]
    calls = [(turn.function, [parts[n] for n in turn.order]) for turn in ready.turns if turn.function]
    moved = [(mine[f.argument], f.target) for f in ready.fetches if mine[f.argument].placements != f.target]
    sent = [sizes(move, part) for f, part in zip(ready.fetches, parts, strict=True) for move in f.moves]
    if ready.rotation is not None:
        one = sum(parts[n].numel() for n in ready.moving)
        sent += [([0, one, *[0] * (len(ready.turns) - 2)],) * 2] * (len(ready.turns) - 1)
    buffers = [(torch.empty(sum(got)), torch.empty(sum(given)), got, given) for got, given in sent]

    def call() -> None:
        for tensor, target in moved:
            tensor.redistribute(placements=target)
        for arrived, flat, got, given in buffers:
            dist.all_to_all_single(arrived, flat, got, given)
        for function, given in calls:
            function(*given)

    return call


def sizes(move: Any, part: Tensor) -> tuple[list[int], list[int]]:
    """Cells that this rank gets from each in an exchange, and sends to each."""
    got, sent = move.counts(part.numel() // max(1, part.shape[move.axis]))
    return got, sent


# -- the report --------------------------------------------------------------------------------------------


def line(row: Scaling) -> str:
    """A row of the table."""
    times = f"{row.one:.2f} | {row.two:.2f} | {row.speedup:.2f} | {row.most:.2f}"
    return f"| {row.layer} | `{row.op}` | {times} | {row.speedup / row.most:.0%} |"


def report(rows: Sequence[Scaling], calls: Sequence[Overhead], machine: dict[str, Any], rounds: int) -> str:
    """The Markdown page."""
    lines = ["# One process and two", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += [
        "",
        f"{BATCH} examples, of which two processes have half each, with one thread each, over gloo on one machine. "
        f"Times until every rank has its part of the gradients, or the whole factor; medians of {rounds} rounds in "
        "which one process and two take turns. At most: two processes that send nothing, with half of the examples "
        "each, which share the memory of the machine.",
        "",
        "| layer | operation | one, ms | two, ms | times as fast | at most | of that |",
        "|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
        "## Overhead of a call",
        "",
        "Processor time of a sharded call less that of its collectives by PyTorch and of the same local functions on "
        "the same parts, in microseconds.",
        "",
        f"| operation | index | gathered | {' | '.join(f'{count} ranks' for count in RANKS)} |",
        "|---|---|---|" + "---|" * len(RANKS),
    ]
    for op, index, gather in CALLS:
        own = {c.ranks: c.microseconds for c in calls if (c.op, c.index, c.gather) == (op, index, gather)}
        lines.append(f"| `{op}` | {index} | {gather} | {' | '.join(f'{own[c]:.0f}' for c in RANKS)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> str:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--out", type=Path, help="a folder for distributed.json and DISTRIBUTED.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    calls, rows = overheads(options.rounds), scaling(options.rounds)
    machine = describe("cpu", torch.float32)
    text = report(rows, calls, machine, options.rounds)
    print(f"\n{text}")
    if options.out is not None:
        found = {"machine": machine, "rounds": options.rounds}
        found |= {"scaling": [asdict(row) for row in rows], "overhead": [asdict(row) for row in calls]}
        (options.out / "distributed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / "DISTRIBUTED.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
