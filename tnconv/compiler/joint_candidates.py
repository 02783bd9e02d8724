"""Candidates for several operations together: joint plans, of which that is taken that is fastest with what it shares.

A plan of an operation that is slower by itself may share more, so others than the fastest are joined, too.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product as grid

import torch

from tnconv.compiler.candidate import Candidate, Task
from tnconv.compiler.choose import choose
from tnconv.ir import evaluate
from tnconv.planner import Plan
from tnconv.planner.joint_plan import joined
from tnconv.planner.memory_limit import does_not_fit

_PLANS_OF_ONE = 16  # plans of one operation that are joined
_FAR = 12.0  # what they may cost, as a multiple of the best
_JOINED = 48  # combinations of plans that are joined
_PLANS = 24  # joint plans that are priced; each takes some milliseconds


@dataclass(frozen=True)
class JointTask(Task):
    """Several networks that are to be computed together; `network` is the first of them.

    Args:
        name: of the joint plans.
        parts: what was chosen for each network alone.
    """

    name: str = ""
    parts: tuple[Candidate, ...] = ()

    @classmethod
    def together(cls, name: str, parts: Sequence[Candidate]) -> "JointTask":
        """The task of candidates that were compiled by the same options."""
        task = parts[0].task
        asked = ("planner", "backend", "hints", "device", "objective", "accuracy", "passes")
        same = {each: getattr(task, each) for each in asked}
        return cls(task.network, **same, name=name, parts=tuple(parts))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """An integer for every size symbol of the networks."""
        return {name: size for part in self.parts for name, size in part.task.sizes.items()}

    def candidates(
        self, prefer: Collection[str] = (), most: int = _PLANS, far: float = _FAR
    ) -> list[Candidate]:
        """Joint plans: of the plan of each network alone, then with others for some of them, those that share first."""
        every = [_plans(part, far) for part in self.parts]
        ranks = sorted(
            grid(*(range(len(plans)) for plans in every)), key=lambda r: (len(r) - r.count(0), sum(r), r)
        )
        sharing: dict[str, Plan] = {}
        others: dict[str, Plan] = {}
        for each in ranks[:_JOINED]:
            plans = [plans[rank] for plans, rank in zip(every, each, strict=True)]
            work = sum(map(_multiplications, plans))
            for plan in self._joined(plans):
                first = not any(each) or _multiplications(plan) < work
                (sharing if first else others).setdefault(str(plan), plan)
        chosen = list((sharing | others).values())[:most]
        return [Candidate(self, plan, tuple(prefer)) for plan in chosen]

    def _joined(self, plans: Sequence[Plan]) -> Iterator[Plan]:
        """The joint plan, and where it has sums of what there is, that without."""
        plan = joined(self.name, plans)
        yield plan
        if any(len(step.operands) == 1 and not step.relations for step in plan.steps):
            yield joined(self.name, plans, sums=False)

    def __str__(self) -> str:
        return "\n".join(str(part.task) for part in self.parts)


def _plans(part: Candidate, far: float) -> list[Plan]:
    """The plan that was chosen, unless it is in chunks, and others, also such as are worth it only if they share."""
    own = () if part.plan.slices else (part.plan,)
    candidates = [each.plan for each in part.task.candidates(most=_PLANS_OF_ONE, far=far)]
    return [*own, *(plan for plan in candidates if plan not in own)]


def _multiplications(plan: Plan) -> int:
    return evaluate(plan.multiplications, plan.hints)


def choose_joint(task: JointTask, memory_limit: int | None, autotune: bool) -> Candidate:
    """The candidate that is kept; arguments as of `choose`.

    Raises:
        PlanError: no joint plan fits into the memory limit.
    """
    if memory_limit is None:
        return choose(task, None, autotune)
    itemsize, peaks = torch.get_default_dtype().itemsize, []
    ways = ((), task.made_by.frugal)
    candidates = [Candidate(task, each.plan, prefer) for each in task.candidates() for prefer in ways]
    for each in sorted(candidates, key=lambda each: each.predicted()):
        peaks.append(each.peak)
        if each.peak <= memory_limit // itemsize:
            return each
    raise does_not_fit(min(peaks), len(peaks), memory_limit, itemsize, sorted(task.sizes), "joint plans")
