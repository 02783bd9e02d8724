"""Kernels that go through windows: view + matmul, fold, and the last resort, which accepts everything."""

import string
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, takewhile

from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.index_arithmetic import cells, inside, ramp
from tnconv.backends.torch.kernels.contract import Contract, contract
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.summed_axes import slice_sum
from tnconv.backends.torch.padded_views import broadcast, has_views
from tnconv.backends.torch.windows import gather, scatter
from tnconv.errors import LoweringError
from tnconv.ir import Index, Relational, eliminate, fits, reach, solve
from tnconv.program import Var

_LETTERS = string.ascii_letters
_PAIR = 2  # operands of a product


def window_relations(problem: Problem) -> tuple[Relational, ...] | None:
    """Each relation solved for an index that only operands have, so that it can be read as a window view."""
    if "windows" not in problem.memo:
        found = [_window(problem, relation) for relation in problem.relations]
        problem.memo["windows"] = None if None in found else tuple(found)
    solved: tuple[Relational, ...] | None = problem.memo["windows"]
    return solved


def _window(problem: Problem, relation: Relational) -> Relational | None:
    return next((r for i in relation.indices if (r := _as_window(problem, relation, i))), None)


def _as_window(problem: Problem, relation: Relational, index: Index) -> Relational | None:
    if index in problem.open or not problem.holders(index) or problem.uses(index) != 1:
        return None
    solved = solve(relation, index)
    if (
        solved is None
        or solved.modulus is not None
        or reach(solved.terms) is None
        or not isinstance(index.size, int)
    ):
        return None
    return solved


class Windows(Kernel):
    """A window view of each operand (im2col), then a matrix product over the windows."""

    name = "window view + matmul"
    takes_conj = True
    accuracy = "local"

    def accepts(self, problem: Problem) -> bool:
        """Every relation has an index that is on operands only, of which there is a view."""
        if not problem.relations or not 1 <= len(problem.operands) <= _PAIR:
            return False
        found = window_relations(problem)
        return found is not None and all(
            has_views(value, [r for r in found if r.left in value.legs], problem.profile)
            for value in problem.operands
        )

    def cost(self, problem: Problem) -> float:
        """The padding, the sums over positions, and the product of the windows, which copies them."""
        opening, product = self.product(problem)
        if len(product.operands) == 1:
            return opening + self._written(problem)
        return opening + Contract().cost(product)

    @staticmethod
    def _written(problem: Problem) -> float:
        """Microseconds to write the windows of one operand in the order of the output."""
        steps = {x: abs(a) for r in window_relations(problem) or () for a, x in r.terms}
        order = problem.output[::-1]
        whole = list(takewhile(lambda i: i not in steps, order))  # are read as they lie, with the next axis
        first, then = order[: len(whole) + 1], order[len(whole) + 1 : len(whole) + 2]
        gaps = not whole and steps.get(first[-1], 1) > 1 if first else False
        run, rows = problem.count(first), problem.count(then)
        return problem.profile.writing(problem.count(problem.output), run, rows, gaps=gaps)

    def product(self, problem: Problem) -> tuple[float, Problem]:
        """Microseconds until windows can be read, and the product of the windows, before statements are written."""
        profile = problem.profile
        total, operands = 3 * profile.call, []
        for place, (value, made) in enumerate(zip(problem.operands, self._legs(problem), strict=True)):
            if made == value.legs:
                operands.append(value)
                continue
            reduced = self._reduced_only(problem, place)
            total += profile.copying(problem.count(value.legs) / 2) + self._added(problem, value, reduced)
            legs = tuple(i for i in made if i not in reduced)
            operands.append(Value(value.name, singles(legs), contiguous=bool(reduced)))
        return total, replace(problem, operands=tuple(operands), relations=())

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the window views and the product."""
        return contract(self.opened(problem, em), em)

    def opened(self, problem: Problem, em: Emitter) -> Problem:
        """Write the window views; return the product that is left.

        What is summed over windows alone is summed along one axis after another: K1 + K2 slices, not K1 K2.
        """
        relations = window_relations(problem)
        assert relations is not None
        operands = []
        for place, operand in enumerate(problem.operands):
            value, reduced = operand, self._reduced_only(problem, place)
            rest = [r for r in relations if r.left in value.legs]
            single = [i for i in reduced if problem.uses(i) == 1]
            for relation in [r for r in rest if any(i in single for i in r.indices)]:
                windows = gather(em, value, [relation], single)
                value = _summed(em, windows, [i for i in relation.indices if i in single])
                rest.remove(relation)
            operands.append(_summed(em, gather(em, value, rest), [i for i in reduced if i not in single]))
        return replace(problem, operands=tuple(operands), relations=())

    @staticmethod
    def _added(problem: Problem, value: Value, reduced: Sequence[Index]) -> float:
        """Microseconds to add up slices, one axis after another; a slice is read, not copied."""
        profile, cells, total = problem.profile, problem.count(value.legs), 0.0
        for relation in window_relations(problem) or ():
            gone = problem.count(i for i in relation.indices if i in reduced)
            if relation.left in value.legs and gone > 1:
                cells = cells * problem.count(x for _, x in relation.terms) // problem.count((relation.left,))
                total += 4 * profile.call + profile.copying(cells / 2)
                cells //= gone
        return total

    @staticmethod
    def _reduced_only(problem: Problem, place: int) -> tuple[Index, ...]:
        """The latent indices that only the windows of one operand have."""
        made = Windows._legs(problem)
        others = {i for p, legs in enumerate(made) if p != place for i in legs}
        return tuple(i for i in made[place] if i in problem.latent and i not in others)

    @staticmethod
    def _legs(problem: Problem) -> list[tuple[Index, ...]]:
        """The legs of each operand's windows, in order: the term with the longest step is where the cells were."""
        relations = window_relations(problem) or ()
        made = []
        for value in problem.operands:
            steps = {
                r.left: [x for _, x in sorted(r.terms, key=lambda t: -abs(t[0]))]
                for r in relations
                if r.left in value.legs
            }
            front = [i for leg in value.legs for i in steps.get(leg, [leg])[:1]]
            made.append(tuple(dict.fromkeys((*front, *(i for terms in steps.values() for i in terms[1:])))))
        return made


