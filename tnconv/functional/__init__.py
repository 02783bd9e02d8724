"""Convolutions, windows, pooling with names and arguments of `torch.nn.functional`, for any number of dimensions.

    y = tnconv.functional.conv2d(x, weight, bias, stride=2, padding=1)
    columns = tnconv.functional.unfoldNd(x, (3, 3, 3), padding=1)

Each call is `tnconv.compile` of the layer that the shapes and the other arguments describe; a layer is compiled on
its first call and kept. Inputs have a batch axis or none, as in torch. Every function is differentiable any
number of times and works under `torch.func`, `torch.compile` and `torch.fx`. Where a tracer leaves sizes of the image
open, as `torch.export` with a dynamic height and `torch.jit.trace` do, it is traced as torch's own operations.

Beyond torch: any number of spatial dimensions, (left, right) pairs as padding, `padding_mode` of convolutions.
Errors: `SpecError` where the arguments describe no layer, `ArgumentError` where a tensor does not fit it.
"""

from tnconv.functional.conv import conv1d, conv2d, conv3d, convNd
from tnconv.functional.conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    conv_transposeNd,
)
from tnconv.functional.linear import linear
from tnconv.functional.pool import avg_pool1d, avg_pool2d, avg_pool3d, avg_poolNd
from tnconv.functional.unfold import foldNd, unfoldNd

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "avg_poolNd",
    "conv1d",
    "conv2d",
    "conv3d",
    "convNd",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_transposeNd",
    "foldNd",
    "linear",
    "unfoldNd",
]
