"""What a backend is: what makes programs of plans, of one library's arrays, and says what else it can do.

Backends are entry points of the group `tnconv.backends`: each is a `Backend`, or a subclass of it. What one lacks is
refused by name when a function is compiled; nothing outside a backend asks which one it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from math import inf
from typing import Any, ClassVar

from torch import Tensor

from tnconv import plugins
from tnconv.backends.arrays import Arrays
from tnconv.errors import LoweringError, PluginError
from tnconv.ir import Expression, Size
from tnconv.planner.decompose import AT_ONCE, Setting, replaced
from tnconv.planner.plan import Plan, Step
from tnconv.program import ProgramText, SizeOf
from tnconv.program.passes.program_pass import ProgramStage

# What is promised about each cell of its result, from the least on; all are right to rounding in norm.
#   norm: errors are of the size of rounding errors of the largest cell, so that small ones may be lost beside it.
#   componentwise: at most n·eps·Σ|terms| for a cell that sums n terms. What is not finite makes every cell so whose
#     sum has it, and may make those so that a sum over all positions and kernel cells in place of the related would.
#   local: componentwise, and no cell that does not depend on it, where the zeros of padding are terms: as in PyTorch.
ACCURACIES = ("norm", "componentwise", "local")
COMPONENTWISE = "componentwise"  # unless somebody asks for more, or less


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel that computes a step.

    Args:
        step: name of its result.
        kernel: name of the kernel.
        candidates: what each kernel that accepts the step was predicted to take, in microseconds.
        multiplications: that the kernel does; None where they are those of the plan.
        rule: name of the rule of plans that the kernel carries out at once, if that is one.
    """

    step: str
    kernel: str
    candidates: tuple[tuple[str, float], ...] = ()
    multiplications: Size | None = None
    rule: str = ""

    @property
    def predicted(self) -> float:
        """Microseconds that the chosen kernel is predicted to take; 0 where the backend predicts none."""
        return dict(self.candidates).get(self.kernel, 0.0)


@dataclass(frozen=True, slots=True)
class Decomposed:
    """A step of a plan that was taken apart: it is computed by several.

    Args:
        step: as the plan had it.
        rule: name of the decomposition.
        steps: in its place.
        candidates: what these, and each kernel for the step as it was, were predicted to take, in microseconds.
    """

    step: Step
    rule: str
    steps: tuple[Step, ...]
    candidates: tuple[tuple[str, float], ...]

    @property
    def choice(self) -> Choice:
        """The rule among the kernels for the step as it was."""
        return Choice(self.step.result, self.rule, self.candidates)


