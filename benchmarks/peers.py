"""The PyTorch implementation of each operation: what tnconv is compared with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import Case


def peer(case: Case, op: str, tensors: dict[str, Tensor]) -> Callable[[], Tensor]:
    """A call without arguments that computes `op` of a layer as PyTorch users do."""
    x, weight, grad = tensors["x"], tensors["weight"], tensors["grad_output"]
    options = {"stride": case.stride, "padding": case.padding}
    batch, positions = x.shape[0], case.output_size**2

    def expand() -> Tensor:
        a = F.unfold(x, case.kernel_size, **options)
        return torch.einsum("nkl,nml->km", a, a)[None] / (batch * positions)

    def reduce() -> Tensor:
        a = F.unfold(x, case.kernel_size, **options).sum(-1)
        return torch.einsum("nk,nm->km", a, a)[None] / (batch * positions**2)

    calls: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: F.conv2d(x, weight, **options),
        "input_vjp": lambda: torch.nn.grad.conv2d_input(x.shape, weight, grad, **options),
        "weight_vjp": lambda: torch.nn.grad.conv2d_weight(x, weight.shape, grad, **options),
        "bias_vjp": lambda: grad.sum((0, 2, 3)),
        "unfold": lambda: F.unfold(x, case.kernel_size, **options),
        "kfac_expand": expand,
        "kfac_reduce": reduce,
    }
    return calls[op]
