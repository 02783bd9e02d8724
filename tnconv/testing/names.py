"""The law that names mean nothing: the same network under other names, and what must not change."""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from tnconv.backends.backend import How, Program, backend_of
from tnconv.backends.reference import evaluate
from tnconv.errors import LoweringError
from tnconv.ir import Expression, Network, Node, Select, Sum, Tensor
from tnconv.planner import Plan, make_plan
from tnconv.testing.laws import assert_roundtrip
from tnconv.testing.values import random_arguments, random_symbols

T = TypeVar("T")
# Letters that mean something in this package, so that what read a meaning from a name would be misled.
_STEMS = ("n", "v", "g", "c", "d", "i", "o", "k", "r", "x", "weight", "bias", "p", "Q", "z_2", "mod", "ab")


@dataclass(frozen=True, slots=True)
class Renamed:
    """An expression under other names.

    Args:
        expression: its indices, nodes, arguments and tables have other names; kinds and sizes are the same.
        arguments: the new name of every argument.
    """

    expression: Expression
    arguments: Mapping[str, str]

    def given(self, arguments: Mapping[str, T]) -> dict[str, T]:
        """What the arguments of the first expression are, by the new names."""
        return {self.arguments[name]: value for name, value in arguments.items()}


def renamed(expression: Expression, seed: int) -> Renamed:
    """The expression with all indices, nodes and arguments renamed, injectively and at random.

    An index that several terms of a sum have is one index there too.
    """
    rng = random.Random(seed)
    indices = _other(rng, (i.name for term in expression.terms for i in term.indices))
    arguments = _other(rng, expression.arguments)
    made = [_renamed(rng, term, indices, arguments) for term in expression.terms]
    return Renamed(
        made[0] if isinstance(expression, Network) else Sum(expression.name, tuple(made)), arguments
    )


def _other(rng: random.Random, names: Iterable[str]) -> dict[str, str]:
    found = list(dict.fromkeys(names))
    pool = [f"{stem}{tail}" for stem in _STEMS for tail in ("", "1", "2", "10", "_2", "_3")]
    pool += [f"u{number}" for number in range(max(0, len(found) - len(pool) // 2))]
    return dict(zip(found, rng.sample(pool, len(found)), strict=True))


def _renamed(
    rng: random.Random, term: Network, indices: Mapping[str, str], arguments: Mapping[str, str]
) -> Network:
    names = _other(rng, (node.name for node in term.nodes))
    changed = (_node(node, names[node.name], arguments) for node in term.nodes)
    return term.with_nodes(changed).map_indices(lambda i: i.named(indices[i.name]))


def _node(node: Node, name: str, arguments: Mapping[str, str]) -> Node:
    match node:
        case Tensor():
            return replace(node, name=name, of=arguments[node.argument])
        case Select():
            return replace(node, name=name, table=arguments[node.table])
        case _:
            return replace(node, name=name)


def assert_names_mean_nothing(expression: Expression, seed: int = 0) -> None:
    """The expression under other names parses back, has the same value, and is planned and lowered alike.

    Args:
        expression: a network or a sum, with the kinds that its indices have.
        seed: of the new names and of the arguments.

    Raises:
        AssertionError: a value, a count, a kernel or a predicted time differs; the message shows both plans.
    """
    other = renamed(expression, seed)
    assert_roundtrip(other.expression)
    rng = np.random.default_rng(seed)
    symbols = random_symbols(expression, rng)
    arguments = random_arguments(expression, rng, symbols=symbols)
    value = evaluate(expression, arguments, symbols)
    assert np.array_equal(value, evaluate(other.expression, other.given(arguments), symbols)), (
        other.expression
    )
    plans = make_plan(expression), make_plan(other.expression)
    program, again = (_lowered(plan, expression) for plan in plans)
    assert (program is None) == (again is None), f"one is refused\n{plans[0]}\n{plans[1]}"
    if program is not None and again is not None:
        assert_alike(*plans, program, again)


def _lowered(plan: Plan, expression: Expression) -> Program | None:
    """The program; None where a size cannot be read off an argument."""
    try:
        return backend_of("torch").lower(plan, expression, How({}))
    except LoweringError:
        return None


def assert_alike(plan: Plan, other: Plan, program: Program, other_program: Program) -> None:
    """Two plans have the same counts, and their programs the same kernels with the same predicted times.

    Raises:
        AssertionError: they have not; the message shows both plans.
    """
    counts = [(each.multiplications, each.peak_elements) for each in (plan, other)]
    kernels = [[choice.kernel for choice in each.choices] for each in (program, other_program)]
    times = [[choice.predicted for choice in each.choices] for each in (program, other_program)]
    same = counts[0] == counts[1] and kernels[0] == kernels[1]
    close = same and all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(*times, strict=True))
    assert close, f"names decide: {counts}, {kernels}, {times}\n{plan}\n{other}"
