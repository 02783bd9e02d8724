"""Operations of a layer, each derived by passes from its forward network; see `registry` for the table."""

from tnconv.ops.conventions import CONVENTIONS, scale_of
from tnconv.ops.registry import Operation, Options, aliases, available, get, register
from tnconv.ops.registry import operations as list

__all__ = [
    "CONVENTIONS",
    "Operation",
    "Options",
    "aliases",
    "available",
    "get",
    "list",
    "register",
    "scale_of",
]
