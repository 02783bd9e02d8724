"""What more and more ranks would take, predicted from our own plans, the rates of a machine, and the alpha-beta model.

    python -m benchmarks.scale --out benchmarks --plot docs/scale.svg --page docs/concepts/scale.md

The factors of ResNet-50: each rank's networks are planned as `tnconv.distributed.shard` plans them, as the first of so
many ranks of PyTorch's `fake` process group; their predicted times, and the bytes and messages of collectives, are
those that `explain` has. An amplitude of 53 qubits: the slices of a tree of cotengra's, shared out as
`tnconv.distributed.run` shares out jobs, each priced as a compiled plan of that tree. The tables of the page are read
from scale.json.

    python -m benchmarks.scale --read benchmarks/scale.json --amplitude --out benchmarks

does the amplitude anew, with the rates of that file.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import msgspec
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch.distributed.device_mesh import init_device_mesh

import tnconv
from benchmarks.distributed import overhead
from benchmarks.machine import describe
from benchmarks.scale_amplitude import LINKS, RANKS, Row, amplitude, priced_by
from tnconv.backends.torch.calibration import MEASURED, calibrate
from tnconv.backends.torch.profile import Profile, profile_of
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed import Sharded, shard
from tnconv.distributed.sharded_explanation import ShardedExplanation
from tnconv.ir import evaluate
from tnconv.ir.quantities import format_time
from tnconv.spec import ConvSpec, LinearSpec

EXAMPLES = 256  # of all ranks together
EACH = 32  # examples of each rank, where their number grows
_DAY = 86400.0  # seconds
OPERATIONS = ("kfac_expand", "kfac_grad_expand")
WAYS = {
    "examples": "256 images over all ranks",
    "positions": "256 images, and rows of each image",
    "growing": "32 images a rank",
}

Layer = ConvSpec | LinearSpec


# -- factors of ResNet-50 ----------------------------------------------------------------------------------


def resnet50() -> Counter[Layer]:
    """The layers with weights of ResNet-50 (He et al. 2016) for images of 224x224, each with how often there is one."""
    found: Counter[Layer] = Counter({ConvSpec(3, 64, 7, (224, 224), stride=2, padding=3): 1})
    channels, size = 64, 56
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            after = size // stride
            found[ConvSpec(channels, width, 1, (size, size))] += 1
            found[ConvSpec(width, width, 3, (size, size), stride=stride, padding=1)] += 1
            found[ConvSpec(width, 4 * width, 1, (after, after))] += 1
            if block == 0:
                found[ConvSpec(channels, 4 * width, 1, (size, size), stride=stride)] += 1
            channels, size = 4 * width, after
    found[LinearSpec(channels, 1000)] += 1
    return found


@cache
def compiled(layer: Layer, op: str) -> CompiledFunction:
    """A factor of a layer."""
    return tnconv.compile(layer, op, hints={"N": EACH})


def explained(layer: Layer, op: str, way: str, ranks: int) -> ShardedExplanation:
    """A factor over so many ranks, as the first of them sees it."""
    fn, examples = compiled(layer, op), EACH * ranks if way == "growing" else EXAMPLES
    data = min(ranks, EXAMPLES) if way == "positions" else ranks
    mesh = init_device_mesh("cpu", (data, ranks // data), mesh_dim_names=("data", "space"))
    shards = {"batch": "data"}
    if ranks > data and isinstance(layer, ConvSpec):
        shards["position"] = "space"
    return explanation(shard(fn, mesh, shards), N=examples)


def explanation(sharded: Sharded, **sizes: int) -> ShardedExplanation:
    """Of arguments of some sizes that lie as they should, and have no cells."""
    shapes = [[evaluate(size, sizes) for size in shape] for shape in sharded.fn.network.shapes.values()]
    given = sharded.distribute(*(torch.empty(shape, device="meta") for shape in shapes))
    return sharded.explain(*given)


def factors(way: str, ranks: int) -> Row:
    """Predicted seconds of all factors of the model, and of making them whole on every rank."""
    row: Row = {"way": way, "ranks": ranks, "compute": 0.0, "bytes": 0, "peak": 0}
    row |= {"halos": dict.fromkeys(LINKS, 0.0), "sums": dict.fromkeys(LINKS, 0.0)}
    for layer, count in resnet50().items():
        for op in OPERATIONS:
            found = explained(layer, op, way, ranks)
            row["compute"] += count * found.compute
            row["bytes"] += count * sum(each.bytes for each in (*found.traffic, *found.whole))
            row["peak"] = max(row["peak"], *(4 * f.cost.peak_elements for f in found.functions))
            for name, link in LINKS.items():
                halo, both = (sum(found.collectives(link, whole=w).values()) for w in (False, True))
                row["halos"][name] += count * halo
                row["sums"][name] += count * (both - halo)
    return row


# -- what grows how ----------------------------------------------------------------------------------------

GROWING = (("kfac_expand", "batch", "auto"), ("forward", "i1", "auto"), ("ggn_gram", "batch", "ring"))


def growth(ranks: int, rounds: int = 5) -> Iterator[Row]:
    """Processor time of the first call of a layer and overhead of later ones, as the first of so many ranks."""
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("data",))
    layer = ConvSpec(8, 8, 3, (max(32, 2 * ranks), 8), padding=1)
    for op, index, gather in GROWING:
        if gather == "ring" and ranks > 256:
            continue
        fn = tnconv.compile(layer, op)
        sizes = {"N": max(32, 2 * ranks) if index == "batch" else 2, "V": 1}
        begin = time.process_time()
        found = explanation(shard(fn, mesh, {index: "data"}, gather=gather if ranks > 1 else "auto"), **sizes)
        first = time.process_time() - begin
        peak = max(4 * each.cost.peak_elements for each in found.functions)
        later = overhead(op, index, gather, ranks, rounds).microseconds if ranks > 1 else 0.0
        yield {"op": op, "index": index, "ranks": ranks, "first": first, "overhead": later, "peak": peak}


# -- all of it ---------------------------------------------------------------------------------------------


def simulate(rates: Profile) -> dict[str, Any]:
    """Everything that the page has figures of."""
    resnet: list[Row] = []
    grown: list[Row] = []
    for ranks in RANKS:
        dist.init_process_group("fake", rank=0, world_size=ranks)
        for way in WAYS:
            if way == "positions" and ranks <= EXAMPLES:
                continue
            resnet.append(factors(way, ranks))
            print(resnet[-1], flush=True)
        grown += growth(ranks)
        dist.destroy_process_group()
    return {
        "machine": describe("cpu", torch.float32),
        "rates": {name: getattr(rates, name) for name in MEASURED},
        "links": {n: {"latency": each.latency, "bandwidth": each.bandwidth} for n, each in LINKS.items()},
        "resnet": resnet,
        "amplitude": amplitude(rates),
        "growth": grown,
    }


# -- tables and the picture --------------------------------------------------------------------------------


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown of each part of the page that has figures, by name."""
    return {
        "rates": _rates(found),
        "resnet": _resnet(found),
        "resnet-limits": _resnet_limits(found),
        "amplitude": _amplitude(found["amplitude"]),
        "amplitude-limits": _amplitude_limits(found["amplitude"]),
        "growth": _growth(found["growth"]),
    }


