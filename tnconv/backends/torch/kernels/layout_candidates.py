"""The layouts of a matrix product, each with the cells that it copies.

A left leg in front of the contracted ones (the batch of a 1x1 convolution) becomes a batch leg over which the other
operand is expanded, and a contracted leg in front (the batch of its weight gradient) may be summed behind a batched
product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.operand_copies import (
    Legs,
    Split,
    adjacent,
    slowness,
    split_legs,
    transposed,
)
from tnconv.ir import Index, product
from tnconv.program import Call, Var

Copies = dict[tuple[int, Legs, Legs, Legs], float]  # by operand and dimensions


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout of a product: legs by dimension, and the cells that it copies."""

    a: Value
    b: Value
    batch: Legs
    summed: Legs
    left: Legs
    right: Legs
    expand: str  # "", "a" or "b": the operand that is expanded over the batch legs it lacks
    stacks: int  # so many batch legs, which it lacks, are gone through, with one product of batches for each
    sum_batch: int  # so many batch legs are summed behind the product
    copied: float
    turned: float  # cells of these that are copied because the result is in another order than the output
    multiplied: float = 0.0  # cells that it takes as long to copy as to multiply, beyond the time of the BLAS
    inner: bool = False  # whether products are so large that they are left to oneDNN on such a machine

    @property
    def total(self) -> float:
        """Cells that it takes as long to copy as all of it, but for the time that the BLAS multiplies."""
        return self.copied + self.multiplied

    @property
    def result(self) -> Legs:
        """The legs of the result."""
        return (*self.batch[self.sum_batch :], *self.left, *self.right)

    @property
    def last(self) -> Legs:
        """The last leg of the result, if it has one."""
        return self.result[-1:]

    def disorder(self, output: Legs) -> int:
        """Number of pairs of legs of the result that stand in another order than in the output."""
        places = [output.index(i) for i in self.result]
        return sum(a > b for n, a in enumerate(places) for b in places[n + 1 :])

    def emit(self, em: Emitter) -> Value:
        """Write the product."""
        if self.stacks:
            return self._stacked(em)
        dims_a, dims_b = (self.batch, self.left, self.summed), (self.batch, self.summed, self.right)
        x, y = em.conj(self._operand(em, self.a, dims_a)), em.conj(self._operand(em, self.b, dims_b))
        one, other = self._expanded(em, x, dims_a), self._expanded(em, y, dims_b)
        if not self.batch:
            made = call("inner_product" if self.inner else "mm", one, other)
            return em.make("product", made, (self.left, self.right), fresh=True)
        made = call("inner_products" if self.inner else "bmm", one, other)
        out = em.make("product", made, (self.batch, self.left, self.right), fresh=True)
        if not self.sum_batch:
            return out
        return em.make("product", call("sum", out, 0), (self.left, self.right))

    def _stacked(self, em: Emitter) -> Value:
        """Write a product of batches for each of the stacks of one operand."""
        front, batch = self.batch[: self.stacks], self.batch[self.stacks :]
        pairs = (self.a, (batch, self.left, self.summed)), (self.b, (batch, self.summed, self.right))
        x, y = (
            em.conj(transposed(em, value, (front, *dims) if front[0] in value.legs else dims))
            for value, dims in pairs
        )
        out = (front, batch, self.left, self.right)
        return em.make("product", call("stacked_product", x, y), out, fresh=True)

    def _operand(self, em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Value:
        if any(i not in value.legs for i in dims[0]):
            return transposed(em, value, dims[1:])
        return transposed(em, value, dims if self.batch else dims[1:])

    def _expanded(self, em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Var | Call:
        if not self.batch or len(value.dims) == 3:
            return Var(value.name)
        return call("expand", value, (product(i.size for i in dims[0]), -1, -1))


def candidates(problem: Problem) -> list[Candidate]:
    """All layouts, with either operand on the left; among equals the first is taken."""
    a, b = problem.operands
    copies: Copies = {}
    return [*_layouts(problem, a, b, copies), *_layouts(problem, b, a, copies)]


def _layouts(problem: Problem, a: Value, b: Value, copies: Copies) -> list[Candidate]:
    split = split_legs(a, b, problem.open)
    lead = a if problem.count(a.legs) >= problem.count(b.legs) else b
    summed = tuple(i for i in lead.legs if i in split.summed)
    batch = tuple(i for i in lead.legs if i in split.batch)
    make = partial(_make, problem, copies, a, b)
    found = [make(batch, summed, split.left, split.right, "", 0)]
    if batch:
        return found + _stacks(make, a, b, split, batch, summed)
    for value, own, tag in ((a, split.left, "b"), (b, split.right, "a")):
        front = _front(value, own, summed)
        if len(front) == len(own):  # the first of them alone, so that the result may have the others last
            front = front[:1]
        if front and len(front) < len(own):
            found.append(make(front, summed, *_without(split, front), tag, 0))
    front = _front(lead, summed, (*split.left, *split.right))
    if front and len(front) < len(summed):
        rest = tuple(i for i in summed if i not in front)
        found.append(make(front, rest, split.left, split.right, "", len(front)))
    return found


def _stacks(
    make: Callable[..., Candidate], a: Value, b: Value, split: Split, batch: Legs, summed: Legs
) -> list[Candidate]:
    """The layouts in which legs in front of an operand's batch are gone through, so that it is not copied."""
    found: list[Candidate] = []
    for value, own, tag in ((a, split.left, "b"), (b, split.right, "a")):
        front = _front(value, own, (*batch, *summed))
        if front and len(front) < len(own) and not adjacent(value, own):
            found.append(make((*front, *batch), summed, *_without(split, front), tag, 0, len(front)))
    return found


def _without(split: Split, front: Legs) -> tuple[Legs, Legs]:
    """The legs of the left and of the right operand that are not in front."""
    return tuple(i for i in split.left if i not in front), tuple(i for i in split.right if i not in front)


def _front(value: Value, legs: Sequence[Index], before: Sequence[Index]) -> Legs:
    """The legs, of `legs`, that stand in front of the first of `before` in the value."""
    places = [value.legs.index(i) for i in before if i in value.legs]
    first = min(places, default=0)
    return tuple(i for i in value.legs[:first] if i in legs)


def _make(
    problem: Problem,
    copies: Copies,
    a: Value,
    b: Value,
    batch: Legs,
    summed: Legs,
    left: Legs,
    right: Legs,
    expand: str,
    extra: int,
    stacks: int = 0,
) -> Candidate:
    profile, products = problem.profile, problem.count(batch)
    work = problem.count((*batch, *summed, *left, *right))
    columns_first = problem.count(a.legs) if a.legs and a.legs[-1] in left else 0
    every = profile.multiplying(work, products, columns_first) * profile.copy
    beyond = every - work / profile.matmul * profile.copy
    copied = problem.count(batch[:stacks]) * profile.call * profile.copy if stacks else 0.0
    for value, other in ((a, left), (b, right)):
        own = tuple([i for i in batch if i in value.legs]), summed, other
        dims = id(value), *own
        if dims not in copies:
            copies[dims] = _copied(problem, value, own)
        copied += copies[dims]
    if expand and not stacks:
        copied += _packed(problem, a if expand == "a" else b, batch, left if expand == "a" else summed)
    result = (*batch, *left, *right)
    wanted = tuple([i for i in problem.output if i in result])
    turned = problem.count(result) if wanted != result and not extra else 0
    copied += 2 * problem.count(result) if extra else turned
    rows, columns = problem.count(left), problem.count(right)
    narrow = profile.narrowness(rows, columns)
    copied += profile.batched * profile.copy * problem.count(batch) if batch else 0.0
    if not batch and not profile.is_whole(columns) and rows * columns > profile.cache:
        copied += profile.ragged_rows * problem.count(result)
    # A copy brings operands into a cache: narrow products, which wait for memory, are slower without it.
    copied += narrow * every * (1 + profile.unseen if stacks else 1)
    inner = profile.is_inner(work / max(products, 1))
    return Candidate(a, b, batch, summed, left, right, expand, stacks, extra, copied, turned, beyond, inner)


def _copied(problem: Problem, value: Value, dims: tuple[Legs, Legs, Legs]) -> float:
    """Cells that are copied so that an operand has some dimensions, the last two in either order."""
    first, one, other = dims
    cells, orders = problem.count(value.legs), ((first, one, other), (first, other, one))
    if not (adjacent(value, first) and adjacent(value, one) and adjacent(value, other)):
        return cells * min([slowness(value, order, problem.count, problem.profile) for order in orders])
    if first and value.legs[-1] in first:  # no matrix has neighbours: the library copies each by itself
        return cells * (1 + slowness(value, orders[0], problem.count, problem.profile))
    return 0.0


def _packed(problem: Problem, value: Value, batch: Legs, rows: Legs) -> float:
    """Cells of an expanded operand, each brought into the library's own layout for every batch if there are many."""
    if problem.count(value.legs) < problem.profile.cache / 4:
        return 0.0
    turned = bool(value.legs) and value.legs[0] not in rows
    return (2 if turned else 1) * problem.profile.packed * problem.count((*batch, *value.legs))
