"""One function over 200 image sizes: its first use of a size, later calls, what is kept, and rows of the table.

    python -m benchmarks.any_size --every 9

First use is what `at(...)` takes for a size that is new, in processor time, so that others on the machine count less.
Overhead is that of a call through the function for any size over one of the function of that size, for a layer that
takes no time.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import tnconv
from benchmarks.bench import add_selection, chosen
from benchmarks.cases import Case
from benchmarks.timing import race
from tnconv.compiler.any_size.any_size_function import AnySizeFunction
from tnconv.compiler.any_size.open_source import MOST_PROGRAMS, OpenLayer
from tnconv.errors import ArgumentError

SIZES = range(32, 232)
OPERATIONS = ("kfac_reduce", "forward")
_SHOWN = 10  # rows that lose most


@dataclass(frozen=True)
class Figures:
    """What one function took over all sizes.

    Args:
        op: its operation.
        planned: milliseconds of each first use of a size that was the first of its class.
        first: of each other first use.
        overhead: microseconds that later calls take more than those of the function of a size.
        plans: how many there are.
        plannings: how often one was searched for.
        kept: programs that are kept.
    """

    op: str
    planned: list[float]
    first: list[float]
    overhead: float
    plans: int
    plannings: int
    kept: int


def over_sizes(op: str, sizes: Sequence[int] = SIZES) -> Figures:
    """Use one function for square images of many sizes, in turn."""
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    function = tnconv.compile(conv, op)
    assert isinstance(function, AnySizeFunction)
    planned, first = [], []
    for size in sizes:
        before, start = function.variants.plannings, time.process_time()
        function.at(size, size)
        taken = (time.process_time() - start) * 1e3
        (first if function.variants.plannings == before else planned).append(taken)
    made = function.variants
    return Figures(op, planned, first, _overhead(op), len(made), made.plannings, len(made.kept))


def _overhead(op: str, size: int = 4) -> float:
    """Microseconds that a call takes more than that of the function of its size, on a layer that takes no time."""
    function = tnconv.compile(nn.Conv2d(2, 2, 3, padding=1, bias=False), op)
    tensors = {"x": torch.randn(1, 2, size, size), "weight": torch.randn(2, 2, 3, 3)}
    given = [tensors[name] for name in function.arguments]
    single = function.at(size, size)
    calls = {"any": lambda: function(*given), "one": lambda: single(*given)}
    for each in calls.values():
        each()
    found = race(calls, 21, least=2e-3, seconds=0.5)
    return (statistics.median(found.seconds("any")) - statistics.median(found.seconds("one"))) * 1e6


def through_it(case: Case, op: str, seconds: float) -> float | None:
    """The time of a row through a function for any size over that of the function that is compiled for its size.

    None where tensors do not tell a size, as a gradient of outputs does not at a stride.
    """
    hints = {"N": case.batch_of(op)}
    tensors = case.tensors(case.batch_of(op), torch.float32, "cpu")
    one = tnconv.compile(case.spec, op, hints=hints)
    every = tnconv.compile(OpenLayer(case.spec), op, hints=hints)
    given = [tensors[name] for name in one.arguments]
    one(*given)
    try:
        every(*given)
    except ArgumentError:
        return None
    found = race({"one": lambda: one(*given), "any": lambda: every(*given)}, 15, seconds=seconds)
    return statistics.median(found.ratios("any", "one"))


def report(figures: Sequence[Figures], console: Console) -> None:
    """Print the figures."""
    table = Table(title=f"{len(SIZES)} image sizes, {SIZES[0]} to {SIZES[-1]}, 64 to 64 channels, 3x3")
    header = (
        "operation",
        "plans",
        "searches",
        "kept",
        "first of a class",
        "first use, median",
        "95%",
        "worst",
        "later",
    )
    for name in header:
        table.add_column(name, justify="right")
    for each in figures:
        ordered = sorted(each.first)
        table.add_row(
            each.op, str(each.plans), str(each.plannings), f"{each.kept} of {MOST_PROGRAMS}",
            f"{max(each.planned):.1f} ms", f"{statistics.median(ordered):.2f} ms",
            f"{ordered[int(0.95 * len(ordered))]:.2f} ms", f"{ordered[-1]:.2f} ms", f"+{each.overhead:.2f} µs",
        )  # fmt: skip
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_selection(parser)
    parser.add_argument("--seconds", type=float, default=0.2, help="of the rounds of a row")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=140)
    report([over_sizes(op) for op in OPERATIONS], console)
    ratios = {}
    for case, op in chosen(wanted):
        ratio = through_it(case, op, wanted.seconds)
        if ratio is not None:
            ratios[f"{op} {case.name}"] = ratio
    for name, ratio in sorted(ratios.items(), key=lambda item: -item[1])[:_SHOWN]:
        console.print(f"{name:48} {ratio:.3f}", highlight=False)
    if ratios:
        middle = statistics.median(ratios.values())
        console.print(f"{len(ratios)} rows through it, median {middle:.3f} of the time")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
