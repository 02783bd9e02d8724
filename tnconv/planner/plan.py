"""Plan: which contraction after which, with exact costs, and no word about a backend.

A step is a small network of its own: one or two operands (arguments or results of earlier steps), or those of a product
twice, the relations that it absorbs, and the legs of its result. So every step has a meaning that the reference
backend can compute, and a plan is a straight line of such steps. Counts are products that are multiplied
out only when somebody asks: sympy takes 100 microseconds for what a plan seldom needs.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from tnconv.errors import PlanError
from tnconv.ir import Axis, Index, Network, Relational, Role, Scale, Size, Tensor, evaluate, product, symbol
from tnconv.ir.monomial import ONE, Scalar, expanded
from tnconv.ir.size import normal, symbol_names
from tnconv.ir.symmetry import packed_sizes, run_of_cells
from tnconv.planner.plan_printer import format_plan

DEFAULT_HINT = 32  # what a size symbol counts as while planning, unless a hint says otherwise

Tree = str | tuple["Tree", ...]


@dataclass(frozen=True)
class Operand:
    """What a step reads, and the names that it gives to the axes.

    Args:
        source: an argument of the network, or the result of an earlier step.
        axes: one an axis of the source, in its order.
        conj: whether the step reads the complex conjugate.
    """

    source: str
    axes: tuple[Axis, ...]
    conj: bool = False

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """The indices on the operand, each once."""
        return tuple(dict.fromkeys([i for axis in self.axes for i in axis.indices]))

    def substitute(self, mapping: Mapping[Index, Index]) -> "Operand":
        """The operand with other indices in place of some."""
        return replace(self, axes=tuple([axis.substitute(mapping) for axis in self.axes]))


@dataclass(frozen=True)
class Step:
    """One contraction: the product of operands and relations, summed over what is not in the output.

    Args:
        result: name of the result.
        operands: none, one or two; four of a product that is multiplied by itself, or by its conjugate.
        relations: the patterns that are absorbed in this step.
        output: axes of the result.
        scale: a number the result is multiplied by.
        factors: sizes whose product is the number of multiplications; `(0,)` for a step that multiplies
            nothing.
    """

    result: str
    operands: tuple[Operand, ...]
    relations: tuple[Relational, ...]
    output: tuple[Axis, ...]
    scale: Scalar = ONE
    factors: tuple[Size, ...] = (0,)

    @cached_property
    def network(self) -> Network:
        """The step as a network, its operands called `a`, `b`, `c` and `d`."""
        named = zip("abcd", self.operands, strict=False)
        nodes = [Tensor(name, Role.INPUT, o.axes, of=o.source, conj=o.conj) for name, o in named]
        scales = () if self.scale == 1 else (Scale("s", self.scale),)
        return Network(self.result, (*nodes, *self.relations, *scales), self.output)

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """Every index of the step, each once: of the operands, the relations, the output."""
        parts = (*self.operands, *self.relations, *self.output)
        return tuple(dict.fromkeys([i for part in parts for i in part.indices]))

    @cached_property
    def multiplications(self) -> Size:
        """The exact count by the cost model of the planner, an int or an expression."""
        return product(self.factors)

    @cached_property
    def elements(self) -> Size:
        """Number of cells of the result."""
        return product(axis.size for axis in self.output)

    def elements_at(self, values: Mapping[str, int]) -> int:
        """Number of cells of the result when the symbols have `values`, without sympy."""
        count = 1
        for axis in self.output:
            count *= evaluate(axis.size, values)
        return count


@dataclass(frozen=True, slots=True)
class Slice:
    """An index of the arguments that is cut into chunks; the steps of the plan run for each.

    Every axis whose size has the symbol `part` is cut: of an argument into pieces; of the result, which is put
    together from pieces. If the result has none, the results of the chunks are added.

    Args:
        part: the symbol for the size of a chunk, in the steps and in the arguments of the plan.
        size: of the index as a whole.
        chunk: values of the index at once; the last chunk has what is left.
    """

    part: str
    size: Size
    chunk: int

    def __str__(self) -> str:
        return f"{self.part}={self.size} by {self.chunk}"

    @property
    def runs(self) -> Size:
        """Number of chunks."""
        return normal((self.size + self.chunk - 1) // self.chunk)

    def total(self, count: Size) -> Size:
        """The sum over all chunks of a count, which grows in proportion to the chunk but for a constant."""
        if self.part not in symbol_names(count):
            return normal(count * self.runs)
        part = symbol(self.part)
        constant = count.subs(part, 0)
        return normal(expanded(count - constant).subs(part, self.size) + constant * self.runs)


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run.

    Args:
        name: the name of the network.
        arguments: the shape of every argument, sizes by axis, in the order of a call.
        steps: in order; each reads arguments and earlier results.
        results: names of the steps whose results add up to the value; one but for a Sum.
        also: further values that are returned after it, each the sum of some steps: what a backward pass will read
            again, or, of a backward pass, the gradients of the arguments after the first.
        hints: what the size symbols counted as when the plan was chosen; 32 for those not named.
        slices: the indices that are cut into chunks, for each of which all steps run. Sizes of steps and arguments
            are those of a chunk; counts of the plan are those of the whole.
        scale: a number that the total of the chunks is multiplied by.
        real: whether the value is real by construction: the real part of what the steps make of complex arguments.
        also_real: the same of each further value; empty where none is.
        tables: the arguments that are tables of integers, each with the size of what it selects from.
        packed: of a value whose lower triangle alone is returned, the number of axes in front of those of rows and
            columns; see `tnconv.ir.symmetry`.
        also_packed: the same of each further value; empty where none is packed.

    Raises:
        PlanError: a step reads what is not computed before it or has other sizes, or a name is used twice.
    """

    name: str
    arguments: Mapping[str, tuple[Size, ...]]
    steps: tuple[Step, ...]
    results: tuple[str, ...]
    hints: Mapping[str, int] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    scale: Scalar = ONE
    also: tuple[tuple[str, ...], ...] = ()
    real: bool = False
    tables: Mapping[str, Size] = field(default_factory=dict)
    also_real: tuple[bool, ...] = ()
    packed: int | None = None
    also_packed: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        known: dict[str, tuple[Size, ...]] = dict(self.arguments)
        for step in self.steps:
            for operand in step.operands:
                _check_operand(step, operand, known)
            if step.result in known:
                raise PlanError(
                    f"step {step.result!r} has the name of an argument or an earlier step; rename it"
                )
            known[step.result] = tuple([axis.size for axis in step.output])
        for result in self.returned:
            if result not in known:
                raise PlanError(f"result {result!r} is not computed by any step")

    def __str__(self) -> str:
        return format_plan(self)

    @property
    def returned(self) -> tuple[str, ...]:
        """The names of all steps whose results are returned, or part of what is."""
        return (*self.results, *(name for names in self.also for name in names))

    @property
    def reals(self) -> tuple[bool, ...]:
        """Whether each of what is returned is real."""
        return (self.real, *(self.also_real or (False,) * len(self.also)))

    @property
    def packs(self) -> tuple[int | None, ...]:
        """`packed` of each of what is returned."""
        return (self.packed, *(self.also_packed or (None,) * len(self.also)))

    @property
    def lower(self) -> dict[str, int]:
        """Results of which the lower triangle is all that is read, with their axes in front."""
        read = {operand.source for step in self.steps for operand in step.operands}
        returned = zip((self.results, *self.also), self.packs, strict=True)
        found = {names[0]: packed for names, packed in returned if packed is not None and len(names) == 1}
        if self.packed is not None and len(self.results) > 1:  # the terms that are squares in its first cells
            outputs = {step.result: step.output for step in self.steps if step.result in self.results}
            runs = {name: run_of_cells(output, self.packed) for name, output in outputs.items()}
            found |= {name: self.packed for name, run in runs.items() if run is not None and run[2]}
        return {
            name: packed
            for name, packed in found.items()
            if self.returned.count(name) == 1 and name not in read
        }

    def lower_alone(self, packed: int) -> "Plan":
        """The same, of which the lower triangle is returned; terms that lie above the diagonal are not computed.

        Args:
            packed: the axes in front of those of rows and columns.
        """
        outputs = {step.result: step.output for step in self.steps}
        above = [name for name in self.results if run_of_cells(outputs[name], packed) == (0, 0, False)]
        made = replace(self, packed=packed, results=tuple(name for name in self.results if name not in above))
        return replace(made, steps=made.leading_to(made.returned)) if above else made

    @property
    def output_sizes(self) -> tuple[Size, ...]:
        """The sizes of the value's axes, of a chunk where there are slices."""
        last = next(step for step in self.steps if step.result in self.results)
        return packed_sizes([axis.size for axis in last.output], self.packed)

    @cached_property
    def readers(self) -> dict[str, Step]:
        """The step that reads a result, by that, where nobody else does: however often it does, and unless returned."""
        found: dict[str, list[Step]] = {
            step.result: [] for step in self.steps if step.result not in self.returned
        }
        for step in self.steps:
            for source in dict.fromkeys(operand.source for operand in step.operands):
                if source in found:
                    found[source].append(step)
        return {name: steps[0] for name, steps in found.items() if len(steps) == 1}

    def leading_to(self, results: Collection[str]) -> tuple[Step, ...]:
        """The steps that some results depend on, in order."""
        needed, found = set(results), list[Step]()
        for step in reversed(self.steps):
            if step.result in needed:
                needed.update(operand.source for operand in step.operands)
                found.append(step)
        return tuple(reversed(found))

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """Every index of the steps, in canonical order."""
        found = dict.fromkeys(i for step in self.steps for i in step.indices)
        return tuple(sorted(found, key=lambda i: i.sort_key))

    @cached_property
    def multiplications(self) -> Size:
        """Multiplications of all steps, an int or an expression."""
        total: Size = normal(sum((step.multiplications for step in self.steps), 0))
        for each in self.slices:
            total = each.total(total)
        return total

    @cached_property
    def peak_elements(self) -> Size:
        """Elements of intermediates and results that live at once, at most; arguments are not counted.

        Where sizes are symbols: the expression for the step that is the peak at the hints.
        """
        return self.peak_with({})

    def peak_with(self, buffers: Mapping[str, Size]) -> Size:
        """The peak when the step of each name needs so many elements besides its operands and result."""
        symbols = {s for step in self.steps for a in step.output for s in symbol_names(a.size)}
        symbols |= {s for size in buffers.values() for s in symbol_names(size)}
        symbols |= {s for each in self.slices for s in symbol_names(each.size)}
        values = {s: self.hints.get(s, DEFAULT_HINT) for s in sorted(symbols)}
        best, peak = -1, 0
        for step, live in zip(self.steps, self.live(), strict=True):
            extra = buffers.get(step.result, 0)
            count = sum(s.elements_at(values) for s in live) + evaluate(extra, values)
            if count > best:
                best, peak = count, normal(sum((s.elements for s in live), 0) + extra)
        return self._sliced_peak(peak, values) if self.slices else peak

    def _sliced_peak(self, peak: Size, values: Mapping[str, int]) -> Size:
        """The peak of a chunk, with the whole result and the pieces of arguments that are copied."""
        whole = product(self.output_sizes)
        inner = peak + sum((product(self.arguments[name]) for name in self.copied), 0)
        for each in self.slices:
            part, size = symbol(each.part), each.size
            chunk = min(each.chunk, evaluate(size, values))
            whole = whole if isinstance(whole, int) else normal(whole.subs(part, size))
            inner = inner if isinstance(inner, int) else normal(inner.subs(part, chunk))
        return normal(inner + whole)

    @cached_property
    def copied(self) -> tuple[str, ...]:
        """The arguments whose pieces are copied, for what is cut is not their first axis."""
        parts = {each.part for each in self.slices}
        return tuple(name for name, sizes in self.arguments.items() if _is_strided(sizes, parts))

    def live(self) -> Iterator[tuple[Step, ...]]:
        """The steps whose results are in memory while each step runs, its own included."""
        last: dict[str, int] = {}
        for place, step in enumerate(self.steps):
            last[step.result] = place
            for operand in step.operands:
                last[operand.source] = place
        for result in self.returned:
            last[result] = len(self.steps)
        dying: dict[int, list[str]] = {}
        for name, place in last.items():
            dying.setdefault(place, []).append(name)
        alive: dict[str, Step] = {}
        for place, step in enumerate(self.steps):
            alive[step.result] = step
            yield tuple(alive.values())
            for name in dying.get(place, ()):
                alive.pop(name, None)  # an argument is not there

    @cached_property
    def trees(self) -> tuple[Tree, ...]:
        """For each result, the nested pairs of arguments that make it."""
        made: dict[str, Tree] = {name: name for name in self.arguments}
        for step in self.steps:
            parts = tuple(made[operand.source] for operand in step.operands)
            made[step.result] = parts[0] if len(parts) == 1 else parts
        return tuple(made[result] for result in self.results)

    @property
    def tree(self) -> Tree:
        """The tree of the one result; the tuple of all trees for a Sum."""
        return self.trees[0] if len(self.trees) == 1 else self.trees


