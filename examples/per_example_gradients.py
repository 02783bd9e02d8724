"""Per-example gradients and their norms for clipping, beside torch.func: same numbers, less work.

    python examples/per_example_gradients.py

Differentially private training clips the gradient of each example to a norm. The norms alone do not need the
gradients: tnconv takes the cheaper of two routes for each layer, through the gradients or through two Gram
matrices of positions.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.func import grad, vmap

import tnconv

EXAMPLES, ROUNDS = 8, 7
LAYERS = {
    "early: 16 channels, 32x32": tnconv.ConvSpec(16, 32, 3, (32, 32), padding=1),
    "middle: 64 channels, 16x16": tnconv.ConvSpec(64, 64, 3, (16, 16), padding=1),
    "late: 256 channels, 4x4": tnconv.ConvSpec(256, 256, 3, (4, 4), padding=1),
    "grouped: 64 channels, 8x8": tnconv.ConvSpec(64, 64, 3, (8, 8), padding=1, groups=4),
}


def loss(weight: Tensor, x: Tensor, y: Tensor, groups: int) -> Tensor:
    """One example's loss; its gradient with respect to the layer's output is y."""
    return (F.conv2d(x[None], weight, padding=1, groups=groups)[0] * y).sum()


def milliseconds(calls: list[Callable[[], Tensor]]) -> list[float]:
    """The median time of each call; the calls take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(found) for found in times]


def compare(spec: tnconv.ConvSpec) -> list[tuple[str, ...]]:
    """A row for each quantity of a layer: both times, their ratio, and what tnconv called."""
    x = torch.randn(EXAMPLES, spec.in_channels, *spec.input_sizes)
    y = torch.randn(EXAMPLES, spec.out_channels, *spec.output_sizes)
    weight = torch.randn(spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_sizes)
    each = vmap(grad(partial(loss, groups=spec.groups)), (None, 0, 0))
    theirs: dict[str, Callable[[], Tensor]] = {
        "per_example_weight_vjp": lambda: each(weight, x, y),
        "gradient_norm": lambda: each(weight, x, y).flatten(1).square().sum(1),
    }
    rows = []
    for op, other in theirs.items():
        function = tnconv.compile(spec, op, hints={"N": EXAMPLES})
        torch.testing.assert_close(function(x, y), other(), rtol=1e-3, atol=1e-2)
        ours, peer = milliseconds([partial(function, x, y), other])
        kernels = ", ".join(dict.fromkeys(choice.kernel for choice in function.program.choices))
        rows.append((op, f"{peer:.2f}", f"{ours:.2f}", f"{ours / peer:.2f}", kernels))
    return rows


def main() -> None:
    """Compare both quantities on each layer."""
    torch.manual_seed(0)
    table = Table(title=f"batch {EXAMPLES}, {torch.get_num_threads()} threads, milliseconds")
    for name in ("layer", "quantity", "torch.func", "tnconv", "ratio", "kernels"):
        table.add_column(name, justify="left" if name in ("layer", "quantity", "kernels") else "right")
    for name, spec in track(LAYERS.items(), "measuring"):
        for row in compare(spec):
            table.add_row(name, *row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
