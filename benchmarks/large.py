"""Networks of 50 to 5,000 tensors: planning beside cotengra's hyper-optimiser, contraction, and the exact value.

    python -m benchmarks.large --seconds 8 --out benchmarks

Networks without patterns are planned by `tnconv.compile` with `search={"seconds": …}` and by
`cotengra.HyperOptimizer(max_time=…)` alone, one after the other in one process, both from the same seed; both trees are
scored by cotengra. Of those with patterns cotengra is given the patterns as dense tensors, and what it would multiply
is compared with what the plan multiplies. All times, those of searches too, are of the processor. Writes LARGE.md and
large.json.

    python -m benchmarks.large --network 500x10 --seconds 5 --out benchmarks

measures the networks of that name anew and keeps the other rows.
"""

import argparse
import json
import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cotengra
import torch
from rich.console import Console

import tnconv
from benchmarks import large_convolutions as layered
from benchmarks import large_networks as plain
from benchmarks.large_networks import Example
from benchmarks.machine import describe
from tnconv.ir import Network
from tnconv.planner import Plan

PLAIN: dict[str, Callable[[], Example]] = {
    "random regular graph, 50": lambda: plain.even_subgraphs(50),
    "random regular graph, 100": lambda: plain.even_subgraphs(100),
    "square lattice, 12x12": lambda: plain.lattice(12, 12),
    "square lattice, 50x10": lambda: plain.lattice(50, 10),
    "Ising, 5x4x4": lambda: plain.ising((5, 4, 4)),
    "circuit, 3x4, 8 cycles": lambda: plain.circuit(3, 4, 8),
    "circuit, 4x4, 10 cycles": lambda: plain.circuit(4, 4, 10),
}
PATTERNS: dict[str, Callable[[], Example]] = {
    "200 convolutions": lambda: layered.convolutions(200),
    "60 strided convolutions": lambda: layered.convolutions(60, 6, 256, stride_every=10),
    "60 dilated convolutions": lambda: layered.convolutions(60, 4, 64, dilations=(1, 2, 4)),
    "50 convolutions in 2 dimensions": lambda: layered.convolutions(50, 6, (14, 14)),
    "50 convolutions with 7 taps": lambda: layered.convolutions(50, 3, 48, 7),
    "16 CP convolutions": lambda: layered.factorised(16, joined=True),
    "16 TT convolutions": lambda: layered.factorised(16),
    "norm of 40 convolutions": lambda: layered.squared_norm(40),
    "tree of products": lambda: layered.products(5),
    "tree of products, wide": lambda: layered.products(4, 16, 48),
}
HUGE: dict[str, Callable[[], Example]] = {
    "square lattice, 500x10": lambda: plain.lattice(500, 10),
}
MOST = 2.0**32  # multiplications that are contracted here
MOST_TENSORS = 1000  # that the hyper-optimiser tries in some seconds
CLOSE = 1.01  # of the logarithms of cotengra alone
SEED = 0
clock = time.process_time  # what else runs on the machine does not count


@dataclass(frozen=True)
class Row:
    """A network. Scores are binary logarithms, of multiplications and of elements; None where nothing was measured."""

    network: str
    tensors: int
    patterns: int
    planning: float  # seconds
    multiplications: float
    size: float
    peer: float | None
    peer_size: float | None
    compiling: float | None  # seconds, from the plan to the function
    contraction: float | None  # seconds
    error: float | None  # relative


def inputs_of(network: Network) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """A network with dense patterns for cotengra: the indices of the tensors, of the output, the sizes."""
    parts = [[i.name for i in node.indices] for node in (*network.tensors, *network.patterns)]
    sizes: dict[str, Any] = {i.name: i.size for i in network.indices}
    return parts, [i.name for i in network.open_indices], sizes


def alone(network: Network, seconds: float) -> tuple[float, float]:
    """The logarithms of multiplications and of the largest intermediate of cotengra's own tree."""
    random.seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kahypar is not installed
        search = cotengra.HyperOptimizer(
            max_time=seconds, max_repeats=1 << 30, parallel=False, minimize="flops"
        )
        tree = search.search(*inputs_of(network))
    return scores(tree)


def scores(tree: Any) -> tuple[float, float]:
    """Those of a tree, as cotengra counts."""
    found = tree.contract_stats()
    return math.log2(found["flops"]), math.log2(found["size"])


def tree_of(plan: Plan, network: Network) -> Any:
    """A plan of a network without patterns as cotengra's tree."""
    number = {tensor.argument: place for place, tensor in enumerate(network.tensors)}
    path = []
    for step in plan.steps:
        parts = [number[operand.source] for operand in step.operands]
        if len(parts) == 2:
            path.append(tuple(parts))
        number[step.result] = len(network.tensors) + len(path) - 1 if len(parts) == 2 else parts[0]
    return cotengra.ContractionTree.from_path(*inputs_of(network), ssa_path=path)


def measure(name: str, example: Example, seconds: float) -> Row:
    """Plan, compile, contract and compare one network."""
    with mock.patch("time.time", clock), mock.patch("tnconv.planner.large.perf_counter", clock):
        return _measured(name, example, seconds)


