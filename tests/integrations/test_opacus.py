"""tnconv's samplers inside Opacus, judged by a loop over examples; skipped where Opacus is not installed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tnconv.nn import ConvNd
from tnconv.spec import ConvSpec
from tnconv.testing import conv_specs

pytest.importorskip("opacus", reason="Opacus is not installed: pip install 'tnconv[opacus]'")

from opacus import PrivacyEngine
from opacus.grad_sample import (
    GradSampleHooks,
    GradSampleHooksFastGradientClipping,
    GradSampleModule,
    GradSampleModuleFastGradientClipping,
    register_grad_sampler,
)
from torch.utils.data import DataLoader, TensorDataset

from tnconv.integrations import layer_operations, opacus

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    opacus.unregister()  # a page of the documentation may have left it on
    yield
    opacus.unregister()


@pytest.fixture
def registered(unregistered: None) -> None:
    opacus.register()


def module_of(spec: ConvSpec) -> Any:
    """torch's module where it has such a padding, ours where left and right differ."""
    arguments: Any = (spec.in_channels, spec.out_channels, spec.kernel_sizes)
    fields: Any = {
        "stride": spec.strides,
        "dilation": spec.dilations,
        "groups": spec.groups,
        "bias": spec.bias,
        "padding_mode": spec.padding_mode,
    }
    pairs = spec.paddings
    if isinstance(spec.padding, str):
        return CONVOLUTIONS[spec.spatial_dims](*arguments, padding=spec.padding, **fields)
    if all(left == right for left, right in pairs):
        padding: Any = tuple(left for left, _ in pairs)
        return CONVOLUTIONS[spec.spatial_dims](*arguments, padding=padding, **fields)
    return ConvNd(spec.spatial_dims, *arguments, padding=pairs, **fields)


def model_of(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh()).double()  # the gradient at the layer's output differs by example


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """One number for each example."""
    result: Tensor = model(x).flatten(1).square().sum(1)
    return result


def by_loop(model: nn.Module, x: Tensor) -> list[Tensor]:
    """For each parameter the gradient of each example's loss, one example at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    each = [torch.autograd.grad(loss_of(model, x[n : n + 1]).sum(), parameters) for n in range(len(x))]
    return [
        torch.stack(found) if found else p.new_zeros(0, *p.shape)
        for p, found in zip(
            parameters, zip(*each, strict=True) if each else [()] * len(parameters), strict=True
        )
    ]


def by_hooks(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What Opacus leaves in `grad_sample`; its loss is a mean."""
    wrapped = GradSampleModule(model)
    loss_of(wrapped, x).mean().backward()
    found = [p.grad_sample for p in model.parameters() if p.requires_grad]
    wrapped.remove_hooks()
    return found


def by_ghost(model: nn.Module, x: Tensor) -> Tensor:
    """The norm of each example's whole gradient, as ghost clipping takes it."""
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0)
    loss_of(wrapped, x).mean().backward()
    norms: Tensor = wrapped.get_norm_sample()
    wrapped.remove_hooks()
    return norms


def check(layer: nn.Module, x: Tensor) -> None:
    """Gradients, norms of each parameter and the clipping norm are those of the loop."""
    model = model_of(layer)
    wanted = by_loop(model, x)
    for found, right in zip(by_hooks(model, x), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)
    norms = by_ghost(model, x)
    total = torch.stack([right.flatten(1).norm(dim=1) for right in wanted]).norm(dim=0)
    torch.testing.assert_close(norms, total, rtol=1e-9, atol=1e-7)  # a root of rounding errors
    kinds = [type(m) for m in model.modules() if list(m.parameters(recurse=False))]
    assert all(kind in GradSampleHooksFastGradientClipping.NORM_SAMPLERS for kind in kinds)


# -- every hyper-parameter ------------------------------------------------------------------------------


