"""Factorised convolutions of ResNet-34 beside the dense layer, reconstruct-then-convolve and tensorly-torch.

    python -m benchmarks.tensorised --kinds cp tt --layers 64 512 --compressions 0.1 0.5 --out results/

For each layer, kind of factorisation and compression: the time of a forward pass and of forward and backward, all
calls in turn (`benchmarks.timing`), and the multiplications of the plan beside those of the best of all orders.
Writes tensorised.json and TENSORISED.md, and a picture with `--plot`. The fastest peer is that of each case; the
dense layer has a weight of its own and nothing to rebuild.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from math import exp, log
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from benchmarks.machine import describe
from benchmarks.plot import plot_factorised
from benchmarks.timing import race
from tnconv.ir import evaluate
from tnconv.nn.tensorised import KINDS, TensorisedConv
from tnconv.planner import make_plan
from tnconv.planner.cost import models_of
from tnconv.planner.hints import hint_values
from tnconv.planner.prepare import Preparation
from tnconv.planner.search import problem_of

try:
    import tensorly
    from tltorch import FactorizedConv

    tensorly.set_backend("pytorch")
except ImportError:  # a peer that is not installed is left out
    FactorizedConv = None

LAYERS = {64: 56, 128: 28, 256: 14, 512: 7}  # channels -> input size
COMPRESSIONS = (0.05, 0.1, 0.2, 0.5, 1.0)
PASSES = ("forward", "forward+backward")
Tree = Any


@dataclass(frozen=True)
class Row:
    """One case, times in milliseconds by what was called."""

    kind: str
    channels: int
    size: int
    compression: float
    ranks: dict[str, int]
    fewest: int  # multiplications: the best of all orders,
    planned: int  # the plan with the fewest,
    chosen: int  # and the plan that was chosen by predicted time
    kernels: list[str]
    times: dict[str, dict[str, float]]
    ratios: dict[str, dict[str, float]]  # ours over each peer, median of the rounds


# -- multiplications -----------------------------------------------------------------------------------


def orders(leaves: Sequence[int]) -> Iterator[Tree]:
    """All contraction trees: 105 of 5 tensors, 10395 of 7."""
    if len(leaves) == 1:
        yield leaves[0]
    for count in range(1, len(leaves)):
        for right in combinations(leaves[1:], count):
            left = [leaf for leaf in leaves if leaf not in right]
            yield from product(orders(left), orders(right))


def counts(layer: TensorisedConv, size: int, batch: int) -> tuple[int, int, int]:
    """Multiplications of the best of all orders, of the plan with the fewest, and of the layer's program."""
    function = layer.compiled(size)
    hints = {"N": batch}
    term = function.network.terms[0]
    values = hint_values(term.symbols, hints)
    problem = problem_of(models_of(Preparation(term, values, {}).run(), values))
    fewest = min(problem.price(tree)[0] for tree in orders(range(len(problem.names))))
    planned = evaluate(make_plan(function.network, hints=hints).multiplications, hints)
    return fewest, planned, evaluate(function.plan.multiplications, hints)


# -- what is timed -------------------------------------------------------------------------------------


def reconstructed(layer: TensorisedConv) -> Callable[[Tensor], Tensor]:
    """The dense weight by torch.einsum, then one convolution."""
    equation = {
        "cp": "cr,ar,br,dr->dcab",
        "tucker": "oiab,do,ci->dcab",
        "tt": "cr,ras,sbt,td->dcab",
        "tr": "qcr,ras,sbt,tdq->dcab",
    }[layer.family.name]
    names = ("core", "factor_out", "factor_in")
    if layer.family.name != "tucker":
        names = ("factor_in", "factor_k1", "factor_k2", "factor_out")
    factors = [layer.factors[name] for name in names]
    return lambda x: F.conv2d(x, torch.einsum(equation, *factors), padding=1)


def peers(layer: TensorisedConv) -> dict[str, nn.Module | Callable[[Tensor], Tensor]]:
    """By name: the same layer otherwise; tensorly-torch's with factors of its own and the same ranks."""
    channels, ranks = layer.in_channels, tuple(layer.ranks.values())
    found: dict[str, Any] = {
        "dense": nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        "reconstruct": reconstructed(layer),
    }
    kind = layer.family.name
    if FactorizedConv is not None and kind in ("cp", "tucker", "tt"):
        rank: Any = {"cp": ranks[0], "tucker": (*ranks, 3, 3), "tt": (1, *ranks, 1)}[kind]
        for way in ("factorized", "mobilenet") if kind == "cp" else ("factorized",):
            found[f"tltorch {way}"] = FactorizedConv(
                channels, channels, 3, order=2, padding=1, rank=rank, factorization=kind, implementation=way
            )
    return found


