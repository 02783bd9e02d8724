"""From a contraction tree to steps: which relations each absorbs, in which order they run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tnconv.ir import Index, Relational, Select, fresh, pattern
from tnconv.planner.cost import Model, Row
from tnconv.planner.plan import Operand
from tnconv.planner.problem import Linear
from tnconv.planner.states import State, bits
from tnconv.planner.step_builder import StepBuilder
from tnconv.planner.table import Nested
from tnconv.planner.trees import nodes


class TreeSteps:
    """Writes the steps of one term."""

    def __init__(self, builder: StepBuilder, model: Model, known: dict[str, Index]) -> None:
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
            self.model.joined(left, right)
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
