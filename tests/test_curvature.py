"""The operations of a layer beyond the first seven, against autograd and torch.func over random layers."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import tnconv
from tests.test_operations import assert_close, blocks, called, convolved, tensors, unfolded
from tnconv import ConvSpec
from tnconv.errors import OperationError, PlanError
from tnconv.testing import conv_specs

SPECS = conv_specs(max_dims=2, max_channels=2, max_output=3)


def values_of(spec: ConvSpec, batch: int = 2) -> dict[str, Tensor]:
    values = tensors(spec, batch)
    generator = torch.Generator().manual_seed(1)
    y = values["grad_output"]
    values["z"] = torch.randn(3, *y.shape, generator=generator, dtype=y.dtype)
    values["hessian_output"] = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    values["columns"] = torch.randn(unfolded(spec, values["x"]).shape, generator=generator, dtype=y.dtype)
    return values


def gradients(spec: ConvSpec, values: dict[str, Tensor], cotangent: Tensor, joint: bool) -> Tensor:
    """Per-example gradients `[n, *weight]`, or `[n, C_out, R + 1]` with the bias."""
    rows = []
    for x, seed in zip(values["x"], cotangent, strict=True):
        weight, bias = (values[name].clone().requires_grad_() for name in ("weight", "bias"))
        y = convolved(spec, x[None], weight, bias)
        by_weight, by_bias = torch.autograd.grad(y, (weight, bias), seed[None])
        rows.append(torch.cat([by_weight.flatten(1), by_bias[:, None]], 1) if joint else by_weight)
    return torch.stack(rows)


def jacobian(spec: ConvSpec, values: dict[str, Tensor], wrt: str, joint: bool = False) -> Tensor:
    """`[*y, *wrt]` by reverse mode."""
    weight, bias = values["weight"], values["bias"]
    if joint:
        matrix = torch.cat([weight.flatten(1), bias[:, None]], 1)
        return torch.func.jacrev(
            lambda m: convolved(spec, values["x"], m[:, :-1].reshape(weight.shape), m[:, -1])
        )(matrix)
    if wrt == "x":
        return torch.func.jacrev(lambda x: convolved(spec, x, weight))(values["x"])
    return torch.func.jacrev(lambda w: convolved(spec, values["x"], w))(weight)


def wanted(spec: ConvSpec, op: str, values: dict[str, Tensor], joint: bool = False) -> Tensor:
    """The value by its definition, from PyTorch's derivatives."""
    grad, z, h = values["grad_output"], values["z"], values["hessian_output"]
    if op in ("per_example_weight_vjp", "gradient_norm"):
        found = gradients(spec, values, grad, joint)
        return found if op == "per_example_weight_vjp" else found.flatten(1).square().sum(1)
    if op == "weight_jacobian":
        return jacobian(spec, values, "weight", joint)
    if op == "ntk":
        rows = jacobian(spec, values, "weight", joint).flatten(grad.dim()).flatten(1, -2)
        return torch.einsum("njp,mkp->njmk", rows, rows)
    if op.startswith("hessian_diagonal"):
        squares = jacobian(spec, values, "x" if op.endswith("input") else "weight", joint).square()
        return torch.tensordot(h, squares, grad.dim())
    rows = torch.stack([gradients(spec, values, row, joint) for row in z])
    if op == "ggn_diagonal":
        return rows.square().sum((0, 1))
    if op == "ggn_gram":
        return torch.einsum("vnp,wmp->vnwm", rows.flatten(2), rows.flatten(2))
    if op == "ggn_mini_block":
        return torch.einsum("vndr,vnds->drs", rows.flatten(3), rows.flatten(3))
    if op == "ggn_mini_block_kernel":
        kernels = rows.flatten(2, 3).flatten(3)
        return torch.einsum("vnpk,vnpl->pkl", kernels, kernels)
    assert op == "ggn_block"
    return torch.einsum("vnp,vnq->pq", rows.flatten(2), rows.flatten(2))


