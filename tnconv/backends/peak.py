"""The peak of a program's memory as it is measured, also as an expression of the size symbols.

Between a few sizes near the hints a peak is a polynomial in each symbol of the degree that the results of the steps
have; so it is found by differences, and compared at one more place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product as every
from math import comb, prod

from tnconv.backends.base import Program
from tnconv.backends.meter import ITEM, Memory, measured_at
from tnconv.ir import Size, evaluate, product, symbol
from tnconv.ir.index import normal, symbol_names
from tnconv.ir.monomial import ONE, sympy
from tnconv.planner.memory import program_peak
from tnconv.planner.plan import DEFAULT_HINT, Plan

_MOST_RUNS = 12  # measurements for one expression
_SMALL = (1, 2)  # of every symbol
At = Callable[[Mapping[str, int]], int | None]


def peak_elements(plan: Plan, program: Program) -> Size:
    """Most elements alive at once besides the arguments, as a program makes them.

    Where sizes are symbols: the expression for the peak at the hints. Where the program cannot be measured: what the
    plan and the reports of the kernels add up to.
    """
    planned = program_peak(plan, program.workspace)
    steps = [step.elements for step in plan.steps]
    return as_expression(lambda values: measured(plan, program, values), planned, steps, _values(plan))


def peak_at(plan: Plan, program: Program, values: Mapping[str, int]) -> int:
    """The same at sizes for the symbols, with what native convolutions take for themselves."""
    found = measured(plan, program, values, scratch=True)
    return evaluate(program_peak(plan, program.workspace), values) if found is None else found


def measured(plan: Plan, program: Program, values: Mapping[str, int], *, scratch: bool = False) -> int | None:
    """The elements at the peak of a program; None where it does not run on the meta device.

    Args:
        plan: of the program.
        program: what is measured.
        values: of the size symbols.
        scratch: whether what native convolutions take for themselves counts.
    """
    values = {**plan.hints, **values}
    if not plan.slices or program.chunk is None:
        shapes = [plan.arguments[n] for n in program.arguments]
        return elements(measured_at(program.function, shapes, values), scratch=scratch)
    parts = values | {s.part: min(s.chunk, evaluate(s.size, values)) for s in plan.slices}
    inner = program.chunk
    shapes = [plan.arguments[n] for n in inner.arguments]
    peak = elements(measured_at(inner.function, shapes, parts), scratch=scratch)
    if peak is None:
        return None
    whole = values | {s.part: evaluate(s.size, values) for s in plan.slices}
    result = next(step.elements for step in plan.steps if step.result in plan.results)
    pieces = (evaluate(product(plan.arguments[name]), parts) for name in plan.copied)
    return peak + evaluate(result, whole) + sum(pieces)


def elements(memory: Memory | None, *, scratch: bool) -> int | None:
    """The elements of a measurement, integers counted by their bytes."""
    return None if memory is None else -(-(memory.with_scratch if scratch else memory.peak) // ITEM)


def as_expression(at: At, planned: Size, sizes: Iterable[Size], values: Mapping[str, int]) -> Size:
    """A measured number as an expression of the symbols; at a few small sizes it is that number at least.

    Args:
        at: measures it.
        planned: what it was thought to be.
        sizes: expressions that say which powers of symbols there are.
        values: of all symbols, near which it is measured.
    """
    here = at(values)
    if here is None:
        return planned
    powers = {name: _degree(name, [*sizes, planned]) for name in values}
    powers = {name: power for name, power in powers.items() if power}
    if not powers:
        return here
    found = None
    if prod(power + 1 for power in powers.values()) < _MOST_RUNS:
        found = _interpolated(at, powers, values)
    if found is None:
        found = _raised(planned, here, next(iter(powers)), values)
    return _covered(at, found, powers, values)


def _covered(at: At, found: Size, powers: Mapping[str, int], values: Mapping[str, int]) -> Size:
    """The larger of an expression and that for small sizes, where something else is largest or another way is quicker.

    Where there is none for small sizes, a number is added.
    """
    small = [dict.fromkeys(values, size) for size in _SMALL]
    missing = max((at(each) or 0) - evaluate(found, each) for each in small)
    if missing <= 0:
        return found
    other = _interpolated(at, powers, small[0])
    return normal(found + missing) if other is None else sympy.Max(found, other)


def _values(plan: Plan) -> dict[str, int]:
    """The hints of all symbols but the sizes of chunks."""
    names = {s for sizes in plan.arguments.values() for size in sizes for s in symbol_names(size)}
    names |= {s for each in plan.slices for s in symbol_names(each.size)}
    names |= {s for step in plan.steps for axis in step.output for s in symbol_names(axis.size)}
    names -= {each.part for each in plan.slices}
    return {name: plan.hints.get(name, DEFAULT_HINT) for name in sorted(names)}


def _degree(name: str, sizes: Sequence[Size]) -> int:
    """The highest power of a symbol in some sizes; 1 where they are no polynomials."""
    found = 0
    for size in sizes:
        if name in symbol_names(size):
            whole, letter = sympy.expand(size), sympy.sympify(symbol(name))
            plain = whole.is_polynomial(letter)
            found = max(found, int(sympy.degree(whole, letter)) if plain else 1)
    return found


def _interpolated(at: At, powers: Mapping[str, int], values: Mapping[str, int]) -> Size | None:
    """The polynomial through the measurements from `values` on; None where another one contradicts it."""
    names, grid = list(powers), [range(power + 1) for power in powers.values()]
    table = {}
    for steps in every(*grid):
        peak = at({**values, **{n: values[n] + step for n, step in zip(names, steps, strict=True)}})
        if peak is None:
            return None
        table[steps] = peak
    total: Size = 0
    for orders in every(*grid):
        difference = sum(
            (-1) ** sum(o - s for o, s in zip(orders, steps, strict=True))
            * prod(comb(o, s) for o, s in zip(orders, steps, strict=True))
            * table[steps]
            for steps in every(*(range(o + 1) for o in orders))
        )
        total = total + difference * prod(
            (_choose(symbol(n) - values[n], o) for n, o in zip(names, orders, strict=True)), start=ONE
        )
    made = normal(sympy.expand(total))
    beyond = {**values, **{n: values[n] + power + 1 for n, power in powers.items()}}
    return made if at(beyond) == evaluate(made, beyond) else None


def _choose(x: Size, count: int) -> Size:
    """The binomial coefficient as a polynomial."""
    return prod((x - j for j in range(count)), start=ONE) / sympy.factorial(count)


def _raised(planned: Size, here: int, name: str, values: Mapping[str, int]) -> Size:
    """What was planned, with so much in proportion to a symbol that it is the number measured here at least."""
    missing = here - evaluate(planned, values)
    return planned if missing <= 0 else normal(planned + -(-missing // values[name]) * symbol(name))
