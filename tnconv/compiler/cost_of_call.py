"""What a call does, in exact counts."""

from dataclasses import dataclass

from tnconv.backends.backend import Program
from tnconv.backends.peak import peak_elements
from tnconv.ir import Size, evaluate
from tnconv.ir.size import integers_of, normal
from tnconv.planner import Plan


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call does, in exact counts.

    Args:
        multiplications: by the cost model of the planner, less what kernels leave out; an int, or an expression of the
            size symbols. `plan.multiplications` has those of the plan.
        peak_elements: most elements alive at once besides the arguments, as the program makes them: results,
            intermediates, copies and other buffers, measured on the meta device with contiguous arguments; one that
            lies otherwise in memory may be copied besides, and so may what is made of it. An expression of symbols is
            compared with measurements at small and large sizes. Four bytes of an integer count as one element. What
            native calls take for themselves does not count.
    """

    multiplications: Size
    peak_elements: Size

    def at(self, **sizes: int) -> "Cost":
        """The counts for integers in place of the size symbols: `cost.at(N=32)`.

        Raises:
            NetworkError: a symbol of the counts is not named, or given no integer.
        """
        values = integers_of(sizes)
        return Cost(evaluate(self.multiplications, values), evaluate(self.peak_elements, values))

    def __str__(self) -> str:
        return f"{self.multiplications} multiplications, {self.peak_elements} elements at the peak"


def cost_of(plan: Plan, program: Program) -> Cost:
    """The counts of a program: those of its plan, less what kernels leave out, by symmetry or between lags."""
    planned = {step.result: step.multiplications for step in plan.steps}
    saved = (
        planned[choice.step] - choice.multiplications
        for choice in program.choices
        if choice.multiplications is not None and not plan.slices
    )
    return Cost(normal(plan.multiplications - sum(saved)), peak_elements(plan, program))
