"""Train a small ResNet with factorised convolutions, beside the same model dense and evaluated left to right.

    python examples/train_tensorised_resnet.py --out loss.svg
    python examples/train_tensorised_resnet.py --kind cp --plain --rank 0.1 --steps 50 --out loss.svg

The model has the shape of ResNet-18, narrower, for 32x32 images. The images are made here: each shows a bar, a disc,
a ring or a grid, in a random colour at a random place in noise; the class is the shape and how fine it is. Most of a
step is the convolutions: tnconv plans each, a chain of small steps, or the dense kernel first. Left to right means
that the factors meet the image in the order in which they are written, which is how one would call torch.einsum.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import tnconv

mpl.use("agg")
from matplotlib import pyplot as plt

SIZE, CLASSES, WIDTHS = 32, 8, (16, 32, 64, 128)
FACTORS = {16: (4, 4), 32: (8, 4), 64: (8, 8), 128: (16, 8)}  # of the channels, in the reshaped variant


# -- images ----------------------------------------------------------------------------------------------


def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images `[count, 3, 32, 32]` and their classes."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.randint(CLASSES, (count,), generator=generator)
    axis = torch.arange(SIZE, dtype=torch.float32)
    y = axis[:, None] - uniform(10, 22, 1, 1)
    x = axis[None, :] - uniform(10, 22, 1, 1)
    radius = (x.square() + y.square()).sqrt()
    angle = uniform(0, torch.pi, 1, 1)
    across, along = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    fine = torch.where(labels % 2 == 0, 3.0, 6.0)[:, None, None]
    shapes = torch.stack(
        [
            (across.abs() < fine / 2) & (along.abs() < 12),
            radius < 1.5 * fine,
            (radius - 8).abs() < fine / 2,
            ((across % fine < fine / 2) ^ (along % fine < fine / 2)) & (radius < 10),
        ]
    ).float()
    shape = shapes[labels // 2, torch.arange(count)]
    colour = uniform(0.4, 1.0, 3, 1, 1)
    return shape[:, None] * colour + 0.25 * torch.randn(count, 3, SIZE, SIZE, generator=generator), labels


# -- the model -------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.around = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.around(x))


def resnet() -> nn.Sequential:
    """A stem, four stages of two blocks, a linear layer."""
    blocks: list[nn.Module] = []
    inside = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        blocks += [Block(inside, width, 1 if stage == 0 else 2), Block(width, width, 1)]
        inside = width
    stem = [nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES)
    )


def tensorised(kind: str, rank: float, reshaped: bool, batch: int, planner: str) -> nn.Module:
    """The same model with new factors in place of the 3x3 convolutions; the stem stays."""
    model = resnet()
    options: dict[str, Any] = {"decompose": False, "planner": planner, "batch_hint": batch}
    if not reshaped:
        return tnconv.nn.tensorize(model, kind, rank, skip=("0",), **options)
    for block in model.modules():
        if isinstance(block, Block):
            for name in ("conv1", "conv2"):
                conv = getattr(block, name)
                shapes = {"in_shape": FACTORS[conv.in_channels], "out_shape": FACTORS[conv.out_channels]}
                setattr(block, name, tnconv.nn.tensorize(conv, kind, rank, **options, **shapes))
    return model


# -- training --------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A model in training.

    Args:
        name: for the table.
        model: what is trained.
    """

    name: str
    model: nn.Module
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def step(self, x: Tensor, labels: Tensor) -> None:
        """One step; its time includes forward, backward and update."""
        start = time.perf_counter()
        loss = F.cross_entropy(self.model(x), labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """The share of images whose class is found."""
        self.model.eval()
        found = self.model(x).argmax(1)
        self.model.train()
        return (found == labels).float().mean().item()

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def milliseconds(self) -> float:
        """The median step, the first, which compiles, left out."""
        return 1e3 * statistics.median(self.seconds[1:] or self.seconds)


def draw(runs: Sequence[Run], path: Path) -> None:
    """The losses, averaged over ten steps, as SVG."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for run in runs:
        window = max(1, min(10, len(run.losses) // 4))
        smooth = torch.tensor(run.losses).unfold(0, window, 1).mean(1)
        axes.plot(
            range(window, len(run.losses) + 1), smooth, label=f"{run.name}, {run.parameters:,} parameters"
        )
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[Run]:
    """Train, print the table, draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", default="tt", choices=["cp", "tucker", "tt", "tr", "bt", "ht"])
    parser.add_argument("--rank", type=float, default=0.2, help="fraction of the dense parameters")
    parser.add_argument("--plain", action="store_true", help="channels not factorised")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--baseline-steps", type=int, default=3, help="steps evaluated left to right")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("tensorised_resnet.svg"), help="the loss curve")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    test = images(256, generator)

    def model(planner: str) -> nn.Module:
        return tensorised(options.kind, options.rank, not options.plain, options.batch, planner)

    name = options.kind if options.plain else f"reshaped {options.kind}"
    runs = [Run("dense", resnet()), Run(name, model("auto"))]
    slow = Run(f"{name}, left to right", model("left-to-right"))
    slow.model.load_state_dict(runs[1].model.state_dict())
    console = Console()
    for number in track(range(options.steps), "training", console=console):
        x, labels = images(options.batch, generator)
        for run in runs:
            run.step(x, labels)
        if number < options.baseline_steps:
            slow.step(x, labels)
    table = Table("model", "parameters", "ms a step", "loss", "test accuracy")
    for run in (*runs, slow):
        loss = statistics.fmean(run.losses[-10:])
        accuracy = f"{run.accuracy(*test):.0%}" if run in runs else "–"
        shown = f"{loss:.3f}" if run in runs else f"{loss:.3f} after {len(run.losses)}"
        table.add_row(run.name, f"{run.parameters:,}", f"{run.milliseconds:.0f}", shown, accuracy)
    console.print(table)
    draw(runs, options.out)
    console.print(f"loss curve: {options.out}")
    return [*runs, slow]


if __name__ == "__main__":
    main()
