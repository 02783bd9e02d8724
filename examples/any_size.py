"""KFAC factors of a fully convolutional network for segmentation, over images of mixed sizes, accumulated.

    pip install tnconv
    python examples/any_size.py

Images of one size make a batch, and every batch has another size. `tnconv.curvature.kfac` takes them as they come and
adds to the factors that are there (`into=`). Below it, one function for every size computes the factor of one layer
by hand: it is planned once for each class of sizes, and equal to what the model's factors say.
"""

import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tnconv
from tnconv.curvature.blocks import Block

CLASSES, BATCH = 3, 4
SIZES = ((32, 40), (48, 33), (29, 62), (50, 51))


def network() -> nn.Module:
    """Down by two, up again, a class for each pixel but at odd borders; it takes images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 16, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, CLASSES, 1),
    )


def images(model: nn.Module, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images of a size: what is brighter than its surroundings is the second class, what is redder the third."""
    x = torch.randn(BATCH, 3, *size)
    with torch.no_grad():
        height, width = model(x).shape[2:]
    calm = nn.functional.interpolate(nn.functional.avg_pool2d(x, 5, 1, 2), (height, width))
    return x, (calm.mean(1) > 0.1).long() + (calm[:, 0] > 0.2)


def batches(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch of each size."""
    for size in SIZES:
        yield images(model, size)


def input_factor(factors: tnconv.curvature.KroneckerFactors) -> Tensor:
    """A of the first layer."""
    block = factors.blocks[("0.weight",)]
    assert isinstance(block, Block)
    assert block.A is not None
    return block.A[0]


def main() -> None:
    """Accumulate factors, and compare one with what one function for every size makes of the same images."""
    torch.manual_seed(0)
    model, loss = network(), nn.CrossEntropyLoss(reduction="sum")
    data = list(batches(model))
    factors = None
    table = Table(title="KFAC over images of mixed sizes")
    for header in ("images", "seconds", "examples so far", "trace of the first factor"):
        table.add_column(header, justify="right")
    for x, y in data:
        start = time.perf_counter()
        factors = tnconv.curvature.kfac(
            model, loss, [(x, y)], fisher_type="empirical", into=factors, check_deterministic=False
        )
        seconds = time.perf_counter() - start
        size = "x".join(map(str, x.shape[2:]))
        trace = input_factor(factors).trace().item()
        table.add_row(f"{len(x)} of {size}", f"{seconds:.2f}", f"{factors.num_data:.0f}", f"{trace:.3f}")
    console = Console()
    console.print(table)

    first_layer = tnconv.compile(model[0], "kfac_expand")
    total = torch.zeros(1, 27, 27)
    for x, _ in data:
        first_layer(x, out=total, beta=1.0)
    console.print(first_layer.variants)
    assert factors is not None
    difference = total[0] / len(data) - input_factor(factors)
    console.print(f"largest difference to the model's factor: {difference.abs().max().item():.1e}")


if __name__ == "__main__":
    main()
