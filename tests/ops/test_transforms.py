"""Every operation under PyTorch's transformations, dtypes and memory layouts."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import tnconv
from tests.ops.layer_values import values_of
from tests.ops.test_curvature import EVERY, SPECS
from tests.ops.test_operations import assert_close
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.spec.layer_spec import Layer

LAYERS: dict[str, Layer] = {
    "conv": ConvSpec(4, 2, (3, 2), (4, 3), stride=(2, 1), padding=((1, 0), (1, 1)), groups=2, bias=True),
    "reflect": ConvSpec(2, 2, 3, (4,), padding=1, padding_mode="reflect"),
    "conv_transpose": ConvTransposeSpec(2, 4, 3, (3,), stride=2, padding=1, output_padding=1, groups=2),
    "linear": LinearSpec(3, 2, input_size=(2,)),
}
OPERATIONS = (*EVERY, "bias_vjp", "fold", "toeplitz")
TWICE = ("forward", "input_vjp", "weight_vjp", "kfac_reduce")


def prepared(spec: Layer, op: str, batch: int = 2) -> tuple[tnconv.CompiledFunction, tuple[Tensor, ...]]:
    """A function of an operation, and arguments for it."""
    function, values = tnconv.compile(spec, op), values_of(spec, batch)
    values["tangent"] = values["x" if op == "input_jvp" else "weight"]
    if op == "fold":
        values["columns"] = torch.randn_like(tnconv.compile(spec, "unfold")(values["x"]))
    return function, tuple(values[name] for name in function.arguments)


def leaves(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.clone().requires_grad_() for a in arguments)


@pytest.mark.parametrize("op", TWICE)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_first_and_second_derivatives(op: str, spec: Layer) -> None:
    function, arguments = prepared(spec, op)
    assert torch.autograd.gradcheck(function, leaves(arguments), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves(arguments), fast_mode=True)


@pytest.mark.parametrize("op", OPERATIONS)
def test_derivatives_of_every_operation(op: str) -> None:
    function, arguments = prepared(LAYERS["conv"], op)
    assert torch.autograd.gradcheck(function, leaves(arguments), fast_mode=True)


@pytest.mark.parametrize(
    ("layer", "op"),
    [(layer, op) for layer in LAYERS for op in OPERATIONS if (layer, op) != ("linear", "toeplitz")],
)
def test_func_transformations(layer: str, op: str) -> None:
    """`vmap` is a loop; `jvp` and `vjp` are adjoint to each other."""
    function, arguments = prepared(LAYERS[layer], op)
    stacked = [torch.stack([a, a * 0.5 - 1, a * 2]) for a in arguments]
    looped = torch.stack([function(*each) for each in zip(*stacked, strict=True)])
    assert_close(torch.func.vmap(function)(*stacked), looped, 1e-11)
    tangents = tuple(torch.randn_like(a) for a in arguments)
    value, forward = torch.func.jvp(function, arguments, tangents)
    same, pull = torch.func.vjp(function, *arguments)
    assert_close(value, same)
    seed = torch.randn_like(value)
    backward = sum((t * g).sum() for t, g in zip(tangents, pull(seed), strict=True))
    assert torch.isclose((forward * seed).sum(), torch.as_tensor(backward), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", OPERATIONS)
def test_memory_layouts(op: str) -> None:
    """Channels-last, transposed and expanded tensors give the values of contiguous ones."""
    function, arguments = prepared(LAYERS["conv"], op)
    want = function(*arguments)
    last = [a.contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a for a in arguments]
    assert_close(function(*last), want)
    turned = [a.movedim(0, -1).contiguous().movedim(-1, 0) for a in arguments]
    assert_close(function(*turned), want)
    sliced = [torch.stack([a, a], -1)[..., 1] for a in arguments]
    assert_close(function(*sliced), want)
    flat = [a[:1].expand_as(a) for a in arguments]
    assert_close(function(*flat), function(*(a.contiguous() for a in flat)))


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float32, 1e-5)])
def test_lower_precision(op: str, dtype: torch.dtype, tolerance: float) -> None:
    function, arguments = prepared(LAYERS["conv"], op)
    rounded = [a.to(dtype) for a in arguments]
    got = function(*rounded)
    assert got.dtype == (torch.float32 if tnconv.ops.get(op).factor else dtype)
    assert_close(got.double(), function(*(a.double() for a in rounded)), tolerance)


@pytest.mark.parametrize("op", OPERATIONS)
def test_complex_values_by_their_degree(op: str) -> None:
    """Each operation is a polynomial in its arguments and their conjugates: a common factor comes out by its degree."""
    if tnconv.ops.get(op).real_only:
        return
    function, arguments = prepared(LAYERS["conv"], op)
    turn = complex(0.6, 0.8)
    # Of each argument or, of a forward pass, of the bias alone, and of the product of two.
    degree = {"forward": 2, "input_jvp": 2, "weight_jvp": 2, "input_jacobian": 1, "weight_jacobian": 1}
    degree |= {"unfold": 1, "fold": 1, "toeplitz": 1, "bias_vjp": 1}
    factors = (turn, turn, turn**2) if op == "forward" else (turn,) * len(arguments)
    got = function(*((a * t).to(torch.complex64) for a, t in zip(arguments, factors, strict=True)))
    real = function(*arguments)
    assert got.dtype == (torch.float32 if function.network.real else torch.complex64)
    want = real * turn ** degree.get(op, 0)
    assert ((got.to(torch.complex128) - want).abs().max() <= 1e-5 * real.abs().max()).item()


@pytest.mark.parametrize("op", ["gradient_norm", "ggn_diagonal"])
def test_torch_compile_takes_it_whole(op: str) -> None:
    function, arguments = prepared(LAYERS["conv"], op)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*arguments), function(*arguments), 1e-11)
