"""Operations of a layer, each derived by passes from its forward network; see `registry` for the table."""

from tnconv.ops.conventions import CONVENTIONS, scale_of
from tnconv.ops.derive import Derivation, derive
from tnconv.ops.parts import Need, Part
from tnconv.ops.registry import AVERAGE, JOINT, OTHER, Operation, aliases, available, get, register
from tnconv.ops.registry import operations as list
from tnconv.ops.sampled_indices import Sampling
from tnconv.ops.subject import Options, Subject

__all__ = [
    "AVERAGE",
    "CONVENTIONS",
    "JOINT",
    "OTHER",
    "Derivation",
    "Need",
    "Operation",
    "Options",
    "Part",
    "Sampling",
    "Subject",
    "aliases",
    "available",
    "derive",
    "get",
    "list",
    "register",
    "scale_of",
]
