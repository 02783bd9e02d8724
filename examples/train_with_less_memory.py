"""Train a convolutional network on scikit-learn's digits, with a part of the inputs of its layers stored only.

    pip install tnconv matplotlib scikit-learn
    python examples/train_with_less_memory.py --out less_memory.svg

The backward pass needs the input of every layer for the gradient of its weight. Here it gets a random part of it, of
the channels or of the positions, whose gradient is right on the average. For each fraction that is kept: the most bytes
that autograd stores in a step, the time of a step, and the test accuracy over some seeds. Rectifiers are written so
that they store one byte a cell: torch's store their output, the input of the next layer, and would hold all of it.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import matplotlib as mpl
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from sklearn.datasets import load_digits

    import tnconv

    mpl.use("agg")
    from matplotlib import pyplot as plt
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install tnconv matplotlib scikit-learn") from None

WIDTH, BATCH, HELD_OUT = 32, 64, 397
KEPT = {
    "1": {"channels": 1.0, "space": (1.0, 1.0)},
    "1/2": {"channels": 0.5, "space": (0.5, 1.0)},
    "1/4": {"channels": 0.25, "space": (0.5, 0.5)},
    "1/8": {"channels": 0.125, "space": (0.25, 0.5)},
}


class Rectifier(nn.Module):
    """`nn.ReLU` that stores where its input is negative, and not its output."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x < 0, 0.0)


def network() -> nn.Sequential:
    """Five convolutions and a linear layer for images `[n, 1, 8, 8]`."""

    def conv(inside: int, outside: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, stride, 1), Rectifier()]

    wide = 2 * WIDTH
    layers = [
        *conv(1, WIDTH),
        *conv(WIDTH, WIDTH),
        *conv(WIDTH, wide, 2),
        *conv(wide, wide),
        *conv(wide, wide),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * wide, 10))


def sampled(model: nn.Sequential, kind: str, kept: str) -> nn.Sequential:
    """All convolutions but the first, whose input is the small image itself, store a part of their input."""
    if kept == "1":
        return model
    indices = {"in_channels" if kind == "channels" else "space": KEPT[kept][kind]}
    tnconv.nn.sample(model, indices=indices, skip=("0", str(len(model) - 1)))
    return model


def digits() -> tuple[Tensor, Tensor]:
    """Images `[n, 1, 8, 8]` between 0 and 1 in a fixed random order, and their labels."""
    data: Any = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.tensor(data.target)[order]


def stored_bytes(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """What autograd stores at the end of a forward pass, the most of a step; parameters do not count."""
    found: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        F.cross_entropy(model(x), y)
    return sum(found.values())


@dataclass
class Row:
    """What came out for one fraction.

    Args:
        kind: what is sampled.
        kept: the fraction.
    """

    kind: str
    kept: str
    stored: int = 0
    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)


def train(
    row: Row, seed: int, epochs: int, data: tuple[Tensor, Tensor], progress: Progress, task: Any
) -> None:
    """One network from one seed."""
    torch.manual_seed(seed)
    model = sampled(network(), row.kind, row.kept)
    (x, test_x), (y, test_y) = ((each[:-HELD_OUT], each[-HELD_OUT:]) for each in data)
    row.stored = stored_bytes(model, x[:BATCH], y[:BATCH])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for places in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            start = time.perf_counter()
            loss = F.cross_entropy(model(x[places]), y[places])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            row.seconds.append(time.perf_counter() - start)
            progress.advance(task)
    model.eval()
    with torch.no_grad():
        row.accuracies.append((model(test_x).argmax(1) == test_y).float().mean().item())


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy over stored bytes, as SVG."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for kind in ("channels", "space"):
        chosen = [row for row in rows if row.kind == kind or row.kept == "1"]
        axes.plot(
            [row.stored / 2**20 for row in chosen],
            [100 * row.accuracy for row in chosen],
            marker="o",
            label=kind,
        )
    for row in rows:
        axes.annotate(
            row.kept, (row.stored / 2**20, 100 * row.accuracy), xytext=(3, 4), textcoords="offset points"
        )
    axes.set(xlabel="MiB stored for the backward pass", ylabel="test accuracy in %", xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train them all, print the table, draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("less_memory.svg"), help="the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    data, console = digits(), Console()
    rows = [Row("all", "1"), *(Row(kind, kept) for kind in ("channels", "space") for kept in list(KEPT)[1:])]
    steps = options.epochs * ((len(data[0]) - HELD_OUT) // BATCH)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=steps * len(rows) * options.seeds)
        for seed in range(options.seeds):
            for row in rows:
                train(row, seed, options.epochs, data, progress, task)
    table = Table("sampled", "kept", "KiB stored", "of all", "ms a step", "test accuracy", "of each seed")
    for row in rows:
        table.add_row(
            "nothing" if row.kept == "1" else row.kind,
            row.kept,
            f"{row.stored / 1024:.0f}",
            f"{row.stored / rows[0].stored:.0%}",
            f"{1e3 * statistics.median(row.seconds):.1f}",
            f"{row.accuracy:.1%}",
            " ".join(f"{100 * each:.1f}" for each in row.accuracies),
        )
    console.print(table)
    draw(rows, options.out)
    console.print(f"plot: {options.out}")
    return rows


if __name__ == "__main__":
    main()
