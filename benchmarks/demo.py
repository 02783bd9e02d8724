"""`make demo`: compile every distinct convolution of ResNet-18 for seven operations, check and time each.

Values are checked in float64, times compared in float32, side by side with the PyTorch implementation.
"""

import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tnconv
from benchmarks.cases import DEMO_OPERATIONS as OPERATIONS
from benchmarks.cases import RESNET18, Case
from benchmarks.peers import Problem
from benchmarks.peers.pytorch import peers
from benchmarks.timing import Comparison, compare

BATCH = 4
TOLERANCE = 1e-12


def measure(
    case: Case, op: str, rounds: int
) -> tuple[tnconv.CompiledFunction, float, float, float, Comparison]:
    """Compile, check in float64 and float32, and time one operation of one layer."""
    start = time.perf_counter()
    function = tnconv.compile(case.spec, op, hints={"N": BATCH})
    seconds = time.perf_counter() - start
    errors = []
    for dtype in (torch.float64, torch.float32):
        tensors = case.tensors(BATCH, dtype)
        arguments = [tensors[name] for name in function.arguments]
        got, want = function(*arguments), peers(Problem(case, op, tensors))[0].call()
        if got.shape != want.shape:
            raise SystemExit(
                f"{case.name} {op}: shape {tuple(got.shape)} but PyTorch has {tuple(want.shape)}"
            )
        errors.append(((got - want).abs().max() / want.abs().max()).item())
    return (
        function,
        seconds,
        errors[0],
        errors[1],
        compare(lambda: function(*arguments), peers(Problem(case, op, tensors))[0].call, rounds),
    )


def main() -> int:
    """Print the table; return 1 if a value is wrong."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    console = Console(width=None if sys.stdout.isatty() else 150)
    threads = torch.get_num_threads()
    table = Table(
        title=f"ResNet-18, 224x224, batch {BATCH}, {threads} threads; time in float32 over PyTorch's"
    )
    for name in (
        "layer",
        "operation",
        "multiplications",
        "peak elements",
        "kernels",
        "error f64",
        "error f32",
    ):
        table.add_column(name, justify="left" if name in ("layer", "operation", "kernels") else "right")
    table.add_column("ms", justify="right")
    table.add_column("time / PyTorch", justify="right")
    ratios: dict[str, list[float]] = defaultdict(list)
    worst = {"f64": 0.0, "f32": 0.0}
    compile_times = []
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("compile, check, time", total=len(RESNET18) * len(OPERATIONS))
        for case in RESNET18:
            for op in OPERATIONS:
                progress.update(task, description=f"{case.name} {op}")
                function, seconds, exact, single, timed = measure(case, op, rounds)
                compile_times.append(seconds)
                worst = {"f64": max(worst["f64"], exact), "f32": max(worst["f32"], single)}
                ratios[op].append(timed.ratio)
                counts = function.cost.at(N=BATCH)
                kernels = ", ".join(dict.fromkeys(c.kernel for c in function.program.choices))
                table.add_row(
                    case.name, op, f"{counts.multiplications:,}", f"{counts.peak_elements:,}", kernels,
                    f"{exact:.0e}", f"{single:.0e}", f"{timed.a * 1e3:.2f}", f"{timed.ratio:.2f}",
                    style="red" if exact > TOLERANCE else None,
                )  # fmt: skip
                progress.advance(task)
            table.add_section()
    console.print(table)
    for op in OPERATIONS:
        found = ratios[op]
        console.print(
            f"{op:12s} time over PyTorch's: median {statistics.median(found):.2f}, "
            f"best {min(found):.2f}, worst {max(found):.2f}"
        )
    console.print(
        f"largest relative error {worst['f64']:.1e} (float64), {worst['f32']:.1e} (float32); "
        f"compile {statistics.median(compile_times) * 1e3:.1f} ms in the median"
    )
    return 0 if worst["f64"] <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
