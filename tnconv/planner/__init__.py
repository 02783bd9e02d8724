"""The planner: from a network to the order of its contractions, with exact costs."""

from collections.abc import Mapping

from tnconv.ir import Expression, Network
from tnconv.ir.network import fresh
from tnconv.errors import PlanError
from tnconv.planner.plan import Operand, Plan, Step

__all__ = ["Operand", "Plan", "Step", "make_plan"]


def make_plan(
    expression: Expression,
    *,
    planner: str = "auto",
    hints: Mapping[str, int] | None = None,
    memory_limit: None = None,
) -> Plan:
    """FIRST VERSION for integration: one step per term of at most two tensors."""
    taken = set(expression.arguments)
    steps = []
    for term in expression.terms:
        if len(term.tensors) > 2:
            raise PlanError("not yet")
        name = fresh("result", taken)
        taken.add(name)
        operands = tuple(Operand(t.argument, t.axes) for t in term.tensors)
        steps.append(Step(name, operands, term.patterns, term.output, term.scale))
    shapes = {
        t.argument: tuple(a.size for a in t.axes) for term in expression.terms for t in term.tensors
    }
    arguments = {name: shapes[name] for name in expression.arguments}
    return Plan(expression.name, arguments, tuple(steps), tuple(s.result for s in steps))
