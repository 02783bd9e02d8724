"""Per-example gradients, norms, clipping, diagonals and kernels of models of all layers, against loops and torch.func."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.curvature.curvature_models import (
    CLASSES,
    LOSSES,
    Tokens,
    Windows,
    close,
    ggn,
    gradients,
    mixed,
    rows,
    same,
    state,
    target,
)
from tnconv.curvature import (
    clipped_gradients,
    fisher_diagonal,
    ggn_diagonal,
    gradient_norms,
    ntk,
    per_example_gradients,
    projected_gradients,
)
from tnconv.errors import ArgumentError, CaptureError, OperationError

TOLERANCE = 1e-11


def special(draw: Any) -> tuple[nn.Module, Tensor]:
    """Models whose layers do not have the examples in front, or have several rows for each."""
    torch.manual_seed(draw(st.integers(0, 100)))
    n = draw(st.sampled_from((1, 2, 3, 5)))
    if draw(st.booleans()):
        first = draw(st.booleans())
        return Tokens(4, batch_first=first).double(), torch.randint(0, 5, (n, 4))
    return Windows(draw(st.booleans())).double(), torch.randn(n, 2, 6, 6).double()


def general(draw: Any) -> tuple[nn.Module, Tensor]:
    model, shape = draw(mixed())
    return model, torch.randn(draw(st.integers(1, 4)), *shape).double()


def check(model: nn.Module, x: Tensor, kind: Any, reduction: str) -> None:
    """All quantities of a model against their definitions."""
    names = [name for name, _ in model.named_parameters()]
    y, loss = target(kind, (len(x), CLASSES)), kind(reduction=reduction)
    before = state(model)
    want = gradients(model, loss, x, y, names)
    got = per_example_gradients(model, loss, x, y)
    assert list(got) == names
    for name in names:
        close(got[name], want[name], TOLERANCE)
    flat = torch.cat([want[name].flatten(1) for name in names], 1)
    norms = flat.norm(dim=1)
    close(gradient_norms(model, loss, x, y), norms, TOLERANCE)
    limit = float(norms.median())
    clipped = clipped_gradients(model, loss, x, y, limit)
    for name in names:
        close(clipped[name], torch.tensordot((limit / norms).clamp_max(1), want[name], 1), TOLERANCE)
    each = clipped_gradients(model, loss, x, y, limit / 2, clip="per_layer")
    for name in names:
        own = want[name].flatten(1).norm(dim=1)
        close(each[name], torch.tensordot((limit / 2 / own).clamp_max(1), want[name], 1), TOLERANCE)
    free = clipped_gradients(model, loss, x, y, 1.0, clip=lambda norms: norms.square())
    for name in names:
        close(free[name], torch.tensordot(norms.square(), want[name], 1), TOLERANCE)
    diagonal = ggn_diagonal(model, loss, [(x[:1], y[:1]), (x[1:], y[1:])] if len(x) > 1 else [(x, y)])
    dense = ggn(model, loss, x, y, names).diagonal()
    close(torch.cat([diagonal[name].flatten() for name in names]), dense, TOLERANCE)
    J = rows(model, x, names)
    close(ntk(model, x), torch.einsum("nip,mjp->nimj", J, J), TOLERANCE)
    other = x[: max(1, len(x) - 1)].flip(0)
    close(ntk(model, x, other), torch.einsum("nip,mjp->nimj", J, rows(model, other, names)), TOLERANCE)
    assert same(before, state(model))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_models_of_all_layers(data: Any) -> None:
    model, x = general(data.draw)
    check(model, x, data.draw(st.sampled_from(LOSSES)), data.draw(st.sampled_from(("mean", "sum"))))


@settings(max_examples=16, deadline=None, derandomize=True)
@given(data=st.data())
def test_examples_on_other_axes(data: Any) -> None:
    model, x = special(data.draw)
    check(model, x, data.draw(st.sampled_from(LOSSES)), data.draw(st.sampled_from(("mean", "sum"))))


def net() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, CLASSES)).double()
    return model, torch.randn(6, 1, 4).double(), torch.randint(CLASSES, (6,))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weighted_losses_are_those_of_single_examples(reduction: str) -> None:
    """Ignored labels and class weights: the mean of one example is over its own weights."""
    torch.manual_seed(0)
    model = nn.Conv1d(2, CLASSES, 1).double()
    x, y = torch.randn(3, 2, 4).double(), torch.tensor([[0, 1, -100, 2], [1, 1, 1, -100], [2, 0, 1, 0]])
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]).double(), reduction=reduction)
    names = ["weight", "bias"]
    want, got = gradients(model, loss, x, y, names), per_example_gradients(model, loss, x, y)
    for name in names:
        close(got[name], want[name])
    close(
        torch.cat([d.flatten() for d in ggn_diagonal(model, loss, [(x, y)]).values()]),
        ggn(model, loss, x, y, names).diagonal(),
    )


def test_any_loss_has_per_example_gradients() -> None:
    model, x, _ = net()
    y = torch.randn(6, CLASSES).double()

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return (output - wanted).abs().mean() * 3

    want = gradients(model, loss, x, y, ["0.weight"])["0.weight"]
    close(per_example_gradients(model, loss, x, y)["0.weight"], want)
    fisher = fisher_diagonal(model, loss, [(x, y)], fisher_type="empirical")
    close(fisher["0.weight"], want.square().mean(0))


def test_diagonals_of_fisher() -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss()
    want = {n: g.square().mean(0) for n, g in gradients(model, loss, x, y, ["0.weight", "3.bias"]).items()}
    found = fisher_diagonal(model, loss, [(x[:2], y[:2]), (x[2:], y[2:])], fisher_type="empirical")
    for name, values in want.items():
        close(found[name], values)
    exact = ggn_diagonal(model, loss, [(x, y)])
    drawn = fisher_diagonal(model, loss, [(x, y)], mc_samples=600)
    close(drawn["3.bias"], exact["3.bias"], 0.1)
    close(fisher_diagonal(model, loss, [(x, y)], fisher_type="type-2")["3.bias"], exact["3.bias"])
    with pytest.raises(OperationError, match=r"fisher_type='forward-only' is not known"):
        fisher_diagonal(model, loss, [(x, y)], fisher_type="forward-only")


def test_projections_keep_inner_products() -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss()
    names = [name for name, _ in model.named_parameters()]
    flat = torch.cat([g.flatten(1) for g in gradients(model, loss, x, y, names).values()], 1)
    products = [p @ p.T for p in (projected_gradients(model, loss, x, y, 16, seed) for seed in range(300))]
    want = flat @ flat.T
    close(torch.stack(products).mean(0), want, 0.08)
    first = projected_gradients(model, loss, x, y, 16, 3)
    close(
        torch.cat([projected_gradients(model, loss, x[s], y[s], 16, 3) for s in (slice(0, 2), slice(2, 6))]),
        first,
    )
    with pytest.raises(OperationError, match=r"dim is 0; give an int"):
        projected_gradients(model, loss, x, y, 0)


def test_callables_and_parameters_of_ones_own() -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss()
    want = gradients(model, loss, x, y, ["0.weight", "3.weight"])
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = per_example_gradients(
        lambda p, x: torch.func.functional_call(model, p, (x,)), loss, x, y, params=params
    )
    close(made["0.weight"], want["0.weight"])
    for chosen in (["3.weight"], [model[3].weight], {"3.weight": params["3.weight"]}):
        some = per_example_gradients(model, loss, x, y, params=chosen)
        assert list(some) == ["3.weight"]
        close(some["3.weight"], want["3.weight"])
    model[3].weight.requires_grad_(False)
    assert "3.weight" not in per_example_gradients(model, loss, x, y)
    close(per_example_gradients(model, loss, x, y, params=["3.weight"])["3.weight"], want["3.weight"])
    with torch.no_grad():
        doubled = {"3.weight": 2 * params["3.weight"]}
    close(
        per_example_gradients(model, loss, x, y, params=doubled)["3.weight"],
        per_example_gradients(
            lambda p, x: torch.func.functional_call(model, p, (x,)), loss, x, y, params=doubled
        )["3.weight"],
    )


def test_dropout_draws_as_ever() -> None:
    """A training step draws new numbers, as the forward pass of the model alone does."""
    model = nn.Sequential(nn.Linear(2, 64), nn.Dropout(), nn.Linear(64, CLASSES))
    x, y = torch.randn(4, 2), torch.randint(CLASSES, (4,))
    torch.manual_seed(0)
    model(x)
    want = torch.rand(1)
    torch.manual_seed(0)
    clipped_gradients(model, nn.CrossEntropyLoss(), x, y, 1.0)
    assert torch.equal(torch.rand(1), want)


def test_what_is_refused() -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss()
    for max_norm, clip, message in (
        (0.0, "flat", r"max_norm is 0.0; give a positive number"),
        ({"0.weight": 1.0}, "flat", r"max_norm has norms by parameter but clip='flat'"),
        ({"0.weight": 1.0}, "per_layer", r"max_norm has no norm for parameter '0.bias'"),
        (1.0, lambda norms: norms[:1], r"clip returns factors of shape \(1,\) but there are norms \(6,\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            clipped_gradients(model, loss, x, y, max_norm, clip)
    with pytest.raises(OperationError, match=r"clip='other' is not known; use 'flat', 'per_layer'"):
        clipped_gradients(model, loss, x, y, 1.0, "other")
    with pytest.raises(OperationError, match=r"unsupported='diagonal' is not known; use 'raise', 'skip'"):
        ntk(model, x, unsupported="diagonal")
    with pytest.raises(
        ArgumentError, match=r"x is a DataLoader, but what is computed is of one input of the model"
    ):
        ntk(model, DataLoader(x))
    training = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.raises(
        CaptureError, match=r"examples depend on each other through batch_norm in training mode"
    ):
        gradient_norms(training, nn.MSELoss(), torch.randn(4, 2), torch.randn(4, 3))


def test_an_empty_batch() -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss(reduction="sum")
    assert gradient_norms(model, loss, x[:0], y[:0]).shape == (0,)
    assert per_example_gradients(model, loss, x[:0], y[:0])["0.weight"].shape == (0, 2, 1, 2)
    assert ntk(model, x[:0]).shape == (0, 3, 0, 3)
    for found in (
        clipped_gradients(model, loss, x[:0], y[:0], 1.0),
        ggn_diagonal(model, loss, [(x[:0], y[:0])]),
    ):
        assert not any(t.any() for t in found.values())
