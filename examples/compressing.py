"""What compress_digits.py, chirps.py and moving_digits.py share: training, measuring, the table and the picture."""

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import tnconv

try:
    import matplotlib as mpl
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install matplotlib") from None

mpl.use("agg")
from matplotlib import pyplot as plt

BATCH = 100


@dataclass(frozen=True)
class Data:
    """A task: inputs with the numbers of their classes, to train on and to test with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Way:
    """How to factorise.

    Args:
        name: for the table.
        kind: of factorisation.
        options: of `tnconv.nn.tensorize`.
    """

    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A model, measured.

    Args:
        name: for the table.
        model: it.
        parameters: how many it has.
        before: accuracy on the test inputs before it was tuned; None of one that was trained from scratch.
        after: at the end.
        milliseconds: of a call with all test inputs, the median.
        seconds: to factorise and tune it, or to train it.
    """

    name: str
    model: nn.Module
    parameters: int
    before: float | None
    after: float
    milliseconds: float
    seconds: float


def train(model: nn.Module, data: Data, steps: int, lr: float, tick: Any) -> None:
    """Adam with a cosine schedule."""
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(data.x), (BATCH,))
        optimiser.zero_grad()
        F.cross_entropy(model(data.x[batch]), data.y[batch]).backward()
        optimiser.step()
        schedule.step()
        tick()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The share of test inputs whose class is found."""
    return (model(data.test_x).argmax(1) == data.test_y).float().mean().item()


@torch.no_grad()
def milliseconds(model: nn.Module, data: Data, calls: int = 7) -> float:
    """The median time of a call, the first left out."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        model(data.test_x)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measured(name: str, model: nn.Module, data: Data, before: float | None, seconds: float) -> Result:
    """A model that is done."""
    count = sum(parameter.numel() for parameter in model.parameters())
    return Result(name, model, count, before, accuracy(model, data), milliseconds(model, data), seconds)


def compare(
    model: nn.Module, data: Data, ways: Sequence[Way], steps: tuple[int, int], console: Console
) -> list[Result]:
    """Train a model, then factorise and tune copies of it.

    Args:
        model: a new one.
        data: the task.
        ways: how to factorise.
        steps: to train, and to tune each copy.
        console: for the progress.
    """
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=steps[0] + len(ways) * steps[1])

        def tick() -> None:
            progress.advance(task)

        start = time.perf_counter()
        train(model, data, steps[0], 3e-3, tick)
        results = [measured("dense", model, data, None, time.perf_counter() - start)]
        for way in ways:
            progress.update(task, description=way.name)
            start = time.perf_counter()
            copied = tnconv.nn.tensorize(
                copy.deepcopy(model), way.kind, progress=False, table=False, **way.options
            )
            before = accuracy(copied, data)
            train(copied, data, steps[1], 1e-3, tick)
            results.append(measured(way.name, copied, data, before, time.perf_counter() - start))
    return results


def show(results: Sequence[Result], console: Console) -> None:
    """The table."""
    columns = ("model", "parameters", "KiB", "accuracy before tuning", "after", "ms a call", "s to make")
    table = Table(*columns)
    for each in results:
        share = "" if each is results[0] else f" ({each.parameters / results[0].parameters:.0%})"
        before = "–" if each.before is None else f"{each.before:.1%}"
        size = f"{4 * each.parameters / 1024:.0f}"
        cells = (f"{each.parameters:,}{share}", size, before, f"{each.after:.1%}", f"{each.milliseconds:.1f}")
        table.add_row(each.name, *cells, f"{each.seconds:.1f}")
    console.print(table)


def draw(results: Sequence[Result], path: Path) -> None:
    """Accuracy before and after tuning, a line a model."""
    figure, axes = plt.subplots(figsize=(6.5, 0.8 + 0.35 * len(results)), layout="constrained")
    axes.axvline(results[0].after, color="gray", linewidth=0.8, linestyle="--")
    for place, each in enumerate(results):
        if each.before is not None:
            axes.plot([each.before, each.after], [place] * 2, color="C0", linewidth=1)
            axes.plot(each.before, place, "o", color="C0", markerfacecolor="white")
        axes.plot(each.after, place, "o", color="C0" if place else "gray")
    names = [f"{each.name}, {each.parameters:,} parameters" for each in results]
    axes.set_yticks(range(len(results)), names)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy: ring before tuning, disc after")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    with plt.rc_context({"svg.hashsalt": "tnconv"}):  # the same bytes for the same accuracies
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def finish(results: Sequence[Result], shown: int, example: Tensor, path: Path, console: Console) -> None:
    """Print the table and the layers of one of the models, draw the picture.

    Args:
        results: of all models.
        shown: the number of the model whose layers are printed.
        example: an input of the models.
        path: of the picture.
        console: where it is printed.
    """
    show(results, console)
    console.print(f"layers of {results[shown].name}:")
    console.print(tnconv.nn.tensorised_layers(results[shown].model, example))
    draw(results, path)
    console.print(f"accuracies: {path}")


def options_of(text: str, picture: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """What the three take on the command line."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(picture), help="the picture; .svg, .png or .pdf")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options
