"""`make bench-prediction`: predicted against measured time, of the benchmark's rows and of other programs for them.

    python -m benchmarks.prediction --every 16
    python -m benchmarks.prediction --op weight_vjp --case layer3 --show

A row is an operation of a layer, with the few programs that are predicted to be fastest: orders of contraction, and
each with another kernel where one comes near. All of them run on one thread, and what is measured is the time that the
thread has a core, so that other processes hardly count. What decides is the ratio of two times: so errors are of
predicted over measured times, once all predictions are multiplied by one factor. A run of all sets writes
`prediction.json` and `docs/prediction.svg`, and `make pages` writes docs/concepts/prediction.md from it; with
`--every 6` it takes a minute.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tnconv
from benchmarks.bench import add_selection, chosen
from benchmarks.cases import ROWS, Case
from benchmarks.machine import describe
from benchmarks.plot import plot_predictions
from tnconv.backends.backend import How, Program, backend_of
from tnconv.backends.tuning import candidates
from tnconv.planner import Plan, fast_plans

HERE = Path(__file__).resolve().parent
RESULTS, PICTURE = HERE / "prediction.json", HERE.parent / "docs" / "prediction.svg"
_PLANS = 6  # that time decides among
ALIKE = 1.1  # programs that are measured to take as long have no order
Row = dict[str, Any]


def row(case: Case, op: str, most: int, seconds: float) -> Row:
    """The programs of a row with kernels and times in microseconds, the one that is predicted to be fastest first."""
    batch = case.batch_of(op)
    hints = {"N": batch} | ({"V": ROWS} if op.startswith("ggn") else {})
    network, torch_backend = tnconv.compile(case.spec, op, hints=hints).network, backend_of("torch")
    plans = fast_plans(network, hints=hints, most=_PLANS)

    def lower(plan: Plan, prefer: tuple[str, ...]) -> Program:
        return torch_backend.lower(plan, network, How(hints, prefer))

    programs = sorted((p for _, _, p in candidates(plans, lower)), key=lambda p: p.predicted)[:most]
    tensors = case.tensors(batch, torch.float32)
    calls = [(lambda p=program: p.function(*(tensors[name] for name in p.arguments))) for program in programs]
    times = measured(calls, seconds)
    return {
        "set": case.set, "layer": case.name, "op": op,
        "programs": [
            {"kernels": [c.kernel for c in p.choices], "predicted": p.predicted, "measured": t * 1e6}
            for p, t in zip(programs, times, strict=True)
        ],
    }  # fmt: skip


def measured(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds that one thread works on each call, the median over turns; so many seconds of each, at least 3 turns."""
    times: list[list[float]] = [[] for _ in calls]
    repeats = [max(1, round(2e-3 / max(min(_worked(call, 1) for _ in range(3)), 1e-6))) for call in calls]
    begin = time.perf_counter()
    while len(times[-1]) < 3 or time.perf_counter() - begin < seconds * len(calls):
        turn = len(times[-1])
        for place in range(
            len(calls)
        ):  # another one is first each time, and finds other things in the caches
            now = (place + turn) % len(calls)
            times[now].append(_worked(calls[now], repeats[now]))
    return [statistics.median(mine) for mine in times]


def _worked(call: Callable[[], object], repeat: int) -> float:
    start = time.thread_time()
    for _ in range(repeat):
        call()
    return (time.thread_time() - start) / repeat


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How good predictions are.

    `error` is the median of the relative errors, `rank` the mean rank correlation of the programs of a row, where there
    are some that differ, and `lost` the geometric mean of the time of the chosen one over that of the fastest.
    """
    pairs = [(p["predicted"], p["measured"]) for r in rows for p in r["programs"]]
    scale = statistics.median(m / p for p, m in pairs)
    ranks = [rank for r in rows if (rank := rank_correlation(r["programs"])) is not None]
    return {
        "rows": len(rows),
        "programs": len(pairs),
        "scale": scale,
        "error": statistics.median(abs(scale * p / m - 1) for p, m in pairs),
        "rank": statistics.mean(ranks) if ranks else None,
        "lost": statistics.geometric_mean(map(lost, rows)),
    }


def lost(row: Row) -> float:
    """The measured time of the program that is predicted to be fastest over that of the one that is."""
    times = [p["measured"] for p in row["programs"]]
    return float(times[0] / min(times))


def rank_correlation(programs: Sequence[dict[str, Any]]) -> float | None:
    """Goodman and Kruskal's gamma: of the pairs whose times differ, the share in the right order less the others'.

    None where no pair is known to differ.
    """
    right = wrong = 0
    for place, one in enumerate(programs):
        for other in programs[:place]:
            fast, slow = sorted((one, other), key=lambda p: p["measured"])
            if slow["measured"] > ALIKE * fast["measured"]:
                right += fast["predicted"] < slow["predicted"]
                wrong += fast["predicted"] > slow["predicted"]
    return (right - wrong) / (right + wrong) if right + wrong else None


def report(rows: Sequence[Row], console: Console) -> None:
    """By operation, and the rows where another program is much faster than the one that was chosen."""
    table = Table("operation", "rows", "programs", "scale", "median error", "rank correlation", "lost")
    for op in (*dict.fromkeys(r["op"] for r in rows), "all"):
        found = summary([r for r in rows if op in ("all", r["op"])])
        rank = "" if found["rank"] is None else f"{found['rank']:.2f}"
        table.add_row(
            op, str(found["rows"]), str(found["programs"]), f"{found['scale']:.2f}", f"{found['error']:.0%}",
            rank, f"{found['lost']:.3f}",
        )  # fmt: skip
    console.print(table)
    for r in sorted(rows, key=lost, reverse=True)[:15]:
        if lost(r) > ALIKE:
            best = min(r["programs"], key=lambda p: p["measured"])
            console.print(
                f"{lost(r):.2f}  {r['op']} {r['set']} {r['layer']}: {_text(r['programs'][0])} but {_text(best)}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip


def _text(program: dict[str, Any]) -> str:
    times = f"{program['predicted'] / 1e3:.3g} ms predicted, {program['measured'] / 1e3:.3g} measured"
    return f"{', '.join(program['kernels'])} ({times})"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_selection(parser)
    parser.add_argument("--programs", type=int, default=4, help="at most so many a row")
    parser.add_argument("--seconds", type=float, default=0.03, help="of each program")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--show", action="store_true", help="print every program")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console, todo = Console(), chosen(wanted)
    rows = [
        row(case, op, wanted.programs, wanted.seconds) for case, op in track(todo, "rows", console=console)
    ]
    if wanted.show:
        for r in rows:
            for program in r["programs"]:
                console.print(
                    f"{r['op']} {r['layer']}: {_text(program)}", highlight=False, markup=False, soft_wrap=True
                )
    report(rows, console)
    partial = wanted.op or wanted.case or wanted.set
    path = wanted.json or (None if partial else RESULTS)
    if path:
        results = {"machine": describe("cpu", torch.float32), **summary(rows), "rows": rows}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not partial and not wanted.json:
        plot_predictions(rows, PICTURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
