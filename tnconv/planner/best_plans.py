"""The plans of an expression: of its best trees, and of those among which time decides."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from tnconv.errors import PlanError, meant
from tnconv.ir import Expression, Index
from tnconv.planner.cost import Model, models_of
from tnconv.planner.effort import Search
from tnconv.planner.hints import hint_values
from tnconv.planner.large import MANY
from tnconv.planner.near import Near
from tnconv.planner.objective import ELEMENTS, Objective
from tnconv.planner.plan import Plan
from tnconv.planner.prepare import Preparation
from tnconv.planner.search import EXACT, Order, find_orders
from tnconv.planner.step_builder import StepBuilder
from tnconv.planner.steps_price import steps_price
from tnconv.planner.table import Nested
from tnconv.planner.tree_steps import TreeSteps
from tnconv.planner.trees import largest, price


def build_plans(
    expression: Expression,
    planner: str,
    hints: Mapping[str, int],
    objective: Objective,
    search: Search | None,
) -> Iterator[Plan]:
    """The best plan, then the best ones with smaller and smaller intermediates, while there are any.

    Raises:
        PlanError: a size is not positive at the hints, or there is no such planner.
    """
    cap: int | None = None
    _check_names(expression, objective)
    prepared = _Models(expression, hint_values(expression.symbols, hints), objective)

    def orders(models: Sequence[Model], _term: int) -> list[Order]:
        return find_orders(models, planner, cap, search)

    while found := _build_plan(prepared, hints, orders):
        plan, size = found
        yield plan
        if not size:
            return
        cap = size - 1


def build_fast_plans(
    expression: Expression,
    planner: str,
    hints: Mapping[str, int],
    most: int,
    objective: Objective,
    far: float,
    search: Search | None,
) -> list[Plan]:
    """Plans that may be the fastest, as `fast_plans` says.

    Raises:
        PlanError: a size is not positive at the hints, or there is no such planner.
    """
    _check_names(expression, objective)
    counted = replace(objective, elements=0)
    prepared = _Models(expression, hint_values(expression.symbols, hints), counted)
    best: list[list[tuple[int, Nested]]] = []
    others: list[list[_Candidate]] = []
    for term in range(len(expression.terms)):
        models = prepared.models(term, {})
        ranked = models
        if models[0].count_leaves > MANY:  # none is compared with others
            ranked = [model.judged(replace(model.objective, elements=ELEMENTS)) for model in models]
        found = find_orders(ranked, planner, search=search) if models[0].count_leaves else []
        best.append([(int(model.late), tree) for model, tree in found])
        if planner in ("auto", "dp") and 3 <= models[0].count_leaves <= EXACT:
            others += [list(lane) for lane in _candidates(models, term, most, far)]
    chosen = {
        (candidate.term, candidate.model, candidate.tree): candidate
        for turn in zip_longest(*others)
        for candidate in turn
        if candidate is not None
    }

    def plan_with(candidate: _Candidate | None) -> Plan:
        def orders(models: Sequence[Model], term: int) -> list[Order]:
            trees = (
                [(candidate.model, candidate.tree)]
                if candidate is not None and candidate.term == term
                else best[term]
            )
            return [(models[number], tree) for number, tree in trees]

        made = _build_plan(prepared, hints, orders)
        assert made is not None
        return made[0]

    plans: list[Plan] = []
    for candidate in (None, *chosen.values()):
        plan = plan_with(candidate)
        if plan not in plans:
            plans.append(plan)
        if len(plans) >= most:
            break
    return plans


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A tree that may be the fastest of a term.

    Args:
        cost: by the objective of the lane that it is in.
        term: number of the term.
        model: number of the model that the tree is good for.
        tree: over the leaves of the term.
    """

    cost: float
    term: int
    model: int
    tree: Nested


