"""The rates of a machine, measured: `tnconv calibrate`."""

from collections.abc import Callable

import msgspec
import torch

from tnconv.backends.torch.numerics.inner import inner_product, is_wide
from tnconv.backends.torch.profile import DEFAULT, Profile, shipped_for
from tnconv.backends.tuning import interleaved

_ROUNDS = 7  # of a measurement
_KEPT = 1 << 22  # elements, less than 32 MiB
STEPS = 11  # of `calibrate`
MEASURED = (
    "matmul", "convolution", "depthwise", "reference", "copy", "stream", "sum", "mirror", "mirror_far", "gather",
    "call", "window", "gaps", "fresh", "inner_product",
)  # fmt: skip


def calibrate(device: str = "cpu", progress: Callable[[str], None] = lambda _: None) -> Profile:
    """Measure the rates of a device; takes a few seconds.

    Args:
        device: a torch device.
        progress: is told what is measured next.
    """

    def clock(call: Callable[[], object]) -> float:
        # The best of some: what else runs makes a call slower, never faster.
        return 1e6 * min(interleaved([call], device, 1)[0] for _ in range(_ROUNDS))

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device=device)

    # Once so much was freed, the C library keeps memory of that size: a new page may take as long as copying two.
    rand(_KEPT)
    # A GPU is as quick as it gets only where there is more to do than starting a kernel, and no cache holds it all.
    times, side = (1, 768) if device.startswith("cpu") else (16, 4096)
    progress("matrix product")
    a, b = rand(side, side), rand(side, side)
    matmul = side**3 / clock(lambda: torch.mm(a, b))
    wide = device.startswith("cpu") and is_wide()
    inner = side**3 / clock(lambda: inner_product(a, b)) if wide else DEFAULT.inner_product
    progress("convolution")
    batch = 4 * times
    x, w = rand(batch, 64, 56, 56), rand(64, 64, 3, 3)
    convolution = batch * 64 * 64 * 9 * 56 * 56 / clock(lambda: torch.conv2d(x, w, padding=1))
    progress("depthwise convolution")
    w1 = rand(64, 1, 3, 3)
    depthwise = batch * 64 * 9 * 56 * 56 / clock(lambda: torch.conv2d(x, w1, padding=1, groups=64))
    y, w5 = rand(batch, 64, 28, 28), rand(64, 1, 5, 5)
    backward = torch.ops.aten.convolution_backward.default
    rest = (None, [1, 1], [2, 2], [1, 1], False, [0, 0], 64, [False, True, False])
    reference = batch * 64 * 25 * 28 * 28 / clock(lambda: backward(y, y, w5, *rest))
    progress("copy")
    big, copy = rand(16 * times, 256, 32, 32), _copied(rand(4 * times, 128, 56, 56), clock)
    progress("passes in order")
    flat, other = big.flatten(), torch.empty_like(big.flatten())
    stream = big.numel() / clock(lambda: other.copy_(flat))
    parts = rand(64 * times, 64, 32, 32)
    total = parts.numel() / clock(lambda: parts.sum((2, 3)))
    progress("mirror images")
    mirrors = [_mirrored(rand(rows, rows), clock) for rows in (576, 2304)]
    progress("gather")
    cells = torch.randint(0, big.numel(), (2**18,), device=device)
    gather = len(cells) / clock(lambda: flat[cells])
    progress("call")
    one = rand(16)
    call = clock(
        lambda: torch.mm(one.view(4, 4).t(), one.view(4, 4))
    )  # with the views that a call comes with
    progress("windows")
    image = rand(4 * times, 64, 34, 34)
    windows = image.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 1, 4, 5, 2, 3)
    strided, into = image[:, :, ::2, ::2], torch.empty(windows.shape, device=device)
    window = windows.numel() / clock(lambda: into.copy_(windows))
    gaps = strided.numel() / clock(strided.contiguous)
    progress("fresh memory")
    large = torch.empty(int(1.5 * DEFAULT.reused), device=device)
    again = clock(lambda: large.fill_(1.0))
    fresh = large.numel() / max(clock(lambda: torch.ones_like(large)) - again, again / 100)
    rates = (matmul, convolution, depthwise, reference, copy, stream, total, *mirrors, gather, call)
    rates += (window, gaps, fresh, inner)
    others = shipped_for(device.partition(":")[0]) or DEFAULT  # for what is not measured
    return msgspec.structs.replace(others, **dict(zip(MEASURED, map(_rounded, rates), strict=True)))


def _copied(images: torch.Tensor, clock: Callable[[Callable[[], object]], float]) -> float:
    """Elements a microsecond of a copy that reads and writes one by one."""
    return images.numel() / clock(lambda: images.permute(2, 3, 1, 0).contiguous())


def _mirrored(square: torch.Tensor, clock: Callable[[Callable[[], object]], float]) -> float:
    """Elements a microsecond of a matrix whose upper triangle becomes the mirror image of the lower, in blocks."""
    rows, block = len(square), len(square) // 8
    cuts = range(block, rows, block)

    def mirror() -> None:
        for low in cuts:
            square[:low, low : low + block].copy_(square[low : low + block, :low].mT)

    return rows * rows / clock(mirror)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
