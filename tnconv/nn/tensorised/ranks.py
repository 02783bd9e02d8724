"""What `rank=` means without a weight: an int, a fraction of the dense parameters, or one rank for each bond."""

from collections.abc import Callable, Mapping
from numbers import Real

from tnconv.errors import SpecError
from tnconv.ir import as_integer
from tnconv.nn.tensorised.criteria import VBMF, nearness
from tnconv.nn.tensorised.factors import Family, Ranks, WeightShape
from tnconv.spec.fields import shown

Rank = int | float | tuple[int, ...] | Mapping[str, float] | str


def resolve_ranks(rank: object, family: Family, shape: WeightShape) -> dict[str, int]:
    """The rank of every bond.

    Args:
        rank: an int is the rank of every bond, cut at the largest that the bond can use; a float the fraction of
            the dense weight's parameters that the factors have at most: the largest int for which that holds; a
            tuple has one rank for each bond.
        family: the kind of factorisation.
        shape: of the weight.

    Raises:
        SpecError: the rank is not positive, one of a tuple too large, or none small enough for the fraction.
    """
    limits = family.limits(shape)
    count = as_integer(rank)
    if count is not None:
        if count < 1:
            raise SpecError(
                f"rank is {shown(count)} but must be at least 1; give another, or a fraction such as 0.1"
            )
        return uniform(count, limits)
    if isinstance(rank, Real) and not isinstance(rank, bool):
        return _fraction(float(rank), family, shape)
    if isinstance(rank, list | tuple):
        return _each(tuple(rank), limits)
    if (isinstance(rank, str) and rank == VBMF) or nearness(rank) is not None:
        raise SpecError(
            f"rank is {shown(rank)}, which is said of a weight, but new factors have none; give an int or a fraction, "
            "or make the layer with from_dense or tnconv.nn.tensorize"
        )
    raise SpecError(
        f"rank is {shown(rank)}; give an int, a fraction of the dense parameters such as 0.1, a tuple with one "
        f"rank for each of {', '.join(limits)}; or, of a weight, {{'error': 0.05}}, {{'energy': 0.95}} or 'vbmf'"
    )


def last_that_fits(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The last of `low` to `high` that fits, where what is behind one that does not fit does not fit either.

    That `low` does is not asked.
    """
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def uniform(rank: int, limits: Ranks) -> dict[str, int]:
    """One rank for all bonds, cut at the largest that each can use."""
    return {name: min(rank, limit) for name, limit in limits.items()}


def _each(ranks: tuple[object, ...], limits: Ranks) -> dict[str, int]:
    if len(ranks) != len(limits):
        raise SpecError(
            f"rank {shown(ranks)} has {len(ranks)} entries but there are {len(limits)} bonds, "
            f"{', '.join(limits)}; give one for each"
        )
    found = {}
    for (name, limit), rank in zip(limits.items(), ranks, strict=True):
        count = as_integer(rank)
        if count is None or not 1 <= count <= limit:
            raise SpecError(f"rank of bond {name!r} is {shown(rank)}; give an int from 1 to {limit}")
        found[name] = count
    return found


def _fraction(fraction: float, family: Family, shape: WeightShape) -> dict[str, int]:
    if not 0 < fraction <= 1:
        raise SpecError(
            f"rank is {fraction}, a fraction of the dense parameters, but not in (0, 1]; give one, or an int"
        )
    limits, allowed = family.limits(shape), fraction * shape.parameters

    def fits(rank: int) -> bool:
        return family.parameters(shape, uniform(rank, limits)) <= allowed

    found = last_that_fits(0, max(limits.values()), fits)
    if not found:
        least = family.parameters(shape, uniform(1, limits))
        raise SpecError(
            f"rank is {fraction}, at most {int(allowed)} of {shape.parameters} parameters, but rank 1 takes {least}; "
            f"give at least {least / shape.parameters:.3g}, or another kind of factorisation"
        )
    return uniform(found, limits)
