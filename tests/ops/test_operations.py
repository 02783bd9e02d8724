"""The seven operations against independent PyTorch implementations: values, shapes, scales, gradients."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

import tnconv
from tnconv import ConvSpec
from tnconv.errors import OperationError
from tnconv.testing import conv_specs

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")

# docs/operations.md, the columns of A: the scale of S_A and R_A, None where it is not defined.
SCALES: dict[str, dict[str, Callable[[int, int], float] | None]] = {
    "kfc": {"kfac_expand": lambda n, _: 1 / n, "kfac_reduce": None},
    "kfac": {"kfac_expand": lambda n, t: 1 / (n * t), "kfac_reduce": lambda n, t: 1 / (n * t**2)},
    "einconv": {"kfac_expand": lambda n, _: 1 / n, "kfac_reduce": lambda n, t: 1 / (n * t**2)},
    "backpack": {"kfac_expand": lambda n, _: 1 / n, "kfac_reduce": None},
    "kfac_jax": {"kfac_expand": lambda n, t: 1 / (n * t), "kfac_reduce": None},
    "ekfac": {"kfac_expand": lambda n, t: 1 / (n * t), "kfac_reduce": None},
    "sum": {"kfac_expand": lambda _, __: 1.0, "kfac_reduce": lambda _, __: 1.0},
}


# -- what PyTorch says -------------------------------------------------------------------------------


def padded(spec: ConvSpec, x: Tensor) -> Tensor:
    """Pad cell by cell of each axis: F.pad knows no circular or reflecting padding of four dimensions."""
    for axis, (size, (left, right)) in enumerate(zip(spec.input_sizes, spec.paddings, strict=True), 2):
        cells = torch.arange(-left, size + right)
        if spec.padding_mode == "circular":
            x = x.index_select(axis, cells % size)
        elif spec.padding_mode == "reflect":  # once, as torch wants it: padding is less than the size
            x = x.index_select(axis, torch.where(cells < size, cells.abs(), 2 * (size - 1) - cells))
        elif spec.padding_mode == "replicate":
            x = x.index_select(axis, cells.clamp(0, size - 1))
        else:
            shape = [1] * x.dim()
            shape[axis] = -1
            x = x.index_select(axis, cells.clamp(0, size - 1)) * ((cells >= 0) & (cells < size)).view(shape)
    return x


def padded_by_torch(spec: ConvSpec, x: Tensor) -> Tensor:
    pairs = [side for pair in reversed(spec.paddings) for side in pair]
    return F.pad(x, pairs, mode="constant" if spec.padding_mode == "zeros" else spec.padding_mode)


def windows(spec: ConvSpec, x: Tensor) -> Tensor:
    """The patches by one slice a kernel offset: `[n, (g c), k, o1, o2, …]`."""
    x = padded(spec, x)
    columns = []
    for offsets in itertools.product(*map(range, spec.kernel_sizes)):
        steps = zip(offsets, spec.dilations, spec.strides, spec.output_sizes, strict=True)
        columns.append(x[(..., *(slice(d * k, d * k + s * (o - 1) + 1, s) for k, d, s, o in steps))])
    return torch.stack(columns, 2)


def unfolded(spec: ConvSpec, x: Tensor) -> Tensor:
    """im2col in torch's order: `[n, (g c k), (o1 o2 …)]`."""
    return windows(spec, x).flatten(3).flatten(1, 2)


def blocks(spec: ConvSpec, x: Tensor) -> Tensor:
    """The unfolded input by group: `[n, g, (c k), (o1 o2 …)]`."""
    return unfolded(spec, x).unflatten(1, (spec.groups, -1))


