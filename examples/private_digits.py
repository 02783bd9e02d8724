"""Differentially private training on scikit-learn's digits: Opacus' ghost clipping with norms by tnconv.

    pip install 'tnconv[opacus]' scikit-learn
    python examples/private_digits.py

The convolutions wrap around (circular padding), for which Opacus alone takes norms that are too small: it clips less
than the privacy that it reports needs. The first lines show by how much, the rest trains.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

try:
    from opacus import PrivacyEngine
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from sklearn.datasets import load_digits

    from tnconv.integrations import opacus
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install 'tnconv[opacus]' scikit-learn") from None

EPOCHS, BATCH, NOISE, CLIP, DELTA = 12, 128, 1.0, 1.0, 1e-4
warnings.filterwarnings("ignore", "Secure RNG|Full backward hook")  # fine for an example


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Images `[n, 1, 8, 8]` between 0 and 1 with labels: a set to train on, and images and labels to test with."""
    data: Any = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return TensorDataset(x[train], y[train]), x[test], y[test]


def network() -> nn.Module:
    """A small convolutional network on a torus."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def norms(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The norm of each example's gradient, as ghost clipping takes it."""
    wrapped: Any = GradSampleModuleFastGradientClipping(model, loss_reduction="sum")
    F.cross_entropy(wrapped(x), y, reduction="sum").backward()
    found: Tensor = wrapped.get_norm_sample()
    wrapped.remove_hooks()
    return found


def main() -> None:
    """Compare norms, then train."""
    torch.manual_seed(0)
    console = Console()
    data, test_x, test_y = digits()
    model = network()
    opacus.unregister()
    alone = norms(model, test_x, test_y)
    opacus.register()
    right = norms(model, test_x, test_y)
    console.print(
        f"Opacus alone takes {(alone / right).min():.2f} to {(alone / right).max():.2f} of the norms"
    )

    engine = PrivacyEngine()
    private, optimizer, criterion, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(data, batch_size=BATCH),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        grad_sample_mode="ghost",
    )
    for _ in track(range(EPOCHS), "training", console=console):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(private(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(test_x).argmax(1) == test_y).float().mean()
    console.print(f"test accuracy {accuracy:.1%} at ε = {engine.get_epsilon(DELTA):.2f}, δ = {DELTA}")


if __name__ == "__main__":
    main()
