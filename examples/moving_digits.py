"""Compress a three-dimensional network that tells how digits move.

    pip install tnconv scikit-learn matplotlib
    python examples/moving_digits.py [--out moving_digits.svg]

Each film shows one of scikit-learn's digits that moves over a larger picture, up, down, left, right, to and fro, or
not at all; no frame alone tells which. A trained network is factorised under a budget of multiplications and one of
parameters, and goes back to dense convolutions in the end.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from compressing import Data, Result, Way, compare, finish, options_of
from rich.console import Console
from torch import Tensor, nn

import tnconv

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install scikit-learn matplotlib") from None

FRAMES, SIZE = 6, 16
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), None, (0, 0))  # pixels a frame; None is to and fro


def films(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Films `[count, 1, FRAMES, SIZE, SIZE]` and how the digit moves."""
    data: Any = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 16
    labels = torch.randint(len(MOVES), (count,), generator=generator)
    chosen = torch.randint(len(images), (count,), generator=generator)
    found = 0.3 * torch.randn(count, 1, FRAMES, SIZE, SIZE, generator=generator)
    middle = (SIZE - images.shape[1]) / 2
    starts = torch.randint(-1, 2, (count, 2), generator=generator)
    for film, label, image, start in zip(found, labels, images[chosen], starts, strict=True):
        for frame in range(FRAMES):
            way = frame - (FRAMES - 1) / 2
            move = MOVES[label]
            y, x = (0.0, 1.5 * (-1) ** frame) if move is None else (way * move[0], way * move[1])
            top, left = int(middle + start[0] + y), int(middle + start[1] + x)
            film[0, frame, top : top + image.shape[0], left : left + image.shape[1]] += image
    return found, labels


def network(width: int) -> nn.Module:
    """Three convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv3d(1, width, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(width), nn.ReLU(),
        nn.Conv3d(width, 2 * width, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(2 * width), nn.ReLU(),
        nn.Conv3d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm3d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2 * width, len(MOVES)),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Train, factorise, tune, print the table, draw the picture."""
    options = options_of(__doc__ or "", "moving_digits.svg", argv)
    console, generator = Console(), torch.Generator().manual_seed(0)
    sizes = (100, 20) if options.quick else (1000, 200)
    data = Data(*films(sizes[0], generator), *films(sizes[1], generator))
    example = data.test_x[:1]
    work: dict[str, Any] = {"budget": {"multiplications": 0.4}, "example": example}
    ways = [
        Way("tucker, 40% of the work", "tucker", work),
        Way("tt, 8% of the parameters", "tt", {"budget": 0.08}),
        Way("ht, 8% of the parameters", "ht", {"budget": 0.08}),
    ]
    steps = (2, 1) if options.quick else (120, 40)
    results = compare(network(4 if options.quick else 12), data, ways, steps, console)
    finish(results, 1, example, options.out, console)
    dense = tnconv.nn.untensorize(copy.deepcopy(results[1].model))
    off = (dense(data.test_x) - results[1].model(data.test_x)).abs().max().item()
    console.print(f"back to {type(dense[3]).__name__}: outputs differ by {off:.1e}")
    return results


if __name__ == "__main__":
    main()
