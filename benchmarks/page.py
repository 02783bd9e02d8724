"""docs/benchmarks.md, written from the committed results: `python -m benchmarks.page docs/benchmarks.md`."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import OPERATIONS

RESULTS = Path(__file__).with_name("results.json")
TWO_THREADS = Path(__file__).with_name("results_2_threads.json")
WIDE = Path(__file__).with_name("results_wide.json")
MODELS = Path(__file__).with_name("models.json")
Row = dict[str, Any]


def page(results: dict[str, Any], two: dict[str, Any], wide: dict[str, Any], models: Sequence[Row]) -> str:
    """The Markdown of the page.

    Args:
        results: as `benchmarks.results` saves them.
        two: the same with two threads, of some layers.
        wide: the same on a processor with wider registers.
        models: the rows of `benchmarks.models`.
    """
    rows = results["rows"]
    return _PAGE.format(
        machine=_machine(results["machine"]),
        rounds=results["rounds"],
        layers=len({(r["set"], r["layer"]) for r in rows}),
        rows=len(rows),
        table=_table(rows),
        two=_table(two["rows"]),
        two_layers=len({(r["set"], r["layer"]) for r in two["rows"]}),
        wide=_table(wide["rows"]),
        wide_machine=_machine(wide["machine"]),
        losses="\n".join(_loss(r) for r in sorted(_quiet(rows), key=lambda r: -r["ratio"])[:5]),
        models=_models(models),
        compiling=f"{statistics.median(r['compile_ms'] for r in rows):.1f}",
    )


def main(arguments: Sequence[str]) -> None:
    """Write the page to the path given, or print it."""
    results, two, wide, models = (
        json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, TWO_THREADS, WIDE, MODELS)
    )
    text = page(results, two, wide, models["rows"])
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


def _machine(host: dict[str, Any]) -> str:
    """What was measured on, in words."""
    threads = f"{host['threads']} {'thread' if host['threads'] == 1 else 'threads'} of {host['cores']} cores"
    simd = f" with {host['simd']}" if "simd" in host else ""
    return f"{threads}, {host['processor']}{simd}, {host['dtype']}, torch {host['torch']}, Python {host['python']}"


def _table(rows: Sequence[Row]) -> str:
    """A line for each operation."""
    ops = [op for op in OPERATIONS if any(r["op"] == op for r in rows)]
    return "\n".join(_line([r for r in rows if r["op"] == op], op) for op in ops)


def _line(rows: Sequence[Row], op: str) -> str:
    cells = [f"`{op}`", str(len(rows))]
    for name in ("pytorch_ratio", "ratio"):
        ratios = [r[name] for r in rows]
        cells += [f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}"]
        cells.append(f"{sum(ratio > 1.05 for ratio in ratios)}")
    return f"| {' | '.join(cells)} |"


def _models(rows: Sequence[Row]) -> str:
    """A line for each model and setting, a column for each quantity."""
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    lines = [f"| model | images | {' | '.join(quantities)} |", "|---" * (2 + len(quantities)) + "|"]
    for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
        found = {row["quantity"]: row for row in rows if (row["model"], row["setting"]) == (model, setting)}
        cells = [
            f"{of_best(found[q], 'ratios'):.2f} ({of_best(found[q], 'memory'):.2f})" if q in found else "–"
            for q in quantities
        ]
        lines.append(f"| {model} | {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def of_best(row: Row, column: str) -> float:
    """What tnconv takes over the least of all peers; not a number where there is none.

    Args:
        row: of `benchmarks.models`.
        column: "ratios" or "memory".
    """
    peers = [value for name, value in row[column].items() if name != "tnconv"]
    return float(row[column]["tnconv"]) / min(peers, default=float("nan"))


def _loss(row: Row) -> str:
    cells = f"`{row['op']}`", row["layer"], row["strongest"], f"{row['ratio']:.1f}"
    return f"| {' | '.join(cells)} |"


def _quiet(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows that were measured without disturbance, if there are any."""
    return [r for r in rows if not r["noisy"]] or rows


_PAGE = """\
<!-- Written by `make pages` from benchmarks/results.json; change benchmarks/page.py. -->

# Benchmarks

![Ratios of tnconv's times to those of PyTorch and other packages, for every operation and layer.](benchmarks.svg)

{rows} rows: {layers} layers, each with the operations below. Measured on {machine}.

Calls alternate in one process, {rounds} rounds; a ratio is the median of the ratios round by round. Below 1 tnconv is
faster. Every peer's numbers are compared with tnconv's before it is timed.

## In short

The *strongest peer* is the fastest of PyTorch, `torch.func`, einconv, singd, curvlinops and BackPACK on that very
layer, so not the same one in every row. *Slower* counts the layers where the ratio is above 1.05.

| operation | layers | over PyTorch: median | worst | slower | over the strongest: median | worst | slower |
|---|---|---|---|---|---|---|---|
{table}

Compiling one operation of one layer takes {compiling} ms in the median.

With two threads, on {two_layers} of the layers
(`make bench ARGS="--threads 2 --every 4 --json benchmarks/results_2_threads.json"`):

| operation | layers | over PyTorch: median | worst | slower | over the strongest: median | worst | slower |
|---|---|---|---|---|---|---|---|
{two}

Where oneDNN fills registers of 512 bits and the BLAS does not, large products are left to oneDNN
([two sets of rates](concepts/kernels.md#predicted-times)). All layers on such a machine, {wide_machine}
(`make bench ARGS="--json benchmarks/results_wide.json"`):

| operation | layers | over PyTorch: median | worst | slower | over the strongest: median | worst | slower |
|---|---|---|---|---|---|---|---|
{wide}

## Where tnconv loses most

| operation | layer | strongest peer | ratio |
|---|---|---|---|
{losses}

## Whole models

![Times of curvature and per-example quantities of whole models, by package.](models.svg)

Time of `tnconv.curvature` over that of the fastest of curvlinops, singd, Opacus and `torch.func`, and in brackets its
peak memory over that of the most frugal of them; `32x32` is 32 images of 32x32 pixels, `64x4` 4 of 64x64.

{models}

`benchmarks/MODELS.md` has every package; `make bench-models` measures it anew.

## More

[How good predictions are](concepts/prediction.md) compares the times by which plans are chosen with measured ones.
`benchmarks/RESULTS.md` in the repository has every layer, the kernels taken, the spread, the roofline and peak memory.
`make bench` measures all of it anew; `make bench-quick` takes a minute.
`make bench-compare REV=HEAD~3` compiles each row by this tree and by another commit, times both in turn in one process,
measures rows that look slower again, and prints geometric means, the rows that are slower and the kernels of both.
"""


if __name__ == "__main__":
    main(sys.argv[1:])
