"""Linear layers that store a random part of their input."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional as F

from tnconv.api import compile
from tnconv.nn.sampled.copied import FromTorch
from tnconv.nn.sampled.fractions import CHANNELS, SPACE, Indices, Kept
from tnconv.nn.sampled.sampled_autograd import Gradient, Parameters, Sampler, apply
from tnconv.nn.sampled.seeds import Seeds
from tnconv.spec import LinearSpec
from tnconv.spec.fields import Symbolic
from tnconv.spec.layer_spec import KnowsSpec, module_fields


@dataclass(frozen=True)
class LinearCalculus:
    """A linear layer with sequence axes of some sizes.

    Args:
        spec: the layer.
        kept: what is kept of its input.
        device: type of the device.
    """

    spec: LinearSpec
    kept: Kept
    device: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"SampledLinear({self.spec.in_features}, {self.spec.out_features})"

    @cached_property
    def gradient(self) -> Gradient:
        """The sampled weight gradient."""
        return _gradient(self)

    def prepared(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def read(self, x: Tensor, prepared: Tensor) -> Tensor:
        """The input itself."""
        return x

    def value(self, prepared: Tensor, parameters: Parameters) -> Tensor:
        """The exact value."""
        weight, bias = parameters
        assert weight is not None
        return F.linear(prepared, weight, bias)

    def input_gradient(self, gradient: Tensor, parameters: Parameters, shape: torch.Size) -> Tensor:
        """`ȳ W`."""
        (weight, _) = parameters
        assert weight is not None
        return gradient @ weight.conj()

    def parameter_gradients(
        self, weight: Tensor | None, gradient: Tensor, parameters: Parameters, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the weight and of the bias; None where one is not needed."""
        return weight, gradient.flatten(0, -2).sum(0) if needed[1] else None


@lru_cache(maxsize=512)
def _gradient(layer: LinearCalculus) -> Gradient:
    made = compile(layer.spec, "weight_vjp", sample=layer.kept.sample, preselect=True, device=layer.device)
    return Gradient(made)


@lru_cache(maxsize=512)
def _calculus(features: tuple[int, int], sizes: tuple[int, ...], kept: Kept, device: str) -> LinearCalculus:
    kept = kept if sizes else kept.without(SPACE)
    return LinearCalculus(LinearSpec(*features, input_size=sizes), kept, device)


class SampledLinear(nn.Linear, FromTorch, KnowsSpec):
    """A linear layer whose weight gradient is computed from a random part of the input, which alone is stored.

    In training its value, the gradient of its input and that of its bias are exact; that of its weight is so on the
    average over all draws. In `eval()` and without gradients it is `nn.Linear`. `state_dict` is that of `nn.Linear`.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        bias: whether the layer has a bias.
        device: of the parameters.
        dtype: of the parameters.
        keep: the fraction of each index that is kept, in (0, 1].
        indices: what is sampled: `"in_channels"`, the features; `"space"`, each axis between the batch
            and the features, if there is one; `"batch"`; or fractions by these names, as in
            `{"in_channels": 0.5, "batch": 0.25}`. Several multiply.
        generator: of random numbers; PyTorch's own if left out.

    Raises:
        SpecError: a fraction leaves nothing, or is none.
    """

    represented = LinearSpec

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        keep: float = 0.5,
        indices: Indices = (CHANNELS,),
        generator: torch.Generator | None = None,
    ) -> None:
        kept = Kept.read(keep, indices)
        kept.check(in_features, None)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.sampler = Sampler(f"SampledLinear({in_features}, {out_features})", kept, Seeds(generator))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: `[*, in_features]`.

        Returns:
            `[*, out_features]`.
        """
        if not self.training:
            return super().forward(input)
        return self._apart(input) if torch.compiler.is_dynamo_compiling() else self._in_training(input)

    def _in_training(self, input: Tensor) -> Tensor:
        seed = self.sampler.seed(input, self.weight)
        if seed is None or input.shape[-1] != self.in_features:
            return super().forward(input)
        sampler, device = self.sampler, "cuda" if input.is_cuda else "cpu"
        x = input.unsqueeze(0) if input.ndim == 1 else input
        if sampler.only_channels:  # all else are rows of one matrix
            x = x.flatten(0, -2)
        features, sizes = (self.in_features, self.out_features), tuple(x.shape[1:-1])
        layer = sampler.layer(
            (device, features, sizes), lambda: _calculus(features, sizes, sampler.kept, device)
        )
        result = apply(layer, seed, x, (self.weight, self.bias))
        return result.reshape(*input.shape[:-1], self.out_features)

    # torch.compile leaves it to Python
    _apart = _disable_dynamo(_in_training)

    def spec(self, input_size: int | tuple[int, ...] = (), batch_size: Symbolic = "N") -> LinearSpec:
        """The layer for inputs of a size, as `tnconv.compile` takes it."""
        return LinearSpec(input_size=input_size, batch_size=batch_size, **module_fields(LinearSpec, self))

    def extra_repr(self) -> str:
        """The fields of torch's, and what is kept."""
        return f"{super().extra_repr()}, keep=({self.sampler.kept})"
