"""Each operation as PyTorch users write it: `F.conv*`, `torch.nn.grad`, im2col and einsum.

Where the fastest order depends on the layer (gradient norms, Gram matrices), the rule is the one of "ghost
clipping" (arXiv 2110.05679, 2205.10683): through the gradients or through T x T matrices, whichever multiplies less.
"""

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.base import Peer, Problem

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_INPUTS = {1: torch.nn.grad.conv1d_input, 2: torch.nn.grad.conv2d_input, 3: torch.nn.grad.conv3d_input}
_WEIGHTS = {1: torch.nn.grad.conv1d_weight, 2: torch.nn.grad.conv2d_weight, 3: torch.nn.grad.conv3d_weight}


def unfold(p: Problem, x: Tensor) -> Tensor:
    """`[n, (g c k), t]`: `F.unfold` for images and sequences, window views and one copy in three dimensions."""
    case = p.case
    if case.dims == 2:
        return F.unfold(x, *_sizes(p))
    if case.dims == 1:
        sizes = ((first, *size) for first, size in zip((1, 1, 0, 1), _sizes(p), strict=True))
        return F.unfold(x.unsqueeze(2), *sizes)
    windows = F.pad(x, [side for pad in reversed(case.padding) for side in (pad, pad)])
    for axis, (k, d, s) in enumerate(zip(case.kernel_size, case.dilation, case.stride, strict=True), 2):
        windows = windows.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    kernel_axes = range(2 + case.dims, 2 + 2 * case.dims)
    windows = windows.permute(0, 1, *kernel_axes, *range(2, 2 + case.dims))
    return windows.reshape(len(x), x.shape[1] * prod(case.kernel_size), case.positions)


def _sizes(p: Problem) -> tuple[tuple[int, ...], ...]:
    case = p.case
    return case.kernel_size, case.dilation, case.padding, case.stride


def implementation(p: Problem) -> Callable[..., Tensor] | None:
    """The operation as a function of its tensors in the order of `arguments(op)`, shapes fixed by the problem."""
    case, groups = p.case, p.case.groups
    options, dims = case.options, case.dims
    kernel = (groups, case.out_channels // groups, case.columns)
    shape, weight_shape = p.x.shape, p.weight.shape
    cells, t = prod(kernel), case.positions

    def patches(x: Tensor) -> Tensor:
        return unfold(p, x).unflatten(1, (groups, -1))  # [n, g, (c k), t]

    def rows(z: Tensor) -> Tensor:
        return z.flatten(-dims).unflatten(-2, (groups, -1))  # [..., n, g, d, t]

    def expand(x: Tensor) -> Tensor:
        a = patches(x)
        return torch.einsum("ngkt,nglt->gkl", a, a) / (len(x) * t)

    def reduce(x: Tensor) -> Tensor:
        a = patches(x).sum(-1)
        return torch.einsum("ngk,ngl->gkl", a, a) / (len(x) * t**2)

    def gradients(x: Tensor, grad: Tensor) -> Tensor:
        return torch.einsum("ngdt,ngkt->ngdk", rows(grad), patches(x)).reshape(len(x), *weight_shape)

    def norms(x: Tensor, grad: Tensor) -> Tensor:
        a, b = patches(x), rows(grad)
        if t * (kernel[1] + kernel[2]) < kernel[1] * kernel[2]:
            gram = torch.einsum("ngkt,ngks->ngts", a, a) * torch.einsum("ngdt,ngds->ngts", b, b)
            return gram.sum((1, 2, 3))
        return torch.einsum("ngdt,ngkt->ngdk", b, a).square().sum((1, 2, 3))

    def v_rows(x: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("vngdt,ngkt->vngdk", rows(z), patches(x))

    def diagonal(x: Tensor, z: Tensor) -> Tensor:
        return v_rows(x, z).square().sum((0, 1)).reshape(weight_shape)

    def gram(x: Tensor, z: Tensor) -> Tensor:
        v, n = z.shape[:2]
        through_rows = v * n * t * cells + (v * n) ** 2 * cells
        through_gram = (n * t) ** 2 * groups * (kernel[2] + v * v * (kernel[1] + 1))
        if through_gram < through_rows:
            a, b = patches(x), rows(z)
            pairs = torch.einsum("ngkt,mgks->gntms", a, a)
            return torch.einsum("gntms,vngdt,wmgds->vnwm", pairs, b, b)
        flat = v_rows(x, z).reshape(v * n, cells)
        return (flat @ flat.T).reshape(v, n, v, n)

    calls: dict[str, Callable[..., Tensor]] = {
        "forward": lambda x, weight: _CONVOLUTIONS[dims](x, weight, **options),
        "input_vjp": lambda weight, grad: _INPUTS[dims](shape, weight, grad, **options),
        "weight_vjp": lambda x, grad: _WEIGHTS[dims](x, weight_shape, grad, **options),
        "bias_vjp": lambda grad: grad.sum((0, *range(2, 2 + dims))),
        "unfold": lambda x: unfold(p, x),
        "kfac_expand": expand,
        "kfac_reduce": reduce,
        "per_example_weight_vjp": gradients,
        "gradient_norm": norms,
        "ggn_diagonal": diagonal,
        "ggn_gram": gram,
    }
    return calls.get(p.op)


def arguments(p: Problem) -> list[Tensor]:
    """The tensors that `implementation` takes, which are those of tnconv's function."""
    found = {
        "forward": (p.x, p.weight),
        "input_vjp": (p.weight, p.grad),
        "bias_vjp": (p.grad,),
        **dict.fromkeys(("unfold", "kfac_expand", "kfac_reduce"), (p.x,)),
        **dict.fromkeys(("ggn_diagonal", "ggn_gram"), (p.x, p.z)),
    }
    return list(found.get(p.op, (p.x, p.grad)))


def peers(p: Problem) -> list[Peer]:
    """`pytorch`, and `torch.func` where it has a way of its own."""
    function, tensors = implementation(p), arguments(p)
    if function is None:
        return []
    return [Peer("pytorch", lambda: function(*tensors)), *_vmapped(p)]


def _vmapped(p: Problem) -> list[Peer]:
    """`vmap` of the weight gradient of one example: that of `grad`, without the forward pass that `grad` runs."""
    case, shape = p.case, p.weight.shape

    def one(x: Tensor, grad: Tensor) -> Tensor:
        return _WEIGHTS[case.dims](x[None], shape, grad[None], **case.options)

    gradients = torch.func.vmap(one)
    rows = torch.func.vmap(gradients, in_dims=(None, 0))

    def gram() -> Tensor:
        flat = rows(p.x, p.z).flatten(0, 1).flatten(1)
        return flat @ flat.T

    calls: dict[str, Callable[[], Tensor]] = {
        "per_example_weight_vjp": lambda: gradients(p.x, p.grad),
        "gradient_norm": lambda: gradients(p.x, p.grad).square().flatten(1).sum(1),
        "ggn_diagonal": lambda: rows(p.x, p.z).square().sum((0, 1)),
        "ggn_gram": gram,
    }
    return [Peer("torch.func", calls[p.op])] if p.op in calls else []
