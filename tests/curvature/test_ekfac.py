"""EKFAC of models: the dense GGN in KFAC's eigenbasis, curvlinops."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.curvature.curvature_models import (
    CLASSES,
    LOSSES,
    Windows,
    close,
    ggn,
    gradients,
    same,
    state,
    target,
)
from tnconv.curvature import EigenBlock, KroneckerFactors, ekfac, kfac
from tnconv.errors import ArgumentError, OperationError


class Twice(nn.Module):
    """A grouped convolution, a layer that is called twice, a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(2, 4, 2, groups=2), nn.GroupNorm(1, 4)
        self.again, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x))).mT
        return self.head(self.again(torch.tanh(self.again(h))).sum(1))


def basis(block: EigenBlock) -> Tensor:
    """The eigenvectors of a block as columns, in the order of its parameters."""
    place, p = block.place, sum(torch.Size(s).numel() for s in block.place.shapes)
    count = block.values.numel()
    vectors = torch.eye(count, dtype=block.values.dtype).view(*block.values.shape, count)
    back = torch.einsum("gde,geak->gdak", block.Q_G, vectors)
    back = back if block.Q_A is None else torch.einsum("gdbk,gab->gdak", back, block.Q_A)
    return torch.cat([part.reshape(-1, count) for part in place.unpack(back)]).view(p, count)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("model", [Twice, lambda: Windows(True)])
def test_eigenvalues_are_the_diagonal_in_the_basis(kind: Any, separate: bool, model: Any) -> None:
    net = model().double()
    x = torch.randn(4, *((2, 4) if isinstance(net, Twice) else (2, 6, 6))).double()
    for reduction in ("mean", "sum"):
        loss, y = kind(reduction=reduction), target(kind, (4, CLASSES))
        batches = [(x[:1], y[:1]), (x[1:], y[1:])]
        before = state(net)
        found = ekfac(net, loss, batches, separate_weight_and_bias=separate, unsupported="diagonal")
        assert same(before, state(net))
        plain = kfac(net, loss, batches, separate_weight_and_bias=separate, unsupported="diagonal").eigh()
        for names, block in found.blocks.items():
            want = ggn(net, loss, x, y, list(names))
            if not isinstance(block, EigenBlock):
                close(block.values.flatten(), want.diagonal())
                continue
            Q = basis(block)
            close(Q, basis(plain.blocks[names]))
            close(block.values.flatten(), (Q.T @ want @ Q).diagonal(), 1e-11)


def test_other_fishers() -> None:
    net, loss = Twice().double(), nn.CrossEntropyLoss()
    x, y = torch.randn(4, 2, 4).double(), torch.tensor([0, 1, 2, 0])
    options: dict[str, Any] = {"params": ["again.weight", "again.bias"]}
    found = ekfac(net, loss, [(x, y)], fisher_type="empirical", **options)
    g = gradients(net, loss, x, y, ["again.weight"])["again.weight"].flatten(1)
    close(
        found.blocks["again.weight",].values.flatten(),
        (g @ basis(found.blocks["again.weight",])).square().mean(0),
    )
    made = [
        ekfac(net, loss, [(x, y)], fisher_type="mc", mc_samples=2, seed=s, **options).dense()
        for s in (0, 0, 1)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize("approx", ["expand", "reduce"])
@pytest.mark.parametrize("fisher", ["type-2", "mc", "empirical"])
def test_equals_curvlinops(fisher: str, approx: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES)).double()
    x = torch.randn(50, 2, 3, 3).double()
    for kind in LOSSES:
        for separate in (True, False):
            loss, y = kind(), target(kind, (50, CLASSES))
            options: dict[str, Any] = {
                "fisher_type": fisher, "kfac_approx": approx, "separate_weight_and_bias": separate, "mc_samples": 2 if fisher == "mc" else 1,
            }  # fmt: skip
            theirs = curvlinops.EKFACLinearOperator(
                net, loss, list(net.parameters()), [(x, y)], check_deterministic=False, **options
            )
            vector = torch.randn(theirs.shape[1]).double()
            # Eigenvectors of equal eigenvalues are not unique, but here there are none.
            close(ekfac(net, loss, [(x, y)], **options) @ vector, theirs @ vector, 1e-9)


def test_groups_averaged_have_one_basis() -> None:
    net, loss = Twice().double(), nn.CrossEntropyLoss()
    x, y = torch.randn(4, 2, 4).double(), torch.tensor([0, 1, 2, 0])
    block = ekfac(net, loss, [(x, y)], groups="average", params=["conv.weight"]).blocks["conv.weight",]
    assert block.values.shape == (1, 4, 2)
    Q = basis(block)
    close(block.values.flatten(), (Q.T @ ggn(net, loss, x, y, ["conv.weight"]) @ Q).diagonal(), 1e-11)


def test_files() -> None:
    net, x, y = Twice().double(), torch.randn(4, 2, 4).double(), torch.tensor([0, 1, 2, 0])
    found = ekfac(net, nn.CrossEntropyLoss(), [(x, y)], unsupported="skip")
    assert torch.equal(KroneckerFactors.from_state_dict(found.state_dict()).dense(), found.dense())


def test_what_is_refused() -> None:
    net, x, y = Twice().double(), torch.randn(4, 2, 4).double(), torch.tensor([0, 1, 2, 0])
    loss = nn.CrossEntropyLoss()
    with pytest.raises(OperationError, match=r"fisher_type='forward-only' is not known"):
        ekfac(net, loss, [(x, y)], fisher_type="forward-only")
    with pytest.raises(ArgumentError, match=r"data is an iterator, which ends after one pass"):
        ekfac(net, loss, iter([(x, y)]))
