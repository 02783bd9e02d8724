"""The value of a factorised layer: one network of input and factors, one plan for many input sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.api import compile
from tnconv.compiler.any_size.open_source import OpenSource
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import Source
from tnconv.errors import ArgumentError
from tnconv.functional import by_torch
from tnconv.functional.by_size import BySize
from tnconv.functional.compiled_calls import OpenSizes, cached, without_batch
from tnconv.functional.visible import LayerSpec, VisibleLayer
from tnconv.ir import Expression, Network
from tnconv.nn.tensorised.factors import Family, WeightShape, layer_network
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.spec.fields import size_names

Shape = tuple[int, ...]
SampledBy = Callable[..., Tensor | None] | None

_LAYERS = CompileCache(128)


@dataclass(frozen=True, slots=True)
class Description:
    """All that the compiled functions of a layer depend on, but for the input size and the device.

    Args:
        spec: the layer, with an input size that stands for any.
        family: the kind of factorisation.
        shape: of the weight.
        ranks: (bond, rank) pairs.
        planner: as for `tnconv.compile`.
        autotune: as for `tnconv.compile`.
        batch_hint: what the batch size counts as for choices by cost.
    """

    spec: LayerSpec
    family: Family
    shape: WeightShape
    ranks: tuple[tuple[str, int], ...]
    planner: str
    autotune: bool
    batch_hint: int

    def weight_network(self) -> Network:
        """The dense weight."""
        return self.family.weight_network(self.shape, dict(self.ranks))

    def network(self, spec: LayerSpec) -> Expression:
        """The forward network, with the factors as parameters, for the input size of a spec."""
        return layer_network(spec, self.weight_network(), self.family.name)


class OpenDescription(OpenSource):
    """A layer for inputs of any size."""

    def __init__(self, description: Description) -> None:
        spec = description.spec
        self.description, self.any_size = description, spec.input_sizes
        self.periods = () if isinstance(spec, LinearSpec) else spec.strides
        self.names = size_names(len(spec.input_sizes))

    def at(self, sizes: Shape) -> Source:
        """The network for an input size."""
        return self._with(sizes)

    def symbolic(self) -> Source:
        """The network with symbols."""
        return self._with(self.names)

    def _with(self, sizes: tuple[Any, ...]) -> Source:
        network = self.description.network(replace(self.description.spec, input_size=sizes))
        return Source(None, network, False)


@cached
def layer_function(
    description: Description, sizes: Shape, device: str, still: frozenset[str] | None
) -> CompiledFunction:
    """The function of a layer; if `still` is given, for training where all but these need a gradient."""
    key = (description, device, still)
    layer = _LAYERS.get(key, lambda: _by_size(*key))
    return (_by_size(*key) if description.autotune else layer).at(sizes)  # each size is timed for itself


def _by_size(description: Description, device: str, still: frozenset[str] | None) -> BySize:
    source = OpenDescription(description)
    network = source.at(description.spec.input_sizes).network
    assert network is not None
    return BySize(
        source,
        planner=description.planner,
        hints={"N": description.batch_hint},
        device=device,
        autotune=description.autotune,
        training=still is not None,
        frozen=still or (),
        constant=_factors(network) if still is None and device == "cpu" else (),
    )


def _factors(network: Expression) -> list[str]:
    """The factors of a weight, which change seldom where nobody asks for gradients."""
    return [name for name in network.arguments if name not in ("x", "bias")]


@cached
def weight_of(description: Description) -> CompiledFunction:
    """The dense weight as a function of its factors."""
    return compile(description.weight_network())


def convolved(
    description: Description, input: Tensor, parameters: Mapping[str, Tensor], sampler: SampledBy = None
) -> Tensor:
    """The value of a layer with some parameters, by name; what is stored of it for `backward` is up to the sampler."""
    sampled = None if sampler is None else sampler(description, input, parameters)
    if sampled is not None:
        return sampled
    spec = description.spec
    if isinstance(spec, LinearSpec):
        rows = _rows(input, spec)
        return _called(description, (), parameters, rows).reshape(*input.shape[:-1], spec.out_features)
    sizes = without_batch(_checked(input, spec), spec.spatial_dims + 1)
    single = len(sizes) == input.ndim
    result = _called(description, tuple(sizes[1:]), parameters, input.unsqueeze(0) if single else input)
    return result.squeeze(0) if single else result


def _called(description: Description, sizes: Shape, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The value for an input with one batch axis."""
    given = {**parameters, "x": x}
    still: frozenset[str] | None = frozenset(n for n, tensor in given.items() if not tensor.requires_grad)
    if len(still or ()) == len(given) or not torch.is_grad_enabled():
        still = None
    try:
        function = layer_function(description, sizes, "cuda" if x.device.type == "cuda" else "cpu", still)
    except OpenSizes:  # by the dense weight
        dense = weight_of(description)
        return plain(
            description.spec, x, dense(*[given[name] for name in dense.arguments]), given.get("bias")
        )
    return function(*[given[name] for name in function.arguments])