def varying_operands(steps: Iterable[Step], fixed: Collection[str]) -> dict[str, int]:
    """The number of operands of each step, by its result, that depend on other arguments than the `fixed` ones."""
    still, found = set(fixed), {}
    for step in steps:
        found[step.result] = sum(operand.source not in still for operand in step.operands)
        if not found[step.result]:
            still.add(step.result)
    return found


def _is_strided(sizes: tuple[Size, ...], parts: set[str]) -> bool:
    """Whether an axis that is cut comes after one that has several cells."""
    return any(
        parts & set(symbol_names(size)) and any(before != 1 for before in sizes[:place])
        for place, size in enumerate(sizes)
    )


def _check_operand(step: Step, operand: Operand, known: Mapping[str, tuple[Size, ...]]) -> None:
    if operand.source not in known:
        raise PlanError(f"step {step.result!r} reads {operand.source!r}, which is not computed before it")
    there, here = known[operand.source], tuple([axis.size for axis in operand.axes])
    if there == here:
        return
    # Two expressions of a symbol may be equal and look different, so only numbers are compared.
    clash = any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(there, here, strict=False)
    )
    if clash or len(there) != len(here):
        raise PlanError(
            f"step {step.result!r} reads {operand.source!r} with sizes [{', '.join(map(str, here))}], "
            f"but it has [{', '.join(map(str, there))}]; give it those axes"
        )
