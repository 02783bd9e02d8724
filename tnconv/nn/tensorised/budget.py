"""How long a decomposition may take."""

import math
import time
from dataclasses import dataclass
from typing import Any

from tnconv.errors import SpecError
from tnconv.ir import as_integer
from tnconv.spec.fields import shown


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on the iterations of each start, and on the time of all; the first start is always made.

    Args:
        iterations: sweeps over all factors, at most.
        deadline: of `time.monotonic()`, after which no further sweep begins.
    """

    iterations: int = 50
    deadline: float = math.inf

    @classmethod
    def of(cls, iterations: object, seconds: object) -> "Budget":
        """That of two options.

        Args:
            iterations: an int of at least 0.
            seconds: a number of at least 0, or None for no bound.

        Raises:
            SpecError: one is something else.
        """
        return cls(checked_iterations(iterations), time.monotonic() + checked_seconds(seconds))

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self.deadline


def checked_iterations(iterations: object) -> int:
    """The number of iterations.

    Raises:
        SpecError: it is no int of at least 0.
    """
    count = as_integer(iterations)
    if count is None or count < 0:
        raise SpecError(f"iterations is {shown(iterations)}; give the number of sweeps, an int of at least 0")
    return count


def checked_seconds(seconds: object) -> float:
    """The number of seconds, infinite for None.

    Raises:
        SpecError: it is no number of at least 0.
    """
    if seconds is None:
        return math.inf
    given: Any = seconds
    try:
        count = math.nan if isinstance(given, bool | str) else float(given)
    except (TypeError, ValueError):
        count = math.nan
    if not count >= 0:
        raise SpecError(f"seconds is {shown(seconds)}; give the time to stop after, a number of at least 0")
    return count
