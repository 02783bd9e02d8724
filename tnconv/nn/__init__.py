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
from tnconv.nn.tensorised import (
    BTConv,
    BTConv1d,
    BTConv2d,
    BTConv3d,
    CPConv,
    CPConv1d,
    CPConv2d,
    CPConv3d,
    HTConv,
    HTConv1d,
    HTConv2d,
    HTConv3d,
    TensorisedConv,
    TRConv,
    TRConv1d,
    TRConv2d,
    TRConv3d,
    TTConv,
    TTConv1d,
    TTConv2d,
    TTConv3d,
    TuckerConv,
    TuckerConv1d,
    TuckerConv2d,
    TuckerConv3d,
    tensorize,
)
from tnconv.nn.unfold_modules import FoldNd, UnfoldNd

__all__ = [
    "BTConv",
    "BTConv1d",
    "BTConv2d",
    "BTConv3d",
    "CPConv",
    "CPConv1d",
    "CPConv2d",
    "CPConv3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvNd",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTransposeNd",
    "FoldNd",
    "HTConv",
    "HTConv1d",
    "HTConv2d",
    "HTConv3d",
    "SampledConv1d",
    "SampledConv2d",
    "SampledConv3d",
    "SampledLayers",
    "SampledLinear",
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
    "UnfoldNd",
    "sample",
    "sampled_layers",
    "tensorize",
]
