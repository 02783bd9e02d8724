"""What PyTorch says about any layer: its value, its patches, its Jacobians, by definition."""

from collections.abc import Callable
from functools import singledispatch
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.test_operations import convolved
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.spec.layer_spec import Layer

TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@singledispatch
def applied(spec: Layer, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The output of a layer."""
    raise TypeError(spec)


applied.register(ConvSpec)(convolved)


@applied.register
def _(spec: LinearSpec, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@applied.register
def _(spec: ConvTransposeSpec, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # Without torch's padding, so that each side is cut off on its own.
    y = TRANSPOSED[spec.spatial_dims](
        x, weight, None, stride=spec.strides, dilation=spec.dilations, groups=spec.groups
    )
    y = F.pad(y, [side for extra in reversed(spec.output_paddings) for side in (0, extra)])
    for axis, (left, _) in enumerate(spec.paddings, 2):
        y = y.narrow(axis, left, spec.output_sizes[axis - 2])
    return y if bias is None else y + bias.view(-1, *[1] * spec.spatial_dims)


def groups_of(spec: Layer) -> int:
    return getattr(spec, "groups", 1)


def channel_axis(spec: Layer) -> int:
    """The axis of x and y that has the channels."""
    return -1 if isinstance(spec, LinearSpec) else 1


def rows_of(spec: Layer, weight: Tensor) -> Tensor:
    """A weight as `[(g d), (c k)]`; that of a transposed convolution is stored `[(g c), d, k]`."""
    if isinstance(spec, ConvTransposeSpec):
        weight = weight.unflatten(0, (spec.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def weight_of(spec: Layer, rows: Tensor, shape: torch.Size) -> Tensor:
    """The weight whose rows these are."""
    if isinstance(spec, ConvTransposeSpec):
        g, (gc, d) = spec.groups, shape[:2]
        return rows.reshape(g, d, gc // g, *shape[2:]).transpose(1, 2).reshape(shape)
    return rows.reshape(shape)


def positions_last(spec: Layer, y: Tensor) -> Tensor:
    """An output, or a stack of them, as `[…, n, (g d), t]`."""
    if isinstance(spec, LinearSpec):
        axes = len(spec.input_sizes)
        y = y.movedim(-1, -1 - axes)
        return y.flatten(y.dim() - axes) if axes else y[..., None]
    return y.flatten(y.dim() - spec.spatial_dims)


def patches(spec: Layer, x: Tensor) -> Tensor:
    """The unfolded input `[n, g, (c k), t]`: the derivative of the first output channel of each group."""
    g = groups_of(spec)
    shape = values_of(spec, 1)["weight"].shape
    weight = torch.zeros(shape, dtype=x.dtype)

    def channels(w: Tensor) -> Tensor:
        y = positions_last(spec, applied(spec, x, w))
        return y.unflatten(1, (g, -1))[:, :, 0]  # [n, g, t]

    jacobian = derivative(channels, weight)  # [n, g, t, *weight]
    rows = torch.func.vmap(lambda w: rows_of(spec, w))(jacobian.flatten(0, 2))
    rows = rows.reshape(*jacobian.shape[:3], g, -1, rows.shape[-1])[:, :, :, :, 0]  # [n, g, t, g', (c k)]
    return torch.einsum("ngtgr->ngrt", rows)


def derivative(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The Jacobian `[*y, *x]` of an affine function, without conjugation; `torch.func` has none of complex values."""
    if not point.is_complex():
        found: Tensor = torch.func.jacrev(function)(point)
        return found
    cells = torch.eye(point.numel(), dtype=point.dtype).view(-1, *point.shape)
    origin = function(torch.zeros_like(point))
    columns = torch.stack([function(cell) - origin for cell in cells], -1)
    return columns.reshape(*origin.shape, *point.shape)


def values_of(
    spec: Layer, batch: int = 2, dtype: torch.dtype = torch.float64, joint: bool = False
) -> dict[str, Tensor]:
    """Random arguments of every operation, without groups="average"; `joint` as for `wanted`."""
    tensors = {t.argument: t.axes for term in spec.network(bias=True).terms for t in term.tensors}
    sizes = {
        name: [a.size if isinstance(a.size, int) else batch for a in axes] for name, axes in tensors.items()
    }
    sizes["grad_output"] = [
        a.size if isinstance(a.size, int) else batch for a in spec.network(bias=False).output
    ]
    sizes["hessian_output"] = sizes["grad_output"]
    sizes["z"] = [3, *sizes["grad_output"]]
    g, rows, columns = groups_of(spec), sizes["bias"][0], prod(sizes["weight"])
    sizes["q_grad"] = [g, rows // g, rows // g]
    sizes["q_input"] = [g, columns // rows + joint, columns // rows + joint]
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(s, generator=generator, dtype=dtype) for name, s in sizes.items()}


def gradients(spec: Layer, values: dict[str, Tensor], cotangent: Tensor, joint: bool) -> Tensor:
    """Per-example gradients `[n, *weight]`, or `[n, C_out, R + 1]` with the bias."""
    found = []
    for x, seed in zip(values["x"], cotangent, strict=True):
        weight, bias = (values[name].clone().requires_grad_() for name in ("weight", "bias"))
        y = applied(spec, x[None], weight, bias)
        by_weight, by_bias = torch.autograd.grad(y, (weight, bias), seed[None])
        found.append(torch.cat([rows_of(spec, by_weight), by_bias[:, None]], 1) if joint else by_weight)
    return torch.stack(found)


def jacobian(spec: Layer, values: dict[str, Tensor], wrt: str, joint: bool = False) -> Tensor:
    """`[*y, *wrt]`, not conjugated."""
    x, weight, bias = values["x"], values["weight"], values["bias"]
    if joint:
        matrix = torch.cat([rows_of(spec, weight), bias[:, None]], 1)

        def of_matrix(m: Tensor) -> Tensor:
            return applied(spec, x, weight_of(spec, m[:, :-1], weight.shape), m[:, -1])

        return derivative(of_matrix, matrix)
    if wrt == "x":
        return derivative(lambda v: applied(spec, v, weight), x)
    return derivative(lambda w: applied(spec, x, w), weight)


def eigenvalues(spec: Layer, values: dict[str, Tensor], joint: bool = False) -> Tensor:
    """`Σ_{n,v} |Q_Gᴴ V[v,n] Q_A|²`, from the Jacobian of each example; a matrix for each block of `q_grad`."""
    z, left, right = values["z"], values["q_grad"], values["q_input"]
    by_cell = jacobian(spec, values, "weight", joint).flatten(1, z.dim() - 2)  # [n, cells of y, *weight]
    matrices = by_cell if joint else torch.func.vmap(torch.func.vmap(lambda w: rows_of(spec, w)))(by_cell)
    found = torch.einsum("vny,nydr->vndr", z.flatten(2), matrices.conj())
    found = found.unflatten(2, (len(left), -1))
    return torch.einsum("gde,vngdr,grs->vnges", left.conj(), found, right).abs().square().sum((0, 1))


def wanted(spec: Layer, op: str, values: dict[str, Tensor], joint: bool = False) -> Tensor:
    """The value of an operation by its definition, from PyTorch's derivatives."""
    grad, z, h = values["grad_output"], values["z"], values["hessian_output"]
    if op in ("per_example_weight_vjp", "gradient_norm"):
        found = gradients(spec, values, grad, joint)
        return found if op == "per_example_weight_vjp" else found.flatten(1).abs().square().sum(1)
    if op == "weight_vjp":
        return gradients(spec, values, grad, joint).sum(0)
    if op == "weight_jacobian":
        return jacobian(spec, values, "weight", joint)
    if op == "ntk":
        rows = jacobian(spec, values, "weight", joint).flatten(grad.dim())
        rows = rows.flatten(1, -2) if rows.dim() > 2 else rows
        return torch.einsum("njp,mkp->njmk", rows.conj(), rows)
    if op.startswith("hessian_diagonal"):
        squares = jacobian(spec, values, "x" if op.endswith("input") else "weight", joint).square()
        return torch.tensordot(h, squares, grad.dim())
    if op == "ekfac_eigenvalues":
        return eigenvalues(spec, values, joint) / len(values["x"])
    rows = torch.stack([gradients(spec, values, row, joint) for row in z])  # [v, n, *weight]
    if op == "ggn_diagonal":
        return rows.abs().square().sum((0, 1))
    if op == "ggn_gram":
        return torch.einsum("vnp,wmp->vnwm", rows.flatten(2).conj(), rows.flatten(2))
    if op == "ggn_block":
        return torch.einsum("vnp,vnq->pq", rows.flatten(2), rows.flatten(2).conj())
    if op == "ggn_mini_block_kernel":
        cells = prod(getattr(spec, "kernel_sizes", ()))
        kernels = rows.reshape(*rows.shape[:2], -1, cells)
        return torch.einsum("vnpk,vnpl->pkl", kernels, kernels.conj())
    assert op == "ggn_mini_block"
    if not joint:
        rows = torch.stack([torch.stack([rows_of(spec, w) for w in each]) for each in rows])
    return torch.einsum("vndr,vnds->drs", rows, rows.conj())
