"""What a call does, in exact counts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tnconv.backends.backend import Program
from tnconv.backends.peak import measured_peak, peak_elements
from tnconv.compiler.any_size.bind_sizes import Binding
from tnconv.errors import UnknownSizeError
from tnconv.ir import Size, evaluate
from tnconv.ir.guards import NO_GUARDS, Guards, assuming, at_most
from tnconv.ir.size import integers_of, normal, symbol_names
from tnconv.planner import DEFAULT_HINT, Plan, Step
from tnconv.planner.count import connected, determined

Count = Callable[[Mapping[str, int]], "Cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call does, in exact counts.

    Args:
        multiplications: by the cost model of the planner, less what kernels leave out; an int, or an expression of the
            size symbols. `plan.multiplications` has those of the plan.
        peak: `peak_elements`, or None where that is no expression of the size symbols.
        guards: for which sizes the multiplications are these. Where an index that follows from others is smaller than
            one of these, one takes its place, and there are fewer.
        count: the counts for integers, for all sizes.
    """

    multiplications: Size
    peak: Size | None
    guards: Guards = field(default=NO_GUARDS, compare=False)
    count: Count | None = field(default=None, compare=False, repr=False)

    @property
    def peak_elements(self) -> Size:
        """Most elements alive at once besides the arguments, as the program makes them.

        These are results, intermediates, copies and other buffers, measured on the meta device with contiguous
        arguments; one that lies otherwise in memory may be copied besides, and so may what is made of it. An expression
        of symbols is compared with measurements at small and large sizes. Four bytes of an integer count as one
        element. What native calls take for themselves does not count.

        Raises:
            UnknownSizeError: sizes beyond batches are symbols, and no expression holds for all: `at` measures.
        """
        if self.peak is None:
            raise UnknownSizeError(
                "the peak is no formula of all sizes, as a program goes other ways for others; measure it for some: "
                "cost.at(…).peak_elements, with an integer for each symbol"
            )
        return self.peak

    def at(self, **sizes: int) -> "Cost":
        """The counts for integers in place of the size symbols: `cost.at(N=32)`.

        Raises:
            NetworkError: a symbol of the counts is not named, or given no integer.
        """
        values = integers_of(sizes)
        if self.count is not None:
            return self.count(values)
        return Cost(evaluate(self.multiplications, values), evaluate(self.peak_elements, values))

    def __str__(self) -> str:
        peak = "peak: see cost.at(…)" if self.peak is None else f"{self.peak} elements at the peak"
        where = f", where {self.guards}" if len(self.guards) else ""
        return f"{self.multiplications} multiplications, {peak}{where}"


def cost_of(plan: Plan, program: Program) -> Cost:
    """The counts of a program."""
    peak = peak_elements(plan, program)

    def count(values: Mapping[str, int]) -> Cost:
        most = measured_peak(plan, program, values) if peak is None else evaluate(peak, values)
        return Cost(multiplications_at(plan, program, values), most)

    return Cost(multiplications_of(plan, program), peak, guards_of(plan), count)


def multiplications_at(plan: Plan, program: Program, values: Mapping[str, int]) -> int:
    """Those of a plan at integers for all symbols, whether guards hold for them or not, less what kernels leave out."""
    return evaluate(multiplications_of(Binding(values).plan(plan), program), values)


def multiplications_of(plan: Plan, program: Program) -> Size:
    """Those of a plan, less what kernels leave out, by symmetry or between lags."""
    planned = {step.result: step.multiplications for step in plan.steps}
    saved = (
        planned[choice.step] - choice.multiplications
        for choice in program.choices
        if choice.multiplications is not None and not plan.slices
    )
    return normal(plan.multiplications - sum(saved))


def guards_of(plan: Plan) -> Guards:
    """For which sizes the multiplications of a plan are the formula: those of one order with these for hints.

    A relation determines the largest of its indices, and several relations as many as go together. That is so as long
    as none of them is smaller than one that could be determined in its place.
    """
    steps = [step for step in plan.steps if len(step.operands) > 1 and step.relations]
    sizes = {i.size: None for step in steps for i in step.indices if not isinstance(i.size, int)}
    if not sizes:
        return NO_GUARDS
    hints = {n: plan.hints.get(n, DEFAULT_HINT) for size in sizes for n in symbol_names(size)}
    with assuming(hints, sizes) as found:
        for step in steps:
            for small, large in _exchanges(step, hints):
                at_most(small, large)
    return found.guards


def _exchanges(step: Step, hints: Mapping[str, int]) -> Iterator[tuple[Size, Size]]:
    """Sizes of an index that counts and of one that does not, where it could be the other way round."""
    indices = dict.fromkeys(i for operand in step.operands for i in operand.indices)
    rows = [relation.zero_form for relation in connected(step.relations, indices)]
    order = sorted(
        {**indices, **{i: None for row in rows for i in row}}, key=lambda i: -evaluate(i.size, hints)
    )
    gone = determined(rows, order)
    for one in gone:
        others = [each for each in gone if each != one]
        for kept in order:
            if kept not in gone and len(determined(rows, [*others, kept])) == len(gone):
                yield kept.size, one.size
