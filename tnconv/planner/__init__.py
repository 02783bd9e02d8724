"""The planner: from a network to the order of its contractions, with exact costs."""

from collections.abc import Collection, Iterator, Mapping

from tnconv.ir import Expression
from tnconv.planner.best_plans import build_fast_plans, build_plans
from tnconv.planner.effort import Search
from tnconv.planner.near import FAR
from tnconv.planner.objective import Objective
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step
from tnconv.planner.plan_parser import parse_plan
from tnconv.planner.plan_printer import format_plan, format_step
from tnconv.planner.search import Problem

__all__ = [
    "DEFAULT_HINT",
    "Operand",
    "Plan",
    "Problem",
    "Search",
    "Step",
    "candidate_plans",
    "fast_plans",
    "format_plan",
    "format_step",
    "make_plan",
    "parse_plan",
]


def make_plan(
    expression: Expression,
    *,
    planner: str = "auto",
    hints: Mapping[str, int] | None = None,
    minimize: str = "multiplications",
    training: bool = False,
    frozen: Collection[str] = (),
    constant: Collection[str] = (),
    search: Search | None = None,
) -> Plan:
    """Choose the order of the contractions of a network or a sum.

    Args:
        expression: what to compute.
        planner: "auto" (all trees up to 12 tensors, cotengra above), "dp", "cotengra", "left-to-right", or
            the name of a plug-in from the entry-point group `tnconv.planners`: a callable that takes a
            `Problem` and returns nested pairs of tensor positions.
        hints: what size symbols count as where a decision depends on them; 32 for those not named. Counts
            of the plan are exact expressions all the same.
        minimize: "multiplications", or "time": multiplications and, 32 times as much each, the elements that
            steps read and write.
        training: forward and backward together: the multiplications of a step count once more for each operand
            that needs a gradient.
        frozen: names of the arguments that need none in training; all others do, inputs too.
        constant: names of the arguments that seldom change, such as weights: what depends on them alone is free.
        search: how, and how long, "cotengra" searches; if left out a little, and the same every time.

    Raises:
        PlanError: there is no such planner, objective or argument, or a hint is not a positive integer.
    """
    objective = Objective.of(minimize, training, frozen, constant)
    return next(build_plans(expression, planner, dict(hints or {}), objective, search))


def candidate_plans(
    expression: Expression,
    *,
    planner: str = "auto",
    hints: Mapping[str, int] | None = None,
    search: Search | None = None,
) -> Iterator[Plan]:
    """Plans for less and less memory: `make_plan`'s first, then each with smaller intermediates.

    Each has the fewest multiplications under a cap on the elements of an intermediate: one less than the largest of
    the plan before. "dp", and so "auto" up to 12 tensors, is the best under the cap and ends when no order is left;
    "cotengra" ends when it finds none. Results do not count, for every order has them, and neither does a tensor that
    is reduced by itself. A planner that knows one tree ends after it.

    Args:
        expression: what to compute.
        planner: as for `make_plan`.
        hints: as for `make_plan`; sizes are compared there.
        search: as for `make_plan`.

    Raises:
        PlanError: as for `make_plan`.
    """
    return build_plans(expression, planner, dict(hints or {}), Objective(), search)


def fast_plans(
    expression: Expression,
    *,
    planner: str = "auto",
    hints: Mapping[str, int] | None = None,
    most: int = 8,
    far: float = FAR,
    training: bool = False,
    frozen: Collection[str] = (),
    constant: Collection[str] = (),
    search: Search | None = None,
) -> list[Plan]:
    """Plans that may be the fastest: that with the fewest multiplications first.

    Multiplications are not time: a Gram matrix of positions may multiply less than the gradients that it
    saves and take longer, and three small convolutions in a row may be slower than one with a merged kernel. The
    others are, in turn, the best ones by `make_plan(minimize="time")`, and those with the fewest multiplications for
    another last step; none that costs more than `far` times the best by that. Whoever can predict times chooses.

    Args:
        expression: what to compute.
        planner: as for `make_plan`; only "auto" and "dp" find several, for 3 to 12 tensors in a term.
        hints: as for `make_plan`.
        most: number of plans.
        far: what a plan may cost, as a multiple of the best.
        training: as for `make_plan`.
        frozen: as for `make_plan`.
        constant: as for `make_plan`.
        search: as for `make_plan`.

    Raises:
        PlanError: as for `make_plan`.
    """
    objective = Objective.of("multiplications", training, frozen, constant)
    return build_fast_plans(expression, planner, dict(hints or {}), most, objective, far, search)
