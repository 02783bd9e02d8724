"""Factorised linear layers, transposed convolutions and the way back: torch's layer with the dense weight judges."""

import copy
import pickle
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tnconv
from tnconv.errors import ArgumentError, SpecError
from tnconv.nn.tensorised import KINDS, TensorisedLayer
from tnconv.nn.tensorised.layer_kinds import LINEAR, TRANSPOSED

MODES = ("zeros", "circular", "reflect", "replicate")


@st.composite
def layers(draw: st.DrawFn) -> tuple[TensorisedLayer, torch.Tensor]:
    """A convolution, a transposed one or a linear layer with random hyper-parameters, and an input."""
    kind, what = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(["conv", "transposed", "linear"]))
    sizes, dims = st.integers(1, 3), draw(st.integers(1, 3))
    groups, reshaped = draw(st.integers(1, 2)) if what != "linear" else 1, draw(st.booleans())
    outs, ins = (draw(sizes), draw(sizes)), (draw(sizes), draw(sizes))
    options: dict[str, Any] = {
        "rank": draw(st.integers(1, 2)),
        "bias": draw(st.booleans()),
        "dtype": torch.float64,
    }
    options |= {"blocks": draw(sizes)} if kind == "bt" else {}
    first = (outs[0] * groups, outs[1]) if what != "transposed" else outs
    second = (ins[0] * groups, ins[1]) if what == "transposed" else ins
    if reshaped:
        options |= {"in_shape": second, "out_shape": first}
    inside = prod(second) * (groups if what == "conv" else 1)
    outside = prod(first) * (groups if what == "transposed" else 1)
    torch.manual_seed(draw(st.integers(0, 99)))
    if what == "linear":
        x = torch.randn(
            *draw(st.sampled_from([(), (2,), (2, 3), (0,), (2, 1, 2)])), inside, dtype=torch.float64
        )
        return LINEAR[kind](inside, outside, **options), x
    options |= {"stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2)), "groups": groups}
    kernel = draw(st.tuples(*[sizes] * dims))
    pads = st.one_of(st.integers(0, 1), st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * dims))
    size = draw(st.tuples(*[st.integers(6, 8)] * dims))
    if what == "conv":
        padding = draw(st.one_of(st.just("same"), pads))
        options |= {"padding": padding, "padding_mode": draw(st.sampled_from(MODES))}
        options |= {"stride": 1} if padding == "same" else {}
        made: TensorisedLayer = KINDS[kind][0](dims, inside, outside, kernel, **options)
    else:
        options |= {"padding": draw(pads), "output_padding": max(options["stride"], options["dilation"]) - 1}
        made = TRANSPOSED[kind](dims, inside, outside, kernel, **options)
    return made, torch.randn(2, inside, *size, dtype=torch.float64)


TORCH = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "conv_transpose": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear,),
}


def by_torch(layer: TensorisedLayer, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The value of torch's function with a dense weight; padding that differs left and right is padded or cut."""
    spec: Any = layer.description.spec
    if spec.kind == "linear":
        return F.linear(x, weight, layer.bias)
    pads = [side for pair in reversed(spec.paddings) for side in pair]
    if spec.kind == "conv":
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(spec.paddings) - 1]
        x = F.pad(x, pads, mode={"zeros": "constant"}.get(spec.padding_mode, spec.padding_mode))
        return convolve(x, weight, layer.bias, spec.strides, 0, spec.dilations, spec.groups)
    back: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(spec.paddings) - 1]
    extra = [side for value in reversed(spec.output_paddings) for side in (0, value)]
    whole = F.pad(back(x, weight, None, spec.strides, 0, 0, spec.groups, spec.dilations), extra)
    whole = F.pad(whole, [-side for side in pads])
    return whole if layer.bias is None else whole + layer.bias.reshape(-1, *[1] * len(spec.paddings))


