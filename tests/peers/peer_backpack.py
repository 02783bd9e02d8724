"""BackPACK's quantities of one convolution, called on tensors: no model, no hooks, no forward pass.

BackPACK's module extensions read the layer's input and the shape of its output from the layer itself. Every
function takes the layer, the input `[n, C_in, *I]`, and rows at the output: `grad_output` `[n, C_out, *O]`
or `z` `[v, n, C_out, *O]`. The padding of the layer must be zeros and numbers: BackPACK hands
`layer.padding` to an unfold and never reads `padding_mode`.
"""

from typing import Any

import torch
from backpack.core.derivatives.conv1d import Conv1DDerivatives
from backpack.core.derivatives.conv2d import Conv2DDerivatives
from backpack.core.derivatives.conv3d import Conv3DDerivatives
from backpack.core.derivatives.convnd import ConvNDDerivatives, weight_jac_t_save_memory
from backpack.extensions import KFAC
from backpack.extensions.firstorder.batch_l2_grad.convnd import BatchL2Conv1d, BatchL2Conv2d, BatchL2Conv3d
from backpack.extensions.secondorder.diag_ggn.conv1d import DiagGGNConv1d
from backpack.extensions.secondorder.diag_ggn.conv2d import DiagGGNConv2d
from backpack.extensions.secondorder.diag_ggn.conv3d import DiagGGNConv3d
from backpack.extensions.secondorder.hbp.convnd import HBPConvNd
from backpack.utils.conv import unfold_input
from torch import Tensor, nn

_DERIVATIVES = {1: Conv1DDerivatives(), 2: Conv2DDerivatives(), 3: Conv3DDerivatives()}
_NORMS = {1: BatchL2Conv1d(), 2: BatchL2Conv2d(), 3: BatchL2Conv3d()}
_DIAGONALS = {1: DiagGGNConv1d(), 2: DiagGGNConv2d(), 3: DiagGGNConv3d()}
_KRONECKER = {dims: HBPConvNd(dims) for dims in (1, 2, 3)}
_KFAC = KFAC()


def unfold(layer: Any, x: Tensor) -> Tensor:
    """`[n, (g c k), (o)]`: `F.unfold` in two dimensions, else a convolution with one-hot kernels."""
    return unfold_input(layer, x)


def input_vjp(layer: Any, x: Tensor, grad_output: Tensor) -> Tensor:
    """`[n, C_in, *I]`, by torch's transposed convolution."""
    return _derivatives(layer, x, grad_output).jac_t_mat_prod(layer, None, None, grad_output)


def weight_vjp(layer: Any, x: Tensor, grad_output: Tensor) -> Tensor:
    """The gradient of the weight: that of every example, then their sum."""
    return _derivatives(layer, x, grad_output).param_mjp("weight", layer, None, None, grad_output)


def bias_vjp(layer: Any, x: Tensor, grad_output: Tensor) -> Tensor:
    """`[C_out]`."""
    return _derivatives(layer, x, grad_output).param_mjp("bias", layer, None, None, grad_output)


def per_example_weight_vjp(
    layer: Any, x: Tensor, grad_output: Tensor, *, save_memory: bool = False
) -> Tensor:
    """`[n, *weight.shape]`: the extension `BatchGrad`.

    One convolution with `N*C_in` groups, whose kernels are the output gradients repeated for each channel;
    with `save_memory`, one of a dimension more and `N*G` groups, which exists in one and two dimensions.
    """
    with weight_jac_t_save_memory(save_memory):
        return _derivatives(layer, x, grad_output).param_mjp(
            "weight", layer, None, None, grad_output, sum_batch=False
        )


def gradient_norm(layer: Any, x: Tensor, grad_output: Tensor) -> Tensor:
    """`[n]`, squared: the extension `BatchL2Grad`, `einsum("nmi,nki,nmj,nkj->n")` of unfolded input and gradient.

    Wrong for groups above 1: the einsum pairs all input channels with all output channels.
    """
    _prepare(layer, x, grad_output)
    return _NORMS[_dims(layer)].weight(None, layer, None, (grad_output,), None)


def gradient_norm_by_gradients(layer: Any, x: Tensor, grad_output: Tensor) -> Tensor:
    """`[n]`, squared: what `BatchL2Grad` does for other parameters; right for groups."""
    return per_example_weight_vjp(layer, x, grad_output).square().flatten(1).sum(1)


def ggn_diagonal(layer: Any, x: Tensor, z: Tensor) -> Tensor:
    """`weight.shape`: the extension `DiagGGNExact`, `einsum("ngkl,vngml->vngmk")` of the unfolded input, squared."""
    _prepare(layer, x, z[0])
    return _DIAGONALS[_dims(layer)].weight(None, layer, None, None, z)


def ggn_rows(layer: Any, x: Tensor, z: Tensor) -> Tensor:
    """`[v, n, *weight.shape]`, the rows V of the GGN: the extension `SqrtGGNExact`, which keeps them whole."""
    return _derivatives(layer, x, z[0]).param_mjp("weight", layer, None, None, z, sum_batch=False)


def ggn_gram(layer: Any, x: Tensor, z: Tensor) -> Tensor:
    """`[v, n, v, n]` of the rows that `SqrtGGNExact` gives."""
    rows = ggn_rows(layer, x, z).flatten(2)
    return torch.einsum("vnp,wmp->vnwm", rows, rows)


def input_factor(layer: Any, x: Tensor) -> Tensor:
    """`[(c k), (c k)]`, `S_A/N`: the extension `KFAC`, which refuses groups above 1."""
    _prepare(layer, x, x)
    kronecker = _KRONECKER[_dims(layer)]
    kronecker._maybe_raise_groups_not_implemented_error(_KFAC, layer)
    return kronecker._factors_from_input(_KFAC, layer)[0]


def grad_factor(layer: Any, z: Tensor) -> Tensor:
    """`[C_out, C_out]`, the sum of `(Σ_t z)(Σ_t z)ᵀ` over v and n: the extension `KFAC`, where z has 1/√N in it."""
    return _KRONECKER[_dims(layer)]._factor_from_sqrt(layer, z)


def _prepare(layer: Any, x: Tensor, output: Tensor) -> None:
    layer.input0, layer.output = x, output


def _derivatives(layer: Any, x: Tensor, output: Tensor) -> ConvNDDerivatives:
    _prepare(layer, x, output)
    return _DERIVATIVES[_dims(layer)]


def _dims(layer: nn.Module) -> int:
    return len(layer.kernel_size)  # type: ignore[arg-type]
