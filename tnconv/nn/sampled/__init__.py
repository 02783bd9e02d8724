"""Layers that store a random part of their input for the backward pass (column-row sampling)."""

from tnconv.nn.sampled.model import SampledLayers, sample, sampled_layers
from tnconv.nn.sampled.sampled_conv import SampledConv1d, SampledConv2d, SampledConv3d
from tnconv.nn.sampled.sampled_linear import SampledLinear

__all__ = [
    "SampledConv1d",
    "SampledConv2d",
    "SampledConv3d",
    "SampledLayers",
    "SampledLinear",
    "sample",
    "sampled_layers",
]
