"""Equations as text: tnconv's affine notation, and that of arXiv 2401.03384. Both become networks."""

from tnconv.notation.build import affine_network
from tnconv.notation.conv_einsum import convolution_network

__all__ = ["affine_network", "convolution_network"]
