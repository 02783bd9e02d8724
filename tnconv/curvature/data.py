"""Batches of a user: pairs of input and target, and a bar of what is done where they take long."""

import importlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import ExitStack
from typing import Any

from tnconv.errors import ArgumentError

Data = Iterable[tuple[Any, Any]]
PATIENCE = 2.0  # seconds before a bar is shown


def batches(
    data: Data, progress: bool | None = None, clock: Callable[[], float] = time.monotonic
) -> Generator[tuple[Any, Any], None, None]:
    """The pairs (input, target) of an iterable, such as a `DataLoader`; to be closed, which takes the bar away.

    Args:
        data: of a user.
        progress: whether a bar is shown on stderr: True at once, False never, None on a terminal after two seconds
            if there is more to do.
        clock: the time in seconds.

    Raises:
        ArgumentError: it is no iterable of pairs, or empty.
    """
    if not isinstance(data, Iterable):
        raise ArgumentError(
            f"data is a {type(data).__name__}; give an iterable of batches (x, y), such as [(x, y)]"
        )
    total = length(data)
    wanted = sys.stderr.isatty() if progress is None else progress
    due = clock() + (0.0 if progress else PATIENCE)
    advance: Callable[[int], None] | None = None
    done = 0
    with ExitStack() as stack:
        for batch in data:
            if not isinstance(batch, list | tuple) or len(batch) != 2:
                what = f"of {len(batch)}" if isinstance(batch, list | tuple) else f"a {type(batch).__name__}"
                raise ArgumentError(f"a batch of data is {what}; give pairs (x, y), such as data=[(x, y)]")
            if wanted and advance is None and clock() >= due:
                advance = _bar(stack, total)
            if advance is not None:
                advance(done)
            yield batch[0], batch[1]
            done += 1
        if advance is not None:
            advance(done)
    if not done:
        raise ArgumentError("data has no batches; give at least one pair (x, y)")


def length(data: Data) -> int | None:
    """The number of batches, if that is known before they come."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader of an iterable data set
        return None


def _bar(stack: ExitStack, total: int | None) -> Callable[[int], None]:
    """A bar that goes when the stack is left; it is drawn between batches alone, below what others print."""
    rich: Any = importlib.import_module("rich.progress")  # not on every import of tnconv
    console = importlib.import_module("rich.console").Console(stderr=True)
    names = ("Text", "Bar", "MofNComplete", "TimeElapsed", "TimeRemaining")
    text, *others = (getattr(rich, f"{name}Column") for name in names)
    columns = (text("batches"), *(other() for other in others))
    options = {"console": console, "transient": console.is_terminal, "auto_refresh": False}
    bar = stack.enter_context(rich.Progress(*columns, **options))
    task = bar.add_task("", total=total)
    return lambda done: bar.update(task, completed=done, refresh=True)
