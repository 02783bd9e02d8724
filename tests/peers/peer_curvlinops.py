"""curvlinops' KFAC factors of one `Conv2d`: the accumulating hooks of its operator, called on tensors.

`operator(layer, n)` builds a `KFACLinearOperator`, which is slow and of no interest; the other functions run
what its hooks run in a pass over the data. Groups are averaged: the input is the mean over groups, so there is
one block. The gradient factor is one block over all output channels. `padding_mode` is ignored.
"""

from typing import Any

import torch
from curvlinops import KFACLinearOperator
from curvlinops.ekfac import compute_eigenvalue_correction_linear_weight_sharing
from curvlinops.kfac_utils import extract_patches
from torch import Tensor, nn


def operator(layer: Any, n: int, approximation: str = "expand", *, joint: bool = False) -> Any:
    """The operator of a model of this layer alone, for `n` examples.

    Args:
        layer: an `nn.Conv2d`; others are refused with NotImplementedError.
        n: examples, N in the scale of the input factor.
        approximation: `"expand"` or `"reduce"`.
        joint: whether the bias is a column of ones of the input.
    """
    parameters = [layer.weight] if layer.bias is None or not joint else [layer.weight, layer.bias]
    weight = layer.weight
    return KFACLinearOperator(
        nn.Sequential(layer, nn.Flatten()),
        nn.MSELoss(reduction="sum"),
        parameters,
        [(weight.new_zeros(1), weight.new_zeros(1))],
        check_deterministic=False,
        fisher_type="empirical",
        kfac_approx=approximation,
        num_per_example_loss_terms=1,
        separate_weight_and_bias=not joint,
        num_data=n,
    )


def input_factor(kfac: Any, layer: Any, x: Tensor) -> Tensor:
    """`[(c k), (c k)]`: `S_A/(N T)` of the mean over groups, or `R_A/(N T²)`.

    By `F.unfold` for expand and by einconv's dense index patterns for reduce. A row and a column for the bias
    come last.
    """
    kfac._input_covariances.clear()
    kfac._hook_accumulate_input_covariance(layer, (x,), "0")
    return kfac._input_covariances["0"]


def grad_factor(kfac: Any, layer: Any, grad_output: Tensor) -> Tensor:
    """`[C_out, C_out]`, the raw sum `S_G` or `R_G`, as the loss is a sum; `"mean"` gives it over N."""
    kfac._gradient_covariances.clear()
    kfac._accumulate_gradient_covariance(grad_output, layer, "0")
    return kfac._gradient_covariances["0"]


def whole_factors(
    layer: Any, x: Tensor, grad_output: Tensor, approximation: str = "expand"
) -> tuple[Tensor, Tensor]:
    """Both factors as a user gets them: a forward and a backward pass through a mean loss.

    The target is such that the gradient of example n's loss with respect to the output is `grad_output[n]`.

    Returns:
        The input factor as above, the gradient factor over N.
    """
    output = layer(x).detach()
    cells = output[0].numel()  # the mean of MSELoss is over them too, of which curvlinops takes back a root
    target = (output - grad_output * cells**0.5 / 2).flatten(1)
    kfac = KFACLinearOperator(
        nn.Sequential(layer, nn.Flatten()),
        nn.MSELoss(reduction="mean"),
        [layer.weight],
        [(x, target)],
        check_deterministic=False,
        fisher_type="empirical",
        kfac_approx=approximation,
    )
    kfac.compute_kronecker_factors()
    return kfac._input_covariances["0"], kfac._gradient_covariances["0"]


def squared_gradient_sum(layer: Any, x: Tensor, grad_output: Tensor, strategy: str | None = None) -> Tensor:
    """`[C_out, (c k)]`, the sum over n of squared weight gradients: EKFAC's correction in the standard basis.

    Args:
        layer: an `nn.Conv2d` without groups.
        x: the input.
        grad_output: rows at the output.
        strategy: `"gramian"`, `"per_example_gradients"`, or None for the one that takes less memory.
    """
    patches = extract_patches(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    rows = grad_output.flatten(2).transpose(1, 2)
    bases = (torch.eye(part.shape[-1], dtype=x.dtype, device=x.device) for part in (rows, patches))
    out_basis, in_basis = bases
    return compute_eigenvalue_correction_linear_weight_sharing(
        rows, out_basis, patches, in_basis, _force_strategy=strategy
    )
