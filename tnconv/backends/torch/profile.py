"""How fast a machine is at what kernels do: a few rates, measured once in seconds, with a default shipped.

A kernel's predicted time is its exact counts over these rates. What matters is their ratio: it decides whether
a copy that makes a product wider, or a native call that multiplies more, is worth it.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
import torch

from tnconv.backends import cache_files
from tnconv.backends.tuning import interleaved
from tnconv.errors import LoweringError

# Cells that take as long to be copied as it takes to begin a run of neighbours, or a row of such runs.
_RUN, _ROW = 2.4, 14.0
# Caches hold so many times the nearest one; cells that are read in order, against those that are written in another.
_FAR, _STREAM = 3, 2.5
_ROUNDS = 7  # of a measurement
FILE = "profiles.json"  # of `tnconv calibrate`, in the cache folder
_DEFAULTS = Path(__file__).with_name("profiles.json")


Rate = Annotated[
    float, msgspec.Meta(ge=1e-6, le=1e18)
]  # times are quotients of these: none may be 0 or infinite


class Profile(msgspec.Struct, frozen=True):
    """Rates of one device in float32.

    Args:
        matmul: multiplications a microsecond of a large square matrix product.
        convolution: multiplications a microsecond of a native convolution with many channels.
        depthwise: multiplications a microsecond of a native convolution with one channel a group.
        reference: multiplications a microsecond of such a gradient where PyTorch has no fast code for it.
        lanes: channels that a native convolution computes at once; fewer leave some of them idle.
        copy: elements a microsecond that a copy into another layout writes.
        gather: elements a microsecond that are read or written one by one at computed places.
        call: microseconds that a call into PyTorch takes by itself.
        cache: elements that fit in the cache which a worker works from, so that copying them is cheap.
    """

    matmul: Rate = 40_000.0
    convolution: Rate = 48_000.0
    depthwise: Rate = 4_000.0
    copy: Rate = 800.0
    gather: Rate = 60.0
    call: Rate = 4.0
    cache: Rate = 2**18
    reference: Rate = 1_100.0
    lanes: Rate = 16.0

    def copying(self, cells: float) -> float:
        """Predicted microseconds to write that many cells anew."""
        return cells / self.copy

    def streaming(self, *cells: float) -> float:
        """Predicted microseconds to read or write operands of so many cells each, those that no cache holds."""
        return sum(count for count in cells if count > _FAR * self.cache) / (_STREAM * self.copy)


def beginnings(run: float, runs: float) -> float:
    """How much longer a copy takes, a cell, because of its beginnings: in cells.

    Args:
        run: cells that are read and written at one distance from each other.
        runs: such runs at one distance from each other.
    """
    return _RUN / run + _ROW / (run * runs)


DEFAULT = Profile()


@lru_cache(maxsize=16)
def profile_of(device: "str | Profile" = "cpu") -> Profile:
    """The profile of a kind of device: that of `tnconv calibrate` where it was run, else the one shipped.

    Args:
        device: `"cpu"`, `"cuda"` or `"cuda:0"`; the number is not looked at. A profile is itself the answer.

    Raises:
        LoweringError: there is no profile of such a device.
    """
    if isinstance(device, Profile):
        return device
    kind = device.partition(":")[0]
    found, shipped = cache_files.read(FILE, Profile), _shipped()
    if kind not in found and kind not in shipped:
        raise LoweringError(
            f"there is no profile of device {device!r}, only of {', '.join(sorted(shipped | found))}; "
            f"run `tnconv calibrate --device {kind}` on it"
        )
    return found.get(kind) or shipped[kind]


def _shipped() -> dict[str, Profile]:
    return msgspec.json.decode(_DEFAULTS.read_bytes(), type=dict[str, Profile])


def calibrate(device: str = "cpu", progress: Callable[[str], None] = lambda _: None) -> Profile:
    """Measure the rates of a device; takes a few seconds.

    Args:
        device: a torch device.
        progress: is told what is measured next.
    """

    def clock(call: Callable[[], object]) -> float:
        return 1e6 * interleaved([call], device, _ROUNDS)[0]

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device=device)

    progress("matrix product")
    a, b = rand(768, 768), rand(768, 768)
    matmul = 768**3 / clock(lambda: torch.mm(a, b))
    progress("convolution")
    x, w = rand(4, 64, 56, 56), rand(64, 64, 3, 3)
    convolution = 4 * 64 * 64 * 9 * 56 * 56 / clock(lambda: torch.conv2d(x, w, padding=1))
    progress("depthwise convolution")
    w1 = rand(64, 1, 3, 3)
    depthwise = 4 * 64 * 9 * 56 * 56 / clock(lambda: torch.conv2d(x, w1, padding=1, groups=64))
    y, w5 = rand(4, 64, 28, 28), rand(64, 1, 5, 5)
    backward = torch.ops.aten.convolution_backward.default
    rest = (None, [1, 1], [2, 2], [1, 1], False, [0, 0], 64, [False, True, False])
    reference = 4 * 64 * 25 * 28 * 28 / clock(lambda: backward(y, y, w5, *rest))
    progress("copy")
    big = rand(16, 256, 32, 32)
    copy = big.numel() / clock(lambda: big.transpose(1, 2).contiguous())
    progress("gather")
    cells = torch.randint(0, big.numel(), (2**18,), device=device)
    flat = big.flatten()
    gather = len(cells) / clock(lambda: flat[cells])
    progress("call")
    one = rand(4)
    call = clock(lambda: one + one)
    rates = {
        "matmul": matmul,
        "convolution": convolution,
        "depthwise": depthwise,
        "reference": reference,
        "copy": copy,
        "gather": gather,
        "call": call,
    }
    shipped = _shipped().get(device.partition(":")[0], DEFAULT)  # for what is not measured
    return msgspec.structs.replace(shipped, **{name: _rounded(value) for name, value in rates.items()})


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
