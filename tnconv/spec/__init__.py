"""Layer specs: layers as validated values, their files, and their forward networks."""

from tnconv.spec.conv_spec import ConvSpec
from tnconv.spec.conv_transpose_spec import ConvTransposeSpec
from tnconv.spec.layer_spec import Layer
from tnconv.spec.layer_text import parse_layer
from tnconv.spec.linear_spec import LinearSpec
from tnconv.spec.load import LayerSpec, as_spec, load_spec, spec_from_module
from tnconv.spec.pool_spec import PoolSpec
from tnconv.spec.unfold_spec import UnfoldSpec

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
    "parse_layer",
    "spec_from_module",
]