def _summed(em: Emitter, windows: Value, gone: Sequence[Index]) -> Value:
    """Windows summed over positions that nothing else has: shifted slices, added up."""
    if not gone:
        return windows
    windows = em.isolate(windows, gone)
    places = tuple(p for p, dim in enumerate(windows.dims) if set(dim) & set(gone))
    dims = tuple(dim for p, dim in enumerate(windows.dims) if p not in places)
    return em.derive(
        windows, "sum", slice_sum(em, Var(windows.name), windows.dims, places), dims, copied=True
    )


class Cells(Kernel):
    """The last resort: reads and writes by index arithmetic. Accepts every step."""

    name = "gather and scatter"
    takes_conj = True

    def accepts(self, problem: Problem) -> bool:
        """Always."""
        return True

    def cost(self, problem: Problem) -> float:
        """Every combination of indices, at the rate of scattered reads."""
        profile = problem.profile
        every = dict.fromkeys(
            (*(i for v in problem.operands for i in v.legs), *problem.output, *problem.latent)
        )
        return 20 * profile.call + problem.count(every) / profile.gather

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Read the determined indices by cells, multiply, and add up at the output's."""
        operands, relations, output = list(problem.operands), list(problem.relations), list(problem.output)
        scatters: list[tuple[Relational, tuple[Index, ...]]] = []
        like = Var(operands[0].name)
        while relations:
            solved, relations, equal = _next(problem, relations)
            legs = [x for _, x in solved.terms]
            readers = [p for p, v in enumerate(operands) if solved.left in v.legs]
            for p in readers:
                operands[p] = gather(em, operands[p], [solved])
            operands += [_equality(em, solved, other, like) for other in equal]
            if solved.left in output:
                keep = tuple(i for i in legs if i in output)
                output = [i for i in output if i != solved.left and i not in keep] + legs
                scatters.append((solved, keep))
            elif not readers:
                known = {i for v in operands for i in v.legs} | {i for r in relations for i in r.indices}
                if not known.issuperset(legs) or not _is_passing(problem, solved, []):
                    operands.append(_range_mask(em, solved, like))
        product = _product(em, list(map(em.conj, operands)), output)
        result = broadcast(em, product, problem.output if not scatters else ())
        for solved, keep in reversed(scatters):
            result = scatter(em, result, solved, keep)
        return broadcast(em, result, problem.output) if scatters else result


def _next(
    problem: Problem, relations: list[Relational]
) -> tuple[Relational, list[Relational], list[Relational]]:
    """A relation solved for the index that it determines, the others without that index, and equalities.

    What is determined is first an index that only relations have and that can be written out everywhere; then one of
    few other relations, for which operands grow least. Where the index is in other relations too, they are rewritten by
    substitution; one that cannot be (`i = 2*a + 2*b` beside `i = 2*o + 2*k`) is left as an equality of two right sides.
    """
    options = [
        (solved, relations[:number] + relations[number + 1 :])
        for number, relation in enumerate(relations)
        for index in relation.indices
        if (solved := solve(relation, index))
    ]
    held = {i for v in problem.operands for i in v.legs}

    def rank(option: tuple[Relational, list[Relational]]) -> tuple[bool, int, float]:
        index, terms = option[0].left, [x for _, x in option[0].terms]
        uses = sum(index in other.indices for other in option[1])
        kept = not (uses and _is_passing(problem, *option))
        places = problem.holders(index) if index not in problem.open else ()
        if not places:  # written at: the product is expanded over the terms that it lacks
            return kept, uses, float(problem.count(x for x in terms if x not in held))
        known = {i for p in places for i in problem.operands[p].legs}
        return (
            kept,
            uses,
            problem.count(x for x in terms if x not in known)
            / problem.count((index,))
            / problem.profile.picked,
        )

    solved, rest = min(options, key=rank)
    rewritten: list[Relational] = []
    equal: list[Relational] = []
    for other in rest:
        changed = eliminate(other, solved)
        if changed is None:
            equal.append(other)
        else:
            rewritten += changed
    return solved, rewritten, equal


def _is_passing(problem: Problem, solved: Relational, others: list[Relational]) -> bool:
    """Whether an index only ties relations together, always has a value, and can be written out."""
    index = solved.left
    if index in problem.open or problem.holders(index) or solved.modulus is not None:
        return False
    within = isinstance(index.size, int) and fits(solved.terms, solved.offset, index)
    return within and all(eliminate(other, solved) is not None for other in others)


def _range_mask(em: Emitter, relation: Relational, like: Var) -> Value:
    legs = [x for _, x in relation.terms]
    mask = inside(em, cells(em, relation, legs, like), relation.left.size)
    return em.make("mask", call("to", mask, call("dtype", like)), singles(legs))


def _equality(em: Emitter, solved: Relational, other: Relational, like: Var) -> Value:
    """The mask of the cells where another relation holds too, the determined index written out."""
    rest = [i for i in dict.fromkeys((*solved.indices, *other.indices)) if i != solved.left]
    one = cells(em, solved, rest, like)
    right = cells(em, other, rest, like, {solved.left: one})
    written = other.left == solved.left
    left = one if written else ramp(other.left, rest, like)
    mask = em.helper("equal", call("to", call("eq", left, right), call("dtype", like)))
    dims = singles(rest)
    return em.make("mask", call("expand", mask, em.sizes(dims)), dims, contiguous=False, overlaps=True)


def _product(em: Emitter, factors: list[Value], output: list[Index]) -> Value:
    """The product of all factors, of two at a time: those first whose product is smallest."""
    factors = [em.split(v) for v in factors]
    while True:
        pairs = combinations(range(len(factors)), 2) if len(factors) > 1 else [(0,)]
        options = [(chosen, _left(factors, chosen, output)) for chosen in pairs]
        chosen, legs = min(options, key=lambda option: em.count(option[1]))
        made = _einsum(em, [factors[p] for p in chosen], legs)
        factors = [v for p, v in enumerate(factors) if p not in chosen] + [made]
        if len(factors) == 1:
            return made


def _left(factors: Sequence[Value], chosen: Sequence[int], output: Sequence[Index]) -> list[Index]:
    """The legs of the product of some factors that the output or another factor has: in the order of the output."""
    legs = dict.fromkeys(i for p in chosen for i in factors[p].legs)
    others = {i for p, v in enumerate(factors) if p not in chosen for i in v.legs}
    return [i for i in output if i in legs] + [i for i in legs if i in others and i not in output]


def _einsum(em: Emitter, factors: Sequence[Value], wanted: Sequence[Index]) -> Value:
    every = dict.fromkeys(i for v in factors for i in v.legs)
    if len(every) > len(_LETTERS):
        raise LoweringError(
            f"a step has {len(every)} indices but torch.einsum takes {len(_LETTERS)}; merge some"
        )
    letter = dict(zip(every, _LETTERS, strict=False))
    terms = ",".join("".join(letter[i] for i in v.legs) for v in factors)
    equation = f"{terms}->{''.join(letter[i] for i in wanted)}"
    made = call("einsum", equation, *factors)
    alone = factors[0].name if len(factors) == 1 else None  # of one operand, einsum may return a view
    return em.make("product", made, singles(wanted), view_of=alone)
