"""The backend of laplace-torch: equal to its own backends where they are right, and to dense matrices everywhere."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

pytest.importorskip("laplace", reason="laplace-torch is not installed: pip install 'tnconv[laplace]'")

from laplace import Laplace
from laplace.curvature.backpack import BackPackGGN
from laplace.curvature.curvature import CurvatureInterface
from laplace.curvature.curvlinops import CurvlinopsGGN
from laplace.utils import FeatureExtractor
from torch.utils.data import DataLoader, TensorDataset

from tnconv.errors import ArgumentError
from tnconv.integrations.laplace import TnconvGGN

F64 = torch.float64
LIKELIHOODS = ["classification", "regression"]


def plain(dtype: torch.dtype = F64) -> nn.Module:
    """What laplace-torch's own backends support."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, bias=False), nn.Tanh(), nn.Flatten(),
        nn.Linear(16, 3),
    ).to(dtype)  # fmt: skip


class Mixed(nn.Module):
    """What they do not: padding modes, groups, a norm, a layer called twice, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.GroupNorm(2, 4)
        self.twice = nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=2)
        self.frozen = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.frozen.weight.requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(self.twice(self.norm(self.first(x))).tanh()).tanh()
        result: Tensor = self.last(self.frozen(hidden.mean((2, 3))).relu())
        return result


MODELS = {"plain": plain, "mixed": Mixed}


def batch(likelihood: str, n: int = 4, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 1, 6, 6, dtype=dtype)
    return x, torch.randint(3, (n,)) if likelihood == "classification" else torch.randn(n, 3, dtype=dtype)


def dense_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """`[n, C, P]`, of the parameters that require gradients."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    found = jacrev(lambda p: functional_call(model, p, (x,)))(parameters)
    return torch.cat([found[name].flatten(2) for name in parameters], 2)


def dense_ggn(model: nn.Module, likelihood: str, x: Tensor) -> Tensor:
    """`Σ_n Jᵀ Λ J` with the Hessian `Λ` of the negative log likelihood."""
    j = dense_jacobian(model, x)
    if likelihood == "regression":
        return torch.einsum("ncp,ncq->pq", j, j)
    p = model(x).detach().softmax(1)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("ncp,ncd,ndq->pq", j, hessian, j)


# -- one batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", MODELS)
def test_matrix_diagonal_and_jacobians_are_those_of_dense_computations(name: str, likelihood: str) -> None:
    model = MODELS[name]()
    x, y = batch(likelihood)
    backend = TnconvGGN(model, likelihood)
    wanted = dense_ggn(model, likelihood, x)
    loss, full = backend.full(x, y, N=4)
    torch.testing.assert_close(full, wanted)
    torch.testing.assert_close(backend.diag(x, y, N=4)[1], wanted.diagonal())
    js, f = backend.jacobians(x)
    torch.testing.assert_close(js, dense_jacobian(model, x))
    torch.testing.assert_close(f, model(x).detach())
    likelihoods = (
        nn.CrossEntropyLoss(reduction="sum")
        if likelihood == "classification"
        else nn.MSELoss(reduction="sum")
    )
    right = likelihoods(model(x), y).detach() * (1 if likelihood == "classification" else 0.5)
    for found in (loss, backend.diag(x, y)[0], backend.kron(x, y, N=4)[0]):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_laplace(name: str, likelihood: str) -> None:
    model = MODELS[name]()
    x, y = batch(likelihood)
    found, right = TnconvGGN(model, likelihood), CurvlinopsGGN(model, likelihood)
    for mine, theirs in zip(found.gradients(x, y), right.gradients(x, y), strict=True):
        torch.testing.assert_close(mine, theirs.detach())


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_kronecker_factors_are_those_of_curvlinops(likelihood: str, approximation: str) -> None:
    model = plain()
    x, y = batch(likelihood)
    found, right = (
        kind(model, likelihood).kron(x, y, N=10, kfac_approx=approximation)[1]
        for kind in (TnconvGGN, CurvlinopsGGN)
    )
    assert len(found.kfacs) == len(right.kfacs) == 5
    for mine, theirs in zip(found.kfacs, right.kfacs, strict=True):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_diagonal_and_factors_of_linear_layers_are_those_of_backpack(likelihood: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)).to(F64)
    x, y = batch(likelihood)
    mine = TnconvGGN(model, likelihood)
    found = mine.diag(x, y)[1], mine.kron(x, y, N=4)[1].to_matrix()
    theirs = BackPackGGN(model, likelihood)  # it extends the model
    torch.testing.assert_close(found[0], theirs.diag(x, y)[1])
    torch.testing.assert_close(found[1], theirs.kron(x, y, N=4)[1].to_matrix())


def test_of_a_norm_the_factors_have_the_diagonal() -> None:
    model = Mixed()
    x, y = batch("classification")
    kron = TnconvGGN(model, "classification").kron(x, y, N=4)[1]
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    diagonal = (
        dense_ggn(model, "classification", x)
        .diagonal()
        .split([p.numel() for p in model.parameters() if p.requires_grad])
    )
    place = names.index("norm.weight")
    torch.testing.assert_close(kron.kfacs[place][0], diagonal[place].diag())


