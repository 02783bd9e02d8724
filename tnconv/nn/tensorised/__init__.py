"""Convolutions whose weight is a tensor network of small factors, and the way from dense models to them."""

from tnconv.nn.tensorised.block_term import BTConv, BTConv1d, BTConv2d, BTConv3d
from tnconv.nn.tensorised.cp import CPConv, CPConv1d, CPConv2d, CPConv3d
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.hierarchical import HTConv, HTConv1d, HTConv2d, HTConv3d
from tnconv.nn.tensorised.tensor_ring import TRConv, TRConv1d, TRConv2d, TRConv3d
from tnconv.nn.tensorised.tensor_train import TTConv, TTConv1d, TTConv2d, TTConv3d
from tnconv.nn.tensorised.tensorize import KINDS, tensorize
from tnconv.nn.tensorised.tucker import TuckerConv, TuckerConv1d, TuckerConv2d, TuckerConv3d

__all__ = [
    "KINDS",
    "BTConv",
    "BTConv1d",
    "BTConv2d",
    "BTConv3d",
    "CPConv",
    "CPConv1d",
    "CPConv2d",
    "CPConv3d",
    "HTConv",
    "HTConv1d",
    "HTConv2d",
    "HTConv3d",
    "TRConv",
    "TRConv1d",
    "TRConv2d",
    "TRConv3d",
    "TTConv",
    "TTConv1d",
    "TTConv2d",
    "TTConv3d",
    "TensorisedConv",
    "TuckerConv",
    "TuckerConv1d",
    "TuckerConv2d",
    "TuckerConv3d",
    "tensorize",
]
