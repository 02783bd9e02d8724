"""`make bench`: every operation of every layer, side by side with PyTorch and every package that has the operation.

A full run writes `results.json`, `RESULTS.md` and `docs/benchmarks.svg`; a partial one (`--op`, `--case`, `--set`,
`--every`) prints its rows, and writes only what `--json FILE` or `--merge` says.
"""

import argparse
import json
import sys
import time
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import machine  # first, as it silences torch's profiler

import torch  # isort: skip
from rich import progress
from rich.console import Console

import tnconv
from benchmarks.cases import ALIASES, OPERATIONS, SETS, Case
from benchmarks.measure import Bench
from benchmarks.overhead import overheads
from benchmarks.peers import MAKERS, TOLERANCES, available
from benchmarks.plot import plot
from benchmarks.report import line, report, summary
from benchmarks.results import merged, save

RESULTS, TABLE, PICTURE = HERE / "results.json", HERE / "RESULTS.md", HERE.parent / "docs" / "benchmarks.svg"


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that say which rows, as `chosen` reads them."""
    parser.add_argument("--op", action="append", choices=[*OPERATIONS, *ALIASES], help="only this operation")
    parser.add_argument(
        "--case", action="append", metavar="SUBSTRING", help="only layers with this in their name"
    )
    parser.add_argument("--set", action="append", choices=list(SETS), help="only layers of this set")
    parser.add_argument("--every", type=int, default=1, help="only every n-th layer of each set")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_selection(parser)
    parser.add_argument(
        "--peers", default=None, help=f"comma-separated, of {', '.join(MAKERS)}; those installed"
    )
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well, 4-6 s a row")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="7 rounds are enough once a row took this long"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=list(TOLERANCES))
    parser.add_argument("--tf32", action="store_true", help="let cuda round the factors of float32 products")
    parser.add_argument("--scale", type=int, default=None, help="times the batch; 1, or 8 on cuda")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peaks")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--merge", action="store_true", help="put the rows into the committed results")
    return parser.parse_args(arguments)


def chosen(wanted: argparse.Namespace) -> list[tuple[Case, str]]:
    """Layers and operations, operations outermost."""
    cases = [c for name in wanted.set or SETS for c in SETS[name][:: wanted.every]]
    if wanted.case:
        cases = [c for c in cases if any(part.lower() in c.name.lower() for part in wanted.case)]
    ops = [ALIASES.get(op, op) for op in wanted.op or OPERATIONS]
    return [(case, op) for op in ops for case in cases]


class Measured(NamedTuple):
    """Rows, those that failed, and those that there was no time for."""

    rows: list[dict[str, Any]]
    failed: list[tuple[Case, str]]
    left: list[tuple[Case, str]]


def measured(
    todo: list[tuple[Case, str]], bench: Bench, console: Console, show: bool, until: float = inf
) -> Measured:
    """The rows, with a progress bar, each printed if wanted; a failing row is reported and left out.

    None is begun once `time.perf_counter()` is past `until`.
    """
    columns = (
        progress.TextColumn("{task.description:44}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    found = Measured([], [], [])
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(todo))
        for number, (case, op) in enumerate(todo):
            if time.perf_counter() > until:
                found.left.extend(todo[number:])
                break
            bar.update(task, description=f"{op} {case.name}"[:44])
            try:
                found.rows.append(bench.row(case, op))
                if show:
                    bar.console.print(line(found.rows[-1]), highlight=False, markup=False, soft_wrap=True)
            except Exception as error:  # one layer that fails must not end the run
                found.failed.append((case, op))
                bar.console.print(
                    f"[red]{case.set} {case.name} {op}: {type(error).__name__}: {str(error)[:300]}"
                )
            bar.advance(task)
    return found


def prepared(wanted: argparse.Namespace, names: list[str]) -> Bench:
    """What all rows share; measures the machine's rates."""
    dtype: torch.dtype = getattr(torch, wanted.dtype)
    return Bench(
        names,
        wanted.rounds,
        wanted.device,
        machine.rates(wanted.device, dtype),
        wanted.scale or (8 if wanted.device == "cuda" else 1),
        wanted.seconds,
        memory=not wanted.no_memory,
        dtype=dtype,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write."""
    wanted = options(arguments)
    torch.set_num_threads(wanted.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted.tf32
    console, names = Console(), wanted.peers.split(",") if wanted.peers else available()
    names += ["compiled"] if wanted.compiled else []
    todo = chosen(wanted)
    if not todo:
        console.print("no layer has such a name")
        return 1
    bench = prepared(wanted, names)
    tnconv.compile(todo[0][0].spec)  # loads plug-ins
    every = len(todo) == sum(map(len, SETS.values())) * len(OPERATIONS)
    full = every and (wanted.device, wanted.dtype) == ("cpu", "float32")
    start = time.perf_counter()
    rows = measured(todo, bench, console, show=not full or not console.is_terminal).rows
    results = {
        "machine": machine.describe(wanted.device, bench.dtype) | {"rates": bench.rates},
        "rounds": wanted.rounds,
        "minutes": (time.perf_counter() - start) / 60,
        "overhead_us": overheads() if wanted.device == "cpu" else {},
        "rows": rows,
    }
    console.print(summary(results), highlight=False, markup=False, soft_wrap=True)
    if wanted.json:
        save(results, wanted.json)
    if wanted.merge:
        results = merged(json.loads(RESULTS.read_text()), results)
    if (full or wanted.merge) and not wanted.json:
        save(results, RESULTS)
        TABLE.write_text(report(json.loads(RESULTS.read_text())))  # of the digits that are kept
        plot(results, PICTURE)
    return 0 if len(rows) == len(todo) else 1


if __name__ == "__main__":
    raise SystemExit(main())
