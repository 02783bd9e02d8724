"""Operations of a layer, each derived by passes from its forward network; see `registry` for the table."""

from tnconv.ops.conventions import CONVENTIONS, scale_of
from tnconv.ops.derive import Derivation, derive
from tnconv.ops.registry import OTHER, Operation, Options, aliases, available, get, register
from tnconv.ops.registry import operations as list
from tnconv.ops.sampling import Sampling

__all__ = [
    "CONVENTIONS",
    "OTHER",
    "Derivation",
    "Operation",
    "Options",
    "Sampling",
    "aliases",
    "available",
    "derive",
    "get",
    "list",
    "register",
    "scale_of",
]
