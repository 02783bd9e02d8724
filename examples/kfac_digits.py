"""KFAC as a preconditioner: how many steps to 97% of scikit-learn's digits, with and without.

    pip install tnconv scikit-learn matplotlib
    python examples/kfac_digits.py [--out kfac_digits.svg]
    python examples/kfac_digits.py --tune

The same network, batches and optimiser, SGD with momentum, which gets the gradient as it is or what KFAC makes of it.
Each has the best of twelve settings, found by `--tune` with two seeds that are not among those shown. A step with KFAC
takes longer: the table says how long both take.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import tnconv

try:
    import matplotlib as mpl
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install scikit-learn matplotlib") from None

mpl.use("agg")
from matplotlib import pyplot as plt

WANTED, BATCH, STEPS, SEEDS, TUNING_SEEDS = 0.97, 250, 150, (0, 1, 2), (100, 101)


@dataclass(frozen=True)
class Setting:
    """How to train.

    Args:
        lr: the learning rate.
        momentum: of SGD.
        damping: of KFAC; None for SGD alone.
        kl_clip: of KFAC.
    """

    lr: float
    momentum: float
    damping: float | None = None
    kl_clip: float | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return "SGD" if self.damping is None else "SGD with KFAC"

    def __str__(self) -> str:
        own = "" if self.damping is None else f", damping {self.damping:g}, kl_clip {self.kl_clip:g}"
        return f"lr {self.lr:g}, momentum {self.momentum:g}{own}"


BEST = (Setting(0.15, 0.9), Setting(0.3, 0.5, 0.03, 0.01))
GRIDS = (
    [Setting(lr, m) for m in (0.8, 0.9, 0.95) for lr in (0.05, 0.1, 0.15, 0.2)],
    [
        Setting(lr, m, d, k)
        for lr, m in ((0.1, 0.9), (0.3, 0.9), (0.3, 0.5))
        for k in (0.01, 0.1)
        for d in (0.03, 0.1)
    ],
)


@dataclass(frozen=True)
class Run:
    """A training.

    Args:
        setting: of it.
        seed: of weights and batches.
        accuracies: on the test images, after each step.
        seconds: of a step, the median.
    """

    setting: Setting
    seed: int
    accuracies: Sequence[float]
    seconds: float

    @property
    def steps(self) -> int | None:
        """How many steps it took to reach the accuracy that is wanted, or None."""
        return next((n for n, found in enumerate(self.accuracies, 1) if found >= WANTED), None)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images `[n, 1, 8, 8]` between 0 and 1 with labels: to train on, and to test with."""
    data: Any = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return x[train], y[train], x[test], y[test]


def network() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def train(setting: Setting, seed: int, steps: int, stop: bool = False) -> Run:
    """Train from a seed, which is that of the weights and of the batches; stop at the accuracy that is wanted."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum)
    pre = None
    if setting.damping is not None:
        pre = tnconv.optim.KFACPreconditioner(
            model,
            damping=setting.damping,
            decay=0.9,
            kl_clip=setting.kl_clip,
            lr=setting.lr,
            inverse_interval=1,
        )
    accuracies, seconds = [], []
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH,))
        start = time.perf_counter()
        optimizer.zero_grad()
        with pre or nullcontext():
            loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        if pre is not None:
            pre.step()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            accuracies.append((model(test_x).argmax(1) == test_y).float().mean().item())
        if stop and accuracies[-1] >= WANTED:
            break
    return Run(setting, seed, accuracies, statistics.median(seconds))


def draw(runs: Sequence[Run], path: Path) -> None:
    """The accuracies of all runs."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for run in runs:
        first = run.seed == runs[0].seed
        axes.plot(
            range(1, len(run.accuracies) + 1), run.accuracies, linewidth=1, alpha=0.8,
            color="C0" if run.setting.damping is None else "C1", label=run.setting.name if first else None,
        )  # fmt: skip
    axes.axhline(WANTED, color="gray", linewidth=0.8, linestyle="--")
    axes.set(xlabel="step", ylabel="test accuracy", ylim=(0.5, 1))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[Run]:
    """Train, print the table, draw the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("kfac_digits.svg"), help="the picture; .svg, .png or .pdf"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--tune", action="store_true", help="compare settings (about 5 minutes)")
    options = parser.parse_args(argv)
    console = Console()
    settings = [s for grid in GRIDS for s in grid] if options.tune else BEST
    seeds = TUNING_SEEDS if options.tune else SEEDS
    table = Table(
        "", "setting", f"steps to {WANTED:.0%}, seeds {', '.join(map(str, seeds))}", "at the end", "ms a step"
    )
    runs = []
    jobs = [(setting, seed) for setting in settings for seed in seeds]
    for setting, seed in track(jobs, "training", console=console):
        runs.append(train(setting, seed, options.steps, stop=options.tune))
    for setting in settings:
        own = [run for run in runs if run.setting == setting]
        steps = ", ".join(f"over {options.steps}" if run.steps is None else str(run.steps) for run in own)
        last = statistics.fmean(run.accuracies[-1] for run in own)
        milliseconds = 1e3 * statistics.median(run.seconds for run in own)
        table.add_row(setting.name, str(setting), steps, f"{last:.1%}", f"{milliseconds:.1f}")
    console.print(table)
    if not options.tune:
        draw(runs, options.out)
        console.print(f"accuracies: {options.out}")
    return runs


if __name__ == "__main__":
    main()
