"""The operations of a layer beyond the first seven, against autograd and torch.func over random layers of each kind.

A few layers of each; `make fuzz` compiles and checks thousands, with options.
"""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs
from tests.ops.layer_values import (
    applied,
    channel_axis,
    eigenvalues,
    groups_of,
    jacobian,
    patches,
    positions_last,
    values_of,
    wanted,
)
from tests.ops.test_operations import assert_close, called
from tnconv import ConvSpec, PoolSpec
from tnconv.errors import ArgumentError, LoweringError, OperationError, PlanError
from tnconv.ir import Sum, parse_network
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs

SPECS = st.one_of(
    conv_specs(max_dims=2, max_channels=2, max_output=3),
    conv_transpose_specs(max_dims=2),
    linear_specs(max_dims=2),
)

PARAMETER = (
    "per_example_weight_vjp", "gradient_norm", "weight_jacobian", "ntk", "hessian_diagonal_bl89_input",
    "hessian_diagonal_bl89_weight", "ggn_diagonal", "ggn_gram", "ggn_mini_block", "ggn_mini_block_kernel", "ggn_block",
    "ekfac_eigenvalues",
)  # fmt: skip


@pytest.mark.parametrize("op", PARAMETER)
@settings(max_examples=7, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_equals_its_definition(op: str, spec: Layer) -> None:
    values = values_of(spec)
    assert_close(called(tnconv.compile(spec, op), values), wanted(spec, op, values), 1e-11)


JOINT = tuple(op for op in PARAMETER if "joint" in tnconv.ops.get(op).options)


@pytest.mark.parametrize("op", JOINT)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_with_a_joint_bias(op: str, spec: Layer) -> None:
    values = values_of(spec, joint=True)
    assert_close(
        called(tnconv.compile(spec, op, bias="joint"), values), wanted(spec, op, values, True), 1e-11
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_tangents_unfold_and_fold(spec: Layer) -> None:
    values = values_of(spec)
    x, weight = values["x"], values["weight"]
    for op, name in (("input_jvp", "x"), ("weight_jvp", "weight")):
        other = "weight" if name == "x" else "x"
        tangent = values[name] * 2 + 1
        got = tnconv.compile(spec, op)(**{other: values[other], "tangent": tangent})
        want = applied(spec, tangent, weight) if name == "x" else applied(spec, x, tangent)
        assert_close(got, want, 1e-11)
    leaf = x.clone().requires_grad_()
    columns = patches(spec, leaf).flatten(1, 2)
    assert_close(tnconv.compile(spec, "unfold")(x).flatten(2), columns.detach(), 1e-11)
    unfolded = tnconv.compile(spec, "unfold")(x)
    cotangent = torch.randn(unfolded.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    want = torch.autograd.grad(columns, leaf, cotangent.reshape(columns.shape))[0]
    assert_close(tnconv.compile(spec, "fold")(columns=cotangent), want, 1e-11)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_toeplitz(spec: Layer) -> None:
    values, g = values_of(spec), groups_of(spec)
    x, axis = values["x"], channel_axis(spec)
    matrix = tnconv.compile(spec, "toeplitz")(weight=values["weight"])
    blocks = x.movedim(axis, 1).reshape(len(x), g, -1)
    y = torch.einsum("gts,ngs->ngt", matrix.reshape(g, -1, blocks.shape[2]), blocks)
    want = applied(spec, x, values["weight"]).movedim(axis, 1)
    assert matrix.shape[: matrix.dim() - x.dim() + 1] == (g, want.shape[1] // g, *want.shape[2:])
    assert_close(y.reshape(want.shape), want, 1e-11)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_input_jacobian(spec: Layer) -> None:
    values = values_of(spec)
    fixed = replace(spec, batch_size=2)  # type: ignore[type-var]
    assert_close(
        tnconv.compile(fixed, "input_jacobian")(weight=values["weight"]), jacobian(spec, values, "x"), 1e-11
    )
    with pytest.raises(LoweringError, match=r"size symbol 'N' cannot be read off .* batch_size=8"):
        tnconv.compile(spec, "input_jacobian")


@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_kronecker_factors(spec: Layer) -> None:
    values, g = values_of(spec), groups_of(spec)
    a = patches(spec, values["x"])
    ones = torch.cat([a, torch.ones_like(a[:, :, :1])], 2)
    mean = a.mean(1, keepdim=True)
    both = torch.cat([mean, torch.ones_like(mean[:, :, :1])], 2)
    grad = positions_last(spec, values["grad_output"])
    cases = [
        (a, {}),
        (ones, {"bias": "joint"}),
        (mean, {"groups": "average"}),
        (both, {"bias": "joint", "groups": "average"}),
    ]
    for reduce, op in ((False, "kfac_expand"), (True, "kfac_reduce")):
        for rows, options in cases:
            rows = rows.sum(-1, keepdim=True) if reduce else rows  # noqa: PLW2901
            want = torch.einsum("ngrt,ngst->grs", rows, rows)
            got = tnconv.compile(spec, op, convention="sum", **options)(values["x"])  # type: ignore[arg-type]
            assert_close(got, want, 1e-11)
        for groups, per in (("block", grad.unflatten(1, (g, -1))), ("average", grad[:, None])):
            per = per.sum(-1, keepdim=True) if reduce else per  # noqa: PLW2901
            want = torch.einsum("ngrt,ngst->grs", per, per) / len(grad)
            name = op.replace("kfac", "kfac_grad")
            assert_close(tnconv.compile(spec, name, groups=groups)(values["grad_output"]), want, 1e-11)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(spec=SPECS, joint=st.booleans(), convention=st.sampled_from(["kfc", "kfac_jax", "ekfac", "sum"]))
def test_eigenvalues_of_one_block(spec: Layer, joint: bool, convention: str) -> None:
    """The mean of the groups has one basis for the rows of all of them; conventions scale as they do the factors."""
    values = values_of(spec, joint=joint)
    rows = len(values["bias"])
    values["q_grad"] = torch.randn(
        1, rows, rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    values["q_input"] = values["q_input"][:1]
    bias = "joint" if joint else "separate"
    function = tnconv.compile(spec, "ekfac_eigenvalues", bias=bias, groups="average", convention=convention)
    positions = positions_last(spec, values["grad_output"]).shape[-1]
    scale = {"kfc": 1 / 2, "kfac_jax": 1 / (2 * positions), "ekfac": 1 / (2 * positions), "sum": 1.0}
    assert_close(called(function, values), eigenvalues(spec, values, joint) * scale[convention], 1e-11)
    with pytest.raises(OperationError, match="'einconv' does not define the scale of 'ekfac_eigenvalues'"):
        tnconv.compile(spec, "ekfac_eigenvalues", convention="einconv")


@pytest.mark.parametrize("bias", ["separate", "joint"])
def test_eigenvalues_in_the_basis_of_the_factors(bias: str) -> None:
    """They are the second moments of the layer's gradients in that basis: not negative, with the trace of the GGN."""
    spec = ConvSpec(4, 6, 3, (4, 5), padding=1, stride=2, groups=2, bias=True)
    values = values_of(spec, 5, torch.complex128)
    ops, x = ("kfac_expand", "kfac_grad_expand"), values["x"]
    values["q_input"] = torch.linalg.eigh(tnconv.compile(spec, ops[0], bias=bias)(x))[1]
    values["q_grad"] = torch.linalg.eigh(tnconv.compile(spec, ops[1])(values["grad_output"]))[1]
    function = tnconv.compile(spec, "ekfac_eigenvalues", bias=bias)
    assert function.arguments == ("x", "z", "q_grad", "q_input")
    got = called(function, values)
    trace = called(tnconv.compile(spec, "ggn_diagonal", bias=bias), values).sum() / len(x)
    assert got.min() >= 0 and torch.isclose(got.sum(), trace, rtol=1e-12, atol=0)


def test_eigenvalues_are_exact() -> None:
    tnconv.compile(ConvSpec(1, 2, 2, 3, padding=1), "ekfac_eigenvalues", verify="exact")


def test_eigenvalues_of_a_layer_with_a_single_row() -> None:
    texts = ("x = input [n, c]\n weight = parameter [c]", "bias = parameter []")
    terms = [parse_network(f"network {t[:1]} {{\n index [n=N, c=3]\n {t}\n output [n]\n}}") for t in texts]
    x, z = torch.randn(2, 3).double(), torch.randn(4, 2).double()
    for joint in (False, True):
        bias = "joint" if joint else "separate"
        function = tnconv.compile(Sum("dot", tuple(terms)), "ekfac_eigenvalues", bias=bias)
        rows = torch.cat([x, torch.ones(2, 1)], 1) if joint else x
        matrix = torch.randn(1, rows.shape[1], rows.shape[1]).double()
        got = function(x=x, z=z, q_grad=torch.full((1, 1, 1), 2.0).double(), q_input=matrix)
        want = torch.einsum("vn,nr,xrs->vns", 2 * z, rows, matrix).square().sum((0, 1)) / 2
        assert_close(got, want[None, None], 1e-12)


# -- inputs without a batch axis -----------------------------------------------------------------------


EVERY = tuple(
    op for op in tnconv.ops.available() if op not in ("input_jacobian", "fold", "toeplitz", "bias_vjp")
)


@pytest.mark.parametrize("op", EVERY)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_without_a_batch_axis(op: str, spec: Layer) -> None:
    """One example is a batch of one, with that axis left out of arguments and result."""
    values = values_of(spec, 1)
    values["tangent"] = values["x" if op == "input_jvp" else "weight"]
    function = tnconv.compile(spec, op)
    batched = {"x": 0, "grad_output": 0, "hessian_output": 0, "z": 1}
    if op == "input_jvp":
        batched["tangent"] = 0
    single = {n: values[n].squeeze(batched[n]) if n in batched else values[n] for n in function.arguments}
    got, want = function(**single), called(function, values)
    assert_close(got.reshape(want.shape), want)
    examples = sum(leg.startswith("n") for leg in tnconv.ops.get(op).legs.split())
    assert got.dim() == want.dim() - examples


def test_every_argument_has_a_batch_axis_or_none() -> None:
    function = tnconv.compile(ConvSpec(2, 3, 3, (5,), padding=1), "weight_vjp")
    x, y = torch.randn(2, 5), torch.randn(1, 3, 5)
    assert function(x, y[0]).shape == (3, 2, 3)
    with pytest.raises(ArgumentError, match=r"argument 'x' has 2 axes \(2, 5\) but 3 are needed"):
        function(x, y)
    fixed = tnconv.compile(ConvSpec(2, 3, 3, (5,), batch_size=4), "unfold")
    with pytest.raises(ArgumentError, match=r"has size 1 on axis 0 .* but 4 is needed"):
        fixed(x)


@pytest.mark.parametrize("op", EVERY)
def test_empty_batch(op: str) -> None:
    spec = ConvSpec(4, 2, 3, (5, 4), stride=2, padding=1, groups=2, bias=True)
    values = values_of(spec, 0)
    values["tangent"] = values["x" if op == "input_jvp" else "weight"]
    got = called(tnconv.compile(spec, op), values)
    legs = re.findall(r"\([^)]*\)|\S+", tnconv.ops.get(op).legs)
    axes = [size for leg, size in zip(legs, got.shape, strict=False) if leg in ("n", "n'")]
    assert axes == [0] * (legs.count("n") + legs.count("n'"))
    if "n" not in legs:  # a sum over no examples; divided by their number it is no number, as torch's mean
        assert torch.isnan(got).all() if tnconv.ops.get(op).factor else not got.any()


# -- options -------------------------------------------------------------------------------------------


def test_options_that_do_not_fit() -> None:
    spec = ConvSpec(2, 2, 3, (5,), padding=1)
    with pytest.raises(OperationError, match="'unfold' has no parameter to join"):
        tnconv.compile(spec, "unfold", bias="joint")
    with pytest.raises(OperationError, match="'weight_vjp' is no Kronecker factor"):
        tnconv.compile(spec, "weight_vjp", groups="average")
    with pytest.raises(OperationError, match="groups='mean' is not known; use 'block' or 'average'"):
        tnconv.compile(spec, "kfac_expand", groups="mean")
    with pytest.raises(OperationError, match="bias='yes' is not known; use 'separate' or 'joint'"):
        tnconv.compile(spec, "kfac_expand", bias="yes")
    with pytest.raises(OperationError, match="needs a layer with a weight"):
        tnconv.compile(tnconv.compile(spec, "unfold").network, "weight_vjp")
    for op in ("ggn_block", "ggn_mini_block", "toeplitz", "kfac_expand", "ntk"):
        with pytest.raises(OperationError, match=f"{op!r} needs a layer with a weight"):
            tnconv.compile(PoolSpec(2, 2, (4, 4)), op)


def test_memory_limit() -> None:
    spec = ConvSpec(64, 64, 3, (14, 14), padding=1, batch_size=4)
    free = tnconv.compile(spec, "gradient_norm")
    peak = int(free.cost.peak_elements) * 4
    tight = tnconv.compile(spec, "gradient_norm", memory_limit=peak)
    assert int(tight.cost.peak_elements) * 4 <= peak
    with pytest.raises(PlanError, match="memory_limit is"):
        tnconv.compile(spec, "gradient_norm", memory_limit="1KiB")
