"""Layers that modes of torch (`TorchFunctionMode`) see as one call, whatever functions of torch are inside.

A layer of tnconv is a program: a mode sees its steps, which tell little of the layer. A mode that is on is asked first,
as torch's own functions do, and may compute the call by calling the function again.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from tnconv.ir import Expression
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

LayerSpec = ConvSpec | ConvTransposeSpec | LinearSpec
_modes = torch._C._len_torch_function_stack


def seen() -> bool:
    """Whether a mode of functions of torch is on, and no compiler traces."""
    return _modes() > 0 and not torch.compiler.is_compiling()


class Factored(Hashable, Protocol):
    """A kind of layer whose weight is a network of factors."""

    def network(self, spec: LayerSpec) -> Expression:
        """The forward network for the input size of a spec, with the factors as parameters."""


class VisibleLayer:
    """A layer as a function of its input and its parameters; a base class, which a mode can ask for in no time.

    Subclasses are frozen dataclasses.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters by place: `weight` and `bias`, or the factors of the weight and `bias`."""
        raise NotImplementedError

    @property
    def factored(self) -> Factored | None:
        """What has the network, where the weight is one of factors."""
        return None

    def spec(self, input: Tensor) -> LayerSpec:
        """The layer with its dense weight, for the size of an input."""
        raise NotImplementedError

    def compute(self, input: Tensor, *parameters: Tensor | None) -> Tensor:
        """The value."""
        raise NotImplementedError

    def __call__(self, input: Tensor, *parameters: Tensor | None) -> Tensor:
        """The value, by the mode that is on."""
        if seen():
            result: Tensor = handle_torch_function(self, (input,), input, *parameters)
            return result
        return self.compute(input, *parameters)


@dataclass(frozen=True, slots=True)
class CompiledLayer(VisibleLayer):
    """A compiled layer as a function of its input, its weight and its bias.

    Args:
        function: of the input, the weight and, where there is one, the bias.
        layer: what it computes.
    """

    function: Callable[..., Tensor]
    layer: LayerSpec

    @property
    def names(self) -> tuple[str, ...]:
        """The weight and the bias."""
        return ("weight", "bias")

    def spec(self, input: Tensor) -> LayerSpec:
        """The layer."""
        return self.layer

    def compute(self, input: Tensor, *parameters: Tensor | None) -> Tensor:
        """The value."""
        return self.function(input, *[each for each in parameters if each is not None])


def call_layer(function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The value of a layer that `compile` made, or that has no `spec`; modes of torch see the first as one call."""
    layer: Any = getattr(function, "spec", None) if seen() else None
    if layer is not None:
        return CompiledLayer(function, layer)(input, weight, bias)
    return function(input, weight) if bias is None else function(input, weight, bias)
