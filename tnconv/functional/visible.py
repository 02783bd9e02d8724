"""Layers that modes of torch (`TorchFunctionMode`) see as one call, whatever functions of torch are inside.

A layer of tnconv is a program: a mode sees its steps, which tell little of the layer. A mode that is on is asked first,
as torch's own functions do, and may compute the call by calling the function again.
"""

from collections.abc import Hashable
from typing import Protocol

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
