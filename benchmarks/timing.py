"""Interleaved timing: every call once a round, the order rotated, so that a drift of the machine hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]
_TASKS = Path("/proc/self/task")
_DISTURBED = 0.03  # share of a sample for which our threads stood in the queue of the cores
_FEWEST, _ENOUGH = 5, 7


@dataclass(frozen=True)
class Clock:
    """How a call is timed.

    Args:
        device: "cpu", or "cuda" for events on the current stream, with synchronisation.
    """

    device: str = "cpu"

    def seconds(self, call: Call, repeat: int = 1) -> float:
        """Seconds of one of `repeat` calls in a row."""
        if self.device == "cpu":
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            return (time.perf_counter() - start) / repeat
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        for _ in range(repeat):
            call()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3 / repeat


@dataclass(frozen=True)
class Race:
    """Seconds of each call in each round, and the share of them for which other processes had the cores.

    Samples with a share above 3% do not count; where fewer than 5 are left, the 5 with the least do.

    Args:
        times: by name, one entry a round.
        shares: likewise.
    """

    times: Mapping[str, tuple[float, ...]]
    shares: Mapping[str, tuple[float, ...]]

    def counted(self, *names: str) -> list[int]:
        """The rounds in which none of these calls was disturbed."""
        shares = [max(each) for each in zip(*(self.shares[name] for name in names), strict=True)]
        clean = [number for number, share in enumerate(shares) if share <= _DISTURBED]
        return (
            clean if len(clean) >= _FEWEST else sorted(range(len(shares)), key=shares.__getitem__)[:_FEWEST]
        )

    def disturbed(self, name: str) -> int:
        """How many samples of a call were disturbed."""
        return sum(share > _DISTURBED for share in self.shares[name])

    def noisy(self) -> bool:
        """Whether a call has fewer than 5 undisturbed samples."""
        return any(self.disturbed(name) > len(self.shares[name]) - _FEWEST for name in self.shares)

    def seconds(self, name: str) -> list[float]:
        """The samples of a call that count; their median is its time."""
        return [self.times[name][number] for number in self.counted(name)]

    def ratios(self, name: str, other: str) -> list[float]:
        """Times of one call over those of another, round by round; the median is below 1 if the first is faster."""
        return [self.times[name][n] / self.times[other][n] for n in self.counted(name, other)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return ordered[quarter], ordered[-1 - quarter]


def race(
    calls: Mapping[str, Call],
    rounds: int = 9,
    clock: Clock | None = None,
    least: float = 1e-3,
    seconds: float = float("inf"),
) -> Race:
    """Time calls in turn.

    Args:
        calls: by name; each should have run before.
        rounds: how many samples of each call count; up to as many again replace disturbed ones.
        clock: that of the CPU if left out.
        least: a call is repeated until its turn takes this long, in seconds.
        seconds: no more than 7 rounds are run once this has passed.
    """
    clock = clock or Clock()
    repeats = {name: max(1, round(least / max(clock.seconds(call), 1e-7))) for name, call in calls.items()}
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    for number in range(2 * rounds):
        clean = min(sum(share <= _DISTURBED for share in shares[name]) for name in names)
        late = number >= _ENOUGH and time.perf_counter() - begin > seconds
        if clean >= rounds or late:
            break
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        for name in order if number // len(names) % 2 == 0 else order[::-1]:
            waited = _waited()
            times[name].append(clock.seconds(calls[name], repeats[name]))
            shares[name].append((_waited() - waited) / (times[name][-1] * repeats[name]))
    return Race({n: tuple(times[n]) for n in names}, {n: tuple(shares[n]) for n in names})


def _waited() -> float:
    """Seconds for which threads of this process were ready to run while others had the cores; 0 if unknown."""
    total = 0
    for task in _TASKS.glob("*") if _TASKS.exists() else ():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):  # the thread has ended, or the kernel does not count
            continue
    return total / 1e9


@dataclass(frozen=True)
class Comparison:
    """Seconds of two calls; `ratio` is the median of the ratios round by round, below 1 if A is faster."""

    a: float
    b: float
    ratio: float


def compare(a: Call, b: Call, rounds: int = 9) -> Comparison:
    """Time two calls in turn."""
    for call in (a, b):
        call()
    found = race({"a": a, "b": b}, rounds)
    median = statistics.median
    return Comparison(median(found.seconds("a")), median(found.seconds("b")), median(found.ratios("a", "b")))
