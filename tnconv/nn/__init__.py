"""Drop-ins for the convolution and window modules of `torch.nn`, for any number of spatial dimensions.

    layer = tnconv.nn.ConvNd(4, 3, 8, kernel_size=3, padding=1)    # four spatial dimensions
    layer = tnconv.nn.Conv2d.from_torch(torch_layer)

Constructors, parameters, their initialisation and `state_dict` are torch's. Beside them, convolutions whose weight
is a network of small factors:

    layer = tnconv.nn.CPConv2d(64, 128, 3, rank=32, padding=1)     # also Tucker, TT, TR, BT, HT
    model = tnconv.nn.tensorize(model, "tucker", 0.1)               # a tenth of the parameters

and layers that store a random part of their input for the backward pass:

    model = tnconv.nn.sample(model, 0.5)                            # half of the channels
"""

from tnconv.nn import tensorised
from tnconv.nn.conv_modules import Conv1d, Conv2d, Conv3d, ConvNd
from tnconv.nn.conv_transpose_modules import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTransposeNd,
)
from tnconv.nn.sampled import (
    SampledConv1d,
    SampledConv2d,
    SampledConv3d,
    SampledLayers,
    SampledLinear,
    sample,
    sampled_layers,
)
from tnconv.nn.tensorised import *  # noqa: F403 - all that it names
from tnconv.nn.unfold_modules import FoldNd, UnfoldNd

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvNd",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTransposeNd",
    "FoldNd",
    "SampledConv1d",
    "SampledConv2d",
    "SampledConv3d",
    "SampledLayers",
    "SampledLinear",
    "UnfoldNd",
    "sample",
    "sampled_layers",
]
__all__ += tensorised.__all__
__all__.sort(key=lambda name: (not name.isupper(), name))
