"""`make bench-compare REV=…`: this working tree against another commit of it, interleaved in one process.

    python -m benchmarks.compare 05ee4dc --every 9
    python -m benchmarks.compare HEAD~3 --op kfac_reduce --case layer4

The other commit's package is taken out of git into a folder of its own and imported beside this one: each call is
compiled by its own package, and both are timed in turn. Rows that look slower are measured again, with more rounds.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import tnconv
from benchmarks.bench import add_selection, chosen
from benchmarks.cases import ROWS, Case
from benchmarks.timing import race

ROOT = Path(__file__).resolve().parent.parent
SLOWER = 1.03
Row = dict[str, Any]


class Other:
    """The package of another commit.

    Args:
        revision: as git names it.
    """

    def __init__(self, revision: str) -> None:
        commit = _git("rev-parse", "--short", f"{revision}^{{commit}}").decode().strip()
        folder = ROOT / "build" / "compare" / commit
        if not (folder / "tnconv").exists():
            with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "tnconv"))) as archive:
                archive.extractall(folder, filter="data")
        self.commit = commit
        self._modules: dict[str, ModuleType] = {}
        self._folder = str(folder)
        with self.active() as package:
            package.compile(package.ConvSpec(2, 2, 3, (4, 4)))  # loads what is loaded late

    @contextmanager
    def active(self) -> Iterator[Any]:
        """Within, `tnconv` is the other package."""
        ours = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
        sys.modules.update(self._modules)
        sys.path.insert(0, self._folder)
        try:
            import tnconv as package  # noqa: PLC0415

            assert str(package.__file__).startswith(self._folder)
            yield package
        finally:
            sys.path.remove(self._folder)
            self._modules = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
            sys.modules.update(ours)


def _is_ours(name: str) -> bool:
    return name == "tnconv" or name.startswith("tnconv.")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout


def row(other: Other, case: Case, op: str, rounds: int, seconds: float) -> Row:
    """Times of both, the kernels of both, and whether values agree."""
    batch = case.batch_of(op)
    hints = {"N": batch} | ({"V": ROWS} if op.startswith("ggn") else {})
    tensors: Mapping[str, Tensor] = case.tensors(batch, torch.float32)
    new = tnconv.compile(case.spec, op, hints=hints)
    with other.active() as package:
        spec = package.ConvSpec(
            case.in_channels, case.out_channels, case.kernel_size, case.input_size, stride=case.stride,
            padding=case.padding, dilation=case.dilation, groups=case.groups,
        )  # fmt: skip
        old = package.compile(spec, op, hints=hints)
        before = old(*(tensors[name] for name in old.arguments))
    now = new(*(tensors[name] for name in new.arguments))
    scale = float(before.abs().max()) or 1.0
    if float((now - before).abs().max()) > 1e-3 * scale:
        raise RuntimeError(f"{case.name} {op}: this tree and {other.commit} compute different numbers")
    given = {name: [tensors[n] for n in f.arguments] for name, f in (("old", old), ("new", new))}
    calls = {"old": lambda: old(*given["old"]), "new": lambda: new(*given["new"])}
    found = race(calls, rounds, seconds=seconds)
    return {
        "set": case.set,
        "layer": case.name,
        "op": op,
        "ms": statistics.median(found.seconds("new")) * 1e3,
        "ratio": statistics.median(found.ratios("new", "old")),
        "kernels": [[c.kernel for c in f.program.choices] for f in (old, new)],
        "noisy": found.noisy(),
    }


def report(rows: Sequence[Row], commit: str, console: Console) -> None:
    """Geometric means by operation, and the rows that are slower."""
    table = Table("operation", "rows", "geometric mean", "worst", f"above {SLOWER}", title=f"over {commit}")
    for op in dict.fromkeys(r["op"] for r in rows):
        ratios = [r["ratio"] for r in rows if r["op"] == op]
        mean, slow = statistics.geometric_mean(ratios), sum(ratio > SLOWER for ratio in ratios)
        table.add_row(op, str(len(ratios)), f"{mean:.3f}", f"{max(ratios):.3f}", str(slow))
    console.print(table)
    for each in sorted(rows, key=lambda r: -r["ratio"]):
        if each["ratio"] > SLOWER:
            old, new = each["kernels"]
            change = "same kernels" if old == new else f"{', '.join(old)} -> {', '.join(new)}"
            noisy = ", noisy" if each["noisy"] else ""
            text = f"{each['ratio']:.3f}  {each['op']} {each['layer']} ({each['ms']:.3f} ms{noisy}): {change}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("revision", help="a commit, as git names it")
    add_selection(parser)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="7 rounds are enough once a row took this long"
    )
    parser.add_argument(
        "--again", type=int, default=2, help="how often rows that look slower are measured again"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows there")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(wanted.threads)
    console, other = Console(), Other(wanted.revision)
    todo = chosen(wanted)
    rows = [
        row(other, case, op, wanted.rounds, wanted.seconds)
        for case, op in track(todo, "rows", console=console)
    ]
    for turn in range(wanted.again):
        slow = [number for number, found in enumerate(rows) if found["ratio"] > SLOWER]
        for number in track(slow, f"again, {turn + 1}", console=console):
            rows[number] = row(other, *todo[number], 3 * wanted.rounds, 5 * wanted.seconds)
    report(rows, other.commit, console)
    if wanted.json:
        wanted.json.write_text(
            json.dumps({"over": other.commit, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
