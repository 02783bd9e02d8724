"""Layers whose weight is a tensor network of small factors, the way from dense models to them, and back."""

from tnconv.nn.tensorised.block_term import BTConv, BTConv1d, BTConv2d, BTConv3d, BTConvTranspose, BTLinear
from tnconv.nn.tensorised.cp import CPConv, CPConv1d, CPConv2d, CPConv3d, CPConvTranspose, CPLinear
from tnconv.nn.tensorised.factorised_layer import TensorisedLayer
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.hierarchical import HTConv, HTConv1d, HTConv2d, HTConv3d, HTConvTranspose, HTLinear
from tnconv.nn.tensorised.layer_kinds import KINDS, untensorize
from tnconv.nn.tensorised.layer_table import LayerRow, TensorisedLayers, tensorised_layers
from tnconv.nn.tensorised.tensor_ring import TRConv, TRConv1d, TRConv2d, TRConv3d, TRConvTranspose, TRLinear
from tnconv.nn.tensorised.tensor_train import TTConv, TTConv1d, TTConv2d, TTConv3d, TTConvTranspose, TTLinear
from tnconv.nn.tensorised.tensorize import tensorize
from tnconv.nn.tensorised.tucker import (
    TuckerConv,
    TuckerConv1d,
    TuckerConv2d,
    TuckerConv3d,
    TuckerConvTranspose,
    TuckerLinear,
)

__all__ = [
    "KINDS",
    "BTConv",
    "BTConv1d",
    "BTConv2d",
    "BTConv3d",
    "BTConvTranspose",
    "BTLinear",
    "CPConv",
    "CPConv1d",
    "CPConv2d",
    "CPConv3d",
    "CPConvTranspose",
    "CPLinear",
    "HTConv",
    "HTConv1d",
    "HTConv2d",
    "HTConv3d",
    "HTConvTranspose",
    "HTLinear",
    "LayerRow",
    "TRConv",
    "TRConv1d",
    "TRConv2d",
    "TRConv3d",
    "TRConvTranspose",
    "TRLinear",
    "TTConv",
    "TTConv1d",
    "TTConv2d",
    "TTConv3d",
    "TTConvTranspose",
    "TTLinear",
    "TensorisedConv",
    "TensorisedConvTranspose",
    "TensorisedLayer",
    "TensorisedLayers",
    "TensorisedLinear",
    "TuckerConv",
    "TuckerConv1d",
    "TuckerConv2d",
    "TuckerConv3d",
    "TuckerConvTranspose",
    "TuckerLinear",
    "tensorised_layers",
    "tensorize",
    "untensorize",
]
