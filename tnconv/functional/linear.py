"""A linear layer, as `torch.nn.functional.linear`."""

from torch import Tensor

from tnconv.api import CompiledFunction
from tnconv.errors import ArgumentError
from tnconv.functional.calls import Shape, compiled, kept, shape, with_parameters
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
    sizes, rows = shape("input", input), shape("weight", weight)
    function = _linear(sizes[-1:], rows, None if bias is None else shape("bias", bias))
    if len(sizes) <= 2:
        return with_parameters(function, input, weight, bias)
    return with_parameters(function, input.flatten(0, -2), weight, bias).view(*sizes[:-1], rows[0])


@kept
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
    return compiled(LinearSpec(weight[1], weight[0], bias=bias is not None))
