"""Results as text: in short, and every layer."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.cases import OPERATIONS, SETS

Row = dict[str, Any]
_LARGEST = 10


def line(row: Row) -> str:
    """A row for the terminal."""
    peers = ", ".join(f"{n} {t['ms']:.2f}" for n, t in sorted(row["peers"].items(), key=lambda p: p[1]["ms"]))
    refused = "".join(f"; {n}: {why}" for n, why in row["refused"].items() if not why.startswith("left out"))
    return (
        f"{row['op']:22} {row['layer'][:34]:34} N={row['batch']:<3} {row['ms']:8.2f} ms  "
        f"x{row['ratio']:5.2f} {row['strongest']:16} x{row['pytorch_ratio']:5.2f} pytorch  "
        f"{row['roofline']:5.1f} roofline  [{', '.join(row['kernels'])}]  {peers}{refused}"
        + ("  noisy" if row["noisy"] else "")
    )


def summary(results: dict[str, Any]) -> str:
    """Operation by operation, over all sets: for the terminal."""
    rows = results["rows"]
    lines = [
        f"{'':22} {'rows':>5}  geometric mean / median / worst over the strongest eager peer, over PyTorch"
    ]
    for op in OPERATIONS:
        found = [r for r in rows if r["op"] == op]
        if found:
            columns = [[r["ratio"] for r in found], [r["pytorch_ratio"] for r in found], _compiled(found)]
            spreads = "    ".join(_three(values) for values in columns if values)
            lines.append(f"{op:22} {len(found):5}  {spreads}" + (" (compiled)" if columns[2] else ""))
    lines += ["", "slowest against the strongest eager peer:"]
    lines += [line(row) for row in worst(rows)]
    return "\n".join(lines)


def worst(rows: Sequence[Row], many: int = 10) -> list[Row]:
    """The rows where tnconv loses most, of those that were measured without disturbance, if there are any."""
    quiet = [r for r in rows if not r["noisy"]] or rows
    return sorted(quiet, key=lambda r: -r["ratio"])[:many]


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = results["rows"]
    return "\n".join(
        [
            *_head(results),
            *overview(rows, _compile_and_call(results)),
            "",
            "## Every layer",
            *(part for op in OPERATIONS for part in _section(rows, op)),
            "",
        ]
    )


def overview(rows: Sequence[Row], between: Iterable[str] = ()) -> list[str]:
    """Rows in short, lines of one's own behind that, memory, and the rows where tnconv loses most."""
    return [
        *_in_short(rows),
        *between,
        *_memory(rows),
        "",
        "## Where tnconv is slowest against the strongest eager peer",
        "",
        *_table(worst(rows), operation=True),
    ]


def _head(results: dict[str, Any]) -> list[str]:
    host, rates = results["machine"], results["machine"]["rates"]
    device = f"{host['threads']} threads of {host['cores']} cores, {host['processor']}"
    if host["device"] != "cpu":
        device = f"{host['device']}, {device}"
    disturbed, noisy = (sum(bool(r[name]) for r in results["rows"]) for name in ("disturbed", "noisy"))
    return [
        "# Results",
        "",
        f"Made by `make bench`: {device}, {host['dtype']}, torch {host['torch']}, Python {host['python']}.",
        "",
        "- A ratio is tnconv's time over a peer's, the median of the ratios round by round: below 1 tnconv is faster. "
        f"Calls alternate in one process, {results['rounds']} rounds (7 where a row takes long). In {disturbed} of "
        f"{len(results['rows'])} rows other processes had the cores for a while; those samples do not count, except in "
        f"{noisy} rows with fewer than 5 others, marked ~.",
        "- Every peer's numbers are compared with tnconv's before it is timed. PyTorch is `F.conv*`, `torch.nn.grad`, "
        "im2col and einsum; gradient norms and Gram matrices go the cheaper of the two known ways. `torch.func` is "
        "`vmap` of the weight gradient. einconv is simplified: built and contracted by `torch.einsum` at each call, "
        "or planned once by cotengra. Of BackPACK, curvlinops and singd the layer's own kernel is called on tensors, "
        "without a forward or backward pass. A peer that a first call shows to be far slower is timed once.",
        "- The batch of a layer is chosen so that PyTorch's forward takes some milliseconds; ggn_diagonal and ggn_gram "
        "(NTK) have 4 rows an example. N is in the tables.",
        "- Roofline: measured time over the larger of multiplications at "
        f"{rates['multiplications'] / 1e9:.0f}e9/s (a matmul) and arguments and result at {rates['bytes'] / 1e9:.0f}e9 "
        "bytes/s (a large copy). Below 1 where a kernel multiplies less than the plan says, or tensors fit in the "
        "cache.",
        "",
    ]


