"""Complex values: every operation of every kind of layer, against PyTorch's autograd and the formulas of the papers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tests.ops.layer_values import applied, groups_of, jacobian, patches, positions_last, values_of, wanted
from tests.ops.test_operations import assert_close, called
from tnconv import ConvSpec, LinearSpec
from tnconv.backends.torch.emit import Emitter
from tnconv.backends.torch.numerics import runtime
from tnconv.errors import ArgumentError, LoweringError
from tnconv.planner import Operand, backward
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs

SPECS = st.one_of(
    conv_specs(max_dims=3, max_channels=2, max_output=3),
    conv_transpose_specs(max_dims=2),
    linear_specs(max_dims=2),
)
REAL = ("gradient_norm", "ggn_diagonal", "ekfac_eigenvalues")
REFUSED = ("hessian_diagonal_bl89_input", "hessian_diagonal_bl89_weight")
HERMITIAN = (
    "per_example_weight_vjp", "gradient_norm", "weight_vjp", "weight_jacobian", "ntk", "ggn_diagonal", "ggn_gram",
    "ggn_mini_block", "ggn_mini_block_kernel", "ggn_block", "ekfac_eigenvalues",
)  # fmt: skip
every_layer = settings(max_examples=6, deadline=None, derandomize=True)


# -- operations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", HERMITIAN)
@every_layer
@given(spec=SPECS, joint=st.booleans())
def test_equals_its_definition(op: str, spec: Layer, joint: bool) -> None:
    joint = joint and "joint" in tnconv.ops.get(op).options
    values = values_of(spec, dtype=torch.complex128, joint=joint)
    got = called(tnconv.compile(spec, op, bias="joint" if joint else "separate"), values)
    assert got.dtype == (torch.float64 if op in REAL else torch.complex128)
    assert_close(got, wanted(spec, op, values, joint), 1e-11)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_gradients_are_those_of_autograd(spec: Layer) -> None:
    values = values_of(spec, dtype=torch.complex128)
    leaves = {name: values[name].clone().requires_grad_() for name in ("x", "weight", "bias")}
    y = applied(spec, *leaves.values())
    want = torch.autograd.grad(y, tuple(leaves.values()), values["grad_output"])
    for op, gradient in zip(("input_vjp", "weight_vjp", "bias_vjp"), want, strict=True):
        assert_close(called(tnconv.compile(spec, op), values), gradient, 1e-11)


@every_layer
@given(spec=SPECS)
def test_what_is_linear_conjugates_nothing(spec: Layer) -> None:
    values, turn = values_of(spec, dtype=torch.complex128), complex(0.6, 0.8)
    x, weight, bias = (values[name] for name in ("x", "weight", "bias"))
    forward = tnconv.compile(spec, "forward")
    named = {"x": x, "weight": weight, "bias": bias}
    given_ = {name: named[name] for name in forward.arguments}
    assert_close(forward(**given_), applied(spec, *given_.values()), 1e-11)
    assert_close(tnconv.compile(spec, "input_jvp")(weight=weight, tangent=x), applied(spec, x, weight), 1e-11)
    assert_close(tnconv.compile(spec, "weight_jvp")(x=x, tangent=weight), applied(spec, x, weight), 1e-11)
    unfold = tnconv.compile(spec, "unfold")
    assert_close(unfold(x).flatten(2), patches(spec, x).flatten(1, 2), 1e-11)
    columns = unfold(x) * turn
    fold = tnconv.compile(spec, "fold")
    by_part = torch.complex(fold(columns=columns.real), fold(columns=columns.imag))
    assert_close(fold(columns=columns), by_part, 1e-11)
    if not (isinstance(spec, LinearSpec) and spec.input_sizes):
        toeplitz = tnconv.compile(spec, "toeplitz")
        by_part = torch.complex(toeplitz(weight=weight.real), toeplitz(weight=weight.imag))
        assert_close(toeplitz(weight=weight), by_part, 1e-11)


@every_layer
@given(spec=SPECS)
def test_the_input_jacobian_is_not_conjugated(spec: Layer) -> None:
    values = values_of(spec, dtype=torch.complex128)
    fixed = replace(spec, batch_size=2)  # type: ignore[type-var]
    got = tnconv.compile(fixed, "input_jacobian")(weight=values["weight"])
    assert_close(got, jacobian(spec, values, "x"), 1e-11)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(spec=SPECS, joint=st.booleans(), groups=st.sampled_from(("block", "average")))
def test_kronecker_factors_are_hermitian(spec: Layer, joint: bool, groups: str) -> None:
    values, g = values_of(spec, dtype=torch.complex128), groups_of(spec)
    a = patches(spec, values["x"])
    a = a if groups == "block" else a.mean(1, keepdim=True)
    a = torch.cat([a, torch.ones_like(a[:, :, :1])], 2) if joint else a
    grad = positions_last(spec, values["grad_output"])
    grad = grad.unflatten(1, (g, -1)) if groups == "block" else grad[:, None]
    options = {"convention": "sum", "groups": groups}
    for kind in ("expand", "reduce"):
        rows, columns = ((v.sum(-1, keepdim=True) if kind == "reduce" else v) for v in (a, grad))
        found = tnconv.compile(spec, f"kfac_{kind}", bias="joint" if joint else "separate", **options)
        assert_close(found(values["x"]), torch.einsum("ngrt,ngst->grs", rows, rows.conj()), 1e-11)
        found = tnconv.compile(spec, f"kfac_grad_{kind}", **options)
        got = found(values["grad_output"])
        assert_close(got, torch.einsum("ngrt,ngst->grs", columns, columns.conj()), 1e-11)
        assert_close(got, got.mH, 1e-12)


@every_layer
@given(spec=st.one_of(pool_specs(), unfold_specs()))
def test_layers_without_a_weight(spec: Layer) -> None:
    """A real map: its gradient takes real and imaginary parts apart."""
    forward, vjp = tnconv.compile(spec), tnconv.compile(spec, "input_vjp")
    generator = torch.Generator().manual_seed(0)
    shape = [a.size if isinstance(a.size, int) else 2 for a in spec.network().terms[0].tensors[0].axes]
    x = torch.randn(shape, generator=generator, dtype=torch.complex128)
    assert_close(forward(x), torch.complex(forward(x.real), forward(x.imag)), 1e-12)
    y = forward(x)
    assert_close(vjp(grad_output=y), torch.complex(vjp(grad_output=y.real), vjp(grad_output=y.imag)), 1e-12)


@pytest.mark.parametrize("op", REFUSED)
def test_what_is_of_real_values_only_is_refused(op: str) -> None:
    function = tnconv.compile(ConvSpec(2, 3, 3, (5,)), op)
    values = values_of(ConvSpec(2, 3, 3, (5,)), dtype=torch.complex64)
    with pytest.raises(
        ArgumentError, match=f"has dtype torch.complex64, but '{op}' is defined for real values only"
    ):
        called(function, values)


# -- dtypes, options, backends -------------------------------------------------------------------------


def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, dtype=torch.cdouble)


def test_of_a_module() -> None:
    """The example that was found from outside."""
    conv = layer()
    x = torch.randn(2, 2, 6, 6, dtype=torch.cdouble)
    y = conv(x)
    seed = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, conv.weight, seed)
    assert_close(tnconv.compile(conv, "weight_vjp", input_size=(6, 6))(x, seed), gradient, 1e-12)
    norms = tnconv.compile(conv, "gradient_norm", input_size=(6, 6))(x, seed)
    assert norms.dtype == torch.float64 and (norms > 0).all()
    factor = tnconv.compile(conv, "kfac_expand", input_size=(6, 6))(x)
    assert_close(factor, factor.mH, 1e-15)
    assert torch.linalg.eigvalsh(factor).min() > -1e-12


@pytest.mark.parametrize("op", tnconv.ops.available())
def test_single_precision(op: str) -> None:
    """The dtype is kept, but for what is real by construction."""
    spec = ConvSpec(4, 6, 3, (6, 5), padding=1, groups=2, batch_size=2, bias=True)
    function = tnconv.compile(spec, op)
    if op in REFUSED:
        return
    sizes = {name: [axis.size for axis in axes] for name, axes in function._signature.axes.items()}
    sizes |= {"z": [3, *sizes["z"][1:]]} if "z" in sizes else {}
    values = {name: torch.randn(shape, dtype=torch.complex128) for name, shape in sizes.items()}
    want = function(**values)
    got = function(**{name: value.to(torch.complex64) for name, value in values.items()})
    assert got.dtype == (torch.float32 if op in REAL else torch.complex64)
    assert_close(got.to(want.dtype), want, 1e-5)


@pytest.mark.parametrize("op", ["weight_vjp", "kfac_expand", "gradient_norm", "ggn_diagonal", "ggn_gram"])
@pytest.mark.parametrize(
    "options", [{"backend": "reference"}, {"passes": "none"}, {"planner": "left-to-right"}]
)
def test_every_way_gives_the_same(op: str, options: dict[str, str]) -> None:
    spec = ConvSpec(2, 3, 2, (4, 5), padding=1, batch_size=4)
    values = values_of(spec, 4, torch.complex128)
    want = called(tnconv.compile(spec, op), values)
    got = called(tnconv.compile(spec, op, **options), values)
    assert got.dtype == want.dtype
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("op", ["kfac_expand", "gradient_norm", "ggn_diagonal"])
def test_in_chunks(op: str) -> None:
    spec = ConvSpec(2, 3, 2, (8, 8), padding=1, batch_size=8)
    values = values_of(spec, 8, torch.complex128)
    whole = tnconv.compile(spec, op, hints={"V": 3} if op == "ggn_diagonal" else None)
    limits = (whole.cost.at(V=3).peak_elements * 4 // part for part in range(2, 12))
    sliced = next(found for limit in limits if (found := within(spec, op, limit)).plan.slices)
    got, want = called(sliced, values), called(whole, values)
    assert got.dtype == want.dtype
    assert_close(got, want, 1e-12)


def within(spec: Layer, op: str, limit: int) -> tnconv.CompiledFunction:
    return tnconv.compile(spec, op, memory_limit=limit, hints={"V": 3} if op == "ggn_diagonal" else None)


@pytest.mark.parametrize("op", ["input_vjp", "weight_vjp", "kfac_reduce", "gradient_norm"])
def test_constants_are_conjugated_where_they_are_kept(op: str) -> None:
    spec = ConvSpec(2, 3, 2, (4, 5), padding=1)
    values = values_of(spec, dtype=torch.complex128)
    function = tnconv.compile(spec, op)
    for name in function.arguments:
        kept = tnconv.compile(spec, op, constant=[name])
        for _ in range(2):
            assert_close(called(kept, values), called(function, values), 1e-13)
    assert (
        tnconv.compile(spec, "input_vjp", constant=["weight"]).kept is None
    )  # a conjugate alone is not worth it


# -- derivatives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", ["forward", "weight_vjp", "gradient_norm", "kfac_expand", "ggn_gram", "ggn_diagonal"]
)
def test_planned_gradients_are_those_of_autograd(op: str) -> None:
    spec = ConvSpec(2, 3, 2, (4, 5), padding=1)
    values = values_of(spec, dtype=torch.complex128)
    plain, planned = tnconv.compile(spec, op), tnconv.compile(spec, op, training=True)
    found = []
    for function in (plain, planned):
        leaves = [values[name].clone().requires_grad_() for name in function.arguments]
        value = function(*leaves)
        seed = torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad(value, leaves, seed))
    for want, got in zip(*found, strict=True):
        assert_close(got, want, 1e-11)
    leaves = [values[name].clone().requires_grad_() for name in plain.arguments]
    assert torch.autograd.gradcheck(plain, leaves, fast_mode=True)


@pytest.mark.parametrize("bias", [False, True])
def test_drop_ins(bias: bool) -> None:
    x = torch.randn(2, 4, 6, 5, dtype=torch.complex128)
    pairs = [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias, dtype=x.dtype), tnconv.nn.Conv2d),
        (
            nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=bias, dtype=x.dtype),
            tnconv.nn.ConvTranspose2d,
        ),
    ]
    for theirs, kind in pairs:
        ours = kind.from_torch(theirs)
        outputs = []
        for module in (theirs, ours):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            outputs.append(
                (y, *torch.autograd.grad(y, (leaf, *module.parameters()), torch.ones_like(y) * (1 + 2j)))
            )
        for want, got in zip(*outputs, strict=True):
            assert_close(got, want, 1e-12)


def test_functions() -> None:
    x = torch.randn(2, 4, 6, 5, dtype=torch.complex128, requires_grad=True)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.complex128, requires_grad=True)
    for ours, theirs in (
        (tnconv.functional.conv2d, F.conv2d),
        (tnconv.functional.conv_transpose2d, F.conv_transpose2d),
    ):
        w = weight if ours is tnconv.functional.conv2d else weight.detach()[:4].clone().requires_grad_()
        found = []
        for function in (ours, theirs):
            y = function(x, w, groups=2)
            found.append((y, *torch.autograd.grad(y.abs().square().sum(), (x, w))))
        for got, want in zip(*found, strict=True):
            assert_close(got, want, 1e-11)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_factorised_layers() -> None:
    torch.manual_seed(0)
    module = tnconv.nn.CPConv2d(4, 6, 3, rank=3, padding=1).to(torch.complex128)
    x = torch.randn(2, 4, 6, 5, dtype=torch.complex128, requires_grad=True)
    y = module(x)
    dense = F.conv2d(x, module.to_dense(), module.bias, padding=1)
    assert_close(y, dense, 1e-12)
    seed = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, *module.parameters()), seed)
    want = torch.autograd.grad(dense, (x, *module.parameters()), seed)
    for one, two in zip(got, want, strict=True):
        assert_close(one, two, 1e-12)


def test_as_one_einsum() -> None:
    spec = ConvSpec(2, 3, 2, (4, 5), padding=1)
    values = values_of(spec, dtype=torch.complex128)
    for op in ("weight_vjp", "kfac_expand", "gradient_norm"):
        function = tnconv.compile(spec, op)
        given_ = [values[name] for name in function.arguments]
        equation, operands, shape = found = tnconv.to_einsum(function, *given_)
        value = torch.einsum(equation, *operands).reshape(shape)
        assert_close(value.real if found.real else value, function(*given_), 1e-12)
        expression = tnconv.to_einsum(function, N=2, dtype=torch.complex128)
        assert_close(expression.contract_expression()(*given_), function(*given_), 1e-12)


# -- the exact check -----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["weight_vjp", "kfac_reduce", "gradient_norm", "ntk"])
def test_exact(op: str) -> None:
    tnconv.compile(ConvSpec(2, 2, 2, (4,), padding=1, batch_size=2, bias=True), op, verify="exact")


@pytest.mark.parametrize(
    ("op", "spec"),
    [
        ("weight_vjp", ConvSpec(4, 8, 3, (9, 9))),
        ("input_vjp", ConvSpec(4, 8, 3, (9,))),
        ("ggn_diagonal", ConvSpec(4, 8, 3, (9, 9))),
    ],
)
def test_a_program_that_loses_a_conjugate_is_caught(
    op: str, spec: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emitter, "conj", lambda _em, value, _method="conj": replace(value, conj=False))
    with pytest.raises(LoweringError, match="has a value that differs from the reference"):
        tnconv.compile(spec, op, verify="exact")


@pytest.mark.parametrize(
    ("name", "spec"), [("gram", ConvSpec(16, 8, 1, (9, 9))), ("correlate", ConvSpec(64, 8, 3, (20, 20)))]
)
def test_a_kernel_that_loses_a_conjugate_is_caught(
    name: str, spec: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(runtime, name)
    assert f"rt.{name}(" in tnconv.compile(spec, "kfac_expand").source
    monkeypatch.setattr(runtime, name, lambda *values, **options: runtime.plain(right, *values, **options))
    with pytest.raises(LoweringError, match="has a value that differs from the reference"):
        tnconv.compile(spec, "kfac_expand", verify="exact")


def test_planned_gradients_without_conjugates_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ConvSpec(2, 3, 2, (4, 5), padding=1)
    tnconv.compile(spec, training=True, verify="exact")
    monkeypatch.setattr(backward, "Operand", lambda source, axes, _conj: Operand(source, axes))
    with pytest.raises(LoweringError, match="a planned gradient of a small instance differs from autograd's"):
        tnconv.compile(spec, training=True, verify="exact")


# -- texts ---------------------------------------------------------------------------------------------


def test_texts_say_what_is_conjugated() -> None:
    function = tnconv.compile(layer(), "gradient_norm", input_size=(6, 6))
    text = str(function.network)
    assert "x             = input{conj} " in text
    assert "grad_output_2 = cotangent{of=grad_output, conj}" in text
    assert "output{real} " in text
    assert tnconv.compile(tnconv.ir.parse(text)).network == function.network
    assert "return real(result)" in str(function.plan)
    assert tnconv.planner.parse_plan(str(function.plan)) == function.plan


def test_both_halves_are_computed_once() -> None:
    """V of a diagonal is one step, and read as it is and conjugated."""
    streamed = tnconv.compile(ConvSpec(32, 32, 3, (8, 8), padding=1), "ggn_diagonal")
    assert [step.result for step in streamed.plan.steps] == ["result"]
    once = 32 * 32 * 9 * 64 + 32 * 32 * 9  # a product of x and z, and its squares
    assert f"# {once}*N*V multiplications" in str(streamed.plan)
    function = tnconv.compile(ConvSpec(4, 4, 3, (6, 6)), "ggn_diagonal")
    assert [step.result for step in function.plan.steps] == ["t1", "result"]
    one, two = function.plan.steps[-1].operands
    assert (one.source, one.conj, two.source, two.conj) == ("t1", False, "t1", True)
