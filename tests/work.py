"""How much work a call is, as a number that is the same on every machine: Python calls or lines, not seconds."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import tnconv

PACKAGE = str(Path(tnconv.__file__).parent)


class TooMuchWork(AssertionError):
    """A call took more than it was allowed."""


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


def lines_of(function: Callable[[], object], most: float = sys.maxsize) -> int:
    """The number of lines of the package that a call runs, also in a loop that calls nothing.

    Args:
        function: takes nothing.
        most: at so many the call is given up.

    Raises:
        TooMuchWork: there are more.
    """
    count = 0

    def line(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        if count > most:
            raise TooMuchWork(f"{count} lines, at {frame.f_code.co_filename}:{frame.f_lineno}")
        return line

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