def plain(spec: LayerSpec, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The value of a layer with a dense weight, by torch's operations; padding and output size are the spec's."""
    if isinstance(spec, LinearSpec):
        return F.linear(input, weight, bias)
    if isinstance(spec, ConvTransposeSpec):
        steps = (spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation)
        return by_torch.conv_transpose(spec.spatial_dims, input, weight, bias, steps)
    options = (spec.stride, spec.padding, spec.dilation, spec.groups, spec.padding_mode)
    return by_torch.conv(spec.spatial_dims, input, weight, bias, options)


@dataclass(frozen=True)
class FactoredLayer(VisibleLayer):
    """A layer as a function of its input and its parameters: what `torch.fx` writes down, and what modes see.

    Args:
        description: of the layer.
        parameters: their names, in order.
        sampler: of a call in training.
    """

    description: Description
    parameters: tuple[str, ...]
    sampler: SampledBy = field(default=None, compare=False, repr=False)

    @property
    def __name__(self) -> str:
        """What tracers call it."""
        spec = self.description.spec
        dims = "" if isinstance(spec, LinearSpec) else f"{spec.spatial_dims}d"
        return f"{self.description.family.name}_{spec.kind}{dims}"

    @property
    def names(self) -> tuple[str, ...]:
        """The factors, and the bias."""
        return self.parameters

    @property
    def factored(self) -> Description:
        """What has the network."""
        return self.description

    def spec(self, input: Tensor) -> LayerSpec:
        """The layer with a dense weight; a linear one without sequence axes."""
        spec = self.description.spec
        if isinstance(spec, LinearSpec):
            return spec
        return replace(spec, input_size=tuple(input.shape[-spec.spatial_dims :]))

    def compute(self, input: Tensor, *parameters: Tensor | None) -> Tensor:
        """The value."""
        given = {n: p for n, p in zip(self.parameters, parameters, strict=True) if p is not None}
        return convolved(self.description, input, given, self.sampler)


def _rows(input: Tensor, spec: LinearSpec) -> Tensor:
    """An input that fits as `[N, features]`."""
    if not input.ndim or (type(input.shape[-1]) is int and input.shape[-1] != spec.in_features):
        raise ArgumentError(
            f"input has shape {tuple(input.shape)} but the layer takes {spec.in_features} features in its last axis; "
            "change one"
        )
    return input if input.ndim == 2 else input.reshape(prod(input.shape[:-1]), spec.in_features)


def _checked(input: Any, spec: ConvSpec | ConvTransposeSpec) -> torch.Size:
    """The shape of an input that fits."""
    if not isinstance(input, Tensor):
        raise ArgumentError(f"input is a {type(input).__name__}, not a tensor; pass a torch.Tensor")
    dims = spec.spatial_dims
    if input.ndim not in (dims + 1, dims + 2):
        raise ArgumentError(
            f"input has {input.ndim} axes {tuple(input.shape)} but the layer has {dims} spatial dimension(s); give "
            f"{dims + 2} axes, or {dims + 1} for one example"
        )
    channels = input.shape[-dims - 1]
    if type(channels) is int and channels != spec.in_channels:
        raise ArgumentError(
            f"input {tuple(input.shape)} has {channels} channels but the layer takes {spec.in_channels}; change one"
        )
    return input.shape
