"""How much work a call is, as a number that is the same on every machine: Python calls, not seconds."""

import sys
from collections.abc import Callable
from typing import Any


class TooMuchWork(AssertionError):
    """A call made more Python calls than it was allowed."""


def calls_of(function: Callable[[], object], most: int = sys.maxsize) -> int:
    """The number of Python and C functions that a call calls.

    Args:
        function: takes nothing.
        most: at so many the call is given up.

    Raises:
        TooMuchWork: there are more.
    """
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")
        if count > most:
            sys.setprofile(None)
            raise TooMuchWork(f"more than {most} calls")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