def _in_short(rows: Sequence[Row]) -> list[str]:
    made = any("compiled" in r["peers"] for r in rows)
    lines = [
        "## In short",
        "",
        "Geometric mean / median / worst ratio over layers, and how many layers are slower than 1.05.",
        "",
        "| operation | set | layers | over the strongest eager peer | slower | over PyTorch | slower |"
        + (" over `torch.compile` (layers) |" if made else ""),
        "|---|---|---|---|---|---|---|" + ("---|" if made else ""),
    ]
    for op in OPERATIONS:
        for name in (*SETS, "all"):
            found = [r for r in rows if r["op"] == op and name in (r["set"], "all")]
            if not found:
                continue
            strongest, pytorch = [r["ratio"] for r in found], [r["pytorch_ratio"] for r in found]
            cells = [
                op,
                name,
                len(found),
                _three(strongest),
                _slower(strongest),
                _three(pytorch),
                _slower(pytorch),
            ]
            if made:
                compiled = _compiled(found)
                cells.append(f"{_three(compiled)} ({len(compiled)})" if compiled else "–")
            lines.append(_cells(_bold(cells) if name == "all" else cells))
    return lines


def _compile_and_call(results: dict[str, Any]) -> list[str]:
    times = sorted(r["compile_ms"] for r in results["rows"])
    lines = [
        "",
        f"Compiling one operation of one layer: {statistics.median(times):.1f} ms in the median, "
        f"{times[len(times) * 95 // 100]:.0f} ms at the 95th percentile, at most {times[-1]:.0f} ms.",
    ]
    found = results["overhead_us"]
    if found:
        checks = [o["checks"] for o in found.values()]
        native = ", ".join(f"{op} {o['over_torch']:.1f}" for op, o in found.items() if "over_torch" in o)
        lines += [
            "",
            f"A call takes {statistics.median(checks):.1f} µs (at most {max(checks):.1f}) more than its bare program; "
            f"over PyTorch's own call on a tiny layer, in µs: {native}.",
        ]
    return lines


def _memory(rows: Sequence[Row]) -> list[str]:
    rows = [r for r in rows if "peak_bytes" in r]
    reduce = [
        (r["peak_bytes"] - r["result_bytes"]) / r["unfolded_bytes"] for r in rows if r["op"] == "kfac_reduce"
    ]
    sizes = {(r["set"], r["layer"]): r["unfolded_bytes"] for r in rows}
    largest = sorted(sizes, key=lambda key: -sizes[key])[:_LARGEST]
    if not rows:
        return []
    lines = ["", "## Memory", ""]
    if reduce:
        lines += [
            "Peak of kfac_reduce besides its result, over the unfolded input: "
            f"{statistics.median(reduce):.1%} in the median, at most {max(reduce):.1%}.",
            "",
        ]
    ops = [op for op in OPERATIONS if any(r["op"] == op for r in rows)]
    lines += [
        "Measured peak over the reported one (`fn.cost`), for the layers with the largest unfolded input; 1 is exact. "
        "What the allocator hands to torch's own convolutions as scratch counts as measured.",
        "",
        _cells(["layer", "batch", *ops]),
        "|---" * (len(ops) + 2) + "|",
    ]
    for key in largest:
        found = {r["op"]: r for r in rows if (r["set"], r["layer"]) == key}
        batch = next(iter(found.values()))["batch"]
        ratios = [
            f"{found[op]['peak_bytes'] / max(found[op]['reported_bytes'], 1):.2f}" if op in found else "–"
            for op in ops
        ]
        lines.append(_cells([f"{key[1]} ({key[0]})", batch, *ratios]))
    return lines


def _section(rows: Sequence[Row], op: str) -> list[str]:
    found = [r for r in rows if r["op"] == op]
    return ["", f"### {op}", "", *_table(found)] if found else []


def _table(rows: Sequence[Row], operation: bool = False) -> list[str]:
    head = ["operation"] if operation else []
    head += [
        "set",
        "layer",
        "N",
        "kernels",
        "ms",
        "strongest",
        "its ms",
        "ratio",
        "quartiles",
        "over PyTorch",
    ]
    head += ["roofline", "peak MiB", "strongest's MiB"]
    lines = [_cells(head), "|---" * len(head) + "|"]
    for r in rows:
        other = r["peers"][r["strongest"]]
        low, high = other.get("ratio_quartiles", (other["ratio"],) * 2)
        peak = r.get("peer_peak_bytes", {}).get(r["strongest"])
        cells = [r["op"]] if operation else []
        cells += [r["set"], r["layer"], r["batch"], ", ".join(dict.fromkeys(r["kernels"])), f"{r['ms']:.2f}"]
        ratio = f"**{r['ratio']:.2f}**{'~' if r['noisy'] else ''}"
        cells += [r["strongest"], f"{other['ms']:.2f}", ratio, f"{low:.2f}-{high:.2f}"]
        cells += [
            f"{r['pytorch_ratio']:.2f}",
            f"{r['roofline']:.1f}",
            _mebi(r.get("peak_bytes")),
            _mebi(peak),
        ]
        lines.append(_cells(cells))
    return lines


def _mebi(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.1f}"


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    found = list(values)
    return statistics.geometric_mean(found), statistics.median(found), max(found)


def _three(values: Sequence[float]) -> str:
    mean, median, largest = _spread(values)
    return f"{mean:.2f} / {median:.2f} / {largest:.2f}"


def _compiled(rows: Iterable[Row]) -> list[float]:
    return [r["peers"]["compiled"]["ratio"] for r in rows if "compiled" in r["peers"]]


def _slower(values: Sequence[float]) -> int:
    return sum(value > 1.05 for value in values)


def _bold(cells: Iterable[Any]) -> list[str]:
    return [f"**{cell}**" for cell in cells]


def _cells(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
