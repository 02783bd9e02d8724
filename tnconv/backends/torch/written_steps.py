"""Steps written one after another: operands as variables, and the statements of a kernel for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tnconv.backends.operand_axes import renaming, untied
from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.returned import divisors
from tnconv.backends.torch.step_problems import After, applied, problem_of
from tnconv.backends.torch.windows import gather
from tnconv.errors import LoweringError
from tnconv.ir import Axis, Pattern
from tnconv.ir.monomial import Scalar, polynomial_text
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.plan import Operand, Step
from tnconv.program import Var
from tnconv.program.statements import Argument

Laid = tuple[Value, tuple[Axis, ...]]


class WrittenSteps:
    """Writes steps, and knows what they have made.

    Args:
        em: the statements.
        python: the variable of each argument of the plan.
        values: what is there already, with its axes.
        lower: results of which the lower triangle is all that is read, with the number of axes in front.
    """

    def __init__(
        self,
        em: Emitter,
        python: Mapping[str, str],
        values: Mapping[str, Laid],
        lower: Mapping[str, int] | None = None,
    ) -> None:
        self.em, self._python, self.values, self._lower = em, python, dict(values), lower or {}
        self.divided: set[str] = set()  # results that were multiplied by their scale as a whole

    def problem(self, step: Step, *, loose: bool, swapped: bool = False) -> tuple[Problem, list[After]]:
        """A step as kernels see it, and what is done behind it; see `Problem` and `problem_of`."""
        ties: list[Pattern] = []
        operands = [self._operand(operand, step, ties) for operand in step.operands] or [self._one()]
        problem, after = problem_of(step, operands, self.em, self.em.profile, ties)
        if step.result in self._lower and not after:
            shared = self._lower[step.result]
            middle = (shared + len(step.output)) // 2
            parts = step.output[:shared], step.output[shared:middle], step.output[middle:]
            front, rows, columns = (tuple(i for axis in part for i in axis.indices) for part in parts)
            problem = replace(problem, lower=(front, rows, columns))
        return replace(problem, loose=loose, swapped=swapped) if loose or swapped else problem, after

    def write(self, step: Step, problem: Problem, after: Sequence[After], kernel: Kernel) -> Value:
        """The result of a step by a kernel."""
        scale = scale_argument(step.scale) if step.scale != 1 else None
        divides = bool(divisors(step)) and not after
        if scale is not None and kernel.applies_scale:
            problem, scale = replace(problem, scale=scale), None
            self.divided |= {step.result} if divides else set()
        if scale is not None and kernel.takes_scaled and not _is_twice(problem):
            small = min(range(len(problem.operands)), key=lambda p: problem.count(problem.operands[p].legs))
            if problem.count(problem.operands[small].legs) < problem.count(problem.output):
                operands = list(problem.operands)
                operands[small] = self._scaled(operands[small], scale)
                problem, scale = replace(problem, operands=tuple(operands)), None
        turned = bool(problem.operands) and all(v.conj for v in problem.operands)
        if turned:  # the conjugate of the product, written out: a result is no view of an argument
            problem = replace(problem, operands=tuple(replace(v, conj=False) for v in problem.operands))
        elif not kernel.takes_conj:
            problem = replace(problem, operands=tuple(map(self.em.conj, problem.operands)))
        value = kernel.emit(problem, self.em)
        if scale is not None:
            self.divided |= {step.result} if divides else set()
            value = self._scaled(value, scale)
        value = applied(self.em, value, after)
        return self.em.conj(replace(value, conj=True), "conj_physical") if turned else value

    def _scaled(self, value: Value, scale: Argument) -> Value:
        return self.em.derive(value, "scaled", call("mul", value, scale), value.dims, copied=True)

    def _one(self) -> Value:
        """A one with the dtype and the device of an argument, a constant if there is one."""
        like = next(iter(sorted(self.em.constants) or self._python.values()), None)
        if like is None:
            return self.em.make("one", call("ones", ()), ())
        return self.em.make("one", call("new_ones", Var(like), ()), ())

    def _operand(self, operand: Operand, step: Step, ties: list[Pattern]) -> Value:
        """The variable of an operand; patterns of cells that are only summed are left to kernels, in `ties`."""
        if operand.source in self.values:
            value, axes = self.values[operand.source]
            mapping = renaming(axes, operand.axes)
            return replace(value.rename(mapping), fresh=False, conj=operand.conj)
        dims, reads = untied(operand.axes, {i.name for i in operand.indices})
        value = Value(self._python[operand.source], tuple(dims), conj=operand.conj)
        if reads and len(step.operands) == 1 and not step.relations:
            alone = [axis for axis in operand.axes if axis.is_group]
            others = {i for axis in (*alone, *step.output) for i in axis.indices}
            if others.isdisjoint(i for read in reads for i in read.indices):
                ties += reads
                return value
        return gather(self.em, value, reads) if reads else value


def _is_twice(problem: Problem) -> bool:
    """Whether operands are one variable: scaling one of them would make two of it."""
    return len({v.name for v in problem.operands}) < len(problem.operands)


def scaling(problem: Problem) -> float:
    """Predicted microseconds to scale the smallest operand or the result, for a kernel that does not."""
    operands = () if _is_twice(problem) else [v.legs for v in problem.operands]
    cells = min(problem.count(legs) for legs in (problem.output, *operands))
    return problem.profile.call + problem.profile.writing(cells) + problem.profile.streaming(cells)


def scale_argument(scale: Scalar) -> Argument:
    """A scale as an argument of a call: a number, or a ratio of two sizes.

    Raises:
        LoweringError: it is neither.
    """
    if not symbol_names(scale):
        return float(scale) if scale.is_real else complex(scale)
    top, bottom = scale.as_numer_denom()
    if any(polynomial_text(part, {n: n for n in symbol_names(part)}) is None for part in (top, bottom)):
        raise LoweringError(f"scale {scale} is not a ratio of polynomials in the size symbols")
    return call("ratio", normal(top), normal(bottom))
