"""Compress a one-dimensional network that tells chirps apart; the sounds are synthetic.

    pip install tnconv matplotlib
    python examples/chirps.py [--out chirps.svg]

No recordings: each sound is made here, a tone in noise whose pitch stays, rises, falls, rises and falls, falls and
rises, or warbles, at a random pitch, time and loudness. Copies of a trained network are factorised by what their
weights say: so that an error is not exceeded, that a share of the energy is kept, by variational Bayes; and at a rank
for each layer.
"""

import math
from collections.abc import Sequence

import torch
from compressing import Data, Result, Way, compare, finish, options_of
from rich.console import Console
from torch import Tensor, nn

LENGTH, CLASSES = 256, 6
WAYS = (
    Way("tt, error 0.5", "tt", {"rank": {"error": 0.5}}),
    Way("tucker, energy 0.75", "tucker", {"rank": {"energy": 0.75}}),
    Way("tucker, vbmf", "tucker", {"rank": "vbmf"}),
    Way("cp, rank by layer", "cp", {"rank": {"0": None, "3": 24, "6": 0.2}, "iterations": 15}),
)


def chirps(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sounds `[count, 1, LENGTH]` and their classes."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    labels = torch.randint(CLASSES, (count,), generator=generator)
    time = torch.linspace(0, 1, LENGTH).expand(count, -1)
    slope = uniform(0.5, 1.0)
    bend = 2 * (time - 0.5).abs()
    warble = torch.sin(2 * math.pi * (3 * time + uniform(0, 1)))
    shapes = torch.stack([0 * time, time, 1 - time, 1 - bend, bend, 0.5 + 0.4 * warble], 1)
    shape = shapes[torch.arange(count), labels]
    pitch = uniform(8, 16) + 24 * slope * shape  # periods a sound
    phase = 2 * math.pi * (pitch.cumsum(1) / LENGTH + uniform(0, 1))
    loud = torch.exp(-((time - uniform(0.35, 0.65)) ** 2) / 0.08)
    sounds = uniform(0.6, 1.2) * loud * phase.sin()
    return (sounds + 0.3 * torch.randn(count, LENGTH, generator=generator)).unsqueeze(1), labels


def network(width: int) -> nn.Module:
    """Three convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv1d(1, width, 9, stride=2, padding=4), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Conv1d(width, 2 * width, 9, stride=2, padding=4), nn.BatchNorm1d(2 * width), nn.ReLU(),
        nn.Conv1d(2 * width, 2 * width, 9, stride=2, padding=4), nn.BatchNorm1d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(8 * width, CLASSES),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Train, factorise, tune, print the table, draw the picture."""
    options = options_of(__doc__ or "", "chirps.svg", argv)
    console, generator = Console(), torch.Generator().manual_seed(0)
    sizes = (200, 50) if options.quick else (2000, 500)
    data = Data(*chirps(sizes[0], generator), *chirps(sizes[1], generator))
    steps = (2, 1) if options.quick else (250, 80)
    results = compare(
        network(8 if options.quick else 32), data, WAYS[-2:] if options.quick else WAYS, steps, console
    )
    finish(results, 1, data.test_x, options.out, console)
    return results


if __name__ == "__main__":
    main()
