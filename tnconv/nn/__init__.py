"""Drop-ins for the convolution and window modules of `torch.nn`, for any number of spatial dimensions.

    layer = tnconv.nn.ConvNd(4, 3, 8, kernel_size=3, padding=1)    # four spatial dimensions
    layer = tnconv.nn.Conv2d.from_torch(torch_layer)

Constructors, parameters, their initialisation and `state_dict` are torch's.
"""

from tnconv.nn.conv import Conv1d, Conv2d, Conv3d, ConvNd
from tnconv.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, ConvTransposeNd
from tnconv.nn.unfold import FoldNd, UnfoldNd

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
    "UnfoldNd",
]
