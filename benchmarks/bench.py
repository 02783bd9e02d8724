"""`make bench`: time and memory of every operation on the layers of ResNet-18, side by side with PyTorch.

Calls alternate A B B A … in one process; the median of the ratios round by round is what to quote. Writes
`results.json` with the machine's description, and `RESULTS.md` made from it, beside this file.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tnconv
from benchmarks.cases import OPERATIONS, RESNET18, Case
from benchmarks.memory import peak_bytes
from benchmarks.peers import peer
from benchmarks.timing import compare

BATCH = 4
LARGE_GRID = 28
FLOAT = 4


def measure(case: Case, op: str, rounds: int) -> dict[str, Any]:
    """One row: compile time, time against PyTorch's, memory, and the kernels."""
    tnconv.compile(case.spec, op)
    start = time.perf_counter()
    function = tnconv.compile(case.spec, op, hints={"N": BATCH})
    seconds = time.perf_counter() - start
    tensors = case.tensors(BATCH, torch.float32)
    arguments = [tensors[name] for name in function.arguments]
    other = peer(case, op, tensors)
    timed = compare(lambda: function(*arguments), other, rounds)
    peak, result = peak_bytes(lambda: function(*arguments))
    other_peak, _ = peak_bytes(other)
    unfolded = BATCH * case.in_channels * case.kernel_size**2 * case.output_size**2 * FLOAT
    return {
        "layer": case.name,
        "op": op,
        "count": case.count,
        "kernels": list(dict.fromkeys(c.kernel for c in function.program.choices)),
        "compile_ms": seconds * 1e3,
        "ms": timed.a * 1e3,
        "pytorch_ms": timed.b * 1e3,
        "ratio": timed.ratio,
        "quartiles": [timed.low, timed.high],
        "extra_bytes": peak - result,
        "extra_over_unfolded": (peak - result) / unfolded,
        "pytorch_peak_over_peak": other_peak / max(peak, 1),
        "large_stride_1": case.stride == 1 and case.output_size >= LARGE_GRID,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": "float32",
        "batch": BATCH,
    }


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    host, rows = results["machine"], results["rows"]
    lines = [
        "# Results",
        "",
        "Made by `make bench`. Every distinct convolution of ResNet-18 at 224x224, "
        f"batch {host['batch']}, {host['dtype']}, {host['threads']} threads of a {host['cores']}-core "
        f"{host['processor']} machine, torch {host['torch']}, Python {host['python']}. Times are medians of "
        f"{results['rounds']} interleaved rounds; the ratio is tnconv's time over PyTorch's (`F.conv2d`, "
        "`torch.nn.grad`, `F.unfold` + einsum), the median round by round with its quartiles: below 1 is faster. "
        "Machines are noisy: quote the ratios.",
        "",
        "## In short",
        "",
        "| operation | median ratio | best | worst | weighted by count |",
        "|---|---|---|---|---|",
    ]
    for op in OPERATIONS:
        found = [r["ratio"] for r in rows if r["op"] == op]
        weighted = [r["ratio"] for r in rows if r["op"] == op for _ in range(r["count"])]
        lines.append(
            f"| {op} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} "
            f"| {statistics.median(weighted):.2f} |"
        )
    for op in ("kfac_expand", "kfac_reduce"):
        large = [r["ratio"] for r in rows if r["op"] == op and r["large_stride_1"]]
        speedups = ", ".join(f"{1 / r:.1f}" for r in large)
        lines += ["", f"{op} on stride-1 layers with 28x28 outputs or larger: {speedups} times as fast."]
    worst = max(r["extra_over_unfolded"] for r in rows if r["op"] == "kfac_reduce")
    lines += [
        "",
        f"Peak memory of kfac_reduce besides its result: at most {worst:.1%} of the unfolded input.",
    ]
    compile_ms = statistics.median(r["compile_ms"] for r in rows)
    lines += ["", f"Compiling one operation of one layer: {compile_ms:.1f} ms in the median."]
    lines += [
        "",
        "## Every layer",
        "",
        "| layer | operation | kernels | ms | PyTorch ms | ratio | quartiles | PyTorch's peak memory / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["quartiles"]
        lines.append(
            f"| {r['layer']} | {r['op']} | {', '.join(r['kernels'])} | {r['ms']:.2f} | {r['pytorch_ms']:.2f} "
            f"| **{r['ratio']:.2f}** | {low:.2f}-{high:.2f} | {r['pytorch_peak_over_peak']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--op", action="append", choices=OPERATIONS, help="only this operation; nothing is written"
    )
    options = parser.parse_args()
    todo = [(case, op) for op in options.op or OPERATIONS for case in RESNET18]
    rows = [measure(case, op, options.rounds) for case, op in track(todo, "measuring")]
    if options.op:
        for r in rows:
            print(
                f"{r['op']:12s} {r['layer']:14s} {r['ms']:8.2f} {r['pytorch_ms']:8.2f} ratio {r['ratio']:.2f}"
            )
        return
    results = {"machine": machine(), "rounds": options.rounds, "rows": rows}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "RESULTS.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
