"""The rates and the times of `make gpu`: calibration, rows beside PyTorch and the packages, the papers' examples."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import tnconv
from benchmarks import machine
from benchmarks.bench import Measured, measured
from benchmarks.cases import OPERATIONS, SETS, Case
from benchmarks.measure import Bench
from benchmarks.memory import peak_bytes
from benchmarks.peers import available
from benchmarks.timing import Clock, race
from tnconv.backends import cache_files
from tnconv.backends.torch import calibration, profile

SCALE = 8  # times the batches of the CPU
PRECISIONS = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
}  # dtype, and whether factors of float32 are rounded
CONVNEXT = Case("papers", "ConvNeXt conv1 (32, 3, 256, 256)", 3, 96, (4, 4), (4, 4), (0, 0), (256, 256))
# Of arXiv 2401.03384: a reshaped CP convolution of 64 channels, and a plain one.
EQUATIONS = {
    "reshaped CP": "n a b c h+r-1 w+q-1, k a d, k b e, k c f, k r q -> n d e f h w",
    "CP": "n c h+r-1 w+q-1, c k, r k, q k, d k -> n d h w",
}
Row = dict[str, Any]


@contextmanager
def rounded(tf32: bool) -> Iterator[None]:
    """Whether products and convolutions round the factors of float32 meanwhile."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def calibrated(device: str, tell: Callable[[str], None]) -> profile.Profile:
    """The rates of a device, measured and kept as `tnconv calibrate` does, so that the rows are chosen by them."""
    with rounded(False):
        rates = calibration.calibrate(device, tell)
    cache_files.remember(profile.FILE, {device: rates}, profile.Profile)
    profile.profile_of.cache_clear()
    return rates


def allowed(device: str) -> list[str]:
    """The precisions that a device computes in quickly."""
    if device == "cpu":
        return ["float32"]
    found = ["float32"]
    found += ["tf32"] * (torch.cuda.get_device_capability() >= (8, 0))
    return found + ["bfloat16"] * torch.cuda.is_bf16_supported(including_emulation=False)


def todo() -> list[tuple[Case, str]]:
    """Every operation of every layer, in an order that soon has some of each set."""
    places = {case: number / len(cases) for cases in SETS.values() for number, case in enumerate(cases)}
    return [(case, op) for case in sorted(places, key=places.__getitem__) for op in OPERATIONS]


def rows(
    precision: str, device: str, console: Console, until: float, rows: list[tuple[Case, str]]
) -> tuple[Measured, dict[str, float]]:
    """Times beside the peers, and the rates that the roofline is by.

    Args:
        precision: of `PRECISIONS`.
        device: "cuda", or "cpu" in tests.
        console: where each row is printed.
        until: of `time.perf_counter()`; none is begun later.
        rows: which.
    """
    dtype, tf32 = PRECISIONS[precision]
    with rounded(tf32):
        rates = machine.rates(device, dtype, 5)
        bench = Bench(available(), 7, device, rates, SCALE if device == "cuda" else 1, 0.1, dtype=dtype)
        return measured(rows, bench, console, show=True, until=until), rates


def kfac_of_convnext(device: str, case: Case = CONVNEXT) -> Row:
    """kfac_reduce of ConvNeXt's first convolution: by unfolding, by einconv's network, and by tnconv.

    The paper (arXiv 2307.02275) has 9.87 ms and 3.07 GiB by unfolding, and 2.69 ms by the network.
    """
    with rounded(False):
        bench = Bench(available(), 9, device, machine.rates(device, torch.float32, 5), SCALE)
        found = bench.row(case, "kfac_reduce")
    peaks = found["peer_peak_bytes"]
    others = {
        name: {"ms": t["ms"], "ratio": t["ratio"], "peak_bytes": peaks.get(name)}
        for name, t in found["peers"].items()
    }
    about = f"kfac_reduce of {case.name}, batch {found['batch']}"
    return {"what": about, "ms": found["ms"], "peak_bytes": found["peak_bytes"], "others": others}


def orders(device: str, kind: str, batch: int = 32, size: int = 56, side: int = 4, rank: int = 64) -> Row:
    """A factorised convolution in tnconv's order, and from left to right.

    Args:
        device: "cuda", or "cpu" in tests.
        kind: of `EQUATIONS`.
        batch: N.
        size: of the image.
        side: the third root of the number of channels.
        rank: number of terms.
    """
    channels = side**3
    shapes = {
        "reshaped CP": [(batch, side, side, side, size, size), *[(rank, side, side)] * 3, (rank, 3, 3)],
        "CP": [(batch, channels, size, size), (channels, rank), (3, rank), (3, rank), (channels, rank)],
    }[kind]
    tensors = [torch.randn(shape, device=device) for shape in shapes]
    calls: dict[str, Callable[[], Tensor]] = {}
    for name, planner in (("tnconv", "auto"), ("left to right", "left-to-right")):
        function = tnconv.einsum_expression(
            EQUATIONS[kind], *shapes, h=size, w=size, planner=planner, device=device
        )
        calls[name] = lambda function=function: function(*tensors)  # type: ignore[misc]
    with rounded(False):
        values = [call() for call in calls.values()]
        torch.testing.assert_close(*values, rtol=1e-3, atol=1e-3 * values[0].abs().max().item())
        del values
        found = race(calls, 7, Clock(device), seconds=1.0)
        peaks = {name: peak_bytes(call, device)[0] for name, call in calls.items()}
    times = {name: statistics.median(found.seconds(name)) * 1e3 for name in calls}
    ratio = statistics.median(found.ratios("tnconv", "left to right"))
    other = {"ms": times["left to right"], "ratio": ratio, "peak_bytes": peaks["left to right"]}
    about = f"{kind} convolution, {channels} channels, {size}x{size}, rank {rank}, batch {batch}"
    return {
        "what": about,
        "ms": times["tnconv"],
        "peak_bytes": peaks["tnconv"],
        "others": {"left to right": other},
    }
