"""What ranks trees: multiplications alone, or with the elements that pass through memory.

A step costs `f·multiplications + elements·(elements of A + B + result)`. f is 1 for inference; in training it is
1 + the number of operands that need a gradient, for each of these is one more contraction of the same price. The
arguments are read in every order, so that an intermediate counts twice, written and read, and they do not count.
"""

import reprlib
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from tnconv.errors import PlanError, meant

ELEMENTS = 32  # multiplications that take as long as an element that is read or written (2 CPU cores)
MINIMIZE = ("multiplications", "time")


@dataclass(frozen=True, slots=True)
class Objective:
    """What a planner minimises.

    Args:
        elements: multiplications that an element of an operand or a result counts as; 0 counts multiplications only.
        training: forward and backward together.
        frozen: names of the arguments that need no gradient.
        constant: names of the arguments that seldom change: what depends on them alone costs nothing.
    """

    elements: int = 0
    training: bool = False
    frozen: frozenset[str] = frozenset()
    constant: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        minimize: str,
        training: bool = False,
        frozen: Collection[str] = (),
        constant: Collection[str] = (),
    ) -> "Objective":
        """The objective by name.

        Args:
            minimize: "multiplications", or "time": `multiplications + 32·elements`.
            training: forward and backward together.
            frozen: names of arguments that need no gradient; all others do.
            constant: names of arguments that seldom change.

        Raises:
            PlanError: there is no such objective, or arguments are frozen though nothing is trained, or constant
                though something is.
        """
        frozen, constant = argument_names("frozen", frozen), argument_names("constant", constant)
        check_training(training, frozen, constant)
        elements = ELEMENTS if check_minimize(minimize) == "time" else 0
        return cls(elements, training, frozen, constant)


def argument_names(option: str, names: object) -> frozenset[str]:
    """The names of arguments that an option was given.

    Raises:
        PlanError: it is one text, or no collection of texts.
    """
    if isinstance(names, str):
        raise PlanError(f"{option}={names!r} is a str; give the names of arguments, as in ({names!r},)")
    if not isinstance(names, Sequence | Set) or not all(isinstance(name, str) for name in names):
        raise PlanError(
            f"{option}={reprlib.repr(names)} are no names; give those of arguments, as in ('weight',)"
        )
    return frozenset(names)


def check_minimize(minimize: object) -> str:
    """The name of an objective.

    Raises:
        PlanError: there is none of that name.
    """
    if not isinstance(minimize, str) or minimize not in MINIMIZE:
        raise PlanError(
            f"minimize={minimize!r} is not known{meant(minimize, MINIMIZE)}; use {' or '.join(map(repr, MINIMIZE))}"
        )
    return minimize


def check_training(training: bool, frozen: Collection[str], constant: Collection[str]) -> None:
    """Refuse names that say nothing with, or without, training.

    Raises:
        PlanError: arguments are frozen though nothing is trained, or constant though something is.
    """
    if frozen and not training:
        raise PlanError(
            f"frozen={sorted(frozen)} is given without training=True; inference needs no gradient of any argument"
        )
    if constant and training:
        raise PlanError(
            f"constant={sorted(constant)} and training=True are given together; take one: what is trained changes"
        )
