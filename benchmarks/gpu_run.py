"""The parts of `make gpu` in turn, each within its share of the time, and what they found as files."""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import track

import tnconv
from benchmarks import gpu_speed, machine
from benchmarks.cases import Case
from benchmarks.gpu_values import (
    CHOSEN,
    CONSTANTS,
    GRAPH,
    UNWAITED,
    Check,
    checks,
    constant_checks,
    kernel_names,
    subjects,
)
from benchmarks.report import overview
from benchmarks.results import save
from tnconv.backends.torch import calibration, profile

RESERVE = 15.0  # seconds for a row that is begun at the end, and for writing
VALUES = 0.4  # share of the time, at most
SHARES = {"float32": 0.5, "tf32": 0.25, "bfloat16": 0.25}  # of what is left for the rows
_SHOWN = 20  # wrong values, in the table


def run(wanted: argparse.Namespace) -> int:
    """Run all parts and write the files; with `--device cpu` compare values only.

    Returns:
        0; 1 where a value is wrong or a row failed.
    """
    begin, console = time.perf_counter(), Console()
    end = begin + 60 * wanted.minutes - (RESERVE if wanted.device == "cuda" else 0)
    about = machine.describe(wanted.device, torch.float32)
    console.print(f"{about['device']}, torch {about['torch']}, tnconv {tnconv.__version__}", highlight=False)
    until = begin + VALUES * (end - begin) if wanted.device == "cuda" else end
    found, unchecked = values(wanted, console, until)
    wrong = [each for each in found if not each.right]
    console.print(said(found, unchecked, wanted.device), highlight=False, markup=False, soft_wrap=True)
    for each in wrong:
        console.print(f"wrong: {described(each)}", highlight=False, markup=False, soft_wrap=True)
    if wanted.device == "cpu":
        return int(bool(wrong))
    results = speed(wanted.device, console, end)
    results["machine"] = about
    results["values"] = {
        "comparisons": len(found),
        "graphs": sum(each.way == GRAPH for each in found),
        "largest_errors": largest(found),
        "wrong": [asdict(each) for each in wrong],
        "not_compared": unchecked,
    }
    results["minutes"] = (time.perf_counter() - begin) / 60
    write(results, wanted.out, said(found, unchecked, wanted.device))
    console.print(f"wrote cuda.json, {profile_name(about)} and CUDA.md into {wanted.out}", highlight=False)
    return int(bool(wrong or results["failed"]))


# -- values --------------------------------------------------------------------------------------------


def values(wanted: argparse.Namespace, console: Console, until: float) -> tuple[list[Check], list[str]]:
    """What was compared, and what there was no time for."""
    device = wanted.device
    dtypes = [torch.float64, torch.float32, *[torch.bfloat16] * ("bfloat16" in gpu_speed.allowed(device))]
    todo: dict[str, Callable[[], Iterator[Check]]] = {CONSTANTS: partial(constant_checks, device)}
    todo |= {str(each): partial(checks, each, device, dtypes) for each in subjects(wanted.layer, wanted.op)}
    found: list[Check] = []
    with gpu_speed.rounded(False):
        for number, (name, part) in enumerate(track(todo.items(), "values", console=console)):
            if time.perf_counter() > until:
                return found, list(todo)[number:]
            try:
                found += part()
            except Exception as error:  # one that cannot be compiled must not end the run
                message = f"{type(error).__name__}: {str(error)[:300]}"
                found.append(Check(name, "float64", CHOSEN, (), 0.0, None, message))
    return found, []


def said(found: Sequence[Check], unchecked: Sequence[str], device: str) -> str:
    """What was compared, in some sentences."""
    wrong = sum(not each.right for each in found)
    graphs, calls = (sum(each.way == way for each in found) for way in (GRAPH, UNWAITED))
    unused = sorted(set(kernel_names()).difference(*(each.kernels for each in found)))
    texts = [
        f"{len(found)} values of {len({each.subject for each in found})} functions, by the kernels that were chosen "
        f"and by each that accepts a step, beside the reference in float64: {wrong} wrong.",
        f"{graphs} by the replay of a CUDA graph, {calls} by calls that may not wait for the device."
        if device == "cuda"
        else "No graph was replayed: no GPU.",
        f"Kernels that computed nothing: {', '.join(unused)}." if unused else "Every kernel computed some.",
    ]
    if unchecked:
        texts.append(f"Not compared, for lack of time: {len(unchecked)} functions.")
    return " ".join(texts)


def largest(found: Sequence[Check]) -> dict[str, float]:
    """The largest error of each dtype, over the largest value."""
    errors: dict[str, float] = {}
    for each in found:
        if each.error is not None:
            errors[each.dtype] = max(each.error, errors.get(each.dtype, 0.0))
    return errors


def described(each: Check) -> str:
    """A wrong value on one line."""
    what = each.message or f"error {each.error:.1e} for {each.limit:.0e} of the largest value"
    return f"{each.subject}, {each.dtype}, {each.way}: {what}"


# -- speed ---------------------------------------------------------------------------------------------


def speed(device: str, console: Console, end: float) -> dict[str, Any]:
    """Rates, the papers' examples, and rows in each precision, as long as there is time."""
    before = profile.profile_of(device)
    results: dict[str, Any] = {"papers": [], "rates": {}, "rows": [], "failed": [], "not_run": []}
    with console.status("calibrating") as status:
        attempt(
            results,
            "calibration",
            lambda: gpu_speed.calibrated(device, lambda step: status.update(f"calibrating: {step}")),
        )
    results["profile"] = msgspec.structs.asdict(profile.profile_of(device))
    results["profile_before"] = {name: getattr(before, name) for name in calibration.MEASURED}
    examples = {"kfac_reduce of ConvNeXt": partial(gpu_speed.kfac_of_convnext, device)}
    examples |= {kind: partial(gpu_speed.orders, device, kind) for kind in gpu_speed.EQUATIONS}
    for name, example in examples.items():
        if time.perf_counter() > end:
            results["not_run"].append(name)
        else:
            attempt(results, name, lambda example=example: results["papers"].append(example()))  # type: ignore[misc]
    able = gpu_speed.allowed(device)
    results["not_run"] += [f"{each}: the device is not made for it" for each in SHARES if each not in able]
    left = sum(SHARES[each] for each in able)
    for precision in able:
        now = time.perf_counter()
        until, left = now + (end - now) * SHARES[precision] / left, left - SHARES[precision]
        attempt(results, precision, partial(add_rows, results, precision, device, console, until))
    return results


def attempt(results: dict[str, Any], name: str, part: Callable[[], object]) -> None:
    """Run a part; one that fails is noted, and must not end the run."""
    try:
        part()
    except Exception as error:
        results["failed"].append(f"{name}: {type(error).__name__}: {str(error)[:300]}")


def add_rows(results: dict[str, Any], precision: str, device: str, console: Console, until: float) -> None:
    """Put the rows of a precision into the results, with what failed and what was not run."""
    console.rule(precision)
    made, rates = gpu_speed.rows(precision, device, console, until, gpu_speed.todo())
    results["rates"][precision] = rates
    results["rows"] += [{"precision": precision} | row for row in made.rows]
    results["failed"] += [f"{precision}: {named(*each)}" for each in made.failed]
    results["not_run"] += [f"{precision}: {named(*each)}" for each in made.left]


def named(case: Case, op: str) -> str:
    """A row by its name."""
    return f"{op} of {case.name} ({case.set})"


# -- files ---------------------------------------------------------------------------------------------


def profile_name(about: dict[str, Any]) -> str:
    """The file of the rates, by the name of the device: `profile-nvidia-h100.json`."""
    words = "".join(c if c.isalnum() else " " for c in about["device"].lower()).split()
    return f"profile-{'-'.join(words)}.json"


def write(results: dict[str, Any], out: Path, sentence: str) -> None:
    """Write the results, the rates in the form of the file of `tnconv calibrate`, and the table."""
    out.mkdir(parents=True, exist_ok=True)
    save(results, out / "cuda.json")
    rates = msgspec.json.format(msgspec.json.encode({"cuda": results["profile"]}), indent=1)
    (out / profile_name(results["machine"])).write_bytes(rates + b"\n")
    (out / "CUDA.md").write_text("\n".join(table(results, sentence)))


def table(results: dict[str, Any], sentence: str) -> list[str]:
    """The results as Markdown."""
    about = results["machine"]
    return [
        "# On a GPU",
        "",
        f"Made by `make gpu` in {results['minutes']:.1f} minutes: {about['device']}, {about['processor']}, torch "
        f"{about['torch']}, Python {about['python']}. Times are those of CUDA events, calls in turn; a ratio is "
        "tnconv's time over another's, round by round. Batches are 8 times those of the tables for the CPU.",
        "",
        sentence,
        "",
        *[
            f"- wrong: {each['subject']}, {each['dtype']}, {each['way']}"
            for each in results["values"]["wrong"][:_SHOWN]
        ],
        *_papers(results["papers"]),
        *_rates(results),
        *_precisions(results["rows"]),
        *_left(results),
    ]


def _papers(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "# Examples of the papers",
        "",
        "arXiv 2307.02275 has, for kfac_reduce of ConvNeXt's first convolution, 9.87 ms and 3.07 GiB by unfolding and "
        "2.69 ms by its network; arXiv 2401.03384 up to 16 times over the order from left to right.",
        "",
        "| | tnconv ms | peak MiB | other | its ms | ratio | its peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines += [
            f"| {row['what']} | {row['ms']:.3f} | {_mebi(row['peak_bytes'])} | {name} | {other['ms']:.3f} | "
            f"{other['ratio']:.2f} | {_mebi(other['peak_bytes'])} |"
            for name, other in row["others"].items()
        ]
    return [*lines, ""]


def _mebi(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.1f}"


def _rates(results: dict[str, Any]) -> list[str]:
    lines = ["# Rates", "", "A microsecond, in float32.", "", "| rate | before | measured |", "|---|---|---|"]
    for name, before in results["profile_before"].items():
        lines.append(f"| {name} | {before:g} | {results['profile'][name]:g} |")
    return [*lines, ""]


def _precisions(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        found = [row for row in rows if row["precision"] == precision]
        mean = statistics.geometric_mean(row["pytorch_ratio"] for row in found)
        lines += [
            f"# {precision}",
            "",
            f"{len(found)} rows, {mean:.2f} of PyTorch in the geometric mean.",
            "",
        ]
        lines += [*overview(found), ""]
    return lines


def _left(results: dict[str, Any]) -> list[str]:
    counts = Counter(each.split(":")[0] for each in results["not_run"])
    lines = [f"- {name}: {count} rows were not run; cuda.json names them" for name, count in counts.items()]
    lines += [f"- failed: {each}" for each in results["failed"]]
    return ["# What was not run, or failed", "", *(lines or ["Nothing."]), ""]
