"""Interleaved timing: A B A B … in one process, so that a drift of the machine hits both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Seconds of two calls; `ratio` is the median of the ratios round by round, below 1 if A is faster."""

    a: float
    b: float
    ratio: float
    low: float
    high: float


def compare(
    a: Callable[[], object], b: Callable[[], object], rounds: int = 9, least: float = 2e-3
) -> Comparison:
    """Time two calls in turn.

    Args:
        a: the first call.
        b: the second call.
        rounds: how many pairs; the order within a pair alternates.
        least: each call is repeated until a round takes this long, in seconds.
    """
    for call in (a, b):
        call()
    repeat = max(1, round(least / max(_seconds(a, 1), _seconds(b, 1), 1e-7)))
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            times[which].append(_seconds((a, b)[which], repeat))
    ratios = sorted(x / y for x, y in zip(*times, strict=True))
    quarter = len(ratios) // 4
    return Comparison(
        statistics.median(times[0]),
        statistics.median(times[1]),
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
    )


def _seconds(call: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat
