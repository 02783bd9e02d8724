"""Which indices of a large plan are cut under a limit, and the plan of a chunk, without another search.

cotengra's `SliceFinder` does the same on its own trees (Gray and Kourtis 2021, arXiv 2002.01935); here its accounts are
kept of the steps of a plan, whose sizes are right where there are patterns, and only indices that can be cut are taken.
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import log

from tnconv.ir import Index, Size, evaluate
from tnconv.planner.count import count_factors
from tnconv.planner.plan import Plan, Step

MOST_CUTS = 18  # Python nests no more than 20 loops
_REPEATS = 16
_TEMPERATURE = 0.01


def cuts_of(
    plan: Plan, allowed: Collection[str], most: int, values: Mapping[str, int]
) -> tuple[str, ...] | None:
    """The indices by whose values a plan is cut so that no intermediate is too large, with little more work.

    Args:
        plan: of a network; its steps call indices as the network does.
        allowed: names of the indices that can be cut.
        most: elements of an intermediate.
        values: what size symbols count as.

    Returns:
        Their names in the order of the loops; None where too few can be cut.
    """
    from cotengra.scoring import FlopsObjective  # noqa: PLC0415 - 0.03 s that a layer never needs
    from cotengra.slicer import ContractionCosts  # noqa: PLC0415

    sizes = {i.name: evaluate(i.size, values) for i in plan.indices}
    whole = ContractionCosts([_account(step, values) for step in plan.steps], sizes)
    objective, draw = FlopsObjective(), random.Random(0)
    best: tuple[float, tuple[str, ...]] | None = None
    for _ in range(_REPEATS):
        costs, cuts = whole, tuple[str, ...]()
        left = sorted(name for name in allowed if sizes.get(name, 1) > 1)
        while costs.size > most and left and len(cuts) < MOST_CUTS:
            name = max(
                left,
                key=lambda each: (
                    objective.score_slice_index(costs, each) - _TEMPERATURE * log(-log(draw.random()))
                ),
            )
            costs, cuts = costs.remove(name), (*cuts, name)
            left.remove(name)
        if costs.size <= most and (best is None or costs.total_flops < best[0]):
            best = costs.total_flops, cuts
    return None if best is None else best[1]


def _account(step: Step, values: Mapping[str, int]) -> tuple[set[str], set[str], int, int]:
    """The indices of a step, those of its result, its elements and its multiplications."""
    involved = {i.name for i in step.indices}
    legs = {i.name for axis in step.output for i in axis.indices}
    work = 1
    for factor in step.factors:
        work *= evaluate(factor, values) if factor != 0 else 1
    return involved, legs, step.elements_at(values), work


def plan_of_chunk(
    plan: Plan,
    pieces: Mapping[str, Size],
    shapes: Mapping[str, tuple[Size, ...]],
    values: Mapping[str, int],
) -> Plan:
    """The same steps where some indices have other sizes.

    Args:
        plan: of the whole.
        pieces: new sizes by the name of the index.
        shapes: of the arguments of a chunk.
        values: what size symbols count as, those of chunks too.
    """
    exchange = {i: i.sized(pieces[i.name]) for i in plan.indices if i.name in pieces}
    steps = tuple(_changed(step, exchange, values) for step in plan.steps)
    return replace(plan, arguments=dict(shapes), steps=steps, hints=dict(values))


def _changed(step: Step, exchange: Mapping[Index, Index], values: Mapping[str, int]) -> Step:
    if exchange.keys().isdisjoint(step.indices):
        return step
    operands = tuple(operand.substitute(exchange) for operand in step.operands)
    output = tuple(axis.substitute(exchange) for axis in step.output)
    factors = count_factors(operands, step.relations, values)
    return Step(step.result, operands, step.relations, output, step.scale, factors)
