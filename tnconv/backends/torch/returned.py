"""What a program returns: sums of results, laid out as the output says, in memory of their own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tnconv.backends.operand_axes import tie
from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.numerics.huge_pages import LARGEST_REUSED
from tnconv.backends.torch.padded_views import broadcast, window_view
from tnconv.ir import Axis, Index, Relational, Size, product, symbol
from tnconv.ir.size import symbol_names
from tnconv.ir.symmetry import run_of_cells, triangle
from tnconv.planner.plan import Plan, Step
from tnconv.program import Var
from tnconv.program.statements import flatten

_LARGEST_ITEM = 16  # bytes


def divisors(step: Step) -> set[str]:
    """The size symbols that the scale of a step divides by."""
    return set(symbol_names(step.scale.as_numer_denom()[1]))


def cell_of(place: int, axis: Axis) -> Index:
    """The index of the cells of an axis, whether its indices reach them or not."""
    return Index(f"cell{place}", axis.size)


@dataclass(frozen=True, slots=True)
class Returned:
    """The results of steps, and how they are handed over.

    Args:
        em: the statements.
        plan: with the steps.
        values: each result with its axes.
        arguments: Python names of the arguments.
        divided: results that were multiplied by their scale as a whole.
    """

    em: Emitter
    plan: Plan
    values: Mapping[str, tuple[Value, tuple[Axis, ...]]]
    arguments: Collection[str]
    divided: Collection[str]

    def owned(self, result: Value, others: Sequence[Value] = ()) -> Value:
        """A result with memory of its own: none of an argument, of what is kept, of another result, no cell twice."""
        owners = {self.em.owner(other.name) for other in others}
        if not self._borrowed(result) and self.em.owner(result.name) not in owners:
            return result
        return self.em.make("result", call("clone", result), result.dims, memo=False, fresh=True)

    def _borrowed(self, value: Value) -> bool:
        """Whether a value has, or may have, memory of an argument or of what is kept, or several cells at one place."""
        given = self.em.owner(value.name) in self.arguments
        return given or self.em.overlaps(value) or self.em.is_constant(value)

    def mean(self, results: Sequence[str], packed: int | None = None) -> Value:
        """The sum of some results; not a number in every cell where a scale divides by the size of an empty batch.

        Args:
            results: names of steps.
            packed: of a sum whose lower triangle is returned, the axes in front.
        """
        total = self.total(results) if packed is None else self._lower(results, packed)
        sizes = self.divided_by(results)
        if not sizes or (len(results) == 1 and self.divides_all(results[0])):
            return total
        made = call("unless_empty", total, *sizes)
        return self.em.derive(total, "result", made, total.dims, contiguous=total.contiguous)

    def _lower(self, results: Sequence[str], packed: int) -> Value:
        """The lower triangle of a symmetric sum, behind some axes."""
        em, axes = self.em, self.values[results[0]][1]
        given = zip(self.plan.arguments, self.arguments, strict=True)
        like = [Var(python) for name, python in given if name not in self.plan.tables]
        if like and self.runs(results, packed):
            shared = tuple(axis.indices for axis in axes[:packed])
            cells = Index("triangle", triangle(axes[packed].size))
            dims = (flatten(shared), (cells,))
            empty = call("new_empty", like[0], em.sizes(dims))
            if len(like) > 1:
                empty = call("unfilled", em.sizes(dims), *like)
            made = em.make("lower", empty, dims, memo=False, fresh=True)
            self.add_runs(results, packed, made)
            return em.arrange(made, (*shared, (cells,)))
        total = self.total(results)
        middle = (packed + len(total.dims)) // 2
        shared, rows, columns = total.dims[:packed], total.dims[packed:middle], total.dims[middle:]
        cells = Index("triangle", triangle(product(i.size for i in flatten(rows))))
        value = em.conj(em.arrange(total, (flatten(shared), flatten(rows), flatten(columns))))
        made = em.make("lower", call("pack_triangle", value), (flatten(shared), (cells,)), fresh=True)
        return em.arrange(made, (*shared, (cells,)))

    def runs(self, results: Sequence[str], packed: int) -> bool:
        """Whether the terms of a sum are runs of the cells of its lower triangle, which are all of them."""
        if len(results) < 2 or self.plan.real:
            return False
        found = [run_of_cells(self.values[name][1], packed) for name in results]
        end = 0
        for start, count, _ in sorted(each for each in found if each is not None):
            if start != end:
                return False
            end += count
        return None not in found and end == triangle(self.values[results[0]][1][packed].size)

    def add_runs(self, results: Sequence[str], packed: int, target: Value, beta: Var | int = 0) -> None:
        """Write each term of a sum to its run of cells, `beta · target + …`; where `runs` says that they are all.

        Args:
            results: names of steps.
            packed: the axes in front.
            target: `[shared, cells]`.
            beta: 0 where something may record what happens.
        """
        em = self.em
        for name in results:
            value, axes = self.values[name]
            found = run_of_cells(axes, packed)
            assert found is not None
            start, count, square = found
            shared, rows, columns = (
                tuple(i for axis in part for i in axis.indices)
                for part in (axes[:packed], axes[packed : packed + 1], axes[packed + 1 :])
            )
            value = broadcast(em, value, (*shared, *rows, *columns))
            cells = Index("cells", count)
            if square:
                matrix = em.conj(em.arrange(value, (shared, rows, columns)))
                value = em.make("part", call("pack_triangle", matrix), (shared, (cells,)), fresh=True)
            else:
                value = em.conj(em.arrange(value, (shared, (*rows, *columns))))
            run = call("narrow", target, 1, start, count)
            view = em.derive(target, "part", run, (target.dims[0], (cells,)), contiguous=False)
            written = (
                call("add_into", view, value, beta) if square or beta != 0 else call("copy_", view, value)
            )
            em.do(written, [target.name])

    def divided_by(self, results: Sequence[str]) -> list[Size]:
        """The size symbols that some scale on the way to results divides by."""
        steps = self.plan.leading_to(results)
        return [symbol(n) for n in sorted({n for step in steps for n in divisors(step)})]

    def divides_all(self, result: str) -> bool:
        """Whether every cell of a result was multiplied by a scale that is not a number for an empty batch."""
        return result in self.divided and all(axis.is_group for axis in self.values[result][1])

    def total(self, results: Sequence[str]) -> Value:
        """The sum of some results, laid out as the output says."""
        first, *others = results
        total = self._laid_out(first, wide=not others)
        axes = self.values[first][1]
        for name in others:
            axes = self.values[name][1]
            value = self._laid_out(name, wide=False)
            dims = tuple(a or b for a, b in zip(total.dims, value.dims, strict=True))
            total = self.em.make("result", call("add", total, value), dims, fresh=True)
        if all(dim or not axis.indices for dim, axis in zip(total.dims, axes, strict=True)):
            return total
        dims = tuple(axis.indices for axis in axes)  # no term has a leg on some axis
        return self.em.derive(
            total,
            "result",
            call("expand", total, self.em.sizes(dims)),
            dims,
            contiguous=False,
            overlaps=True,
        )

    def _laid_out(self, name: str, *, wide: bool) -> Value:
        """A result with the dimensions of its output axes; size 1 where it is broadcast, unless `wide`."""
        value, axes = self.values[name]
        em = self.em
        indices = tuple(i for axis in axes for i in axis.indices)
        if wide or any(set(a.indices) & set(value.legs) not in (set(), set(a.indices)) for a in axes):
            value = broadcast(em, value, indices)
        if not all(axis.is_group for axis in axes):
            value = self._embedded(broadcast(em, value, indices), axes)
        dims = tuple(axis.indices if axis.is_group else (cell_of(p, axis),) for p, axis in enumerate(axes))
        dims = tuple(tuple(i for i in dim if i in value.legs) for dim in dims)
        return em.arrange(value, dims, "result", own=self._borrowed(value))

    def _embedded(self, value: Value, axes: tuple[Axis, ...]) -> Value:
        """Write a value into zeros at the cells of its affine axes."""
        em = self.em
        writes: list[Relational] = []
        dims: list[tuple[Index, ...]] = []
        for place, axis in enumerate(axes):
            if axis.is_group:
                dims += singles(axis.indices)
                continue
            cell = cell_of(place, axis)
            dims.append((cell,))
            writes.append(tie(cell, axis))
        large = em.count(flatten(tuple(dims))) > LARGEST_REUSED // _LARGEST_ITEM
        made = call("zeros" if large else "new_zeros", value, em.sizes(tuple(dims)))
        target = em.make("result", made, tuple(dims), memo=False, fresh=True)
        view = window_view(em, target, writes)
        ordered = em.order(value, flatten(view.dims))
        em.do(call("copy_", view, ordered), [target.name], "the other cells stay zero")
        return target
