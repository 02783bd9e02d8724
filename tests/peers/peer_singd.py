"""singd's KFAC factors of one `Conv2d`, as its optimizer accumulates them; groups are averaged.

The bias of the layer, if there is one, is always a joint column of ones, the last. `padding_mode` is ignored.
"""

from typing import Any

from singd.optim.utils import process_grad_output, process_input
from torch import Tensor


def input_factor(layer: Any, x: Tensor, approximation: str = "expand") -> Tensor:
    """`[(c k), (c k)]`: `S_A/(N T)` of the mean over groups by `F.unfold`, or `R_A/(N T²)` by dense patterns."""
    rows = process_input(x, layer, approximation)
    return rows.T @ rows


def grad_factor(layer: Any, grad_output: Tensor, approximation: str = "expand") -> Tensor:
    """`[C_out, C_out]`: `S_G/N` or `R_G/N`, where grad_output is the gradient of the mean loss, times N."""
    rows = process_grad_output(grad_output / len(grad_output), layer, "batch", approximation)
    return rows.T @ rows
