"""What a kernel is: something that computes one step, and says whether it can and what that costs.

A kernel sees a `Problem`: one or two values, the relations that tie their indices to the output's, and
the output's indices. `accepts` and `cost` look only; `emit` writes statements. The table in `table.py`
is ordered; among the kernels that accept, the cheapest by predicted time is taken, and the last accepts
everything, so a missing kernel is slow, never wrong.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tnconv.backends.backend import COMPONENTWISE
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.profile import DEFAULT, Profile
from tnconv.ir import Index, Relational, Size, evaluate
from tnconv.planner.decompose import Decomposition
from tnconv.program.statements import Argument


@dataclass(frozen=True)
class Problem:
    """One step, ready for a kernel.

    Args:
        operands: one or two values, every index on one dimension of a value only.
        relations: relations among the indices; none is a plain delta with an operand on either side.
        output: indices of the result; the kernel may return them in any order.
        hints: representative integers of the size symbols.
        profile: rates of the machine that will run it, for predicted times.
        scale: an argument of a call, a number by which the kernel multiplies its result, if it says that it can.
        loose: whether the result may have its indices in any order for nothing, as where it is only squared.
        lower: where the lower triangle of the result is all that is read: the indices in front, of rows, of columns.
        swapped: whether a product has another leg last in its result than what is best for it alone, for its reader.
    """

    operands: tuple[Value, ...]
    relations: tuple[Relational, ...]
    output: tuple[Index, ...]
    hints: Mapping[str, int]
    profile: Profile = DEFAULT
    scale: Argument | None = None
    loose: bool = False
    lower: tuple[tuple[Index, ...], tuple[Index, ...], tuple[Index, ...]] | None = None
    swapped: bool = False

    def count(self, indices: Iterable[Index]) -> int:
        """Cells that the indices span, at the representative sizes."""
        total = 1
        for index in indices:
            size = index.size
            total *= size if type(size) is int else evaluate(size, self.hints)
        return total

    @property
    def hermitian(self) -> bool:
        """Of two operands that are one variable: whether one alone is conjugated, as in `a aᴴ`."""
        return self.operands[0].conj != self.operands[1].conj

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was found out about the problem, without names of variables, by a name of its own: several ask."""
        return {}

    def recall(self, known: dict[Any, dict[Any, Any]]) -> None:
        """Know what was found out about a problem that differs in the names of variables only; before all else.

        Args:
            known: by problem, of one profile; this one is added.
        """
        names: dict[str, int] = {}
        operands = [
            (v.dims, v.contiguous, v.fresh, v.conj, names.setdefault(v.name, len(names)))
            for v in self.operands
        ]
        key = (
            tuple(operands),
            self.relations,
            self.output,
            tuple(self.hints.items()),
            self.loose,
            self.lower,
            self.swapped,
        )
        self.__dict__["memo"] = known.setdefault(key, {})

    @cached_property
    def open(self) -> frozenset[Index]:
        """The output's indices."""
        return frozenset(self.output)

    @cached_property
    def related(self) -> frozenset[Index]:
        """The indices of the relations."""
        return frozenset(i for r in self.relations for i in r.indices)

    @cached_property
    def latent(self) -> frozenset[Index]:
        """Indices that only relations have: summed, and on no operand."""
        return self.related - self.open - frozenset(i for v in self.operands for i in v.legs)

    def holders(self, index: Index) -> tuple[int, ...]:
        """Positions of the operands that have an index."""
        return tuple([p for p, v in enumerate(self.operands) if index in v.legs])

    def uses(self, index: Index) -> int:
        """Number of relations that have an index."""
        return sum([index in r.indices for r in self.relations])


class Kernel(ABC):
    """One way to compute a step.

    Attributes:
        name: how the kernel appears in tables and plans.
        takes_scaled: whether a scale may be multiplied into an operand before `emit`; False for kernels that
            must see both operands as one variable.
        applies_scale: whether `emit` multiplies its result by `problem.scale`, where that costs nothing.
        takes_conj: whether `emit` takes operands that are meant conjugated (`Value.conj`); the others are given the
            conjugate as a variable of its own, so that both operands are one only where neither is conjugated.
        accuracy: what it promises about each cell, one of `ACCURACIES` of `backends/backend.py`; `tnconv.compile`
            takes kernels with less only when asked to.
        rule: what it carries out at once, of the rules that make several steps of one.
    """

    name: ClassVar[str]
    takes_scaled: ClassVar[bool] = True
    applies_scale: ClassVar[bool] = False
    takes_conj: ClassVar[bool] = False
    accuracy: ClassVar[str] = COMPONENTWISE
    rule: ClassVar[Decomposition | None] = None

    @abstractmethod
    def accepts(self, problem: Problem) -> bool:
        """Whether the kernel can compute the problem."""

    @abstractmethod
    def cost(self, problem: Problem) -> float:
        """Predicted time in microseconds; only asked where the kernel accepts."""

    def multiplications(self, problem: Problem) -> Size | None:
        """The exact number of multiplications, if it is not that of the plan; only asked where the kernel accepts."""
        return None

    def is_native(self, problem: Problem) -> bool:
        """Whether what is written is the call that PyTorch has for the step; only asked where the kernel accepts."""
        return False

    def packs(self, problem: Problem) -> bool:
        """Whether it makes no more than the lower triangle where that is all that is read; asked where it accepts."""
        return False

    @abstractmethod
    def emit(self, problem: Problem, em: Emitter) -> Value:
        """Write the statements; return the result with the output's indices in any order."""