def convolved(spec: ConvSpec, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if spec.spatial_dims > 3:
        rows = weight.unflatten(0, (spec.groups, -1)).flatten(2)
        y = torch.einsum("ngrt,gdr->ngdt", blocks(spec, x), rows).flatten(1, 2)
        y = y.unflatten(2, spec.output_sizes)
        return y if bias is None else y + bias.view(-1, *[1] * spec.spatial_dims)
    x = padded_by_torch(spec, x)
    convolution = CONVOLUTIONS[spec.spatial_dims]
    return convolution(x, weight, bias, stride=spec.strides, dilation=spec.dilations, groups=spec.groups)


def expected(spec: ConvSpec, op: str, values: dict[str, Tensor], convention: str = "kfac") -> Tensor:
    """The value of an operation, through which gradients flow."""
    x, weight, bias, grad = (values[name] for name in ("x", "weight", "bias", "grad_output"))
    if op == "forward":
        return convolved(spec, x, weight, bias if spec.bias else None)
    if op == "unfold":
        return unfolded(spec, x)
    if op.startswith("kfac"):
        a = blocks(spec, x)
        scale = SCALES[convention][op]
        assert scale is not None
        a = a if op == "kfac_expand" else a.sum(-1, keepdim=True)
        return torch.einsum("ngrt,ngst->grs", a, a) * scale(len(x), prod(spec.output_sizes))
    wrt = {"input_vjp": x, "weight_vjp": weight, "bias_vjp": bias}[op]
    leaf = wrt if wrt.requires_grad else wrt.detach().requires_grad_()
    x, weight, bias = (leaf if v is wrt else v for v in (x, weight, bias))
    y = convolved(spec, x, weight, bias)
    return torch.autograd.grad(y, leaf, grad, create_graph=True)[0]


def result_shape(spec: ConvSpec, op: str, batch: int) -> tuple[int, ...]:
    """docs/operations.md, the columns "result legs"."""
    g, c, d = spec.groups, spec.in_channels // spec.groups, spec.out_channels // spec.groups
    rows, positions = c * prod(spec.kernel_sizes), prod(spec.output_sizes)
    return {
        "forward": (batch, g * d, *spec.output_sizes),
        "input_vjp": (batch, g * c, *spec.input_sizes),
        "weight_vjp": (g * d, c, *spec.kernel_sizes),
        "bias_vjp": (g * d,),
        "unfold": (batch, g * rows, positions),
        "kfac_expand": (g, rows, rows),
        "kfac_reduce": (g, rows, rows),
    }[op]


def tensors(
    spec: ConvSpec, batch: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (batch, spec.in_channels, *spec.input_sizes),
        "weight": (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_sizes),
        "bias": (spec.out_channels,),
        "grad_output": (batch, spec.out_channels, *spec.output_sizes),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


def called(function: tnconv.CompiledFunction, values: dict[str, Tensor]) -> Tensor:
    return function(*(values[name] for name in function.arguments))


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    assert tuple(got.shape) == tuple(want.shape)
    error = (got - want).abs().max().item()
    assert error <= tolerance * max(want.abs().max().item(), 1e-300), error


def assert_agrees(spec: ConvSpec, op: str, batches: tuple[int, ...] = (1, 3, 2)) -> None:
    """One compiled function against torch at several batch sizes."""
    function = tnconv.compile(spec, op)
    for batch in batches:
        values = tensors(spec, batch)
        got = called(function, values)
        assert tuple(got.shape) == result_shape(spec, op, batch)
        assert_close(got, expected(spec, op, values))


# Each is a hazard of its own; what random specs rarely hit or once broke.
HAZARDS = {
    "grouped dilated": ConvSpec(4, 6, (3, 2), (8, 7), groups=2, dilation=(2, 3), padding=(1, 2)),
    "depthwise": ConvSpec(3, 3, 3, (6, 5), groups=3, stride=2, padding=1),
    "channel multiplier": ConvSpec(2, 6, 3, (5, 5), groups=2, padding="same"),
    "same, even kernel": ConvSpec(2, 2, (2, 4), (5, 6), padding="same"),
    "asymmetric": ConvSpec(2, 3, 3, (6, 6), stride=2, padding=((0, 3), (2, 0))),
    "circular": ConvSpec(2, 2, 3, (5, 4), padding=((1, 2), (2, 0)), padding_mode="circular", stride=(1, 2)),
    "circular by the whole input": ConvSpec(1, 2, 3, (3,), padding=3, padding_mode="circular"),
    "circular grouped dilated": ConvSpec(4, 2, 2, (5,), groups=2, dilation=2, padding=2, padding_mode="circular"),
    "reflect": ConvSpec(2, 2, 3, (5, 4), padding=((1, 2), (3, 0)), padding_mode="reflect", stride=(1, 2)),
    "reflect all but one cell": ConvSpec(1, 2, 3, (3,), padding=2, padding_mode="reflect"),
    "reflect grouped dilated": ConvSpec(4, 2, 2, (5, 6), groups=2, dilation=2, padding=(2, 1), padding_mode="reflect"),
    "reflect, same, even kernel": ConvSpec(2, 3, (2, 4), (5, 6), padding="same", padding_mode="reflect", bias=True),
    "replicate": ConvSpec(2, 2, 3, (5, 4), padding=((1, 2), (3, 0)), padding_mode="replicate", stride=(1, 2)),
    "replicate far beyond the input": ConvSpec(1, 2, 3, (2,), padding=((7, 5),), padding_mode="replicate"),
    "replicate one cell": ConvSpec(2, 2, (2, 3), (1, 2), padding=(2, 4), dilation=2, padding_mode="replicate"),
    "replicate in three dimensions": ConvSpec(
        2, 2, (1, 2, 3), (4, 3, 5), stride=(2, 1, 1), padding=(0, 1, 2), groups=2, padding_mode="replicate"
    ),
    "windows on replicated cells alone": ConvSpec(1, 1, 1, (2, 2), stride=3, padding=4, padding_mode="replicate"),
    "kernel larger than input": ConvSpec(1, 2, 5, (2, 3), padding=3),
    "stride above kernel, with a rest": ConvSpec(2, 2, 2, (12, 9), stride=(5, 4)),
    "patchify": ConvSpec(3, 4, 4, (8, 8), stride=4),
    "patchify with a rest": ConvSpec(3, 4, 4, (11, 9), stride=4),
    "pointwise": ConvSpec(4, 5, 1, (3, 4)),
    "pointwise strided": ConvSpec(4, 5, 1, (7, 6), stride=2),
    "pointwise padded": ConvSpec(2, 3, 1, (3, 3), padding=1),
    "pointwise grouped": ConvSpec(4, 6, 1, (3, 4), groups=2),
    "one output position": ConvSpec(2, 3, (3, 4), (3, 4)),
    "windows on padding alone": ConvSpec(1, 1, 1, (2, 2), stride=3, padding=2),
    "one cell": ConvSpec(1, 1, 1, (1, 1)),
    "kernel as large as the output": ConvSpec(4, 6, 3, (5, 5), groups=2),
    "transposed, cropped on the right": ConvSpec(6, 3, (3, 2), (4, 4), padding="same", dilation=3, groups=3),
    "an output position of a size-1 circle": ConvSpec(
        2, 2, (1, 3), (1, 2), padding=(1, 2), dilation=(3, 1), bias=True, padding_mode="circular"
    ),
    "three dimensions": ConvSpec(2, 2, (1, 2, 3), (4, 3, 5), stride=(2, 1, 1), padding=(0, 1, 1)),
}  # fmt: skip


# -- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(spec=conv_specs())
def test_equals_torch_on_random_layers(op: str, spec: ConvSpec) -> None:
    assert_agrees(spec, op)


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("name", HAZARDS)
def test_equals_torch_on_hazards(name: str, op: str) -> None:
    assert_agrees(HAZARDS[name], op, (2,))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(spec=conv_specs(batch_size=None, max_dims=2))
def test_integer_batch_size(spec: ConvSpec) -> None:
    assert isinstance(spec.batch_size, int)
    for op in OPERATIONS:
        assert_agrees(spec, op, (spec.batch_size,))


@pytest.mark.parametrize("op", OPERATIONS)
def test_four_spatial_dimensions(op: str) -> None:
    spec = ConvSpec(
        4, 2, (2, 1, 2, 2), (3, 2, 4, 3), groups=2, stride=(1, 1, 2, 1), padding=(0, 1, 1, 0), bias=True
    )
    assert_agrees(spec, op)
    for mode in ("circular", "reflect", "replicate"):
        layer = ConvSpec(1, 2, (2, 3, 2, 1), (3, 3, 3, 2), padding=(1, 1, 0, 0), padding_mode=mode)
        assert_agrees(layer, op, (2,))


@pytest.mark.parametrize("op", OPERATIONS)
def test_float32_is_close(op: str) -> None:
    layers = (
        ConvSpec(16, 8, 3, (20, 20), padding=1, bias=True),
        ConvSpec(3, 8, 7, (32, 32), stride=2, padding=3, bias=True),
        ConvSpec(16, 16, 3, (15, 15), groups=4, dilation=2, bias=True),
    )
    for spec in layers:
        values = tensors(spec, 3)
        single = {name: value.float() for name, value in values.items()}
        got = called(tnconv.compile(spec, op), single)
        assert got.dtype == torch.float32
        assert_close(got.double(), expected(spec, op, values), 1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(spec=conv_specs(max_dims=2))
def test_unfold_equals_that_of_torch(spec: ConvSpec) -> None:
    if spec.spatial_dims != 2:
        return
    x = tensors(spec, 2)["x"]
    want = F.unfold(padded_by_torch(spec, x), spec.kernel_sizes, dilation=spec.dilations, stride=spec.strides)
    assert torch.equal(tnconv.compile(spec, "unfold")(x), want)


def test_empty_batch() -> None:
    spec = ConvSpec(4, 6, 3, (6, 6), groups=2, stride=2, padding=1)
    values = tensors(spec, 0)
    for op in OPERATIONS[:5]:
        got = called(tnconv.compile(spec, op), values)
        assert tuple(got.shape) == result_shape(spec, op, 0)
        assert got.abs().sum() == 0
    for op in OPERATIONS[5:]:
        assert called(tnconv.compile(spec, op), values).isnan().all()  # a mean over nothing, as torch says
        assert called(tnconv.compile(spec, op, convention="sum"), values).abs().sum() == 0


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_with_the_input_keeps_the_native_convolution(mode: str) -> None:
    spec = ConvSpec(4, 6, 3, (24, 21), padding=(1, 2), stride=2, groups=2, padding_mode=mode)
    for op, call in (("forward", "F.conv2d("), ("input_vjp", "F.conv_transpose2d("), ("unfold", ".unfold(")):
        source = tnconv.compile(spec, op).source
        assert call in source
        assert "index_add" not in source
        assert "arange" not in source


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_with_the_input_passes_the_exact_check(mode: str, op: str) -> None:
    spec = ConvSpec(
        4, 2, (3, 2), (8, 9), groups=2, padding=((1, 0), (2, 3)), stride=(2, 1), padding_mode=mode
    )
    tnconv.compile(spec, op, verify="exact")


# -- scales ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", SCALES)
@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce"])
def test_conventions(op: str, convention: str) -> None:
    spec = ConvSpec(4, 4, (3, 2), (7, 6), groups=2, stride=2, dilation=(2, 1), padding=1)
    if SCALES[convention][op] is None:
        with pytest.raises(
            OperationError, match=f"{convention!r} does not define the scale of {op!r}.*use one of"
        ):
            tnconv.compile(spec, op, convention=convention)
        return
    function = tnconv.compile(spec, op, convention=convention)
    fixed = tnconv.compile(replace(spec, batch_size=3), op, convention=convention)
    for batch in (1, 3):
        values = tensors(spec, batch)
        assert_close(called(function, values), expected(spec, op, values, convention))
    assert_close(called(fixed, values), expected(spec, op, values, convention))


def test_default_convention_is_kfac() -> None:
    spec = HAZARDS["grouped dilated"]
    x = tensors(spec, 2)["x"]
    for op in ("kfac_expand", "kfac_reduce"):
        assert torch.equal(tnconv.compile(spec, op)(x), tnconv.compile(spec, op, convention="kfac")(x))


def test_kfc_is_an_alias() -> None:
    spec = HAZARDS["grouped dilated"]
    x = tensors(spec, 2)["x"]
    assert tnconv.compile(spec, "kfc").op == "kfac_expand"
    for convention in (None, "kfc", "sum"):
        alias, plain = (tnconv.compile(spec, op, convention=convention) for op in ("kfc", "kfac_expand"))
        assert torch.equal(alias(x), plain(x))


def test_unknown_convention() -> None:
    with pytest.raises(
        OperationError,
        match=r"convention 'kfra' is not known \(did you mean 'kfac'\?\); the conventions are kfac, kfc",
    ):
        tnconv.compile(HAZARDS["pointwise"], "kfac_expand", convention="kfra")


@pytest.mark.parametrize("op", OPERATIONS[:5])
def test_convention_without_a_scale(op: str) -> None:
    with pytest.raises(OperationError, match=f"{op!r} has no scale, but convention='kfac' was given"):
        tnconv.compile(HAZARDS["pointwise"], op, convention="kfac")


# -- wrong answers that others give ------------------------------------------------------------------


@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce"])
def test_factors_respect_groups(op: str) -> None:
    """A grouped layer is its groups side by side: each block is the factor of a layer of its own."""
    spec = ConvSpec(6, 4, 3, (6, 5), groups=2, padding=1)
    single = ConvSpec(3, 2, 3, (6, 5), padding=1)
    x = tensors(spec, 2)["x"]
    factor, one = tnconv.compile(spec, op), tnconv.compile(single, op)
    got = factor(x)
    for group, part in enumerate(x.chunk(2, 1)):
        assert_close(got[group], one(part)[0])
    ungrouped = tnconv.compile(ConvSpec(6, 4, 3, (6, 5), padding=1), op)(x)
    assert ungrouped.shape == (1, 54, 54)
    assert ungrouped[0, :27, 27:].abs().max() > 0.01  # what ignoring groups adds
    assert not torch.allclose(got[0], got[1])


@pytest.mark.parametrize("op", ["kfac_expand", "kfac_reduce", "unfold"])
@pytest.mark.parametrize(
    "changed",
    [
        {"dilation": 2},
        {"stride": 2},
        {"stride": (1, 2)},
        {"padding": 1},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "replicate"},
    ],
)
def test_no_hyper_parameter_is_ignored(op: str, changed: dict[str, Any]) -> None:
    options = {"padding": 2, **changed}
    spec, plain = ConvSpec(2, 2, 3, (7, 7), **options), ConvSpec(2, 2, 3, (7, 7), padding=2)
    values = tensors(spec, 2)
    got, other = (called(tnconv.compile(s, op), values) for s in (spec, plain))
    assert_close(got, expected(spec, op, values))
    assert got.shape != other.shape or (got - other).abs().max() > 1e-3


def test_formula_does_not_depend_on_the_size_of_the_layer() -> None:
    """One factor on both sides of the choice between lags and windows."""
    kernels = set()
    for channels in (1, 2, 8, 16):
        spec = ConvSpec(channels, 1, 3, (9, 9), padding=1)
        function = tnconv.compile(spec, "kfac_expand")
        kernels |= {choice.kernel for choice in function.program.choices}
        values = tensors(spec, 2)
        assert_close(called(function, values), expected(spec, "kfac_expand", values))
    assert {"lag correlation", "symmetric product"} <= kernels


# -- gradients ---------------------------------------------------------------------------------------

GRADIENT_LAYERS = {
    "grouped": ConvSpec(2, 4, (2, 3), (4, 4), groups=2, padding=1, bias=True),
    "strided": ConvSpec(1, 2, 3, (6, 5), stride=2, padding=((1, 0), (0, 2))),
    "dilated": ConvSpec(2, 1, 2, (6,), dilation=3, padding=1),
    "circular": ConvSpec(1, 2, (2, 3), (3, 3), padding=1, padding_mode="circular"),
    "reflect": ConvSpec(2, 2, (2, 3), (3, 4), padding=((1, 2), (0, 2)), padding_mode="reflect", groups=2),
    "replicate": ConvSpec(1, 2, (2, 3), (2, 3), padding=(1, 3), stride=(1, 2), padding_mode="replicate"),
    "pointwise strided": ConvSpec(2, 2, 1, (4, 5), stride=2),
    "patchify": ConvSpec(2, 2, 2, (4, 4), stride=2),
    "three dimensions": ConvSpec(1, 1, 2, (2, 3, 2), padding=1),
    "four dimensions": ConvSpec(1, 1, 2, (2, 3, 2, 2)),
}


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("name", GRADIENT_LAYERS)
def test_gradients(name: str, op: str) -> None:
    spec = GRADIENT_LAYERS[name]
    assert_gradients(spec, tnconv.compile(spec, op), op)


@pytest.mark.parametrize(
    ("variant", "spec", "hint"),
    [
        ("lag1", ConvSpec(7, 1, 3, (4, 5), padding=1), 1000),
        ("lag1", ConvSpec(14, 2, 3, (4, 4), groups=2, padding=1), 1000),
        ("lag2", ConvSpec(16, 1, 3, (6, 6), padding=1), 1000),
        ("lag1", ConvSpec(3, 1, 7, (25, 29), stride=2, padding=3), 2000),
    ],
)
def test_gradients_of_lag_correlations(variant: str, spec: ConvSpec, hint: int) -> None:
    function = tnconv.compile(spec, "kfac_expand", hints={"N": hint})
    assert f"variant={variant!r}" in function.source
    assert_gradients(spec, function, "kfac_expand")


def assert_gradients(spec: ConvSpec, function: tnconv.CompiledFunction, op: str) -> None:
    """gradcheck, and equality with autograd through the PyTorch implementation."""
    values = tensors(spec, 2)
    leaves = [values[name].requires_grad_() for name in function.arguments]
    got, want = called(function, values), expected(spec, op, values)
    assert_close(got, want)
    cotangent = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(got, leaves, cotangent)
    theirs = torch.autograd.grad(want, leaves, cotangent)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, 1e-11)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
