"""What `rank=` says of a weight, where it gives no rank: how near to come, or that noise decides."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from tnconv.errors import SpecError
from tnconv.spec.fields import shown

VBMF = "vbmf"
NEAR = ("error", "energy")


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near factors have to come to a weight.

    Args:
        error: `|made - dense| / |dense|` in Frobenius norms, at most.
        said: as the user gave it, for messages.
    """

    error: float
    said: str


def is_nearness(rank: object) -> bool:
    """Whether a rank is a mapping that says how near to come."""
    return isinstance(rank, Mapping) and bool(rank) and all(name in NEAR for name in rank)


def nearness(rank: object) -> Nearness | None:
    """What `{"error": e}` or `{"energy": e}` says; None for anything else.

    Raises:
        SpecError: it has both, or a value outside (0, 1).
    """
    if not isinstance(rank, Mapping) or not is_nearness(rank):
        return None
    if len(rank) > 1:
        raise SpecError(f"rank is {shown(dict(rank))}, which has both 'error' and 'energy'; give one of them")
    ((name, value),) = rank.items()
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 < number < 1:
        raise SpecError(
            f"rank is {shown(dict(rank))}, whose {name} is {shown(value)}; give a number between 0 and 1"
        )
    return Nearness(number if name == "error" else math.sqrt(1 - number), shown(dict(rank)))
