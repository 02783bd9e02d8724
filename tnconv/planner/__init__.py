"""The planner: from a network to the order of its contractions, with exact costs."""

from collections.abc import Mapping

from tnconv.errors import PlanError
from tnconv.ir import Expression
from tnconv.planner.build import build_plan
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
    memory_limit: int | str | None = None,
) -> Plan:
    """Choose the order of the contractions of a network or a sum.

    Args:
        expression: what to compute.
        planner: "auto" (all trees up to 12 tensors, cotengra above), "dp", "cotengra", "left-to-right", or
            the name of a plug-in from the entry-point group `tnconv.planners`: a callable that takes a
            `Problem` and returns nested pairs of tensor positions.
        hints: what size symbols count as where a decision depends on them; 32 for those not named. Counts
            of the plan are exact expressions all the same.
        memory_limit: not implemented.

    Raises:
        PlanError: there is no such planner, a hint is not a positive integer, or a memory limit is given.
    """
    if memory_limit is not None:
        raise PlanError(f"memory_limit={memory_limit!r} is not supported yet; leave it out")
    return build_plan(expression, planner, dict(hints or {}))
