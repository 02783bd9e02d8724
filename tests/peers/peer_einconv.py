"""einconv's tensor networks: an einsum with dense index patterns, simplified or not, for any dimension to 3.

Padding is an int, one int a dimension, or "same"; there is no padding mode to give. Each function builds the
expression and contracts it by `torch.einsum` in the order that opt_einsum finds, as einconv's own benchmark does.
"""

from typing import Any

import torch
from einconv.expressions import (
    convNd_forward,
    convNd_input_vjp,
    convNd_kfac_reduce,
    convNd_kfc,
    convNd_unfold,
    convNd_weight_vjp,
)
from torch import Tensor


def unfold(layer: Any, x: Tensor, *, simplify: bool = True) -> Tensor:
    """`[n, (g c k), (o)]`."""
    options = {name: value for name, value in _options(layer).items() if name != "groups"}
    return _contract(convNd_unfold.einsum_expression(x, layer.kernel_size, **options, simplify=simplify))


def forward(layer: Any, x: Tensor, *, simplify: bool = True) -> Tensor:
    """`[n, C_out, *O]`, without the bias."""
    return _contract(convNd_forward.einsum_expression(x, layer.weight, **_options(layer), simplify=simplify))


def input_vjp(layer: Any, x: Tensor, grad_output: Tensor, *, simplify: bool = True) -> Tensor:
    """`[n, C_in, *I]`."""
    return _contract(
        convNd_input_vjp.einsum_expression(
            layer.weight, grad_output, tuple(x.shape[2:]), **_options(layer), simplify=simplify
        )
    )


def weight_vjp(layer: Any, x: Tensor, grad_output: Tensor, *, simplify: bool = True) -> Tensor:
    """The gradient of the weight."""
    return _contract(
        convNd_weight_vjp.einsum_expression(
            x, grad_output, layer.kernel_size, **_options(layer), simplify=simplify
        )
    )


def input_factor_expand(layer: Any, x: Tensor, *, simplify: bool = True) -> Tensor:
    """`[G, (c k), (c k)]`, `S_A/N`."""
    return _contract(convNd_kfc.einsum_expression(x, layer.kernel_size, **_options(layer), simplify=simplify))


def input_factor_reduce(layer: Any, x: Tensor, *, simplify: bool = True) -> Tensor:
    """`[G, (c k), (c k)]`, `R_A/(N T²)`."""
    return _contract(
        convNd_kfac_reduce.einsum_expression(x, layer.kernel_size, **_options(layer), simplify=simplify)
    )


def _options(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}


def _contract(expression: tuple[str, list[Tensor], tuple[int, ...]]) -> Tensor:
    equation, operands, shape = expression
    return torch.einsum(equation, *operands).reshape(shape)
