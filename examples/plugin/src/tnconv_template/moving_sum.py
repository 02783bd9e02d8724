"""The kernel `moving_sum`: `y[o1, o2] = Σ_k x[s1*o1 + d1*k1 + b1, s2*o2 + d2*k2 + b2]`, one axis after the other.

A window of 7x7 cells takes 7 + 7 additions a cell in place of 49. The built-in kernels see a product of a view of
all windows with nothing, and read every cell of every window.
"""

from typing import ClassVar

from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.ir import Index, Relational, product, solve

# Elements that an addition in place writes, over those that a copy into another layout writes.
ADDING = 4.0


class MovingSum(Kernel):
    """Sums over windows that lie inside of one operand."""

    name: ClassVar[str] = "moving_sum"

    def accepts(self, problem: Problem) -> bool:
        """One operand, whose every leg is open or replaced by windows; what `emit` cannot do is refused here."""
        if len(problem.operands) != 1 or not problem.relations:
            return False
        found = [_window(problem, relation) for relation in problem.relations]
        lefts = {relation.left for relation in found if relation}
        return all(found) and set(problem.operands[0].legs) <= problem.open | lefts

    def cost(self, problem: Problem) -> float:
        """Microseconds: an axis writes each cell of its result once for every position of the window."""
        profile, time = problem.profile, 0.0
        cells = problem.count(problem.operands[0].legs)
        for relation in problem.relations:
            window = _window(problem, relation)
            assert window is not None
            (_, o), (_, k) = _terms(problem, window)
            cells = cells * int(o.size) // int(window.left.size)
            time += int(k.size) * (profile.call + profile.copying(cells / ADDING))
        return time

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write a copy of the first position's cells, and an addition for each of the others."""
        value = problem.operands[0]
        for relation in problem.relations:
            window = _window(problem, relation)
            assert window is not None
            if (
                relation is not problem.relations[0]
            ):  # the sums so far are a buffer besides operand and result
                em.allocated("sums", product(i.size for i in value.legs))
            value = self._axis(problem, window, value, em)
        return value

    @staticmethod
    def _axis(problem: Problem, window: Relational, value: Value, em: Emitter) -> Value:
        (stride, o), (dilation, k) = _terms(problem, window)
        value = em.isolate(value, (window.left,))  # i alone on its dimension
        place = value.position(window.left)
        length = stride * (int(o.size) - 1) + 1
        starts = [window.offset + dilation * j for j in range(int(k.size))]
        cells = [f"{value.name}[{':, ' * place}{start}:{start + length}:{stride}]" for start in starts]
        dims = (*value.dims[:place], (o,), *value.dims[place + 1 :])
        copy = f"{cells[0]}.clone(memory_format=torch.contiguous_format)"
        sums = em.assign("sums", copy, [value.name], dims, memo=False, fresh=True)
        for each in cells[1:]:
            em.do(
                f"{sums.name}.add_({each})", [sums.name, value.name]
            )  # `do` changes the first that it reads
        return sums


def _window(problem: Problem, relation: Relational) -> Relational | None:
    """The relation as `i = s*o + d*k + b`, with i on the operand alone and every cell inside of it; else None."""
    for index in relation.indices:
        window = solve(relation, index)
        if window is None or window.modulus is not None or len(window.terms) != 2:
            continue
        others = [x for _, x in window.terms]
        once = all(problem.uses(x) == 1 for x in (index, *others))
        known = all(isinstance(x.size, int) for x in (index, *others))
        ours = problem.holders(index) and index not in problem.open
        theirs = not any(problem.holders(x) for x in others) and sum(x in problem.open for x in others) == 1
        if once and known and ours and theirs and min(a for a, _ in window.terms) > 0:
            last = window.offset + sum(a * (int(x.size) - 1) for a, x in window.terms)
            if window.offset >= 0 and last < int(index.size):
                return window
    return None


def _terms(problem: Problem, window: Relational) -> tuple[tuple[int, Index], tuple[int, Index]]:
    """(coefficient, index) of the open index, and of the summed one."""
    first, second = window.terms
    return (first, second) if first[1] in problem.open else (second, first)
