"""The planner: from a network to the order of its contractions, with exact costs."""

from collections.abc import Iterator, Mapping

from tnconv.ir import Expression
from tnconv.planner.build import build_plans, build_rivals
from tnconv.planner.parser import parse_plan
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step
from tnconv.planner.printer import format_plan, format_step
from tnconv.planner.search import Problem

__all__ = [
    "DEFAULT_HINT",
    "Operand",
    "Plan",
    "Problem",
    "Step",
    "candidate_plans",
    "format_plan",
    "format_step",
    "make_plan",
    "parse_plan",
    "rival_plans",
]


def make_plan(
    expression: Expression,
    *,
    planner: str = "auto",
    hints: Mapping[str, int] | None = None,
) -> Plan:
    """Choose the order of the contractions of a network or a sum.

    Args:
        expression: what to compute.
        planner: "auto" (all trees up to 12 tensors, cotengra above), "dp", "cotengra", "left-to-right", or
            the name of a plug-in from the entry-point group `tnconv.planners`: a callable that takes a
            `Problem` and returns nested pairs of tensor positions.
        hints: what size symbols count as where a decision depends on them; 32 for those not named. Counts
            of the plan are exact expressions all the same.

    Raises:
        PlanError: there is no such planner, or a hint is not a positive integer.
    """
    return next(candidate_plans(expression, planner=planner, hints=hints))


def candidate_plans(
    expression: Expression, *, planner: str = "auto", hints: Mapping[str, int] | None = None
) -> Iterator[Plan]:
    """Plans for less and less memory: `make_plan`'s first, then each with smaller intermediates.

    Each is the best under a cap on the elements of an intermediate: one less than the largest of the plan
    before. "dp", and so "auto" up to 12 tensors, has the fewest multiplications under the cap and ends when
    no order is left; "cotengra" ends when it finds none. Results do not count, for every order has them,
    and neither does a tensor that is reduced by itself. A planner that knows one tree ends after it.

    Args:
        expression: what to compute.
        planner: as for `make_plan`.
        hints: as for `make_plan`; sizes are compared there.

    Raises:
        PlanError: there is no such planner, or a hint is not a positive integer.
    """
    return build_plans(expression, planner, dict(hints or {}))


def rival_plans(
    expression: Expression, *, planner: str = "auto", hints: Mapping[str, int] | None = None, most: int = 8
) -> list[Plan]:
    """Plans that may be the fastest: `make_plan`'s first, then the best ones with another last step.

    Multiplications are not time: a Gram matrix of positions may multiply less than the gradients that it
    saves and take longer. Whoever can predict times chooses among these.

    Args:
        expression: what to compute.
        planner: as for `make_plan`; only "auto" and "dp" have rivals, for 3 to 6 tensors in a term.
        hints: as for `make_plan`.
        most: number of plans.

    Raises:
        PlanError: there is no such planner, or a hint is not a positive integer.
    """
    return build_rivals(expression, planner, dict(hints or {}), most)
