"""A Laplace approximation of a classifier of scikit-learn's digits: how sure it is of digits, and of what are none.

    pip install 'tnconv[laplace]' scikit-learn
    python examples/laplace_digits.py

A network is trained as usual. The curvature of its loss, by tnconv, then says how far its parameters are known, and the
predictions are averaged over that. The accuracy stays; of images of noise the network alone is as good as sure, the
approximation is not. The price is more caution with digits, too: the marginal likelihood alone chooses the prior.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

try:
    from laplace import Laplace
    from sklearn.datasets import load_digits

    from tnconv.integrations.laplace import TnconvGGN
except ImportError as error:
    raise SystemExit(f"{error}\nThis example needs: pip install 'tnconv[laplace]' scikit-learn") from None

EPOCHS, BATCH = 20, 64
warnings.filterwarnings("ignore", "By default `link_approx`")
STRUCTURES = ("diag", "kron")


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Images `[n, 1, 8, 8]` between 0 and 1 with labels: a set to train on, and images and labels to test with."""
    data: Any = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:1300]
    return TensorDataset(x[train], y[train]), x[test], y[test]


def trained(data: TensorDataset, console: Console) -> nn.Module:
    """A small convolutional network, trained as usual."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, padding_mode="replicate"), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in track(range(EPOCHS), "training", console=console):
        for x, y in DataLoader(data, batch_size=BATCH, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def sureness(probabilities: Tensor) -> str:
    """The mean of the largest probability."""
    return f"{probabilities.max(1).values.mean():.1%}"


def main() -> None:
    """Train, approximate, compare."""
    torch.manual_seed(0)
    console = Console()
    data, x, y = digits()
    model = trained(data, console)
    predictors: dict[str, Any] = {"the network": lambda images: model(images).softmax(1)}
    for structure in track(STRUCTURES, "curvature", console=console):
        la: Any = Laplace(
            model, "classification", subset_of_weights="all", hessian_structure=structure, backend=TnconvGGN
        )
        la.fit(DataLoader(data, batch_size=250))
        la.optimize_prior_precision()
        predictors[f"with {structure!r}"] = la

    noise, turned = torch.rand_like(x), x.rot90(1, (2, 3))
    table = Table("", "accuracy", "loss", "sure of digits", "of digits turned", "of noise")
    with torch.no_grad():
        for name, predict in predictors.items():
            p = predict(x)
            accuracy, loss = (p.argmax(1) == y).float().mean(), F.nll_loss(p.log(), y)
            others = (sureness(predict(images)) for images in (x, turned, noise))
            table.add_row(name, f"{accuracy:.1%}", f"{loss:.3f}", *others)
    console.print(table)


if __name__ == "__main__":
    main()