@settings(max_examples=15, deadline=None)
@given(layers())
def test_values_and_gradients_are_those_of_the_dense_layer(
    case: tuple[TensorisedLayer, torch.Tensor],
) -> None:
    layer, x = case
    x.requires_grad_()
    got, want = layer(x), by_torch(layer, layer.to_dense(), x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    cotangent, arguments = torch.randn_like(want), [x, *layer.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(got, arguments, cotangent),
        torch.autograd.grad(want, arguments, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
    back = layer.to_torch()
    spec: Any = layer.description.spec
    uneven = spec.kind != "linear" and any(left != right for left, right in spec.paddings)
    assert (type(back) in TORCH[spec.kind]) == (not uneven)
    with torch.no_grad():
        torch.testing.assert_close(back(x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_full_ranks_reproduce_layers_and_lower_ones_say_their_error(kind: str) -> None:
    torch.manual_seed(0)
    transposed = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    for dense, shapes in (
        (nn.Linear(6, 8), {}),
        (nn.Linear(6, 8), {"in_shape": (2, 3), "out_shape": (4, 2)}),
        (transposed, {}),
        (transposed, {"in_shape": (2, 2), "out_shape": (3, 1)}),
    ):
        dense.double().eval()
        options = shapes | ({"blocks": 1} if kind == "bt" else {})
        made = _made(kind, dense, 1, options)
        limits = tuple(made.description.family.limits(made.description.shape).values())
        assert made.error == pytest.approx(_off(made, dense)) and made.error > 0.05
        exact = _made(kind, dense, (1, *limits[1:]) if kind == "tr" else limits, options)
        torch.testing.assert_close(exact.to_dense(), dense.weight, rtol=1e-6, atol=1e-6)
        assert exact.error == pytest.approx(_off(exact, dense), abs=1e-9) and not exact.training


def _made(kind: str, dense: nn.Module, rank: Any, options: dict[str, Any]) -> TensorisedLayer:
    if isinstance(dense, nn.Linear):
        return LINEAR[kind].from_linear(dense, rank, **options)
    return TRANSPOSED[kind].from_conv(dense, rank, **options)


def _off(layer: TensorisedLayer, dense: Any) -> float:
    with torch.no_grad():
        return float((layer.to_dense() - dense.weight).norm() / dense.weight.norm())


def test_new_layers_are_drawn_as_torch_draws_them() -> None:
    torch.manual_seed(0)
    layers: list[tuple[TensorisedLayer, int]] = [
        (tnconv.nn.TTLinear(24, 30, rank=6), 24),
        (tnconv.nn.CPConvTranspose(2, 8, 12, 3, groups=2, rank=9), 6 * 9),
    ]
    for layer, fan_in in layers:
        weights = []
        for _ in range(40):
            layer.reset_parameters()
            weights.append(layer.to_dense().detach().flatten())
        assert torch.stack(weights).var().item() == pytest.approx(1 / (3 * fan_in), rel=0.25)
        assert layer.error is None and layer.bias is not None and layer.bias.abs().max() <= fan_in**-0.5


def test_an_output_size_chooses_the_padding() -> None:
    layer = tnconv.nn.CPConvTranspose(2, 4, 6, 3, stride=2, rank=2)
    dense, x = layer.to_torch(), torch.randn(2, 4, 5, 5)
    for size in ((11, 12), (2, 6, 12, 11)):
        torch.testing.assert_close(layer(x, size), dense(x, size))
    with pytest.raises(
        ArgumentError, match=r"output_size is \(20, 12\) but an input of size \(5, 5\) gives \(11, 11\)"
    ):
        layer(x, (20, 12))


def test_layers_are_copied_pickled_and_shown() -> None:
    linear = tnconv.nn.TTLinear(6, 8, rank=3, bias=False, in_shape=(2, 3), out_shape=(4, 2))
    back = tnconv.nn.BTConvTranspose(1, 4, 6, 3, 2, output_padding=1, groups=2, rank=2, blocks=2)
    assert repr(linear) == (
        "TTLinear(6, 8, bias=False, in_shape=(2, 3), out_shape=(4, 2), rank=3, parameters=42 (87.5% of dense))"
    )
    assert repr(back) == (
        "BTConvTranspose(4, 6, kernel_size=(3,), stride=(2,), output_padding=(1,), groups=2, rank=2, "
        "parameters=52 (144% of dense))"
    )
    for layer, x in ((linear, torch.randn(2, 6)), (back, torch.randn(2, 4, 5))):
        for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(same(x), layer(x))
        assert set(layer.compiled(() if layer is linear else 5).arguments) >= {"x", *layer.factors}
    traced = torch.compile(linear, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(torch.ones(2, 6)), linear(torch.ones(2, 6)))


RAISES: list[tuple[Any, str]] = [
    (lambda: tnconv.nn.CPLinear(6, 8, rank=2, in_shape=(2, 2), out_shape=(4, 2)), r"in_shape \(2, 2\) makes 4 channels but there are 6"),
    (lambda: tnconv.nn.CPConvTranspose(2, 6, 8, 3, groups=2, rank=1, in_shape=(3, 2), out_shape=(2, 2)), r"in_shape \(3, 2\) begins with 3, which groups 2 does not"),
    (lambda: tnconv.nn.CPConvTranspose(2, 6, 8, 3, groups=2, rank=1, in_shape=(2, 3), out_shape=(4, 2)), r"out_channels 8 over groups 2"),
    (lambda: tnconv.nn.CPConvTranspose(4, 6, 8, 3, rank=1), "N is 4; factorised convolutions have 1 to 3"),
    (lambda: tnconv.nn.CPConvTranspose(2, 6, 8, 3, output_padding=1, rank=1), "output_padding 1 of spatial dimension 1"),
    (lambda: tnconv.nn.TuckerLinear(6, 8, rank=(2, 7)), "rank of bond 'r_in' is 7; give an int from 1 to 6"),
    (lambda: tnconv.nn.CPLinear.from_linear(nn.Bilinear(2, 2, 2), 1), "is not represented"),  # type: ignore[arg-type]
    (lambda: tnconv.nn.CPConvTranspose.from_conv(nn.Conv2d(2, 2, 3), 1), "is not represented"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), RAISES, ids=[message[:30] for _, message in RAISES])
def test_what_does_not_fit_raises(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_inputs_that_do_not_fit_raise() -> None:
    layer = tnconv.nn.CPLinear(6, 8, rank=2)
    with pytest.raises(ArgumentError, match=r"input has shape \(2, 5\) but the layer takes 6 features"):
        layer(torch.ones(2, 5))
    with pytest.raises(ArgumentError, match=r"input has shape \(\) but the layer takes 6"):
        layer(torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="not a tensor"):
        layer([1.0])
    with pytest.raises(ArgumentError, match="has 5 channels but the layer takes 6"):
        tnconv.nn.CPConvTranspose(2, 6, 8, 3, rank=1)(torch.ones(1, 5, 4, 4))


def test_the_way_back_keeps_what_a_layer_is() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.Sequential(nn.Linear(5, 4)))
    model.append(model[0])
    model[0].weight.requires_grad_(False)
    tnconv.nn.tensorize(model.double().eval(), "tt", 3, linear=True)
    before, x = copy.deepcopy(model), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert tnconv.nn.untensorize(model) is model and model[2] is model[0]
    assert type(model[0]) is nn.Conv2d and type(model[1][0]) is nn.Linear and not model[0].training
    assert (
        not model[0].weight.requires_grad and model[1][0].weight.requires_grad and model[0].bias.requires_grad
    )
    assert model[0].weight.is_leaf and model[1][0].bias.is_leaf
    torch.testing.assert_close(model[:2](x), before[:2](x))
    alone = tnconv.nn.untensorize(tnconv.nn.HTConv3d(2, 3, 2, padding=((0, 1),) * 3, rank=1))
    assert type(alone) is tnconv.nn.Conv3d
