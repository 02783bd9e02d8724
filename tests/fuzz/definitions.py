"""Every operation by its definition in docs/operations.md, from PyTorch's layers and their derivatives."""

from math import prod
from typing import Any

import torch
from torch import Tensor

import tnconv
from tests.ops.layer_values import applied, eigenvalues, groups_of, jacobian, patches, positions_last, wanted
from tnconv.ops.conventions import CONVENTIONS
from tnconv.spec import PoolSpec, UnfoldSpec
from tnconv.spec.layer_spec import Layer


def defined(
    spec: Layer, op: str, arguments: dict[str, Tensor], bias: str = "separate", **options: Any
) -> Tensor | None:
    """The value of an operation; None where nothing but tnconv defines it.

    Args:
        spec: the layer.
        op: the operation.
        arguments: real tensors by name.
        bias: as for `tnconv.compile`.
        options: likewise, `groups` and `convention`.
    """
    if isinstance(spec, PoolSpec | UnfoldSpec) or op == "toeplitz":
        return None
    joint = bias == "joint"
    if op.startswith("kfac"):
        return _factor(spec, op, arguments, joint, **options)
    values = _filled(spec, arguments)
    x, weight = values["x"], values["weight"]
    if op == "ekfac_eigenvalues":
        positions = prod(positions_last(spec, values["grad_output"]).shape[2:])
        scale = _scale(op, options.get("convention", "kfac"), len(x), positions)
        return eigenvalues(spec, values, joint) * scale
    if op == "forward":
        return applied(spec, x, weight, arguments.get("bias"))
    if op == "input_jvp":
        return applied(spec, arguments["tangent"], weight)
    if op == "weight_jvp":
        return None if joint else applied(spec, x, arguments["tangent"])
    if op in ("input_vjp", "bias_vjp"):
        leaf = values["x" if op == "input_vjp" else "bias"].clone().requires_grad_()
        y = applied(spec, leaf, weight) if op == "input_vjp" else applied(spec, x, weight, leaf)
        return torch.autograd.grad(y, leaf, arguments["grad_output"])[0]
    if op == "input_jacobian":
        return jacobian(spec, values, "x")
    if op in ("unfold", "fold"):
        leaf = x.clone().requires_grad_()
        columns = patches(spec, leaf).flatten(1, 2)
        if op == "unfold":
            return columns.detach()
        return torch.autograd.grad(columns, leaf, arguments["columns"].reshape(columns.shape))[0]
    return wanted(spec, op, values, joint)


def _filled(spec: Layer, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments, and something in place of those that an operation does not read."""
    batch = next(
        (arguments[n].shape[n == "z"] for n in ("x", "grad_output", "hessian_output", "z", "columns", "tangent")
         if n in arguments), 1,
    )  # fmt: skip
    layer = spec.network(bias=True)
    found = {t.argument: t.axes for term in layer.terms for t in term.tensors}
    found["grad_output"] = found["hessian_output"] = layer.output
    shapes = {n: [a.size if isinstance(a.size, int) else batch for a in axes] for n, axes in found.items()}
    shapes["z"] = [1, *shapes["grad_output"]]
    return {n: torch.zeros(shape, dtype=torch.float64) for n, shape in shapes.items()} | arguments


def _factor(
    spec: Layer,
    op: str,
    arguments: dict[str, Tensor],
    joint: bool,
    groups: str = "block",
    convention: str = "kfac",
) -> Tensor:
    """A Kronecker factor `[g, r, r]`."""
    output = op.startswith("kfac_grad")
    count = groups_of(spec)
    if output:
        rows = positions_last(spec, arguments["grad_output"])
        rows = rows[:, None] if groups == "average" else rows.unflatten(1, (count, -1))
    else:
        rows = patches(spec, arguments["x"])
        rows = rows.mean(1, keepdim=True) if groups == "average" else rows
        rows = torch.cat([rows, torch.ones_like(rows[:, :, :1])], 2) if joint else rows
    examples, positions = len(rows), prod(rows.shape[3:])
    rows = rows.sum(-1, keepdim=True) if op.endswith("reduce") else rows
    return torch.einsum("ngrt,ngst->grs", rows, rows) * _scale(op, convention, examples, positions)


def _scale(op: str, convention: str, examples: int, positions: int) -> float:
    factor = tnconv.ops.get(op).factor
    assert factor is not None
    over = CONVENTIONS[convention][factor]
    return 1 / (examples**over.examples * positions**over.positions)
