"""The pictures of the results: every layer's ratio to the strongest peer, by operation, or by compression."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from benchmarks.cases import OPERATIONS, SETS

_COLOURS = ("#0072b2", "#56b4e9", "#999999", "#d55e00")
_MODEL_COLOURS = ("#d55e00", "#0072b2", "#56b4e9", "#009e73", "#999999", "#cc79a7")
_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_STYLE = {"svg.hashsalt": "tnconv", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def plot(results: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG; the same results give the same file."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 5), facecolor="white", layout="constrained")
        _draw(figure.add_subplot(), results["rows"])
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    ops = [op for op in OPERATIONS if any(r["op"] == op for r in rows)]
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, size=len(rows))
    for name, colour in zip(SETS, _COLOURS, strict=True):
        found = [
            (ops.index(r["op"]) + s, r["ratio"])
            for r, s in zip(rows, spread, strict=True)
            if r["set"] == name
        ]
        if found:
            axes.scatter(*zip(*found, strict=True), s=12, color=colour, alpha=0.75, linewidths=0, label=name)
    for place, op in enumerate(ops):
        mean = statistics.geometric_mean(r["ratio"] for r in rows if r["op"] == op)
        axes.hlines(mean, place - 0.38, place + 0.38, color="black", linewidth=1.8)
        axes.annotate(
            f"{mean:.2f}", (place + 0.38, mean), xytext=(1, 2), textcoords="offset points", fontsize=8
        )
    _ratios(axes)
    axes.set_xticks(
        range(len(ops)), [op.replace("_weight_vjp", "\nweight_vjp") for op in ops], rotation=30, ha="right"
    )
    axes.set_ylabel("time over the strongest eager peer's")
    axes.set_title("Every layer's ratio, below 1 is faster; bars: geometric means", fontsize=10)
    axes.legend(title="layers", frameon=False, loc="lower left")


def _ratios(axes: Any) -> None:
    """A logarithmic axis of ratios, with a line at 1."""
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plot_factorised(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of `benchmarks.tensorised`: ratios to the fastest peer by compression, for each way."""
    ways = list(rows[0]["ratios"])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 4), facecolor="white", layout="constrained")
        for axes, way in zip(figure.subplots(1, len(ways), sharey=True), ways, strict=True):
            _draw_factorised(axes, rows, way)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_factorised(axes: Any, rows: list[dict[str, Any]], way: str) -> None:
    kinds = list(dict.fromkeys(r["kind"] for r in rows))
    shares = sorted({r["compression"] for r in rows})
    worst = [max(r["ratios"][way].values()) for r in rows]
    for number, kind in enumerate(kinds):
        points = [
            (shares.index(r["compression"]) + 0.15 * (number - (len(kinds) - 1) / 2), ratio)
            for r, ratio in zip(rows, worst, strict=True)
            if r["kind"] == kind
        ]
        axes.scatter(*zip(*points, strict=True), s=16, color=_COLOURS[number], linewidths=0, label=kind)
    for place, share in enumerate(shares):
        found = [ratio for r, ratio in zip(rows, worst, strict=True) if r["compression"] == share]
        mean = statistics.geometric_mean(found)
        axes.hlines(mean, place - 0.4, place + 0.4, color="black", linewidth=1.8)
        axes.annotate(
            f"{mean:.2f}", (place + 0.2, mean), xytext=(0, 3), textcoords="offset points", fontsize=8
        )
    _ratios(axes)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_xlabel("parameters, of the dense layer's")
    axes.set_title(f"{way}, geometric mean {statistics.geometric_mean(worst):.2f}", fontsize=10)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("time over the fastest peer's")
        axes.legend(frameon=False)


def plot_models(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of `benchmarks.models`: every call in times of one forward and backward pass."""
    cases = list(dict.fromkeys((row["model"], row["setting"]) for row in rows))
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    names = ["tnconv", *sorted({name for row in rows for name in row["ratios"]} - {"tnconv"})]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 1.2 + 1.7 * len(cases)), facecolor="white", layout="constrained")
        grid = figure.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
        for axes, case in zip(grid, cases, strict=True):
            found = [row for row in rows if (row["model"], row["setting"]) == case]
            for number, name in enumerate(names):
                points = [
                    (quantities.index(row["quantity"]) + 0.13 * (number - (len(names) - 1) / 2), ratio)
                    for row in found
                    if (ratio := row["ratios"].get(name)) is not None
                ]
                colour = _MODEL_COLOURS[number]
                bars = axes.bar(
                    [x for x, _ in points], [y for _, y in points], 0.12, label=name, color=colour
                )
                axes.bar_label(bars, fmt="%.1f", fontsize=7)
            axes.set_yscale("log")
            axes.set_ylim(0.5, 2 * max(ratio for row in found for ratio in row["ratios"].values()))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(", ".join(case), fontsize=9, loc="left")
        grid[-1].set_xticks(range(len(quantities)), quantities)
        figure.supylabel("time over that of one forward and backward pass", fontsize=9)
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names), frameon=False
        )
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def plot_predictions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture of predicted against measured times as SVG, a colour a kind of operation."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.5, 5.5), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        ops = [op for op in OPERATIONS if any(r["op"] == op for r in rows)]
        colours = matplotlib.colormaps["tab20"]
        for place, op in enumerate(ops):
            programs = [p for r in rows if r["op"] == op for p in r["programs"]]
            times = zip(*((p["measured"], p["predicted"]) for p in programs), strict=True)
            axes.scatter(*times, s=10, color=colours(place), alpha=0.7, linewidths=0, label=op)
        axes.axline((1e2, 1e2), slope=1, color="black", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured, microseconds on one core")
        axes.set_ylabel("predicted")
        axes.set_title("Predicted and measured times of the programs of each row", fontsize=10)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
