"""What the views of a compiled function are given: its parts, without the room that makes them."""

from collections.abc import Sequence
from typing import Any, Protocol

from tnconv.backends.backend import Program
from tnconv.backends.tuning import Trial
from tnconv.inspect.docstrings import first_line
from tnconv.ir import Expression, Size, evaluate
from tnconv.ir.size import symbol_names
from tnconv.passes import RewritePass, Stage
from tnconv.planner import DEFAULT_HINT, Plan
from tnconv.spec import Layer


class Compiled(Protocol):
    """What a `CompiledFunction` has: a report and a snapshot need no more."""

    op: str
    network: Expression
    stages: tuple[Stage, ...]
    plan: Plan
    program: Program
    trials: tuple[Trial, ...]
    spec: Layer | None

    @property
    def functions(self) -> "Sequence[Compiled]":
        """The functions of several operations, each alone; of one operation the function itself."""

    @property
    def cost(self) -> Any:
        """Exact counts of a call."""

    @property
    def backward(self) -> Any:
        """The programs of both passes in training; None without."""

    @property
    def kept(self) -> Any:
        """The program in two parts, of constants and of the rest; None without."""


def equation_of(function: Compiled) -> str | None:
    """The equation that a function was compiled from; None where it was a layer or a network."""
    equation: str | None = getattr(function, "equation", None)
    return equation


def sentences(stage: Stage) -> tuple[str, ...]:
    """What the pass of a stage does, then each rule that fired with its own sentence."""
    if stage.pass_ is None:
        return ()
    rules = stage.pass_.rules if isinstance(stage.pass_, RewritePass) else ()
    fired = dict(stage.fired)
    return first_line(type(stage.pass_)), *(f"{r.name}: {r.sentence}" for r in rules if r.name in fired)


def hinted(size: Size, plan: Plan, whole: bool = False) -> int:
    """A count with the symbols at the hints of a plan.

    Args:
        size: an integer or an expression.
        plan: its hints and its slices.
        whole: whether an index that is cut into chunks counts as a whole; else as one chunk.
    """
    values = {name: plan.hints.get(name, DEFAULT_HINT) for name in symbol_names(size)}
    for each in plan.slices:
        full = evaluate(each.size, {n: plan.hints.get(n, DEFAULT_HINT) for n in symbol_names(each.size)})
        values[each.part] = full if whole else min(each.chunk, full)
    return evaluate(size, values)


def peak_at_hints(function: Compiled) -> int:
    """Most elements alive at once for sizes as the hints say, besides the arguments."""
    if function.cost.peak is not None:
        return hinted(function.cost.peak, function.plan)
    values = {name: function.plan.hints.get(name, DEFAULT_HINT) for name in function.network.symbols}
    found: int = function.cost.at(**values).peak_elements
    return found
