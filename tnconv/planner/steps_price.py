"""What steps cost by an objective; of trees, before they have steps, `Model` in `cost.py` says the same."""

from collections.abc import Mapping, Sequence
from math import prod

from tnconv.planner.hints import extent_of
from tnconv.planner.objective import Objective
from tnconv.planner.plan import Step, varying_operands


def steps_price(steps: Sequence[Step], objective: Objective, values: Mapping[str, int]) -> int:
    """Multiplications, and elements that are written and read, of all steps.

    Args:
        steps: in order.
        objective: what counts.
        values: integers for all size symbols.
    """
    gradients, total = varying_operands(steps, objective.frozen), 0
    changing = varying_operands(steps, objective.constant)
    for step in steps:
        if not changing[step.result]:
            continue
        count = prod(extent_of(f, values) if f != 0 else 0 for f in step.factors)
        total += count * (1 + gradients[step.result] if objective.training else 1)
        if objective.elements and len(step.operands) > 1:  # what prepares a leaf is in no price either
            total += 2 * objective.elements * step.elements_at(values)
    return total
