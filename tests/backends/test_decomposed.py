"""What replaces slow native convolutions, against these, and steps that are taken apart: values, transformations, dtypes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv
from tnconv.backends.backend import How, backend_of
from tnconv.backends.torch.numerics import depthwise, runtime
from tnconv.planner import make_plan

FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def whole(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, so that every sum is exact."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """Hyper-parameters with sizes of the operand that has the positions."""
    rank = draw(st.sampled_from((1, 2, 2, 3)))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    return {
        "groups": draw(st.sampled_from((1, 1, 2))),
        "channels": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "size": each(1, 6),
        "kernel": each(1, 5),
        "stride": each(1, 4),
        "dilation": each(1, 4),
        "padding": each(0, 5),
        "more": each(0, 3),
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layer=layers(), far=st.booleans())
def test_depthwise_convolutions(layer: dict[str, Any], far: bool) -> None:
    """Also with padding that the native code has no room for."""
    stride, dilation, rank = layer["stride"], layer["dilation"], len(layer["stride"])
    padding = tuple(p + 6 for p in layer["padding"]) if far else layer["padding"]
    image, weight = whole(0, 2, 3, *(s + 6 for s in layer["size"])), whole(1, 3, 1, *layer["kernel"])
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 3}
    try:
        want = FORWARD[rank](image, weight, None, stride, padding, dilation, 3)
    except RuntimeError:
        assume(False)  # the kernel is larger than the image
    assert torch.equal(depthwise.convolution(image, weight, **options), want)
    gradient, shape = whole(2, *want.shape), tuple(weight.shape)
    assert torch.equal(
        runtime.depthwise_weight_gradient(gradient, image, shape, **options),
        runtime.weight_gradient(gradient, image, shape, **options),
    )
    several = torch.stack([gradient, 2 - gradient])
    assert torch.equal(
        runtime.depthwise_weight_gradients(several, image, (2, *shape), **options),
        torch.stack([runtime.weight_gradient(y, image, shape, **options) for y in several]),
    )
    assert runtime.depthwise_weight_gradients(several[:0], image, (0, *shape), **options).shape == (0, *shape)
    ones, none = (1,) * rank, (0,) * rank
    options |= {"stride": ones, "output_padding": none}
    try:
        want = TRANSPOSED[rank](gradient, weight, None, ones, padding, none, 3, dilation)
    except RuntimeError:
        assume(False)
    assert torch.equal(depthwise.transposed(gradient, weight, **options), want)


# -- transformations and dtypes ----------------------------------------------------------------------

PLAIN = {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2)}
TIGHT = {"stride": (1, 1), "padding": (1, 2), "dilation": (2, 1)}
PHASES = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 1)}


def depthwise_gradient(gradient: Tensor, image: Tensor) -> Tensor:
    return runtime.depthwise_weight_gradient(gradient, image, (3, 1, 4, 3), groups=3, **PLAIN)


def apart(rule: str, op: str, *layer: Any, **options: Any) -> Callable[..., Tensor]:
    """The program of an operation with each step taken apart by a rule."""
    network = tnconv.compile(tnconv.ConvSpec(*layer, **options), op, backend="reference").network
    program = backend_of("torch").lower(make_plan(network), network, How({"N": 2}, prefer=(rule,)))
    assert [each.rule for each in program.decomposed] == [rule]
    return program.function


CALLS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "fold": (
        apart("product before fold", "input_vjp", 2, 3, (3, 4), (8, 17), **PLAIN),
        (3, 2, 3, 4),
        (2, 3, 4, 5),
    ),
    "phases": (
        apart("stride phases", "input_vjp", 2, 3, (3, 4), (8, 17), **PHASES),
        (3, 2, 3, 4),
        (2, 3, 4, 18),
    ),
    "forward fold": (
        apart("product before fold", "forward", 3, 2, (3, 4), (7, 8), **TIGHT),
        (2, 3, 7, 8),
        (2, 3, 3, 4),
    ),
    "mirrored": (
        apart("mirrored gradient", "weight_vjp", 3, 2, (3, 4), (7, 8), **TIGHT),
        (2, 3, 7, 8),
        (2, 2, 5, 9),
    ),
    "depthwise": (depthwise_gradient, (2, 3, 4, 3), (2, 3, 8, 8)),
    "depthwise, transposed": (
        lambda x, w: depthwise.transposed(x, w, groups=3, output_padding=(0, 0), **TIGHT),
        (2, 3, 7, 8),
        (3, 1, 3, 4),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_every_dtype(name: str, dtype: torch.dtype) -> None:
    call, *shapes = CALLS[name]
    a, b = (whole(seed, *shape) for seed, shape in enumerate(shapes))
    if name == "mirrored" or not dtype.is_complex:
        assert torch.equal(call(a.to(dtype), b.to(dtype)), call(a, b).to(dtype))
    else:
        torch.testing.assert_close(call(a.to(dtype), b.to(dtype)), call(a, b).to(dtype))


@pytest.mark.parametrize("name", CALLS)
def test_second_derivatives_and_vmap(name: str) -> None:
    """In float32, which takes the quick way: both are bilinear, so differences are exact."""
    call, *shapes = CALLS[name]
    a, b = (whole(seed, *shape).requires_grad_() for seed, shape in enumerate(shapes))
    result = call(a, b)
    cotangent = whole(5, *result.shape).requires_grad_()
    gradients = torch.autograd.grad(result, (a, b), cotangent, create_graph=True)
    directions = [whole(7 + n, *x.shape) for n, x in enumerate((a, b))]
    total = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
    mixed = torch.autograd.grad(total, (a, b, cotangent))
    with torch.no_grad():
        tangent = call(directions[0], b) + call(a, directions[1])
        assert torch.equal(mixed[2], tangent)  # the derivative along the directions
        assert torch.equal(
            sum((g * v).sum() for g, v in zip(gradients, directions, strict=True)),
            (tangent * cotangent).sum(),
        )
        second = call(directions[0], directions[1])  # of a bilinear map
        assert torch.equal((mixed[0] * directions[0]).sum(), (second * cotangent).sum())
        several = [torch.stack([x, 2 * x]) for x in (a, b)]
        mapped = torch.func.vmap(call)(*several)
        torch.testing.assert_close(mapped, torch.stack([result, 4 * result]))
        torch.testing.assert_close(torch.func.vmap(call, (0, None))(several[0], b)[1], 2 * result)
        torch.testing.assert_close(torch.func.vmap(call, (None, 0))(a, several[1])[1], 2 * result)
