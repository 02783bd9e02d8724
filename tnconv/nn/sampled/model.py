"""Whole models: layers that store a random part of their input in place of those that store all of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tnconv.errors import SpecError
from tnconv.nn.conv_modules import Conv1d, Conv2d, Conv3d
from tnconv.nn.modules import check_copied
from tnconv.nn.sampled.fractions import CHANNELS, Indices, Kept
from tnconv.nn.sampled.sampled_autograd import Sampler
from tnconv.nn.sampled.sampled_conv import SampledConv, SampledConv1d, SampledConv2d, SampledConv3d
from tnconv.nn.sampled.sampled_linear import SampledLinear
from tnconv.nn.sampled.seeds import Seeds
from tnconv.nn.sampled.tensorised import FactorSampler
from tnconv.nn.tensorised import TensorisedConv, TensorisedLayer
from tnconv.nn.tensorised.tensorize import names_in

_CLASSES: dict[type[nn.Module], type[Any]] = {
    nn.Linear: SampledLinear,
    nn.Conv1d: SampledConv1d,
    nn.Conv2d: SampledConv2d,
    nn.Conv3d: SampledConv3d,
    Conv1d: SampledConv1d,
    Conv2d: SampledConv2d,
    Conv3d: SampledConv3d,
}
_OWN = (SampledConv, SampledLinear, TensorisedConv)


@dataclass(frozen=True)
class SampledLayers:
    """What `tnconv.nn.sample` does with the layers of a model that have a weight.

    Args:
        sampled: what each keeps of its input, by name.
        skipped: why others stay exact, by name.
    """

    sampled: Mapping[str, str]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: {text}" for name, text in self.sampled.items()]
        return "\n".join(
            [*lines, *(f"{name or 'the model'}: exact, {text}" for name, text in self.skipped.items())]
        )


def sampled_layers(
    model: nn.Module,
    keep: float = 0.5,
    indices: Indices = (CHANNELS,),
    *,
    skip: str | Collection[str] = (),
) -> SampledLayers:
    """What `tnconv.nn.sample` would do with a model, which stays as it is; the arguments are the same.

    Returns:
        Names of the layers that it samples, and of those that stay exact, with the reason.

    Raises:
        SpecError: a fraction is none, or a name in `skip` is of no module.
    """
    kept = Kept.read(keep, indices)
    modules = dict(model.named_modules(remove_duplicate=False))
    left = names_in(skip, modules)
    sampled: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, module in modules.items():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd | TensorisedLayer):
            continue
        named = any(name == each or name.startswith(f"{each}.") for each in left)
        reason = "named in skip" if named else _reason(module, kept)
        if reason:
            skipped[name] = reason
        else:
            sampled[name] = str(kept)
    return SampledLayers(sampled, skipped)


def sample(
    model: nn.Module,
    keep: float = 0.5,
    indices: Indices = (CHANNELS,),
    *,
    generator: torch.Generator | None = None,
    skip: str | Collection[str] = (),
) -> nn.Module:
    """Have the layers of a model store a random part of their input for the backward pass, in place.

    Linear layers, convolutions with 1 to 3 spatial dimensions and the factorised convolutions of `tnconv.nn` become
    sampled, at any depth; see `SampledConv2d`. A layer stays exact where a fraction leaves nothing, as of the one input
    channel of a group in a depthwise convolution, or where it is no plain layer: `sampled_layers` says which and why.
    Parameters are the same objects, so that an optimiser that has them goes on. Layers that are sampled already take
    the new fractions.

    Args:
        model: itself such a layer, or any module with some in it.
        keep: the fraction of each index that is kept, in (0, 1].
        indices: `"in_channels"`, `"space"`, `"batch"`, some of them, or fractions by these names.
        generator: of random numbers, for all layers; PyTorch's own if left out.
        skip: names of modules as of `model.named_modules()` that stay as they are, all within them too.

    Returns:
        The model; a new layer if it is itself one of torch's.

    Raises:
        SpecError: a fraction is none, a name in `skip` is of no module, or no layer at all can be sampled.
    """
    kept, seeds = Kept.read(keep, indices), Seeds(generator)
    found = sampled_layers(model, keep, indices, skip=skip)
    if not found.sampled:
        raise SpecError(
            f"no layer of {type(model).__name__} can be sampled with keep=({kept}); {str(found) or 'it has none'}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    made: dict[nn.Module, nn.Module] = {}
    for name in found.sampled:
        module = modules[name]
        if module not in made:
            made[module] = _sampled(module, kept, seeds)
    if model in made:
        return made[model]
    for name in found.sampled:
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, made[modules[name]])
    return model


def _reason(module: Any, kept: Kept) -> str | None:
    """Why a layer stays exact; None if it does not."""
    try:
        if isinstance(module, _OWN):
            _check(module, kept)
        elif type(module) not in _CLASSES:
            return f"{type(module).__name__} has no sampled form"
        else:
            _build(module, kept)
    except SpecError as error:
        return str(error)
    return None


def _check(module: Any, kept: Kept) -> None:
    linear = isinstance(module, nn.Linear)
    channels = module.in_features if linear else module.in_channels // module.groups
    kept.check(channels, None if linear else len(module.kernel_size))


def _sampled(module: Any, kept: Kept, seeds: Seeds) -> nn.Module:
    if isinstance(module, _OWN):
        kind = FactorSampler if isinstance(module, TensorisedConv) else Sampler
        module.sampler = kind(type(module).__name__, kept, seeds)
        return module
    made = _build(module, kept)
    made.sampler.seeds = seeds
    made.weight, made.bias = module.weight, module.bias
    return made.train(module.training)  # type: ignore[no-any-return]


def _build(module: Any, kept: Kept) -> Any:
    kind = _CLASSES[type(module)]
    check_copied(module, ("forward", "_conv_forward"), ("weight", "bias"))
    return kind.like(module, 1.0, kept.given)
