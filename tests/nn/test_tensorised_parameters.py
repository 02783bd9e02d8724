"""Factors as parameters: parametrisations, hooks that replace them, memory formats."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tnconv.nn.tensorised import KINDS, TensorisedConv


class Doubled(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return 2 * tensor

    def right_inverse(self, tensor: Tensor) -> Tensor:
        return tensor / 2


def _parametrize(layer: nn.Module, name: str) -> tuple[str, Callable[[], Any]]:
    parametrize.register_parametrization(layer, name, Doubled())
    return f"parametrizations.{name}.original", lambda: parametrize.remove_parametrizations(layer, name)


def _weight_norm(layer: nn.Module, name: str) -> tuple[str, Callable[[], Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer, name)
    return f"{name}_v", lambda: nn.utils.remove_weight_norm(layer, name)


def _new_weight_norm(layer: nn.Module, name: str) -> tuple[str, Callable[[], Any]]:
    nn.utils.parametrizations.weight_norm(layer, name)
    original = f"parametrizations.{name}.original1"
    return original, lambda: parametrize.remove_parametrizations(layer, name)


def _prune(layer: nn.Module, name: str) -> tuple[str, Callable[[], Any]]:
    prune.l1_unstructured(layer, name, amount=0.4)
    return f"{name}_orig", lambda: prune.remove(layer, name)


WAYS = {
    "parametrize": _parametrize,
    "weight_norm": _weight_norm,
    "weight_norm_2": _new_weight_norm,
    "prune": _prune,
}


def built(kind: str, **options: Any) -> TensorisedConv:
    cls: Any = KINDS[kind][2]
    torch.manual_seed(0)
    return cls(4, 6, 3, rank=2, padding=1, dtype=torch.float64, **options)


def dense(layer: TensorisedConv, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.to_dense(), layer.bias, padding=1)


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_factor_may_be_parametrised(kind: str, way: str) -> None:
    layer, plain = built(kind), built(kind)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    name = next(iter(layer.factors))
    original, remove = WAYS[way](layer, name)
    value = layer(x)
    torch.testing.assert_close(value, dense(layer, x))
    if way != "prune":
        torch.testing.assert_close(value, plain(x))
    parameters = dict(layer.named_parameters())
    assert original in parameters and name not in parameters
    gradients = torch.autograd.grad(value.square().sum(), parameters.values(), retain_graph=True)
    wanted = torch.autograd.grad(dense(layer, x).square().sum(), parameters.values())
    for mine, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)

    with torch.no_grad():  # what is kept for constant factors sees every change
        torch.testing.assert_close(layer(x), value)
        parameters[original].add_(1)
        changed = layer(x)
        assert (changed - value).abs().max() > 1e-3
        torch.testing.assert_close(changed, dense(layer, x))

    other = built(kind)
    WAYS[way](other, name)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), changed)
    with torch.no_grad():
        layer(x)  # what a hook computes has no graph now, so that it can be copied
    torch.testing.assert_close(copy.deepcopy(layer)(x), changed)
    remove()
    assert name in dict(layer.named_parameters())
    torch.testing.assert_close(layer(x), changed)


def test_a_bias_may_be_parametrised_and_all_factors_at_once() -> None:
    layer = built("tucker")
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    want = layer(x)
    for name in ("bias", *layer.factors):
        parametrize.register_parametrization(layer, name, Doubled())
    torch.testing.assert_close(layer(x), want)
    with parametrize.cached():
        layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_channels_last(kind: str, dims: int) -> None:
    memory: Any = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    cls: Any = KINDS[kind][dims]
    layer = cls(4, 6, 2, rank=2, dtype=torch.float64)
    model = nn.Sequential(layer)
    x = torch.randn(2, 4, *[4] * dims, dtype=torch.float64, requires_grad=True)
    value = layer(x)
    gradients = torch.autograd.grad(value.square().sum(), [x, *layer.parameters()])
    kept = {name: factor.detach().clone() for name, factor in layer.factors.items()}
    model.to(memory_format=memory)
    for name, factor in layer.factors.items():
        assert torch.equal(factor, kept[name]) and factor.is_contiguous()
    last = x.detach().contiguous(memory_format=memory).requires_grad_()
    torch.testing.assert_close(model(last), value)
    found = torch.autograd.grad(model(last).square().sum(), [last, *layer.parameters()])
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    parametrize.register_parametrization(layer, next(iter(layer.factors)), Doubled())
    model.to(memory_format=memory)
    torch.testing.assert_close(model(last), value)


def test_conversions_keep_parameters_what_they_are() -> None:
    layer = built("bt")
    core, x = layer.core, torch.randn(1, 4, 5, 5, dtype=torch.float64)
    layer(x).sum().backward()
    layer.to(torch.float32)
    assert layer.core is core and core.dtype == torch.float32 == core.grad.dtype  # type: ignore[union-attr]
    assert core.shape == core.grad.shape == (4, 2, 2, 3, 3)  # type: ignore[union-attr]
    assert core.is_leaf and core.requires_grad
    assert layer.to("meta").core.is_meta and layer.core.shape == (4, 2, 2, 3, 3)