@pytest.mark.parametrize("columns", [1, 2])
def test_selected_outputs(columns: int) -> None:
    model = plain()
    x, _ = batch("classification")
    outputs = torch.randint(3, (4, columns)).squeeze(1)
    backend = TnconvGGN(model, "classification")
    right = CurvatureInterface.selected_output_jacobians(backend, x, outputs)
    for mine, theirs in zip(backend.selected_output_jacobians(x, outputs), right, strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ArgumentError, match="outputs has 3 rows but x has 4 examples"):
        backend.selected_output_jacobians(x, outputs[:3])


def test_gradients_flow_through_jacobians_if_asked() -> None:
    x, _ = batch("regression")
    x.requires_grad_()
    backend = TnconvGGN(plain(), "regression")
    js, _ = backend.jacobians(x, enable_backprop=True)
    (grad,) = torch.autograd.grad(js.square().sum(), x)
    assert grad.any()
    assert not backend.jacobians(x)[0].requires_grad


def test_sampled_labels() -> None:
    """Many samples come near the exact matrix; another draw is another one."""
    model = plain()
    x, y = batch("classification")
    exact = TnconvGGN(model, "classification").kron(x, y, N=4)[1]
    backend = TnconvGGN(model, "classification", stochastic=True, num_samples=500)
    torch.manual_seed(0)
    first, second = (backend.kron(x, y, N=4)[1] for _ in range(2))
    assert not torch.equal(first.kfacs[-1][0], second.kfacs[-1][0])
    torch.testing.assert_close(first.kfacs[-1][0], exact.kfacs[-1][0], rtol=0.3, atol=0.04)
    diagonal = TnconvGGN(model, "classification").diag(x, y)[1]
    torch.testing.assert_close(backend.diag(x, y)[1].sum(), diagonal.sum(), rtol=0.2, atol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = Mixed()
    x, y = batch("classification")
    backend = TnconvGGN(model, "classification")
    backend.kron(x, y, N=4), backend.diag(x, y), backend.full(x, y), backend.gradients(x, y)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_what_does_not_fit_is_refused() -> None:
    x, y = batch("classification")
    images = nn.Conv2d(1, 3, 1).double()
    with pytest.raises(ArgumentError, match=r"shape \(4, 3, 6, 6\); let it return \[n, C\]"):
        TnconvGGN(images, "classification").jacobians(x)
    words = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 3)).double()
    with pytest.raises(ArgumentError, match=r"parameter .0\.weight. of shape"):
        TnconvGGN(words, "classification").kron(torch.randint(5, (4, 2)), y, N=4)


def test_an_embedding_has_a_diagonal() -> None:
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 3)).double()
    x, y = torch.randint(5, (4, 2)), torch.randint(3, (4,))
    diagonal = TnconvGGN(words, "classification").diag(x, y)[1]
    torch.testing.assert_close(diagonal, dense_ggn(words, "classification", x).diagonal())


# -- whole approximations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subset", "structure"),
    [
        ("all", "kron"),
        ("all", "diag"),
        ("all", "full"),
        ("last_layer", "kron"),
        ("last_layer", "full"),
        ("last_layer", "diag"),
    ],
)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_laplace_approximations_are_those_of_its_default_backend(
    likelihood: Any, subset: str, structure: str
) -> None:
    model = plain()
    loader = DataLoader(TensorDataset(*batch(likelihood, 10)), batch_size=4)
    made = []
    for backend in (TnconvGGN, CurvlinopsGGN):
        la: Any = Laplace(
            model, likelihood, subset_of_weights=subset, hessian_structure=structure, backend=backend
        )
        la.fit(loader)
        made.append((la.log_marginal_likelihood(), la(torch.ones(2, 1, 6, 6, dtype=F64))))
    torch.testing.assert_close(made[0], made[1])


def test_a_subnetwork() -> None:
    model = plain()
    loader = DataLoader(TensorDataset(*batch("classification", 6)), batch_size=6)
    indices = torch.tensor([0, 5, 40, 70])
    made = []
    for backend in (TnconvGGN, CurvlinopsGGN):
        la: Any = Laplace(
            model,
            "classification",
            subset_of_weights="subnetwork",
            hessian_structure="full",
            subnetwork_indices=indices,
            backend=backend,
        )
        la.fit(loader)
        made.append(la.H)
    torch.testing.assert_close(made[0], made[1])
    x, y = next(iter(loader))
    diagonal = TnconvGGN(model, "classification", subnetwork_indices=indices).diag(x, y)[1]
    torch.testing.assert_close(diagonal, made[0].diagonal())


def test_a_feature_extractor_has_the_last_layer_alone() -> None:
    model = FeatureExtractor(plain(), last_layer_name="5")
    x, y = batch("classification")
    kron = TnconvGGN(model, "classification", last_layer=True).kron(x, y, N=4)[1]
    assert [tuple(part.shape) for pair in kron.kfacs for part in pair] == [(3, 3), (16, 16), (3, 3)]
