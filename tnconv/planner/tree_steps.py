"""From contraction trees to steps: names, layouts, shared work, and where the scale goes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import prod
from typing import Any

from tnconv.errors import PlanError
from tnconv.ir import Axis, Expression, Index, Relational, Select, fresh, group, pattern
from tnconv.ir.monomial import Scalar
from tnconv.planner.cost import Model, Row, State, bits, models_of
from tnconv.planner.count import count_factors
from tnconv.planner.near import Near
from tnconv.planner.objective import ELEMENTS, Objective
from tnconv.planner.plan import Operand, Plan, Step, moving_operands
from tnconv.planner.prepare import Linear, Preparation, extent_of, hint_values
from tnconv.planner.search import EXACT, Order, find_orders, largest, nodes, price
from tnconv.planner.table import Nested


def build_plans(
    expression: Expression, planner: str, hints: Mapping[str, int], objective: Objective
) -> Iterator[Plan]:
    """The best plan, then the best ones with smaller and smaller intermediates, while there are any.

    Raises:
        PlanError: a size is not positive at the hints, or there is no such planner.
    """
    cap: int | None = None
    _check_names(expression, objective)
    prepared = _Prepared(expression, hint_values(expression.symbols, hints), objective)

    def orders(models: Sequence[Model], _term: int) -> list[Order]:
        return find_orders(models, planner, cap)

    while found := _build_plan(prepared, hints, orders):
        plan, size = found
        yield plan
        if not size:
            return
        cap = size - 1


def build_rivals(
    expression: Expression,
    planner: str,
    hints: Mapping[str, int],
    most: int,
    objective: Objective,
    far: float,
) -> list[Plan]:
    """Plans that may be the fastest, as `rival_plans` says.

    Raises:
        PlanError: a size is not positive at the hints, or there is no such planner.
    """
    _check_names(expression, objective)
    counted = replace(objective, elements=0)
    prepared = _Prepared(expression, hint_values(expression.symbols, hints), counted)
    best: list[list[tuple[int, Nested]]] = []
    others: list[list[_Rival]] = []
    for term in range(len(expression.terms)):
        models = prepared.models(term, {})
        found = find_orders(models, planner) if models[0].count_leaves else []
        best.append([(int(model.late), tree) for model, tree in found])
        if planner in ("auto", "dp") and 3 <= models[0].count_leaves <= EXACT:
            others += [list(lane) for lane in _rivals(models, term, most, far)]
    chosen = {
        (rival.term, rival.model, rival.tree): rival
        for turn in zip_longest(*others)
        for rival in turn
        if rival is not None
    }

    def plan_with(rival: _Rival | None) -> Plan:
        def orders(models: Sequence[Model], term: int) -> list[Order]:
            trees = [(rival.model, rival.tree)] if rival is not None and rival.term == term else best[term]
            return [(models[number], tree) for number, tree in trees]

        made = _build_plan(prepared, hints, orders)
        assert made is not None
        return made[0]

    plans: list[Plan] = []
    for rival in (None, *chosen.values()):
        plan = plan_with(rival)
        if plan not in plans:
            plans.append(plan)
        if len(plans) >= most:
            break
    return plans


@dataclass(frozen=True, slots=True)
class _Rival:
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


def _rivals(models: Sequence[Model], term: int, most: int, far: float) -> Iterator[list[_Rival]]:
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
            _Rival(cost, term, number, tree)
            for number, (_, trees) in enumerate(lane)
            for cost, tree in trees
            if price(timed[number].model, tree)[0] <= limit
        ]
        yield sorted(found, key=lambda rival: rival.cost)


Orders = Callable[[Sequence[Model], int], list[Order]]


class _Prepared:
    """The models of the terms of an expression, for several plans of it: made once, with all that they have found out.

    Args:
        expression: what is planned.
        values: what the size symbols count as.
        objective: what trees are judged by.
    """

    def __init__(self, expression: Expression, values: Mapping[str, int], objective: Objective) -> None:
        self.expression, self.values, self.objective = expression, values, objective
        self._made: dict[tuple[int, frozenset[Any]], tuple[list[Model], dict[str, Index]]] = {}

    def models(self, term: int, known: dict[str, Index]) -> list[Model]:
        """Those of a term.

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
                f"{option} has {unknown[0]!r}, which is no argument of {expression.name!r}; it has "
                f"{', '.join(expression.arguments)}"
            )