def written(page: str, found: Mapping[str, Any]) -> str:
    """The page with the tables of a result between its marks."""
    for name, table in tables(found).items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        page, count = re.subn(pattern, lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, name
    return page


def total(row: Row, link: str) -> float:
    """Seconds of all that a row has, over one of the links."""
    return float(row["compute"] + row["sums"][link] + row.get("halos", {}).get(link, 0.0))


def text_of(seconds: float) -> str:
    """Three digits and a unit, that of days if there is one."""
    return f"{seconds / _DAY:.3g} days" if seconds >= _DAY else format_time(seconds)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _rates(found: Mapping[str, Any]) -> str:
    rates, machine = found["rates"], found["machine"]
    links = [
        f"{name} with {each['latency'] * 1e6:g} µs and {each['bandwidth'] / 1e9:g} GB/s a rank"
        for name, each in found["links"].items()
    ]
    return (
        f"A rank is one core ({machine['processor']}, torch {machine['torch']}), which `tnconv calibrate` measured: "
        f"{rates['matmul'] / 1e3:.3g} billion multiplications a second in a matrix product, "
        f"{rates['convolution'] / 1e3:.3g} in a convolution, {rates['copy'] / 1e3:.3g} billion elements copied. "
        f"Nobody measured the interconnects: {' and '.join(links)}."
    )


def _resnet(found: Mapping[str, Any]) -> str:
    rows, order = [], list(WAYS)
    for row in sorted(found["resnet"], key=lambda each: order.index(each["way"])):
        sent = [row["halos"][link] + row["sums"][link] for link in found["links"]]
        times = [row["compute"], *sent, *(total(row, link) for link in found["links"])]
        memory = f"{row['peak'] / 2**20:.3g} MiB"
        rows.append([WAYS[row["way"]], f"{row['ranks']:,}", *map(text_of, times), memory])
    both = [f"{what}, {link}" for what in ("collectives", "all") for link in found["links"]]
    return _table(["work", "ranks", "compute", *both, "most memory of a layer"], rows)


def _resnet_limits(found: Mapping[str, Any]) -> str:
    rows = {(row["way"], row["ranks"]): row for row in found["resnet"]}
    most = max(ranks for _, ranks in rows)
    parts = []
    for link in found["links"]:
        fastest = min((row for row in rows.values() if row["way"] != "growing"), key=lambda r: total(r, link))
        whole = total(fastest, link)
        efficiency = total(rows["growing", 1], link) / total(rows["growing", most], link)
        parts.append(
            f"Over {link}, {EXAMPLES} images are quickest on {fastest['ranks']:,} ranks, "
            f"{total(rows['examples', 1], link) / whole:.0f} times as fast as on one; "
            f"{100 * fastest['compute'] / whole:.0f}% of that time is computing. With {EACH} images a rank, "
            f"{most:,} ranks have {100 * efficiency:.0f}% of the efficiency of one."
        )
    return "\n".join(parts)


def _amplitude(found: Mapping[str, Any]) -> str:
    rows = []
    work = {tree["slices"]: 10 ** tree["multiplications"] for tree in found["trees"]}
    for row in found["rows"]:
        times = map(text_of, (row["compute"], *row["sums"].values()))
        more = f"{work[row['slices']] / min(work.values()):.2f}"
        rows.append([f"{row['ranks']:,}", f"{row['slices']:,}", f"{row['jobs']:,}", more, *times])
    links = [f"adding up, {link}" for link in found["rows"][0]["sums"]]
    header = ["ranks", "slices", "slices a rank", "multiplications, times the fewest", "compute", *links]
    return _table(header, rows)


def _amplitude_limits(found: Mapping[str, Any]) -> str:
    alone, most = found["rows"][0], found["rows"][-1]
    first, last = found["trees"][0], found["trees"][-1]
    speedup = alone["compute"] / most["compute"]
    return (
        f"{found['cycles']} cycles are {found['tensors']} gates on two qubits. The tree with fewest slices has "
        f"{first['slices']:,}, of 10^{first['multiplications']:.1f} complex multiplications together and at most "
        f"2^{first['elements']} elements in a tensor; one of them takes {text_of(first['job'])}. Cut into "
        f"{last['slices']:,}, it multiplies {10 ** (last['multiplications'] - first['multiplications']):.2f} times as "
        f"often, with at most 2^{last['elements']} elements, and one takes {text_of(last['job'])}. The search took "
        f"{text_of(found['planning'])} of processor time. {most['ranks']:,} ranks are {speedup:,.0f} times as fast as "
        f"one: {100 * speedup / most['ranks']:.0f}% of their number."
    )


def _growth(found: Sequence[Row]) -> str:
    rows = []
    places = {(op, index): place for place, (op, index, _) in enumerate(GROWING)}
    for row in sorted(found, key=lambda each: places[each["op"], each["index"]]):
        if row["ranks"] > 1:
            times = row["first"], 1e-6 * row["overhead"]
            what = f"`{row['op']}`, {row['index']}", f"{row['ranks']:,}"
            rows.append([*what, *map(text_of, times), f"{row['peak'] / 2**20:.2g} MiB"])
    return _table(["what", "ranks", "first call plans for", "later calls, overhead", "memory"], rows)


_STYLE = {"svg.hashsalt": "tnconv", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
_COLOURS = {"examples": "#0072b2", "positions": "#009e73", "growing": "#d55e00"}


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Write the picture as SVG; the same results give the same file."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.2), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        for way, colour in _COLOURS.items():
            rows = [row for row in found["resnet"] if row["way"] == way]
            if way == "positions":
                rows = [r for r in found["resnet"] if (r["way"], r["ranks"]) == ("examples", EXAMPLES)] + rows
            for link, dashes in zip(found["links"], ("--", "-"), strict=True):
                label = f"{WAYS[way]}" if dashes == "-" else None
                ranks, times = [r["ranks"] for r in rows], [total(r, link) for r in rows]
                left.plot(ranks, times, dashes, color=colour, marker="o", markersize=3.5, label=label)
        start = next(row for row in found["resnet"] if row["way"] == "examples")
        _ideal(left, start["compute"])
        left.set_title("KFAC factors of ResNet-50 (dashed: Ethernet)", fontsize=10)
        amplitude = found["amplitude"]["rows"]
        for link, dashes in zip(found["links"], ("--", "-"), strict=True):
            times = [total(row, link) for row in amplitude]
            right.plot(
                [r["ranks"] for r in amplitude], times, dashes, color="#0072b2", marker="o", markersize=3.5
            )
        _ideal(right, amplitude[0]["compute"])
        right.set_title("An amplitude of 53 qubits", fontsize=10)
        for axes in (left, right):
            axes.set_xscale("log", base=4)
            axes.set_yscale("log")
            axes.set_xticks(RANKS, [f"{ranks:,}" for ranks in RANKS])
            axes.set_xlabel("ranks, one core each")
            axes.set_ylabel("predicted seconds")
        left.legend(frameon=False, fontsize=8)
        right.legend(frameon=False, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _ideal(axes: Any, one: float) -> None:
    axes.plot(
        RANKS,
        [one / ranks for ranks in RANKS],
        color="#bbbbbb",
        linewidth=1,
        zorder=0,
        label="one rank / ranks",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, or read what was simulated, and write what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a folder for scale.json")
    parser.add_argument("--read", type=Path, help="a scale.json to read in place of a simulation")
    parser.add_argument("--amplitude", action="store_true", help="do the amplitude of --read anew")
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    parser.add_argument("--page", type=Path, help="the page whose tables are written anew")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.read is not None:
        found = json.loads(options.read.read_text(encoding="utf-8"))
        if options.amplitude:
            found["amplitude"] = amplitude(msgspec.structs.replace(profile_of("cpu"), **found["rates"]))
    else:
        rates = measured()
        with priced_by(rates):
            found = simulate(rates)
    if options.out is not None:
        (options.out / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(found, options.plot)
    if options.page is not None:
        options.page.write_text(written(options.page.read_text(encoding="utf-8"), found), encoding="utf-8")


def measured() -> Profile:
    """The rates of one core; what else runs on the machine does not count."""
    with mock.patch("time.perf_counter", time.process_time):
        return calibrate("cpu")


if __name__ == "__main__":
    main()
