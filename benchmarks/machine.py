"""What the figures were measured on: its description, and two rates for the roofline."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Clock
from tnconv.backends.torch.numerics.inner import inner_product


def describe(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The machine, without names."""
    return {
        "processor": _processor(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def rates(device: str, dtype: torch.dtype, rounds: int = 25) -> dict[str, float]:
    """Multiplications a second of a matmul, and bytes a second, read and written, of a large copy."""
    clock, size = Clock(device), 1536 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(2**25 if device == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    product = min(clock.seconds(lambda: inner_product(a, b)) for _ in range(rounds))
    copy = min(clock.seconds(lambda: target.copy_(source)) for _ in range(rounds))
    return {"multiplications": size**3 / product, "bytes": 2 * source.numel() * 4 / copy}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