def _candidates(models: Sequence[Model], term: int, most: int, far: float) -> Iterator[list[_Candidate]]:
    """The best trees with traffic counted, and the best for each last step by multiplications, none far behind."""
    timed = [Near(model.judged(replace(model.objective, elements=ELEMENTS)), far) for model in models]
    counted = [Near(model, far) for model in models]
    limit = min(near.best for near in timed) * far
    lanes = [
        [(near, near.trees(most)) for near in timed],
        [(near, near.last_steps()[:most]) for near in counted],
    ]
    for lane in lanes:
        found = [
            _Candidate(cost, term, number, tree)
            for number, (_, trees) in enumerate(lane)
            for cost, tree in trees
            if price(timed[number].model, tree)[0] <= limit
        ]
        yield sorted(found, key=lambda candidate: candidate.cost)


Orders = Callable[[Sequence[Model], int], list[Order]]


class _Models:
    """The models of the terms of an expression, for several plans of it: made once, with all that they have found out.

    Args:
        expression: what is planned.
        values: what the size symbols count as.
        objective: what ranks trees.
    """

    def __init__(self, expression: Expression, values: Mapping[str, int], objective: Objective) -> None:
        self.expression, self.values, self.objective = expression, values, objective
        self.steps: dict[Any, Any] = {}  # what is known of them
        self._made: dict[tuple[int, frozenset[Any]], tuple[list[Model], dict[str, Index]]] = {}

    def models(self, term: int, known: dict[str, Index]) -> list[Model]:
        """The models of a term.

        Args:
            term: its place.
            known: indices of earlier terms by name, and of this one from here on.
        """
        key = (term, frozenset(known.items()))
        if key not in self._made:
            names = dict(known)
            problem = Preparation(self.expression.terms[term], self.values, names).run()
            models = [model.judged(self.objective) for model in models_of(problem, self.values)]
            self._made[key] = models, names
        models, names = self._made[key]
        known.update(names)
        return models


def _check_names(expression: Expression, objective: Objective) -> None:
    for option, names in (("frozen", objective.frozen), ("constant", objective.constant)):
        unknown = sorted(names - set(expression.arguments))
        if unknown:
            raise PlanError(
                f"{option} has {unknown[0]!r}, which is no argument of {expression.name!r}"
                f"{meant(unknown[0], expression.arguments)}; it has "
                f"{', '.join(expression.arguments)}"
            )


def _build_plan(prepared: _Models, hints: Mapping[str, int], orders: Orders) -> tuple[Plan, int] | None:
    """Plan every term, sharing what they have in common; also the size of the largest intermediate."""
    expression = prepared.expression
    builder = StepBuilder(
        set(expression.arguments), prepared.values, real=expression.real, known=prepared.steps
    )
    known: dict[str, Index] = {}
    results, scales, sizes = [], [], []
    for place, term in enumerate(expression.terms):
        models = prepared.models(place, known)
        found = _cheapest(builder, models, known, orders(models, place) if models[0].count_leaves else [])
        if found is None:
            return None
        builder, known, result, size = found
        results.append(result)
        sizes.append(size)
        scales.append(term.scale * models[0].problem.multiplicity)
    for scale, result in zip(scales, results, strict=True):
        if scale != 1:
            builder.place_scale(scale, result)
    plan = Plan(
        expression.name,
        dict(expression.shapes),
        tuple(builder.steps),
        tuple(results),
        dict(hints),
        real=expression.real,
        tables=expression.tables,
    )
    return plan, max(sizes)


def _cheapest(
    builder: StepBuilder,
    models: Sequence[Model],
    known: dict[str, Index],
    orders: Sequence[Order],
) -> tuple[StepBuilder, dict[str, Index], str, int] | None:
    """Write the steps of the planner's tree; of several trees, that which costs least with shared work once."""
    if not models[0].count_leaves:
        return builder, known, TreeSteps(builder, models[0], known).build(None), 0
    trials = []
    for model, tree in orders:
        trial, names = builder.copy(), dict(known)
        result = TreeSteps(trial, model, names).build(tree)
        trials.append((trial, names, result, largest(model, tree)))
    objective = models[0].objective
    return min(trials, key=lambda trial: steps_price(trial[0].steps, objective, builder.values), default=None)