def _measured(name: str, example: Example, seconds: float) -> Row:
    network, few = example.network, len(example.tensors) <= MOST_TENSORS
    search = {"seconds": seconds, "seed": SEED} if few else None
    start = clock()
    plan = tnconv.planner.make_plan(
        network, search=None if search is None else tnconv.planner.Search.read(search)
    )
    planning = clock() - start
    work, size = math.log2(plan.multiplications), math.log2(max(step.elements_at({}) for step in plan.steps))
    if not network.patterns:
        work, size = scores(tree_of(plan, network))
    peer = alone(network, seconds) if few else (None, None)
    compiling = contraction = error = None
    if work <= math.log2(MOST):
        start = clock()
        function = tnconv.compile(network, minimize="multiplications")
        compiling = clock() - start
        function(*example.arguments)
        start = clock()
        value = function(*example.arguments)
        contraction = clock() - start
        want = example.exact()
        error = ((value - want).abs().max() / want.abs().max()).item()
    numbers = (len(network.tensors), len(network.patterns), planning, work, size, *peer)
    return Row(name, *numbers, compiling, contraction, error)


def summary(rows: Sequence[Row]) -> list[str]:
    """What the rows say, a sentence each."""
    simple = [r for r in rows if not r.patterns and r.peer is not None]
    joined = [r for r in rows if r.patterns and r.peer is not None]
    found = []
    if simple:
        near = sum(
            r.multiplications <= CLOSE * (r.peer or 0) and r.size <= CLOSE * (r.peer_size or 0)
            for r in simple
        )
        found.append(
            f"Without patterns, multiplications and size are at most 1% above cotengra's in {near} of {len(simple)}."
        )
    if joined:
        mean = 2 ** (sum(r.multiplications - (r.peer or 0) for r in joined) / len(joined))
        found.append(
            f"With patterns, {mean:.2g} of the multiplications with dense ones, in the geometric mean of {len(joined)}."
        )
    errors = [r.error for r in rows if r.error is not None]
    if errors:
        found.append(f"{len(errors)} were contracted; the largest relative error is {max(errors):.0e}.")
    return found


def report(results: dict[str, Any]) -> str:
    """The page."""
    rows = [Row(**row) for row in results["rows"]]
    head = ["network", "tensors", "patterns", "planning, s", "log2 multiplications", "cotengra alone"]
    head += ["log2 size", "cotengra alone", "compiling, s", "contraction, s", "error"]
    lines = [
        "# Large networks",
        "",
        __doc__.split("\n\n")[2].replace("\n", " ").removesuffix(" Writes LARGE.md and large.json."),
        "",
    ]
    lines += [f"Searches of {results['seconds']:g} s.", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    lines += [
        "",
        *(f"- {each}" for each in summary(rows)),
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        cells = [row.network, row.tensors, row.patterns, f"{row.planning:.1f}"]
        cells += [_cell(row.multiplications, ".2f"), _cell(row.peer, ".2f"), _cell(row.size, ".1f")]
        cells += [_cell(row.peer_size, ".1f"), _cell(row.compiling, ".1f"), _cell(row.contraction, ".3f")]
        lines.append(f"| {' | '.join(map(str, [*cells, _cell(row.error, '.0e')]))} |")
    lines += [
        "", "Sizes are of the largest intermediate. `planning` has the search of the row; `compiling` is all of "
        "`tnconv.compile` with its default search. An entry that is missing was not measured: cotengra's "
        "hyper-optimiser takes minutes for its first trees of 5,000 tensors.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each search")
    parser.add_argument("--network", default="", help="only networks with this in their name")
    parser.add_argument("--out", type=Path, help="folder for LARGE.md and large.json")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=160)
    every = PLAIN | PATTERNS | HUGE
    rows = kept(wanted.out, wanted.seconds) if wanted.out is not None and wanted.network else {}
    for name, make in every.items():
        if wanted.network in name:
            rows[name] = measure(name, make(), wanted.seconds)
            console.print(rows[name], highlight=False)
            if wanted.out is not None:
                save(wanted.out, wanted.seconds, [rows[each] for each in every if each in rows])
    for each in summary([*rows.values()]):
        console.print(each)
    return 0


def kept(folder: Path, seconds: float) -> dict[str, Row]:
    """The rows that a folder has, by name.

    Raises:
        SystemExit: they were measured elsewhere, or with other searches.
    """
    found = json.loads((folder / "large.json").read_text(encoding="utf-8"))
    here = {"machine": describe("cpu", torch.float64), "seconds": seconds}
    for name, value in here.items():
        if found[name] != value:
            raise SystemExit(
                f"{name} of {folder}/large.json is {found[name]}, here {value}; measure all anew"
            )
    return {row["network"]: Row(**row) for row in found["rows"]}


def save(folder: Path, seconds: float, rows: Sequence[Row]) -> None:
    """Write what was measured so far."""
    results = {"machine": describe("cpu", torch.float64), "seconds": seconds, "rows": [*map(asdict, rows)]}
    (folder / "large.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "LARGE.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