def call(function: Any, x: Tensor, cotangent: Tensor, way: str) -> Callable[[], object]:
    """A forward pass without gradients, or both with gradients of the input and all parameters."""

    def forward() -> Tensor:
        with torch.no_grad():
            return function(x)

    def both() -> None:
        x.grad = None
        function(x).backward(cotangent)

    return forward if way == "forward" else both


def measure(kind: str, channels: int, compression: float, options: argparse.Namespace) -> Row:
    """One case."""
    torch.manual_seed(0)
    size = LAYERS[channels]
    layer = KINDS[kind][2](
        channels, channels, 3, padding=1, rank=compression, bias=False,
        batch_hint=options.batch, autotune=options.autotune,
    )  # fmt: skip
    x = torch.randn(options.batch, channels, size, size, requires_grad=True)
    others = peers(layer)
    want = others["reconstruct"](x)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), want, rtol=1e-3, atol=1e-4 * float(want.detach().abs().max()))
    times: dict[str, dict[str, float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for way in PASSES:
        calls = {"tnconv": call(layer, x, torch.randn_like(want), way)}
        for name, function in others.items():
            calls[name] = call(function, x, torch.randn_like(want), way)
        for each in calls.values():
            each()
        found = race(calls, options.rounds, seconds=options.seconds)
        times[way] = {name: 1e3 * statistics.median(found.seconds(name)) for name in calls}
        ratios[way] = {name: statistics.median(found.ratios("tnconv", name)) for name in others}
    function = layer.compiled(size)
    kernels = [choice.kernel for choice in function.program.choices]
    fewest, planned, chosen = counts(layer, size, options.batch)
    return Row(
        kind, channels, size, compression, dict(layer.ranks), fewest, planned, chosen, kernels, times, ratios
    )


# -- the report ----------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return exp(sum(map(log, values)) / len(values))


def report(rows: Sequence[Row], machine: dict[str, Any], batch: int) -> str:
    """The Markdown page."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios["forward"]))
    lines = ["# Factorised convolutions of ResNet-34", ""]
    lines += [
        f"3x3, padding 1, batch {batch}; times in ms; ratios of tnconv over the peer, below 1 is faster.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", f"| geometric mean over {len(rows)} cases | " + " | ".join([*names, "best of all"]) + " |"]
    lines += ["|---|" + "---|" * (len(names) + 1)]
    for way in PASSES:
        cells = [f"{mean([r.ratios[way][n] for r in rows if n in r.ratios[way]]):.2f}" for n in names]
        best = mean([max(row.ratios[way].values()) for row in rows])
        lines.append(f"| {way} | " + " | ".join([*cells, f"{best:.2f}"]) + " |")
    exact = sum(row.fewest == row.planned for row in rows)
    lines += [
        "",
        f"Fewest multiplications of all orders: reached by the planner in {exact} of {len(rows)} cases.",
        "",
    ]
    for way in PASSES:
        lines += [f"## {way}", "", "| layer | kind | parameters | multiplications: fewest, chosen | "]
        lines[-1] += " | ".join(["tnconv", *names]) + " | kernels |"
        lines.append("|---|---|---|---|" + "---|" * (len(names) + 2))
        for row in rows:
            cells = [f"{row.times[way][n]:.2f}" if n in row.times[way] else "–" for n in ("tnconv", *names)]
            start = f"| {row.channels}x{row.size} | {row.kind} | {row.compression:.0%} | {row.fewest:.2e}, "
            lines.append(
                start + f"{row.chosen:.2e} | " + " | ".join(cells) + f" | {', '.join(row.kernels)} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure the cases that the options name; return the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kinds", nargs="+", default=["cp", "tucker", "tt", "tr"], choices=["cp", "tucker", "tt", "tr"]
    )
    parser.add_argument(
        "--layers", nargs="+", type=int, default=list(LAYERS), choices=list(LAYERS), help="channels"
    )
    parser.add_argument("--compressions", nargs="+", type=float, default=list(COMPRESSIONS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="a case ends after this long and 7 rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--autotune", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for tensorised.json and TENSORISED.md")
    parser.add_argument("--plot", type=Path, help="an SVG file for the picture")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    cases = list(product(options.layers, options.kinds, options.compressions))
    console = Console()
    machine = describe("cpu", torch.float32)
    rows: list[Row] = []
    for channels, kind, compression in track(cases, "measuring", console=console):
        rows.append(measure(kind, channels, compression, options))
        if options.out is not None:  # what is there already survives an interruption
            save(rows, machine, options)
    if options.plot is not None:
        plot_factorised([asdict(row) for row in rows], options.plot)
    if options.out is None:
        console.print(report(rows, machine, options.batch), markup=False)
    return rows


def save(rows: Sequence[Row], machine: dict[str, Any], options: argparse.Namespace) -> None:
    """Write both files."""
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine, "batch": options.batch, "rows": [asdict(row) for row in rows]}
    (options.out / "tensorised.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (options.out / "TENSORISED.md").write_text(report(rows, machine, options.batch) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
