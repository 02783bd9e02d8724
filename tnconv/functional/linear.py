"""A linear layer, as `torch.nn.functional.linear`."""

import torch.nn.functional as F
from torch import Tensor

from tnconv.api import compile
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import ArgumentError
from tnconv.functional.compiled_calls import OpenSizes, Shape, cached, no_tensors, shape
from tnconv.functional.visible import call_layer
from tnconv.spec import LinearSpec


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of the last axis.

    Args:
        input: `[*, features]`, with any number of axes in front.
        weight: `[out, features]`.
        bias: `[out]`.

    Returns:
        `[*, out]`.

    Raises:
        SpecError: a size of the weight is zero.
        ArgumentError: a tensor has the wrong shape, dtype or device.
    """
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        return no_tensors(linear, {"input": input, "weight": weight}, input, weight, bias)
    sizes, rows = input.shape, weight.shape
    try:
        layer = _linear(sizes[-1:], rows, None if bias is None else shape("bias", bias))
    except OpenSizes:
        return F.linear(input, weight, bias)
    x = input if len(sizes) <= 2 else input.flatten(0, -2)
    y = call_layer(layer, x, weight, bias)
    return y if len(sizes) <= 2 else y.view(*sizes[:-1], rows[0])


@cached
def _linear(features: Shape, weight: Shape, bias: Shape | None) -> CompiledFunction:
    if len(weight) != 2:
        raise ArgumentError(f"weight has {len(weight)} axes {tuple(weight)}; give it as [out, features]")
    if tuple(features) != tuple(weight[1:]):
        raise ArgumentError(
            f"input has {features[0] if features else 'no'} features but weight {tuple(weight)} takes {weight[1]}; "
            "change one of them"
        )
    if bias is not None and tuple(bias) != tuple(weight[:1]):
        raise ArgumentError(
            f"bias has shape {tuple(bias)} but weight {tuple(weight)} has {weight[0]} output features; give a bias of "
            f"shape ({weight[0]},)"
        )
    return compile(LinearSpec(weight[1], weight[0], bias=bias is not None))
