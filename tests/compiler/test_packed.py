"""`packed=True`: the lower triangle of a symmetric result is that of the whole one, and takes half the memory."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs
from tests.ops.layer_values import values_of
from tnconv import ConvSpec, LinearSpec
from tnconv.backends import reference
from tnconv.backends.torch.numerics.lag import correlate
from tnconv.compiler.check_program import check_value
from tnconv.errors import ArgumentError, OperationError, PlanError, TnconvError
from tnconv.ir import Network, evaluate, parse
from tnconv.ir.symmetry import packed_sizes, shared_axes
from tnconv.planner.plan_parser import parse_plan
from tnconv.program import parse_program
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs

SYMMETRIC = (
    "kfac_expand",
    "kfac_reduce",
    "kfac_grad_expand",
    "kfac_grad_reduce",
    "ggn_mini_block",
    "ggn_mini_block_kernel",
    "ggn_block",
    "ggn_gram",
    "ntk",
)
SPECS = st.one_of(
    conv_specs(max_dims=2, max_channels=3, max_output=3), conv_transpose_specs(max_dims=1), linear_specs()
)
GROUPED = ConvSpec(4, 6, (3, 2), (5, 4), padding=1, groups=2, bias=True)
OWN = """network own {
  index [s=2, a=3, b=3, c=4]
  x = input       [s, a, c]
  y = input{of=x} [s, b, c]
  output          [s, a, b]
}"""
WIDE = ConvSpec(16, 8, 3, (6, 6), padding=1)
MANY = ConvSpec(64, 4, 3, (5, 5), padding=1)


def lower(value: Tensor, shared: int | None) -> Tensor:
    """The lower triangle of a whole result."""
    assert shared is not None
    middle = (shared + value.dim()) // 2
    rows = value.shape[shared:middle].numel()
    matrix = value.reshape(*value.shape[:shared], rows, rows)
    row, column = torch.tril_indices(rows, rows)
    return matrix[..., row, column]


def both(layer: Layer, op: str, **options: Any) -> tuple[tnconv.CompiledFunction, tnconv.CompiledFunction]:
    """The functions of the whole result and of its lower triangle."""
    return tnconv.compile(layer, op, **options), tnconv.compile(layer, op, packed=True, **options)


def arguments_of(function: tnconv.CompiledFunction, layer: Layer, dtype: torch.dtype) -> list[Tensor]:
    values = values_of(layer, 2, dtype)
    return [values[name] for name in function.arguments]


@settings(max_examples=6)
@given(SPECS, st.sampled_from(SYMMETRIC), st.booleans(), st.sampled_from((torch.float64, torch.complex128)))
def test_the_lower_triangle_of_any_layer(layer: Layer, op: str, joint: bool, dtype: torch.dtype) -> None:
    operation = tnconv.ops.get(op)
    options = {"bias": "joint"} if joint and "joint" in operation.options else {}
    try:
        whole, packed = both(layer, op, **options)
    except OperationError as error:  # without a bias there is none to join, and the like
        assert "packed" not in str(error)
        return
    given = arguments_of(whole, layer, dtype)
    want = lower(whole(*given), packed.plan.packed)
    got = packed(*given)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    out = torch.randn_like(got)
    before = out.clone()
    assert packed(*given, out=out, beta=-0.5) is out
    torch.testing.assert_close(out, want - 0.5 * before, rtol=1e-10, atol=1e-10)
    out.fill_(float("nan"))
    torch.testing.assert_close(packed(*given, out=out), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", SYMMETRIC)
def test_integers_are_exact(op: str) -> None:
    """The plan in the reference, and the program, in int64."""
    options: dict[str, Any] = {"convention": "sum"} if tnconv.ops.get(op).factor else {}
    packed = tnconv.compile(GROUPED, op, packed=True, **options)
    rng = np.random.default_rng(1)
    sizes = {"N": 2, "V": 2}
    given = {
        name: rng.integers(-4, 5, [evaluate(size, sizes) for size in shape])
        for name, shape in packed.network.shapes.items()
    }
    want = lower(torch.from_numpy(reference.evaluate(packed.network, given)), packed.plan.packed)
    assert want.dtype == torch.int64
    assert torch.from_numpy(reference.evaluate_plan(packed.plan, given)).equal(want)
    if op != "ggn_mini_block_kernel":  # torch has no such convolution of integers
        assert packed.program.function(*map(torch.from_numpy, given.values())).equal(want)
    assert check_value(packed.network, packed.built.candidate)
    with torch.no_grad():
        dense = tnconv.compile(GROUPED, op, packed=True, backend="reference", **options)
        floats = [torch.from_numpy(each.astype(np.float64)) for each in given.values()]
        assert dense(*floats).equal(want.double())


# -- memory ------------------------------------------------------------------------------------------


def test_the_peak_is_the_triangle_and_a_block_of_rows() -> None:
    """Rows are 130 and 200, blocks 32 of them; what is computed is below the diagonal, or in the blocks on it."""
    layer, batch = LinearSpec(200, 130), 8
    for op, rows in (("kfac_grad_expand", 130), ("kfac_expand", 200)):
        whole, packed = (function.cost for function in both(layer, op, batch_size=batch))
        assert packed.peak_elements == rows * (rows + 1) // 2 + 32 * rows < whole.peak_elements
        ends = [*range(32, rows, 32), rows]
        heights = [high - low for low, high in zip([0, *ends], ends, strict=False)]
        assert packed.multiplications == batch * sum(a * b for a, b in zip(heights, ends, strict=True))
    adding = tnconv.compile(layer, "kfac_grad_expand", packed=True, batch_size=batch)
    assert adding.accumulating is not None and "packed=True" in adding.accumulating.source
    assert adding.accumulating_cost.peak_elements == 32 * 130 + (128 * 129 - 96 * 97) // 2


def test_the_kernels_take_over() -> None:
    """What makes the product is told to pack it; the whole result is nowhere."""
    for layer, op in ((MANY, "kfac_expand"), (WIDE, "kfac_reduce"), (LinearSpec(128, 4), "kfac_expand")):
        whole, packed = both(layer, op, batch_size=2)
        assert "pack_triangle" not in packed.source and "packed=True" in packed.source
        assert packed.cost.peak_elements < whole.cost.peak_elements
        assert "lower{1}(" in str(packed.plan) and "packed=True" in str(packed.explain())


def test_lags_are_placed_by_blocks_of_rows() -> None:
    """By lag along two axes, along one, and in windows; with what is there, in groups."""
    x = torch.randn(2, 24, 7, 6, dtype=torch.float64)
    shape = {
        "groups": 2,
        "kernel_size": (3, 2),
        "stride": (1, 1),
        "dilation": (1, 1),
        "offset": (-1, 0),
        "positions": (7, 5),
    }
    for ways in ({"variant": "lag2"}, {"variant": "lag1"}, {"variant": "windows"},
                 {"variant": "windows", "tile": 5}, {"variant": "windows", "block": 20}):  # fmt: skip
        want = lower(correlate(x, **shape, **ways), 1)
        torch.testing.assert_close(correlate(x, **shape, **ways, packed=True), want)
        out = torch.randn_like(want)
        before = out.clone()
        correlate(x, **shape, **ways, packed=True, out=out, beta=2.0)
        torch.testing.assert_close(out, want + 2 * before)


def test_a_joint_bias_is_the_last_row() -> None:
    """Terms are written to their runs of cells, also where something records; none is computed above the diagonal."""
    layer = ConvSpec(16, 4, 3, (4, 4), bias=True)
    whole, packed = both(layer, "kfac_reduce", bias="joint")
    assert packed.plan.results == ("result", "result_3", "result_4") and len(whole.plan.results) == 4
    assert "new_zeros" not in packed.source and packed.source.count("packed=True") == 1
    assert (packed.accumulating or whole.program).source.count("packed=True") == 1
    triangle, block, x_sums = 145 * 146 // 2, 32 * 144, 2 * 144
    assert tnconv.compile(
        layer, "kfac_reduce", bias="joint", packed=True, batch_size=2
    ).cost.peak_elements == (triangle + block + x_sums)
    (x,) = arguments_of(whole, layer, torch.float64)
    want = lower(whole(x), 1)
    torch.testing.assert_close(packed(x), want)
    torch.testing.assert_close(torch.func.vmap(packed)(x[None])[0], want)
    x.requires_grad_()
    cotangent = torch.randn_like(want)
    (gradient,) = torch.autograd.grad(packed(x), x, cotangent)
    torch.testing.assert_close(gradient, torch.autograd.grad(lower(whole(x), 1), x, cotangent)[0])
    assert packed(x[:0]).isnan().all()
    assert packed(x[:0].detach(), out=torch.zeros_like(want), beta=1.0).isnan().all()
    row = ConvSpec(2, 3, 1, (2,), bias=True)
    blocks = tnconv.compile(row, "ggn_mini_block", bias="joint", packed=True)
    given = arguments_of(blocks, row, torch.float64)
    want = lower(tnconv.compile(row, "ggn_mini_block", bias="joint")(*given), 1)
    for place in range(2):
        mapped = torch.func.vmap(blocks, in_dims=tuple(0 if place == n else None for n in range(2)))
        torch.testing.assert_close(
            mapped(*[g[None] if place == n else g for n, g in enumerate(given)])[0], want
        )


def test_chunks_are_of_what_is_no_row() -> None:
    layer = ConvSpec(8, 16, 3, (12, 12), padding=1, groups=4)
    whole, packed = both(layer, "kfac_grad_reduce", hints={"N": 64})
    assert packed.plan.packed == 1
    limited = tnconv.compile(layer, "kfac_expand", packed=True, memory_limit="48KiB", hints={"N": 4})
    plain = tnconv.compile(layer, "kfac_expand")
    assert limited.plan.slices
    x = torch.randn(4, 8, 12, 12)
    torch.testing.assert_close(limited(x), lower(plain(x), 1))
    parts = limited.jobs(N=4)
    assert parts[0].shape == (4, 171)
    assert whole.plan.packed is None


# -- everything else that functions do ---------------------------------------------------------------


def test_any_size_one_example_and_several_operations() -> None:
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    whole, packed = (tnconv.compile(conv, "ntk", packed=each) for each in (False, True))
    for size in ((4, 5), (3, 3)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(packed(x), lower(whole(x), 0))
        torch.testing.assert_close(packed(x[0]), lower(whole(x[0]), 0))
    together = tnconv.compile(conv, ("kfac_expand", "per_example_weight_vjp"), input_size=(4, 5), packed=True)
    x, grad = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 4, 5)
    factor, gradients = together(x, grad)
    assert gradients.shape == (2, 4, 3, 3, 3)
    torch.testing.assert_close(factor, lower(tnconv.compile(conv, "kfac_expand", input_size=(4, 5))(x), 1))
    assert parse_plan(str(together.plan)) == together.plan
    assert pickle.loads(pickle.dumps(packed))(x).equal(packed(x))


def test_texts_are_read_back() -> None:
    for op in ("kfac_expand", "ntk"):
        function = tnconv.compile(GROUPED, op, packed=True)
        assert parse_plan(str(function.plan)) == function.plan
        assert str(parse_program(str(function.program))) == str(function.program)


@pytest.mark.parametrize(("layer", "op"), [(GROUPED, "kfac_expand"), (ConvSpec(2, 3, 2, (3, 4)), "ntk")])
def test_gradients(layer: Layer, op: str) -> None:
    """Of autograd, and planned: the cotangent of the triangle is that of the whole, with zeros above."""
    whole, packed = both(layer, op)
    planned = tnconv.compile(layer, op, packed=True, training=True)
    (x,) = arguments_of(whole, layer, torch.float64)
    x.requires_grad_()
    value = packed(x)
    cotangent = torch.randn_like(value)
    (want,) = torch.autograd.grad(lower(whole(x), packed.plan.packed), x, cotangent)
    torch.testing.assert_close(torch.autograd.grad(value, x, cotangent)[0], want)
    torch.testing.assert_close(torch.autograd.grad(planned(x), x, cotangent)[0], want)
    tangent = torch.randn_like(x)
    _, moved = torch.func.jvp(packed, (x.detach(),), (tangent,))
    torch.testing.assert_close((moved * cotangent).sum(), (want * tangent).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision(dtype: torch.dtype) -> None:
    for op in ("kfac_reduce", "ggn_block"):
        layer = ConvSpec(12, 2, 3, (4, 4))
        whole, packed = both(layer, op)
        given = arguments_of(whole, layer, dtype)
        got, want = packed(*given), lower(whole(*given), packed.plan.packed)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want)


# -- what is symmetric -------------------------------------------------------------------------------


def test_it_is_read_off_the_network() -> None:
    made = parse(OWN)
    assert isinstance(made, Network) and shared_axes(made) == 1
    assert packed_sizes([2, 3, 3], 1) == (2, 6) and packed_sizes([2, 3, 3], None) == (2, 3, 3)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    whole, packed = (tnconv.compile(made, packed=each) for each in (False, True))
    torch.testing.assert_close(packed(x), lower(whole(x), 1))
    assert shared_axes(parse(OWN.replace("{of=x}", ""))) is None
    for op in tnconv.ops.list():
        try:
            whole = tnconv.compile(LinearSpec(3, 3), op.name, batch_size=2)
        except TnconvError:
            continue
        assert (shared_axes(whole.network) is not None) == (op.name in SYMMETRIC), op.name


@pytest.mark.parametrize("op", ["forward", "weight_vjp", "gradient_norm", "ggn_diagonal", "toeplitz"])
def test_what_is_not_symmetric_is_refused(op: str) -> None:
    with pytest.raises(
        OperationError,
        match=f"packed=True is given, but 'conv2d.{op}' has a result of axes .* leave packed=True",
    ):
        tnconv.compile(GROUPED, op, packed=True)


def test_refusals() -> None:
    with pytest.raises(OperationError, match=r"'conv2d.ntk' of two batches has a result of axes \[n, "):
        tnconv.compile(GROUPED, "ntk", packed=True).pairs  # noqa: B018
    with pytest.raises(
        OperationError, match="packed=True is given, but none of forward, weight_vjp has a result"
    ):
        tnconv.compile(GROUPED, ("forward", "weight_vjp"), packed=True)
    with pytest.raises(PlanError, match="packed='yes' is a str; give True or False"):
        tnconv.compile(GROUPED, "kfac_expand", packed="yes")  # type: ignore[arg-type]
    packed = tnconv.compile(GROUPED, "kfac_expand", packed=True)
    with pytest.raises(
        ArgumentError,
        match=r"out has shape \(2, 12, 12\) but the result of 'conv2d.kfac_expand' has \(2, 78\)",
    ):
        packed(torch.randn(2, 4, 5, 4), out=torch.zeros(2, 12, 12))
