"""Layer specs: layers as validated values, their files, and their forward networks."""

from tnconv.spec.conv import ConvSpec
from tnconv.spec.conv_transpose import ConvTransposeSpec
from tnconv.spec.layer import Layer
from tnconv.spec.linear import LinearSpec
from tnconv.spec.load import LayerSpec, as_spec, load_spec, spec_from_module
from tnconv.spec.pool import PoolSpec
from tnconv.spec.unfold import UnfoldSpec

__all__ = [
    "ConvSpec",
    "ConvTransposeSpec",
    "Layer",
    "LayerSpec",
    "LinearSpec",
    "PoolSpec",
    "UnfoldSpec",
    "as_spec",
    "load_spec",
    "spec_from_module",
]
