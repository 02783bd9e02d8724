"""Kernels that read windows, for an operand whose cells are several steps of a relation apart.

`2*i = o - k + 1`, as of a transposed convolution, is `j = o - k + 1` for the cells `j = 2*i`, with zeros between them:
then it is a window view like any other.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.symmetric import SymmetricProduct
from tnconv.backends.torch.kernels.window_views import Windows, window_relations
from tnconv.ir import Index, Relational, Size, fresh
from tnconv.ir.affine import reach_of_sizes, solved


@dataclass(frozen=True, slots=True)
class _Spread:
    """An index of one operand whose cells are moved apart."""

    place: int
    index: Index
    wide: Index
    step: int


def _found(problem: Problem) -> tuple[Problem, tuple[_Spread, ...]] | None:
    """The problem with the cells of some operands apart, if it has window relations then and not before."""
    if "apart" not in problem.memo:
        problem.memo["apart"] = _search(problem)
    found: tuple[Problem, tuple[_Spread, ...]] | None = problem.memo["apart"]
    return found


def _search(problem: Problem) -> tuple[Problem, tuple[_Spread, ...]] | None:
    operands, relations, spreads = list(problem.operands), [], []
    taken = {i.name for v in operands for i in v.legs} | {i.name for i in problem.related | problem.open}
    for relation in problem.relations:
        if window_relations(replace(problem, relations=(relation,))) is not None:
            relations.append(relation)
            continue
        spread = next((s for i in relation.indices if (s := _spread(problem, relation, i, taken))), None)
        if spread is None:
            return None
        taken.add(spread.wide.name)
        spreads.append(spread)
        value = operands[spread.place]
        renamed = value.rename({spread.index: spread.wide})
        operands[spread.place] = replace(renamed, name=f"{value.name}_apart")
        zero = {spread.wide if x == spread.index else x: c for x, c in relation.zero_form.items()}
        zero[spread.wide] //= spread.step
        relations.append(solved(relation.name, zero, relation.offset, spread.wide))
    made = replace(problem, operands=tuple(operands), relations=tuple(relations))
    return (made, tuple(spreads)) if spreads and window_relations(made) is not None else None


def _spread(problem: Problem, relation: Relational, index: Index, taken: set[str]) -> _Spread | None:
    """How an index that one operand alone has is spread, so that the relation determines it."""
    step = abs(relation.zero_form[index])
    if step == 1 or relation.modulus is not None or index in problem.open or problem.uses(index) != 1:
        return None
    holders = problem.holders(index)
    if len(holders) != 1 or not all(isinstance(i.size, int) for i in relation.indices):
        return None
    wide = Index(fresh(f"{index.name}_apart", taken), reach_of_sizes([(step, index.size)]).length, index.kind)
    return _Spread(holders[0], index, wide, step)


def _emitted(em: Emitter, value: Value, spread: _Spread) -> Value:
    """Write the statement that moves the cells apart."""
    value = em.isolate(value, (spread.index,))
    place = value.position(spread.index)
    dims = tuple((spread.wide,) if dim == (spread.index,) else dim for dim in value.dims)
    made = call("apart", value, place, spread.step)
    return em.derive(value, "apart", made, dims, copied=True, contiguous=False)


class _Apart(Kernel):
    """Another kernel, behind the statements that move cells apart."""

    inner: ClassVar[Kernel]
    takes_conj = True

    def accepts(self, problem: Problem) -> bool:
        """The other kernel accepts the problem once cells are apart."""
        found = _found(problem)
        return found is not None and self.inner.accepts(found[0])

    def cost(self, problem: Problem) -> float:
        """What the other kernel takes, and a pass over the cells that are apart."""
        found = _found(problem)
        assert found is not None
        written = sum(problem.count(found[0].operands[s.place].legs) for s in found[1])
        profile = problem.profile
        return self.inner.cost(found[0]) + 3 * profile.call * len(found[1]) + profile.copying(written)

    def multiplications(self, problem: Problem) -> Size | None:
        """Those of the other kernel; None where it does not count the zeros."""
        found = _found(problem)
        assert found is not None
        return self.inner.multiplications(found[0])

    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the cells apart, then what the other kernel writes."""
        found = _found(problem)
        assert found is not None
        made, spreads = found
        operands = list(problem.operands)
        for spread in spreads:
            operands[spread.place] = _emitted(em, operands[spread.place], spread)
        return self.inner.emit(replace(made, operands=tuple(operands), scale=problem.scale), em)


class WindowsApart(_Apart):
    """Window view + matmul."""

    name = "cells apart, window view + matmul"
    inner = Windows()


class SymmetricApart(_Apart):
    """The product of one value with itself."""

    name = "cells apart, symmetric product"
    inner = SymmetricProduct()
    applies_scale = True
