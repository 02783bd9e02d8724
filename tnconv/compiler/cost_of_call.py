"""What a call does, in exact counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tnconv.backends.backend import Program
from tnconv.backends.peak import measured_peak, peak_elements
from tnconv.errors import UnknownSizeError
from tnconv.ir import Size, evaluate
from tnconv.ir.size import integers_of, normal
from tnconv.planner import Plan

Measure = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call does, in exact counts.

    Args:
        multiplications: by the cost model of the planner, less what kernels leave out; an int, or an expression of the
            size symbols. `plan.multiplications` has those of the plan.
        peak: `peak_elements`, or None where that is no expression of the size symbols.
        measured: the peak at integers for all symbols, where there is no expression.
    """

    multiplications: Size
    peak: Size | None
    measured: Measure | None = field(default=None, compare=False, repr=False)

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
        multiplications = evaluate(self.multiplications, values)
        if self.peak is None and self.measured is not None:
            return Cost(multiplications, self.measured(values))
        return Cost(multiplications, evaluate(self.peak_elements, values))

    def __str__(self) -> str:
        peak = "peak: see cost.at(…)" if self.peak is None else f"{self.peak} elements at the peak"
        return f"{self.multiplications} multiplications, {peak}"


def cost_of(plan: Plan, program: Program) -> Cost:
    """The counts of a program."""
    return Cost(
        multiplications_of(plan, program), peak_elements(plan, program), partial(measured_peak, plan, program)
    )


def multiplications_of(plan: Plan, program: Program) -> Size:
    """Those of a plan, less what kernels leave out, by symmetry or between lags."""
    planned = {step.result: step.multiplications for step in plan.steps}
    saved = (
        planned[choice.step] - choice.multiplications
        for choice in program.choices
        if choice.multiplications is not None and not plan.slices
    )
    return normal(plan.multiplications - sum(saved))
