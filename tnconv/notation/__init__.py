"""Equations as text: tnconv's affine notation, and that of arXiv 2401.03384. Both become networks."""

from tnconv.notation.affine_network import affine_network, affine_shape
from tnconv.notation.conv_einsum import convolution_network, convolution_shape

__all__ = ["affine_network", "affine_shape", "convolution_network", "convolution_shape"]
