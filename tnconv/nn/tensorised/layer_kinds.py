"""The kinds of factorisation, and the class of each for a dense layer; and back."""

from typing import Any

from torch import nn

from tnconv.nn.conv_transpose_modules import ConvTransposeNd
from tnconv.nn.tensorised.block_term import BTConv, BTConv1d, BTConv2d, BTConv3d, BTConvTranspose, BTLinear
from tnconv.nn.tensorised.cp import CPConv, CPConv1d, CPConv2d, CPConv3d, CPConvTranspose, CPLinear
from tnconv.nn.tensorised.factorised_layer import TensorisedLayer
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.hierarchical import HTConv, HTConv1d, HTConv2d, HTConv3d, HTConvTranspose, HTLinear
from tnconv.nn.tensorised.tensor_ring import TRConv, TRConv1d, TRConv2d, TRConv3d, TRConvTranspose, TRLinear
from tnconv.nn.tensorised.tensor_train import TTConv, TTConv1d, TTConv2d, TTConv3d, TTConvTranspose, TTLinear
from tnconv.nn.tensorised.tucker import (
    TuckerConv,
    TuckerConv1d,
    TuckerConv2d,
    TuckerConv3d,
    TuckerConvTranspose,
    TuckerLinear,
)

# By the number of spatial dimensions; the class of any number first.
KINDS: dict[str, tuple[type[TensorisedConv], ...]] = {
    "cp": (CPConv, CPConv1d, CPConv2d, CPConv3d),
    "tucker": (TuckerConv, TuckerConv1d, TuckerConv2d, TuckerConv3d),
    "tt": (TTConv, TTConv1d, TTConv2d, TTConv3d),
    "tr": (TRConv, TRConv1d, TRConv2d, TRConv3d),
    "bt": (BTConv, BTConv1d, BTConv2d, BTConv3d),
    "ht": (HTConv, HTConv1d, HTConv2d, HTConv3d),
}
TRANSPOSED: dict[str, type[TensorisedConvTranspose]] = {
    "cp": CPConvTranspose,
    "tucker": TuckerConvTranspose,
    "tt": TTConvTranspose,
    "tr": TRConvTranspose,
    "bt": BTConvTranspose,
    "ht": HTConvTranspose,
}
LINEAR: dict[str, type[TensorisedLinear]] = {
    "cp": CPLinear,
    "tucker": TuckerLinear,
    "tt": TTLinear,
    "tr": TRLinear,
    "bt": BTLinear,
    "ht": HTLinear,
}


def class_for(kind: str, module: Any) -> type[TensorisedLayer]:
    """The class of the layer in place of a dense one, a linear layer or a convolution."""
    if isinstance(module, nn.Linear):
        return LINEAR[kind]
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | ConvTransposeNd):
        return TRANSPOSED[kind]
    dims, classes = len(module.kernel_size), KINDS[kind]
    return classes[dims] if dims < len(classes) else classes[0]


def untensorize(model: nn.Module) -> nn.Module:
    """Replace the factorised layers of a model by torch's with dense weights, in place: the way back.

    A module that stands in several places stays one. The value of the model is the same up to rounding; parameters are
    new. See `TensorisedLayer.to_torch`.

    Args:
        model: itself a factorised layer, or any module with some in it.

    Returns:
        The model; a new layer if it is itself factorised.
    """
    places = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, TensorisedLayer)
    }
    made = {module: module.to_torch() for module in dict.fromkeys(places.values())}
    if isinstance(model, TensorisedLayer):
        return made[model]
    for name, module in places.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, made[module])
    return model