def _build_plan(prepared: _Prepared, hints: Mapping[str, int], orders: Orders) -> tuple[Plan, int] | None:
    """Plan every term, sharing what they have in common; also the size of the largest intermediate."""
    expression = prepared.expression
    builder = _Builder(set(expression.arguments), prepared.values, real=expression.real)
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
    builder: "_Builder",
    models: Sequence[Model],
    known: dict[str, Index],
    orders: Sequence[Order],
) -> tuple["_Builder", dict[str, Index], str, int] | None:
    """Write the steps of the planner's tree; of several trees, that which costs least with shared work once."""
    if not models[0].count_leaves:
        return builder, known, _Term(builder, models[0], known).build(None), 0
    trials = []
    for model, tree in orders:
        trial, names = builder.copy(), dict(known)
        result = _Term(trial, model, names).build(tree)
        trials.append((trial, names, result, largest(model, tree)))
    objective = models[0].objective
    return min(trials, key=lambda trial: trial[0].cost(objective), default=None)


class _Builder:
    """The steps of a plan so far.

    Args:
        taken: names of the arguments.
        values: what the size symbols count as.
        real: whether the results add up to a real value, so that a result and its conjugate are as good.
    """

    def __init__(self, taken: set[str], values: Mapping[str, int], *, real: bool) -> None:
        self.taken, self.real = taken, real
        self.values = values
        self.output: dict[Index, int] = {}
        self.steps: list[Step] = []
        self.shared: dict[Any, str] = {}
        self.number = 0

    def copy(self) -> "_Builder":
        """A builder with the same steps, to try something."""
        made = _Builder(set(self.taken), self.values, real=self.real)
        made.steps, made.shared, made.number = list(self.steps), dict(self.shared), self.number
        return made

    def cost(self, objective: Objective) -> int:
        """Of all steps so far by an objective, at the values."""
        moving, total = moving_operands(self.steps, objective.frozen), 0
        changing = moving_operands(self.steps, objective.constant)
        for step in self.steps:
            if not changing[step.result]:
                continue
            count = prod(extent_of(f, self.values) if f != 0 else 0 for f in step.factors)
            total += count * (1 + moving[step.result] if objective.training else 1)
            if objective.elements and len(step.operands) > 1:  # what prepares a leaf is in no price either
                total += 2 * objective.elements * step.elements_at(self.values)
        return total

    def add(
        self, operands: Sequence[Operand], relations: Sequence[Relational], legs: Sequence[Index]
    ) -> Operand:
        """A step whose result has the legs as plain axes, or the equal step that is there; as an operand.

        Where the first operand is a conjugate, what is made is the conjugate of all, which is read as one: so both
        halves of a Hermitian product are one step.
        """
        operands, conj = first_plain(operands)
        numbers = numbers_of(operands, relations)
        ordered = self._in_output_order(sorted(legs, key=lambda i: (i.kind.rank, numbers[i])))
        axes = tuple(group(i) for i in ordered)
        key = step_key(operands, relations, ordered, numbers)
        name = self.shared.get(key)
        if name is None:
            self.number += 1
            name = self.shared[key] = self._append(f"t{self.number}", operands, relations, axes)
        return Operand(name, axes, conj)

    def finish(
        self, operands: Sequence[Operand], relations: Sequence[Relational], axes: tuple[Axis, ...]
    ) -> str:
        """The step whose result is the value of a term; never shared, for it may be scaled."""
        if self.real:
            operands, _ = first_plain(operands)
        return self._append("result", operands, relations, axes)

    def _append(
        self, base: str, operands: Sequence[Operand], relations: Sequence[Relational], axes: tuple[Axis, ...]
    ) -> str:
        name = fresh(base, self.taken)
        self.taken.add(name)
        factors = count_factors(operands, relations, self.values)
        self.steps.append(Step(name, tuple(operands), tuple(relations), axes, factors=factors))
        return name

    def _in_output_order(self, legs: Sequence[Index]) -> list[Index]:
        """The legs, those that the output has too exchanged among each other into its order."""
        rank = self.output
        found = iter(sorted((i for i in legs if i in rank), key=rank.__getitem__))
        return [next(found) if i in rank else i for i in legs]

    def place_scale(self, scale: Scalar, result: str) -> None:
        """Scale the smallest step that only this result uses, once; the result itself in a tie."""
        users: dict[str, list[str]] = {}
        for step in self.steps:
            for operand in step.operands:
                users.setdefault(operand.source, []).append(step.result)
        best: tuple[int, int] | None = None
        for place, step in enumerate(self.steps):
            name = step.result
            while name != result and len(users.get(name, ())) == 1:
                name = users[name][0]
            if name == result:
                best = min(
                    best or (step.elements_at(self.values), place), (step.elements_at(self.values), place)
                )
        assert best is not None
        root = next(p for p, step in enumerate(self.steps) if step.result == result)
        place = root if self.steps[root].elements_at(self.values) <= best[0] else best[1]
        self.steps[place] = replace(self.steps[place], scale=scale)


