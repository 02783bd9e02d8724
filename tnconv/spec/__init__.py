"""Layer specs: convolutions as validated values, their files, and their forward networks."""

from tnconv.spec.conv import ConvSpec
from tnconv.spec.load import as_spec, load_spec

__all__ = ["ConvSpec", "as_spec", "load_spec"]