@dataclass(frozen=True)
class Program:
    """A function on arrays, and where it came from.

    Args:
        name: of the function.
        source: its text, for people to read.
        arguments: names of the arguments, in order.
        choices: the kernel of each step.
        workspace: (step, what, elements) of buffers that kernels need besides operands and results.
        function: takes the arguments in order; typed as for tensors, whatever the backend's arrays are.
        chunk: the program of one chunk, where the function runs it in a loop.
        text: its statements, of a backend that has them: what `str` gives.
        stages: the statements before and after each pass on them.
        decomposed: the steps of the plan that were taken apart; the choices are those of the steps in their place.
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    choices: tuple[Choice, ...]
    workspace: tuple[tuple[str, str, Size], ...]
    function: Callable[..., Tensor]
    chunk: "Program | None" = None
    text: ProgramText | None = None
    stages: tuple[ProgramStage, ...] = ()
    decomposed: tuple[Decomposed, ...] = ()

    def __str__(self) -> str:
        chunk = "" if self.chunk is None else f"{self.chunk}\n\n"
        return self.source if self.text is None else f"{chunk}{self.text}"

    def lowered(self, plan: Plan) -> Plan:
        """The plan with the steps in it that the program computes."""
        return replaced(plan, ((each.step, each.steps) for each in self.decomposed))

    def taken_apart(self, plan: Plan) -> list[tuple[Step, str, tuple[Step, ...]]]:
        """(a step, how, steps with the same value): those that are computed in its place, or at once by a kernel."""
        found = [(each.step, each.rule, each.steps) for each in self.decomposed]
        plan, rules = self.lowered(plan), {rule.name: rule for rule in AT_ONCE}
        steps = {step.result: step for step in plan.steps}
        for choice in self.choices:
            rule, step = rules.get(choice.rule), steps.get(choice.step)
            if rule and step and (made := rule(step, Setting.of(plan))):
                found.append((step, f"{rule.name}, at once", made))
        return found

    @property
    def kernels(self) -> set[str]:
        """Names of the kernels that it uses, and of the rules by which steps were taken apart."""
        return {choice.kernel for choice in self.choices} | {each.rule for each in self.decomposed}

    @property
    def predicted(self) -> float:
        """Microseconds that all steps together are predicted to take, sizes at the hints."""
        return sum(choice.predicted for choice in self.choices)


class Capability(Enum):
    """What a backend may do besides computing a value: the option that asks for it, and what that is."""

    ACCURACY = "accuracy=", "it promises no more and no less than its library does"
    AUTOTUNE = "autotune=True", "it has no programs to choose from by trial"
    CONSTANT = "constant=", "it keeps nothing between calls"
    DEVICE = "device=", "it has no rates of devices to choose by, and arrays may be on any"
    MEMORY_LIMIT = "memory_limit=", "it does not say what a call takes"
    OUT = "out=", "it writes into no array that is there"
    DTENSORS = "tnconv.distributed", "its arrays are no DTensors"
    SEVERAL = "function of several operations", "its programs compute one value"
    TRAINING = "training=True", "it plans no backward pass, and derivatives are its library's, if it has any"

    @property
    def option(self) -> str:
        """How somebody asks for it."""
        return self.value[0]

    def refused(self, backend: str) -> str:
        """What is said to somebody who asks a backend that lacks it."""
        return (
            f"backend {backend!r} has no {self.option}: {self.value[1]}; leave it out, or use another backend"
        )


@dataclass(frozen=True, slots=True)
class How:
    """What a backend is told besides the plan.

    Args:
        hints: an integer that each size symbol counts as.
        prefer: names of kernels to take wherever they accept: the exact check makes small instances use them.
        device: whose rates decide between kernels, or these; see `Backend.rates`.
        accuracy: the least that kernels promise, one of `ACCURACIES`.
        below: microseconds: what is predicted to take as long may be given up with `Slower`.
        only: kernels by step, where others need not be asked: for a size nearby they were far from the best.
        sizes: how size symbols are read that no shape gives away by itself.
        known: what a backend finds out about steps: plans of one network have steps in common. One for each network.
    """

    hints: Mapping[str, int] = field(default_factory=dict)
    prefer: tuple[str, ...] = ()
    device: Any = "cpu"
    accuracy: str = COMPONENTWISE
    below: float = inf
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sizes: tuple[SizeOf, ...] = ()
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


class Slower(Exception):
    """A program is given up because it is predicted to take as long as another."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a program is predicted to take, and what writes it once it is chosen.

    Args:
        predicted: microseconds, or what else a backend compares plans by.
        program: writes it.
    """

    predicted: float
    program: Callable[[], Program]


class Backend(ABC):
    """What makes programs of plans. `lower` and `arrays` are all that one needs.

    Attributes:
        arrays: the library whose arrays programs take and return.
        capabilities: what else it does; each but `ACCURACY`, `AUTOTUNE`, `DEVICE`, `DTENSORS`, `OUT` and `SEVERAL`
            is a method to write.
        frugal: names of kernels that take no memory besides what they return, for plans within a limit.
    """

    arrays: ClassVar[Arrays]
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    frugal: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def lower(self, plan: Plan, network: Expression, how: How) -> Program:
        """The program of a plan, which with `SEVERAL` returns the tuple of all values where the plan has further ones.

        Args:
            plan: the steps, in order; each is a small network of its own, `step.network`.
            network: what the plan computes; of several values, the first.
            how: for which sizes and device.

        Raises:
            LoweringError: the backend cannot compute a step; the message says which and what to do.
        """

    def draft(self, plan: Plan, network: Expression, how: How) -> Draft:
        """What decides between plans: the one whose draft has the least `predicted`, the first of equals, is taken.

        Raises:
            Slower: it is not below `how.below`.
        """
        made = self.lower(plan, network, how)
        return Draft(made.predicted, lambda: made)

    def rates(self, device: Any) -> Hashable:
        """What a choice between kernels depends on, which may be given in place of the device."""
        return str(device)

    def trained(self, plan: Plan, needed: Collection[str], how: How, recomputed: Collection[str] = ()) -> Any:
        """The programs of both passes: `TRAINING`.

        Args:
            plan: of the forward pass.
            needed: arguments that need a gradient.
            how: as for `lower`.
            recomputed: intermediates that are computed again instead of being saved.

        Raises:
            LoweringError: the backward pass cannot be planned.
        """
        raise LoweringError(Capability.TRAINING.refused(type(self).__name__))

    def kept(self, plan: Plan, constant: Collection[str], how: How) -> Any:
        """The program in two parts, of which the first depends on constant arguments alone: `CONSTANT`.

        Raises:
            LoweringError: nothing can be kept.
        """
        raise LoweringError(Capability.CONSTANT.refused(type(self).__name__))

    def looped(self, inner: Program, plan: Plan, arguments: Sequence[str]) -> Program:
        """The program of a plan with slices, a loop that calls the program of one chunk: `MEMORY_LIMIT`.

        Raises:
            LoweringError: the loop cannot be written.
        """
        raise LoweringError(Capability.MEMORY_LIMIT.refused(type(self).__name__))

    def accumulating(self, plan: Plan, how: How) -> Program | None:
        """The program that adds to an array that is there, taken behind the arguments with a factor of it.

        None where `OUT` is what the function returns, added.
        """
        return None


def backend_of(name: str) -> Backend:
    """The backend of a name.

    Raises:
        PluginError: there is none, it cannot be loaded, or it is no `Backend`.
    """
    return _made(name, plugins.state())


@lru_cache(maxsize=64)
def _made(name: str, _state: Hashable) -> Backend:
    found = plugins.get(plugins.BACKENDS, name)
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Backend):
        raise PluginError(
            f"backend {name!r} is {made!r}, which is not a Backend; subclass tnconv.backends.backend.Backend"
        )
    if not isinstance(getattr(made, "arrays", None), Arrays):
        raise PluginError(
            f"backend {name!r} does not say which arrays it takes; set arrays = … to an instance of a subclass of "
            "tnconv.backends.arrays.Arrays"
        )
    return made