def first_plain(operands: Sequence[Operand]) -> tuple[Sequence[Operand], bool]:
    """The operands, or their conjugates where the first of them would be one; and whether they are conjugates."""
    if not operands or not operands[0].conj:
        return operands, False
    return [replace(o, conj=not o.conj) for o in operands], True


def numbers_of(operands: Sequence[Operand], relations: Sequence[Relational]) -> dict[Index, int]:
    """The indices of a step by first occurrence."""
    numbers: dict[Index, int] = {}
    for part in (*operands, *relations):
        for index in part.indices:
            numbers.setdefault(index, len(numbers))
    return numbers


def step_key(
    operands: Sequence[Operand],
    relations: Sequence[Relational],
    legs: Sequence[Index],
    numbers: Mapping[Index, int],
) -> Any:
    """Equal for two steps that differ in the names of indices only."""
    return (
        tuple(
            (
                o.source,
                o.conj,
                tuple((tuple(numbers[i] for i in a.indices), a.strides, a.start, a.size) for a in o.axes),
            )
            for o in operands
        ),
        tuple(
            (
                numbers[r.left],
                tuple((a, numbers[x]) for a, x in r.terms),
                r.offset,
                r.modulus,
                r.table if isinstance(r, Select) else r.mode,
            )
            for r in relations
        ),
        tuple(numbers[i] for i in legs),
        tuple(i.size for i in numbers),
    )


