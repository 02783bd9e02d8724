"""docs/concepts/prediction.md, written from the committed results: `python -m benchmarks.prediction_page FILE`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import OPERATIONS
from benchmarks.prediction import ALIKE, RESULTS, Row, lost, summary

_SHOWN = 5  # rows that lose most


def page(results: dict[str, Any]) -> str:
    """The Markdown of the page.

    Args:
        results: as `benchmarks.prediction` saves them.
    """
    rows, host = results["rows"], results["machine"]
    ops = [op for op in OPERATIONS if any(r["op"] == op for r in rows)]
    every = summary(rows)
    return _PAGE.format(
        machine=f"one thread of {host['processor']}, {host['dtype']}, torch {host['torch']}",
        rows=every["rows"],
        layers=len({(r["set"], r["layer"]) for r in rows}),
        programs=every["programs"],
        error=f"{every['error']:.0%}",
        rank=f"{every['rank']:.2f}",
        lost=f"{every['lost'] - 1:.1%}",
        alike=f"{ALIKE - 1:.0%}",
        table="\n".join(
            [_line(op, summary([r for r in rows if r["op"] == op])) for op in ops] + [_line("", every)]
        ),
        sets="\n".join(_line(name, summary([r for r in rows if r["set"] == name])) for name in _sets(rows)),
        worst="\n".join(map(_loss, sorted(rows, key=lost, reverse=True)[:_SHOWN])),
    )


def _sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r["set"] for r in rows))


def _line(name: str, found: dict[str, Any]) -> str:
    rank = "–" if found["rank"] is None else f"{found['rank']:.2f}"
    counts = f"`{name}`" if name else "all", str(found["rows"]), str(found["programs"])
    cells = *counts, f"{found['scale']:.2f}", f"{found['error']:.0%}", rank, f"{found['lost']:.3f}"
    return f"| {' | '.join(cells)} |"


def _loss(row: Row) -> str:
    """The program that was taken and the fastest, of a row."""
    taken, best = row["programs"][0], min(row["programs"], key=lambda p: p["measured"])
    cells = f"`{row['op']}`", row["layer"], _kernels(taken), _kernels(best), f"{lost(row):.2f}"
    return f"| {' | '.join(cells)} |"


def _kernels(program: dict[str, Any]) -> str:
    return ", ".join(program["kernels"])


def main(arguments: Sequence[str]) -> None:
    """Write the page to the path given, or print it."""
    text = page(json.loads(RESULTS.read_text(encoding="utf-8")))
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


_PAGE = """\
<!-- Written by `make pages` from benchmarks/prediction.json; change benchmarks/prediction_page.py. -->

# How good predictions are

Plans and kernels are chosen by predicted time, before anything runs. This page compares predictions with measurements:
of {rows} rows, which are the operations of {layers} layers, the few programs each that are predicted to be fastest,
{programs} in all. Measured on {machine}, with the rates that tnconv ships.

![Predicted over measured times of all programs; a point on the dashed line is exact.](../prediction.svg)

- The **median error** is {error}. What decides is the ratio of two times, so errors are of predicted over measured
  times once all predictions are multiplied by one factor, the *scale*: on a machine that is twice as fast at all it
  does, the same programs are chosen.
- The **rank correlation** of the programs of a row is {rank}: of the pairs whose times differ by more than {alike},
  the share in the right order less the share in the wrong one. 1 is always right, 0 is chance.
- What is **lost** by taking the program that is predicted to be fastest, and not the one that is: {lost} of the time.

| operation | rows | programs | scale | median error | rank correlation | lost: taken over fastest |
|---|---|---|---|---|---|---|
{table}

By set of layers; nobody tunes for `heldout`:

| layers | rows | programs | scale | median error | rank correlation | lost: taken over fastest |
|---|---|---|---|---|---|---|
{sets}

## Where most is lost

| operation | layer | taken | fastest | taken over fastest |
|---|---|---|---|---|
{worst}

## How to read it

A price is what a kernel reads, writes and multiplies, over rates of the machine ([the cost model](cost.md),
[how kernels compete](kernels.md#predicted-times)). `fn.explain()` lists the prices of all kernels that accept a step;
compare them with each other rather than with a clock. Times of an operation whose scale is not that of the others
compare with each other still.

No price knows what other processes do to the caches, nor what memory a process holds already. Programs that differ in
these alone may be measured far apart.

Where a choice matters to you, `autotune=True` [measures instead](kernels.md#measured-times); `tnconv calibrate`
measures the rates of your machine. `make bench-prediction` measures every sixth layer, and this page anew.
"""


if __name__ == "__main__":
    main(sys.argv[1:])
