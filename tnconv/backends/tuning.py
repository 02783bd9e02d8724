"""Autotuning: time the few programs that are predicted to be fastest, keep the winner, and remember it.

What is remembered stands in one JSON file in the cache folder, by a digest of the network's text, the sizes, the
device, the dtype, the number of threads and the version of torch.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
import torch

from tnconv.backends import cache_files
from tnconv.backends.backend import Choice
from tnconv.ir import evaluate
from tnconv.planner import Plan

FILE = "autotune.json"  # in the cache folder
_ROUNDS = 7
_LEAST_SECONDS = 2e-3
_MOST_PROGRAMS = 6
NEAR = 4.0  # a kernel that is predicted to take more than this times the best is not tried


class Timed(Protocol):
    """What can be timed: a program, or those of a forward and a backward pass."""

    @property
    def source(self) -> str:
        """Its text; what has the same is timed once."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of what the function takes."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The kernels of its steps."""

    @property
    def predicted(self) -> float:
        """Microseconds."""

    @property
    def function(self) -> Callable[..., Any]:
        """What is timed."""


Lower = Callable[[Plan, tuple[str, ...]], Timed]


@dataclass(frozen=True, slots=True)
class Trial:
    """A program that was tried: what it does otherwise, and how long that takes.

    Args:
        plan: number of the plan among the candidates; 0 has the fewest multiplications.
        prefer: kernels that are taken wherever they accept.
        predicted: microseconds.
        measured: microseconds, the median.
    """

    plan: Annotated[int, msgspec.Meta(ge=0)]
    prefer: tuple[str, ...]
    predicted: float
    measured: float


class Winner(msgspec.Struct, frozen=True):
    """What the cache file keeps of a decision."""

    trials: Annotated[list[Trial], msgspec.Meta(min_length=1)]

    @property
    def best(self) -> Trial:
        """The fastest."""
        return min(self.trials, key=lambda trial: trial.measured)


def tune(
    task: str,
    plans: Sequence[Plan],
    lower: Lower,
    hints: Mapping[str, int],
    device: str,
    dtype: torch.dtype,
) -> tuple[Plan, tuple[str, ...], tuple[Trial, ...]]:
    """The plan that is fastest on this machine, the kernels that it prefers, and all that were tried.

    Args:
        task: what is computed, as text.
        plans: as of `fast_plans`.
        lower: writes the program of a plan with preferred kernels.
        hints: an integer for every size symbol.
        device: where the timing runs.
        dtype: of the arguments.
    """
    key = digest(task, hints, device, dtype)
    winner = cache_files.read(FILE, Winner).get(key)
    if winner is None or winner.best.plan >= len(plans):
        winner = Winner(_measured(plans, lower, hints, device, dtype))
        cache_files.remember(FILE, {key: winner}, Winner)
    best = winner.best
    return plans[best.plan], best.prefer, tuple(winner.trials)


def digest(task: str, hints: Mapping[str, int], device: str, dtype: torch.dtype) -> str:
    """What a decision depends on, in short."""
    threads = torch.get_num_threads() if device.startswith("cpu") else 0
    parts = (task, sorted(hints.items()), device, dtype, threads, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _measured(
    plans: Sequence[Plan], lower: Lower, hints: Mapping[str, int], device: str, dtype: torch.dtype
) -> list[Trial]:
    tried = sorted(candidates(plans, lower), key=lambda made: made[2].predicted)[:_MOST_PROGRAMS]
    arguments = _arguments(plans[0], hints, device, dtype)
    calls = [
        (lambda p=program: p.function(*(arguments[name] for name in p.arguments))) for _, _, program in tried
    ]
    times = interleaved(calls, device)
    return [
        Trial(plan, prefer, program.predicted, seconds * 1e6)
        for (plan, prefer, program), seconds in zip(tried, times, strict=True)
    ]


def candidates(plans: Sequence[Plan], lower: Lower) -> Iterable[tuple[int, tuple[str, ...], Timed]]:
    """Each plan with the kernels chosen by cost, and with one kernel preferred that comes near; no source twice."""
    seen: set[str] = set()
    for number, plan in enumerate(plans):
        program = lower(plan, ())
        near = {
            name
            for choice in program.choices
            for name, predicted in choice.candidates
            if predicted <= NEAR * choice.predicted and name != choice.kernel
        }
        variants = [((), program), *(((name,), lower(plan, (name,))) for name in sorted(near))]
        for prefer, made in variants:
            if made.source not in seen:
                seen.add(made.source)
                yield number, prefer, made


def _arguments(
    plan: Plan, hints: Mapping[str, int], device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    rows = {name: evaluate(size, hints) for name, size in plan.tables.items()}
    return {
        name: random_argument([evaluate(s, hints) for s in sizes], device, dtype, rows.get(name))
        for name, sizes in plan.arguments.items()
    }


def random_argument(
    shape: Sequence[int],
    device: str,
    dtype: torch.dtype | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Normal numbers; for a table that selects from so many rows, some of these in order.

    Args:
        shape: of the argument.
        device: where it is to be.
        dtype: torch's default if left out.
        rows: what a table selects from; None for another argument.
        seed: of the generator.
    """
    generator = torch.Generator(device).manual_seed(seed)
    if rows is None:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)
    return torch.randint(rows, tuple(shape), device=device, generator=generator).sort().values


def interleaved(
    calls: Sequence[Callable[[], object]], device: str = "cpu", rounds: int = _ROUNDS
) -> list[float]:
    """Seconds of each call, the median over rounds in which all take turns.

    Args:
        calls: what to time; each is run once before.
        device: a CUDA device is waited for.
        rounds: how many.
    """

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(call: Callable[[], object], repeat: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        wait()
        return (time.perf_counter() - start) / repeat

    with torch.no_grad():
        for call in calls:  # what is made once, and memory
            call()
        repeats = [max(1, round(_LEAST_SECONDS / max(seconds(call, 1), 1e-7))) for call in calls]
        times: list[list[float]] = [[] for _ in calls]
        for number in range(rounds):
            for place in range(len(calls)):
                turn = (place + number) % len(calls)
                times[turn].append(seconds(calls[turn], repeats[turn]))
    return [statistics.median(each) for each in times]
