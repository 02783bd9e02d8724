"""Compress a convolutional network on scikit-learn's digits: all six kinds of factorisation, before and after tuning.

    pip install tnconv scikit-learn matplotlib
    python examples/compress_digits.py [--out compress_digits.svg]

A network with three convolutions is trained on 1300 images. Copies of it are factorised, each by a kind of its own, to
the same share of the parameters; ranks are shared out among the layers so that their weights lose least. Each copy is
then tuned. The table says what that does to accuracy, size and time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from compressing import Data, Result, Way, compare, finish, options_of
from rich.console import Console
from torch import nn

import tnconv

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install scikit-learn matplotlib") from None

BUDGET = 0.15


def digits() -> Data:
    """Images `[n, 1, 8, 8]` between 0 and 1 with labels."""
    data: Any = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return Data(x[train], y[train], x[test], y[test])


def network(width: int) -> nn.Module:
    """Three convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Train, factorise, tune, print the table, draw the picture."""
    options = options_of(__doc__ or "", "compress_digits.svg", argv)
    console, data = Console(), digits()
    common = {"budget": 0.4 if options.quick else BUDGET, "iterations": 1 if options.quick else 3}
    ways = [Way(kind, kind, common | ({"blocks": 2} if kind == "bt" else {})) for kind in tnconv.nn.KINDS]
    steps = (2, 1) if options.quick else (250, 100)
    results = compare(network(8 if options.quick else 32), data, ways, steps, console)
    finish(results, 2, data.test_x, options.out, console)
    return results


if __name__ == "__main__":
    main()
