"""Runs cases in rounds, each from a seed of its own, so that a run can be stopped, resumed, and repeated.

Hypothesis draws and shrinks. A round ends at its first failure, which is printed as a test to paste.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.errors import NoSuchExample

from tests.fuzz.cases import Case, cases

ROUND = 50  # cases
_QUIET = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


@dataclass
class Progress:
    """What a run has seen so far.

    Args:
        seed: of the run.
        rounds: how many are done.
        counts: cases by what became of them: compared by value, with gradients, refused, failed.
        failures: a test for each.
    """

    seed: int
    rounds: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of cases."""
        return sum(self.counts.values())

    def save(self, path: Path) -> None:
        """Write it, so that a run can be resumed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, start: int) -> "Progress":
        """What an earlier run with this seed has saved; nothing else is resumed."""
        found = cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls(start)
        return found if found.seed == start else cls(start)


def rounds(progress: Progress, judge: Callable[[Case], str], most: int) -> Iterator[Progress]:
    """Run rounds until there are so many cases; what is yielded after each is the same object.

    Args:
        progress: where to begin; it is changed.
        judge: says what was compared, or raises.
        most: number of cases.
    """
    while progress.total < most:
        _round(progress, judge)
        progress.rounds += 1
        yield progress


def _round(progress: Progress, judge: Callable[[Case], str]) -> None:
    failed: list[Case] = []

    @seed(1_000_003 * progress.seed + progress.rounds)
    @settings(max_examples=ROUND, phases=[Phase.generate], **_QUIET)  # type: ignore[arg-type]
    @given(cases())
    def each(case: Case) -> None:
        if failed:
            return
        try:
            outcome = judge(case)
        except Exception:
            outcome = "failed"
            failed.append(case)
        progress.counts[outcome] = progress.counts.get(outcome, 0) + 1

    each()
    for case in failed:
        progress.failures.append(as_test(smallest(case, judge), judge))


def smallest(case: Case, judge: Callable[[Case], str], tries: int = 100) -> Case:
    """The smallest case that hypothesis finds to fail with the same error as one that does; that one if none is."""
    kind, _ = _error(case, judge)
    try:
        return find(
            cases(),
            lambda other: (
                other.op == case.op
                and type(other.spec) is type(case.spec)
                and _error(other, judge)[0] is kind
            ),
            settings=settings(max_examples=tries, **_QUIET),  # type: ignore[arg-type]
        )
    except NoSuchExample:
        return case


def _error(case: Case, judge: Callable[[Case], str]) -> tuple[type[Exception] | None, str]:
    try:
        judge(case)
    except Exception as error:
        return type(error), str(error)
    return None, ""


def as_test(case: Case, judge: Callable[[Case], str]) -> str:
    """A failing case as a test to paste."""
    kind, message = _error(case, judge)
    first = (message.splitlines() or [""])[0]
    name = f"test_{case.op}_of_{case.spec.kind}"
    return (
        f"def {name}() -> None:  # {kind.__name__ if kind else 'fails no more'}: {first}\n"
        f"    from tests.fuzz.cases import Case\n    from tests.fuzz.judge import judge\n"
        f"    from tnconv import {type(case.spec).__name__}\n\n    judge({case!r})\n"
    )