class _Term:
    """Writes the steps of one term."""

    def __init__(self, builder: _Builder, model: Model, known: dict[str, Index]) -> None:
        self.builder = builder
        self.model = model
        self.problem = model.problem
        builder.output = {i: place for place, i in enumerate(i for a in self.problem.axes for i in a.indices)}
        self.known = known
        self.variables: dict[int, Index] = dict(enumerate(self.problem.variables))

    # -- indices and relations -------------------------------------------------------------------

    def index(self, variable: int) -> Index:
        """The index with a number; a cut gets its own, named after the relation: `q1` for `i1 = …`."""
        found = self.variables.get(variable)
        if found is None:
            r, cut = self.model.cut_of[variable]
            left = self.problem.variables[self.problem.relations[r].left]
            name = fresh(re.sub(r"\A[A-Za-z]+", "q", left.name), set(self.known))
            found = self.variables[variable] = self.known[name] = Index(name, cut.size, left.kind)
        return found

    def relations(self, rows: Sequence[tuple[int, Row]]) -> list[Relational]:
        """Rows as patterns."""
        whole = self.problem.relations
        return [
            self.relation(
                f"r{n}", replace(whole[r], coefficients=row, offset=offset, left=self._left(r, row))
            )
            for n, (r, (row, offset)) in enumerate(rows, 1)
        ]

    def relation(self, name: str, row: Linear) -> Relational:
        """A row as a pattern, solved for its left index."""
        if row.table is not None:
            right = next(v for v in row.coefficients if v != row.left)
            return Select(name, self.index(row.left), self.index(right), row.table)
        unit = -row.coefficients[row.left]
        terms = tuple((unit * a, self.index(v)) for v, a in row.coefficients.items() if v != row.left)
        return pattern(name, self.index(row.left), terms, unit * row.offset, row.modulus, row.mode)

    def _left(self, r: int, row: Mapping[int, int]) -> int:
        """The left index of the relation, or the leg that it was merged into last."""
        left = self.problem.relations[r].left

        def rank(v: int) -> tuple[bool, int, int]:
            inside = self.model.cut_of[v][1].inside if v in self.model.cut_of else 0
            holds = v == left or bool(inside >> left & 1)
            return (not holds, inside.bit_count() if holds else -inside.bit_count(), v)

        return min((v for v, a in row.items() if abs(a) == 1), key=rank)

    # -- steps -----------------------------------------------------------------------------------

    def build(self, tree: Nested | None) -> str:
        """Write all steps; return the name of the result."""
        if tree is None:
            return self._finish(
                [], [(r, (dict(x.coefficients), x.offset)) for r, x in enumerate(self.problem.relations)]
            )
        if isinstance(tree, int):
            raw, final = self.model.raw(tree), self.model.state(1 << tree)
            return self._finish([self._prepared(tree)], self._last_rows(raw, None, final))
        whole = self.model.everything
        made: dict[int, Operand] = {}
        for both, left, right in self._execution_order(tree):
            a, b = sorted((left, right), key=lambda mask: mask & -mask)
            result = self.model.state(both)
            state_a, state_b = self.model.operands(a, b, result)
            operands = [self._operand(a, state_a, made), self._operand(b, state_b, made)]
            if both == whole:
                return self._finish(operands, self._last_rows(state_a, state_b, result))
            rows = self.model.rows(state_a, state_b, result)
            legs = [self.index(v) for v in bits(result.legs)]
            made[both] = self.builder.add(operands, self.relations(rows), legs)
        raise AssertionError("a tree of pairs ends in its root")

    def _operand(self, mask: int, state: State, made: Mapping[int, Operand]) -> Operand:
        if mask in made:
            return made[mask]
        leaf = mask.bit_length() - 1
        operand, raw = self._prepared(leaf), self.model.raw(leaf)
        if not raw.differs(state):
            return operand
        rows = self.model.rows(raw, None, state)
        return self.builder.add([operand], self.relations(rows), [self.index(v) for v in bits(state.legs)])

    def _prepared(self, place: int) -> Operand:
        """A leaf behind its wraps."""
        leaf = self.problem.leaves[place]
        operand = Operand(leaf.argument, leaf.axes, leaf.conj)
        if not leaf.wraps:
            return operand
        wraps = [self.relation(f"r{n}", wrap) for n, wrap in enumerate(leaf.wraps, 1)]
        return self.builder.add([operand], wraps, [self.index(v) for v in leaf.legs])

    def _last_rows(self, a: State, b: State | None, final: State) -> list[tuple[int, Row]]:
        """What the last step absorbs: also the relations that nothing connects to a tensor."""
        rows = self.model.rows(a, b, final)
        for r, relation in enumerate(self.problem.relations):
            if not final.absorbed >> r & 1:
                rows.append((r, (dict(relation.coefficients), relation.offset)))
        return sorted(rows, key=lambda row: row[0])

    def _finish(self, operands: list[Operand], rows: list[tuple[int, Row]]) -> str:
        """The last step of the term; one more where a padded axis is folded back."""
        relations = self.relations(rows)
        if not self.problem.finish:
            return self.builder.finish(operands, relations, self.problem.axes)
        wraps = [w.relation for w in self.problem.finish]
        at_hand = {i for part in (*operands, *relations) for i in part.indices}
        legs = [i for i in map(self.index, self.problem.output) if i in at_hand]
        if operands and (relations or len(operands) > 1):
            operands, relations = [self.builder.add(operands, relations, legs)], []
        start = len(relations) + 1
        relations += [self.relation(f"r{n}", wrap) for n, wrap in enumerate(wraps, start)]
        return self.builder.finish(operands, relations, self.problem.axes)

    def _execution_order(self, tree: Nested) -> list[tuple[int, int, int]]:
        """The inner nodes as (leaves, left, right), the child first whose subtree needs more memory."""
        children: dict[int, tuple[int, int]] = {}
        need: dict[int, tuple[int, int]] = {}  # leaves -> elements at the peak, elements of the result
        for _, both, left, right in nodes(tree):
            size = self.model.elements(both)
            (peak_a, size_a), (peak_b, size_b) = (need.get(m, (0, 0)) for m in (left, right))
            forward = max(peak_a, size_a + peak_b)
            backward = max(peak_b, size_b + peak_a)
            children[both] = (left, right) if forward <= backward else (right, left)
            need[both] = (max(min(forward, backward), size_a + size_b + size), size)
        order: list[tuple[int, int, int]] = []
        stack = [self.model.everything]
        while stack:  # root first, then backwards
            both = stack.pop()
            if both in children:
                order.append((both, *children[both]))
                stack += children[both]
        return order[::-1]