@settings(max_examples=10)
@given(spec=conv_specs(), batch=st.integers(1, 3))
@pytest.mark.usefixtures("registered")
def test_convolutions(spec: ConvSpec, batch: int) -> None:
    torch.manual_seed(0)
    layer = module_of(spec)
    check(layer, torch.randn(batch, spec.in_channels, *spec.input_sizes, dtype=torch.float64))


@settings(max_examples=10)
@given(
    leading=st.lists(st.integers(1, 3), max_size=4),
    features=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    bias=st.booleans(),
)
@pytest.mark.usefixtures("registered")
def test_linear_layers_with_any_leading_axes(
    leading: list[int], features: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(*features, bias=bias)
    check(layer, torch.randn(2, *leading, features[0], dtype=torch.float64))


@pytest.mark.usefixtures("registered")
def test_an_empty_batch_as_poisson_sampling_draws_it() -> None:
    model = model_of(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"))
    x = torch.randn(0, 2, 5, 5, dtype=torch.float64)
    assert [tuple(g.shape) for g in by_hooks(model, x)] == [(0, 3, 2, 3, 3), (0, 3)]
    assert by_ghost(model, x).shape == (0,)


@pytest.mark.usefixtures("registered")
def test_a_frozen_parameter_gets_nothing() -> None:
    layer = nn.Conv1d(2, 3, 3)
    layer.weight.requires_grad_(False)
    check(layer, torch.randn(2, 2, 7, dtype=torch.float64))
    assert not hasattr(layer.weight, "_norm_sample")


@pytest.mark.usefixtures("registered")
def test_norms_of_halves_do_not_overflow() -> None:
    layer = nn.Linear(4, 4, bias=False).half()
    x, g = torch.full((1, 2, 4), 100.0).half(), torch.full((1, 2, 4), 100.0).half()
    norm = opacus.gradient_norms(layer, [x], g)[layer.weight]
    assert norm.dtype is torch.float32 and norm.item() == 80000.0


def test_norms_of_gradients_that_cancel_are_numbers() -> None:
    """Where it goes by Gram matrices, which is quickest here, their squares round to either side of zero."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False)
    x, g = torch.randn(100, 3, 64), torch.randn(100, 1, 64).expand(100, 3, 64)
    x[:, 2] = -(x[:, 0] + x[:, 1])
    norms = opacus.gradient_norms(layer, [x], g)[layer.weight]
    assert not norms.isnan().any() and norms.max() < 1e-3 * x.norm() * g.norm()


@pytest.mark.usefixtures("registered")
def test_a_module_that_is_called_twice() -> None:
    """Its gradients add up; ghost clipping takes it by way of the gradients, if norms are left to Opacus."""
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    model = nn.Sequential(conv, nn.Tanh(), conv).double()
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    wanted = by_loop(model, x)
    for found, right in zip(by_hooks(model, x), wanted, strict=True):
        torch.testing.assert_close(found, right)
    opacus.register(norms=False)
    norms = torch.stack([right.flatten(1).norm(dim=1) for right in wanted]).norm(dim=0)
    torch.testing.assert_close(by_ghost(model, x), norms)
    opacus.register()
    with pytest.raises(NotImplementedError, match="tying"):
        by_ghost(nn.Sequential(conv, nn.Tanh(), conv).double(), x)


# -- what Opacus computes without -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["circular", "replicate", "reflect"])
def test_opacus_ignores_padding_modes_and_norms_come_out_too_small(mode: Any) -> None:
    model = model_of(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode))
    x = 1 + torch.rand(4, 2, 5, 5, dtype=torch.float64)
    wanted = by_loop(model, x)
    norms = torch.stack([right.flatten(1).norm(dim=1) for right in wanted]).norm(dim=0)
    assert not torch.allclose(by_hooks(model, x)[0], wanted[0], rtol=0.05)
    assert bool((by_ghost(model, x) < 0.95 * norms).all())  # clipped to a larger norm than was promised
    opacus.register()
    torch.testing.assert_close(by_hooks(model, x)[0], wanted[0])
    torch.testing.assert_close(by_ghost(model, x), norms)


def test_opacus_has_no_norms_for_more_than_one_leading_axis() -> None:
    model = model_of(nn.Linear(3, 2))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    with pytest.raises(AttributeError, match="_norm_sample"):
        by_ghost(model, x)


# -- training, and the tables ---------------------------------------------------------------------------


def private(mode: str, model: nn.Module, x: Tensor) -> tuple[Any, Any, Any]:
    """Model, optimizer and criterion of Opacus without noise."""
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), batch_size=len(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    made: Any = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=0.1,
        poisson_sampling=False,
        grad_sample_mode=mode,
        criterion=nn.CrossEntropyLoss(),
    )
    if mode == "ghost":
        wrapped, optimizer, criterion, _ = made
        return wrapped, optimizer, criterion
    wrapped, optimizer, _ = made
    return wrapped, optimizer, nn.CrossEntropyLoss()


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.usefixtures("registered")
def test_a_step_of_training_is_that_of_clipped_gradients(mode: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    x, y = torch.randn(6, 1, 10, 10), torch.randint(3, (6,))
    before = [p.detach().clone() for p in model.parameters()]
    criterion = nn.CrossEntropyLoss()
    each = [
        torch.autograd.grad(criterion(model(x[n : n + 1]), y[n : n + 1]), list(model.parameters()))
        for n in range(6)
    ]
    norms = [torch.cat([g.flatten() for g in gradients]).norm() for gradients in each]
    scales = [min(1.0, 0.1 / (float(norm) + 1e-6)) for norm in norms]
    assert min(scales) < 1
    wanted = [
        sum(scale * g for scale, g in zip(scales, found, strict=True)) / 6
        for found in zip(*each, strict=True)
    ]
    wrapped, optimizer, loss = private(mode, model, x)
    loss(wrapped(x), y).backward()
    optimizer.step()
    for p, old, gradient in zip(model.parameters(), before, wanted, strict=True):
        torch.testing.assert_close(old - p.detach(), gradient, rtol=1e-3, atol=1e-6)


def test_unregister_puts_back_what_stood_there() -> None:
    tables = (GradSampleHooks.GRAD_SAMPLERS, GradSampleHooksFastGradientClipping.NORM_SAMPLERS)
    before = [dict(table) for table in tables]
    opacus.register()
    opacus.register()  # the second time changes nothing
    assert tables[0][nn.Conv2d] is opacus.gradients and tables[1][nn.Conv2d] is opacus.gradient_norms
    opacus.register(norms=False)
    assert tables[0][nn.Conv2d] is opacus.gradients and tables[1] == before[1]
    opacus.unregister()
    opacus.unregister()
    assert [dict(table) for table in tables] == before


def test_unregister_leaves_what_was_registered_since() -> None:
    before = dict(GradSampleHooks.GRAD_SAMPLERS)
    opacus.register()

    @register_grad_sampler(nn.Conv1d)
    def own(module: Any, activations: Any, backprops: Any) -> dict[Any, Any]:
        return {}

    opacus.unregister()
    try:
        assert before | {nn.Conv1d: own} == GradSampleHooks.GRAD_SAMPLERS
    finally:
        GradSampleHooks.GRAD_SAMPLERS[nn.Conv1d] = before[nn.Conv1d]


def test_a_layer_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real: Callable[..., Any] = layer_operations.compile

    def counted(spec: Any, op: str, **options: Any) -> Any:
        calls.append(op)
        return real(spec, op, **options)

    monkeypatch.setattr(layer_operations, "compile", counted)
    layer = nn.Conv1d(3, 5, 4, stride=3)
    for batch in (2, 3):
        opacus.gradients(layer, [torch.randn(batch, 3, 31)], torch.randn(batch, 5, 10))
    assert calls == ["per_example_weight_vjp"] * 2  # weight and bias
