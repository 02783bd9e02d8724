"""Hints: what the symbols of sizes count as while a plan is chosen."""

from collections.abc import Mapping, Sequence

from tnconv.errors import PlanError
from tnconv.ir import Size, as_integer, evaluate
from tnconv.planner.plan import DEFAULT_HINT

_MAX_HINT = 2**62


def hint_values(symbols: Sequence[str], hints: Mapping[str, int] | None) -> dict[str, int]:
    """A value for every symbol: its hint, or 32.

    Raises:
        PlanError: a hint is not a positive integer.
    """
    known = check_hints(hints or {})
    return {name: known.get(name, DEFAULT_HINT) for name in symbols}


def check_hints(hints: Mapping[str, object]) -> dict[str, int]:
    """Hints with plain ints.

    Raises:
        PlanError: it is no mapping from names to positive integers below 2**62.
    """
    if not isinstance(hints, Mapping) or not all(isinstance(name, str) for name in hints):
        raise PlanError(
            f"hints={hints!r} are no names with sizes; give what symbols count as, as in hints={{'N': 32}}"
        )
    found = {}
    for name, value in hints.items():
        number = as_integer(value)
        if number is None or not 1 <= number <= _MAX_HINT:
            raise PlanError(
                f"hint {name}={value!r} is not a positive integer below 2**62; give the size to plan for"
            )
        found[name] = number
    return found


def extent_of(size: Size, values: Mapping[str, int]) -> int:
    """The size at the values of the hints.

    Raises:
        PlanError: it is not positive there.
    """
    extent = evaluate(size, values)
    if extent < 1:
        raise PlanError(f"size {size} is {extent} for {dict(values)}; give hints for which it is positive")
    return extent
