"""Factorised convolutions that store a random part of their input.

The factors' gradients are those of the dense weight, sampled, passed on through the product of the factors; the value
and the input's gradient are computed with the factors, as in every call of these layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from tnconv.api import compile
from tnconv.compiler.function import CompiledFunction
from tnconv.nn.sampled.fractions import Kept
from tnconv.nn.sampled.sampled_autograd import Call, Gradient, Parameters, Sampler, applied
from tnconv.nn.sampled.sampled_conv import ConvCalculus
from tnconv.nn.tensorised.factorised_call import Description, weight_of
from tnconv.spec import ConvSpec


@dataclass(frozen=True)
class FactorCalculus:
    """A factorised convolution with inputs of one size.

    Args:
        description: of the layer, with that input size.
        conv: the same with its dense weight.
        names: of the parameters, in order.
    """

    description: Description
    conv: ConvCalculus
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages."""
        spec = self.conv.spec
        family = self.description.family.name
        return f"{family}_conv{spec.spatial_dims}d({spec.in_channels}, {spec.out_channels})"

    @property
    def spec(self) -> ConvSpec:
        """The layer with its dense weight."""
        return self.conv.spec

    @cached_property
    def gradient(self) -> Gradient:
        """The sampled gradient of the dense weight."""
        return self.conv.gradient

    def prepared(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def read(self, x: Tensor, prepared: Tensor) -> Tensor:
        """The cells that the kernel reads."""
        return self.conv.read(x, self.conv.prepared(x))

    def value(self, prepared: Tensor, parameters: Parameters) -> Tensor:
        """The exact value, through the factors."""
        return self._of(_function(self, "forward"), parameters, x=prepared)

    def input_gradient(self, gradient: Tensor, parameters: Parameters, shape: torch.Size) -> Tensor:
        """The exact gradient of the input, through the factors."""
        return self._of(_function(self, "input_vjp"), parameters, grad_output=gradient)

    def _of(self, function: CompiledFunction, parameters: Parameters, **others: Tensor) -> Tensor:
        given: dict[str, Any] = dict(zip(self.names, parameters, strict=True)) | others
        result: Tensor = function(*[given[name] for name in function.arguments])
        return result

    def parameter_gradients(
        self, weight: Tensor, gradient: Tensor, parameters: Parameters, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the factors, and of the bias."""
        product = weight_of(self.description)
        given: dict[str, Any] = dict(zip(self.names, parameters, strict=True))
        with torch.enable_grad():
            wanted = dict(zip(self.names, needed, strict=True))
            factors = {name: given[name].detach().requires_grad_(wanted[name]) for name in product.arguments}
            dense = product(*factors.values())
            moved = [name for name in factors if wanted[name]]
            found = torch.autograd.grad(dense, [factors[name] for name in moved], weight)
        result: dict[str, Tensor] = dict(zip(moved, found, strict=True))
        if wanted.get("bias"):
            result["bias"] = gradient.flatten(2).sum((0, 2))
        return tuple(result.get(name) for name in self.names)


@lru_cache(maxsize=512)
def _function(layer: FactorCalculus, op: str) -> CompiledFunction:
    description = layer.description
    return compile(
        description.network(replace(description.spec, bias=description.spec.bias and op == "forward")),
        op,
        planner=description.planner,
        hints={"N": description.batch_hint},
        autotune=description.autotune,
        device=layer.conv.device,
    )


@lru_cache(maxsize=512)
def _calculus(
    description: Description, kept: Kept, sizes: tuple[int, ...], device: str, names: tuple[str, ...]
) -> FactorCalculus:
    spec = replace(_conv(description), input_size=sizes)
    conv = ConvCalculus(replace(spec, bias=False), kept, device)
    return FactorCalculus(replace(description, spec=spec), conv, names)


def _conv(description: Description) -> ConvSpec:
    spec = description.spec
    assert isinstance(spec, ConvSpec)  # what `sample` takes
    return spec


class FactorSampler(Sampler):
    """What a factorised layer is sampled by."""

    def __call__(self, description: Description, input: Tensor, given: Mapping[str, Tensor]) -> Tensor | None:
        """The value of a call in training; None where it is to be exact.

        Args:
            description: of the layer.
            input: of the call.
            given: the parameters by name.
        """
        factors = [t for name, t in given.items() if name != "bias" and t.requires_grad]
        spec = _conv(description)
        dims = spec.spatial_dims
        single = input.ndim == dims + 1
        x = input.unsqueeze(0) if single else input
        if not factors or x.ndim != dims + 2 or x.shape[1] != spec.in_channels:
            return None
        seed = self.seed(input, factors[0])
        if seed is None:
            return None
        device = "cuda" if x.is_cuda else "cpu"
        fields = (description, self.kept, tuple(x.shape[2:]), device, tuple(given))
        layer = self.layer(fields[2:], lambda: _calculus(*fields))
        result = applied(Call(layer, seed), x, tuple(given.values()))
        return result.squeeze(0) if single else result