PARAMETER = (
    "per_example_weight_vjp", "gradient_norm", "weight_jacobian", "ntk", "hessian_diagonal_bl89_input",
    "hessian_diagonal_bl89_weight", "ggn_diagonal", "ggn_gram", "ggn_mini_block", "ggn_mini_block_kernel", "ggn_block",
)  # fmt: skip


@pytest.mark.parametrize("op", PARAMETER)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_equals_its_definition(op: str, spec: ConvSpec) -> None:
    values = values_of(spec)
    assert_close(called(tnconv.compile(spec, op), values), wanted(spec, op, values), 1e-11)


JOINT = tuple(op for op in PARAMETER if "joint" in tnconv.ops.get(op).options)


@pytest.mark.parametrize("op", JOINT)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_with_a_joint_bias(op: str, spec: ConvSpec) -> None:
    values = values_of(spec)
    assert_close(
        called(tnconv.compile(spec, op, bias="joint"), values), wanted(spec, op, values, True), 1e-11
    )


@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_tangents_fold_and_toeplitz(spec: ConvSpec) -> None:
    values = values_of(spec)
    x, weight = values["x"], values["weight"]
    for op, tangent in (("input_jvp", x * 2 + 1), ("weight_jvp", weight * 2 + 1)):
        got = tnconv.compile(spec, op)(
            **{
                ("weight" if op == "input_jvp" else "x"): values["weight" if op == "input_jvp" else "x"],
                "tangent": tangent,
            }
        )
        want = convolved(spec, tangent, weight) if op == "input_jvp" else convolved(spec, x, tangent)
        assert_close(got, want, 1e-11)
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(unfolded(spec, leaf), leaf, values["columns"])[0]
    assert_close(tnconv.compile(spec, "fold")(columns=values["columns"]), want, 1e-11)
    matrix = tnconv.compile(spec, "toeplitz")(weight=weight)
    cells = matrix.reshape(spec.groups, -1, spec.in_channels // spec.groups * prod(spec.input_sizes))
    y = torch.einsum("gts,ngs->ngt", cells, x.reshape(len(x), spec.groups, -1))
    assert_close(y.reshape(values["grad_output"].shape), convolved(spec, x, weight), 1e-11)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_input_jacobian(spec: ConvSpec) -> None:
    from dataclasses import replace  # noqa: PLC0415

    values = values_of(spec)
    fixed = replace(spec, batch_size=2)
    assert_close(
        tnconv.compile(fixed, "input_jacobian")(weight=values["weight"]), jacobian(spec, values, "x"), 1e-11
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(spec=SPECS)
def test_factors_joint_averaged_and_of_the_output(spec: ConvSpec) -> None:
    values = values_of(spec)
    a = blocks(spec, values["x"])
    ones = torch.cat([a, torch.ones_like(a[:, :, :1])], 2)
    mean = a.mean(1, keepdim=True)
    both = torch.cat([mean, torch.ones_like(mean[:, :, :1])], 2)
    grad = values["grad_output"].flatten(2)
    cases = [
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
        for groups, per in (("block", grad.unflatten(1, (spec.groups, -1))), ("average", grad[:, None])):
            per = per.sum(-1, keepdim=True) if reduce else per  # noqa: PLW2901
            want = torch.einsum("ngrt,ngst->grs", per, per) / len(grad)
            name = op.replace("kfac", "kfac_grad")
            assert_close(tnconv.compile(spec, name, groups=groups)(values["grad_output"]), want, 1e-11)


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


def test_memory_limit() -> None:
    spec = ConvSpec(64, 64, 3, (14, 14), padding=1, batch_size=4)
    free = tnconv.compile(spec, "gradient_norm")
    peak = int(free.cost.peak_elements) * 4
    tight = tnconv.compile(spec, "gradient_norm", memory_limit=peak)
    assert int(tight.cost.peak_elements) * 4 <= peak
    with pytest.raises(PlanError, match="memory_limit is"):
        tnconv.compile(spec, "gradient_norm", memory_limit="1KiB")
