"""A bias is added before half-precision values are rounded, whichever kernel computes the product."""

import pytest
import torch
import torch.nn.functional as F

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d}
LAYERS = [
    LinearSpec(8, 3, bias=True),
    LinearSpec(2, 1, bias=True),
    LinearSpec(1, 8, bias=True),
    LinearSpec(8, 4, bias=True, input_size=5),
    ConvSpec(8, 8, 1, (7, 7), bias=True),
    ConvSpec(8, 8, 1, (7, 7), bias=True, groups=2),
    ConvSpec(8, 1, 1, (4, 4), bias=True, padding=1),
    ConvSpec(4, 8, 1, 7, bias=True, padding=1),
    ConvSpec(3, 8, 2, (8, 8), bias=True, stride=2),
    ConvSpec(4, 6, 2, (8, 8), bias=True, stride=2, groups=2),
    ConvSpec(4, 6, 3, (7, 7), bias=True, padding=1),
    ConvSpec(4, 4, 3, (7, 7), bias=True, padding=1, groups=4),
    ConvTransposeSpec(4, 6, 2, 4, stride=2, groups=2, bias=True),
    ConvTransposeSpec(4, 6, 3, (5, 5), stride=2, bias=True),
    ConvTransposeSpec(4, 4, 3, (5, 5), groups=4, bias=True),
    ConvTransposeSpec(1, 1, 1, (6, 6), bias=True),
]


def native(layer, x, weight, bias):
    match layer:
        case LinearSpec():
            return F.linear(x, weight, bias)
        case ConvSpec():
            call, options = CONVOLUTIONS, {"padding": layer.padding}
        case _:
            call, options = TRANSPOSED, {}
    return call[layer.spatial_dims](x, weight, bias, stride=layer.strides, groups=layer.groups, **options)


def arguments(layer, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = {"N": 8}
    network = layer.network()
    shapes = {
        t.argument: [sizes.get(str(a.size), a.size) for a in t.axes] for n in network.terms for t in n.tensors
    }
    x, weight, bias = (torch.randn(shapes[name], generator=generator) for name in ("x", "weight", "bias"))
    reads = weight[0].numel() if not isinstance(layer, ConvTransposeSpec) else weight.shape[0]
    return [each.to(dtype) for each in (x, weight / reads**0.5, 2 * bias)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_errors_are_those_of_one_rounding(layer, dtype):
    given = arguments(layer, dtype)
    want = native(layer, *(each.double() for each in given))
    function = tnconv.compile(layer)
    theirs = (native(layer, *given).double() - want).abs().max()
    error = (function(*given).double() - want).abs().max()
    assert error <= 1.5 * theirs
    training = tnconv.compile(layer, training=True)
    value = training(*(each.clone().requires_grad_() for each in given))
    assert (value.double() - want).abs().max() <= 1.5 * theirs


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_values_and_gradients_in_double_precision(layer):
    given = [each.requires_grad_() for each in arguments(layer, torch.float64)]
    function = tnconv.compile(layer)
    value, want = function(*given), native(layer, *given)
    torch.testing.assert_close(value, want, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(want)
    mine, theirs = (torch.autograd.grad(each, given, cotangent) for each in (value, want))
    for got, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    many = torch.func.vmap(function, (0, None, None))(torch.stack([given[0], given[0]]), *given[1:])
    torch.testing.assert_close(many[1], want, rtol=1e-12, atol=1e-12)


def test_no_second_pass_adds_the_bias():
    """Only where the terms cannot be one call is there a sum of two results."""
    for layer in LAYERS:
        assert "rt.add(" not in tnconv.compile(layer).source, layer
