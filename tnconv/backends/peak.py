"""The peak of a program's memory as it is measured, also as an expression of the size symbols.

That is made from what is live after each operator near the hints, and compared at small and at large sizes: where ones
or a choice at run time lead another way, the moments on that way are found from there on, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product as grid
from math import prod
from typing import TypeVar

import numpy as np

from tnconv.backends.backend import Program
from tnconv.backends.growth import At, bounds, expression, largest, peak_of, spread, value
from tnconv.backends.meter import ITEM, Moment, in_elements, measured_at, moments_at
from tnconv.ir import Size, evaluate, product, symbol
from tnconv.ir.monomial import sympy
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.memory_limit import program_peak
from tnconv.planner.plan import DEFAULT_HINT, Plan

_MOST_RUNS = 27  # measurements from which polynomials are made
_SMALL, _FEW = (1, 2), 3  # of every symbol by itself, if these are few
_OTHER = (3, 8, 128, 1024)  # of all symbols together
_MOST_SYMBOLS = 2  # of batch and rows: of more, such as image sizes, a bound of all the ways would be absurd
_CLOSE, _SANE = 1.1, 2.0  # times what is live at the hints, and elsewhere: a bound above these says nothing
_FAR = 8
_MOST_WAYS = 4  # of a program, that are followed where there are several symbols
W = TypeVar("W")


def peak_elements(plan: Plan, program: Program) -> Size | None:
    """Most elements alive at once besides the arguments, as a program makes them.

    Where sizes are symbols: an expression that is no less wherever the program takes a way that was seen, and close to
    what is live at the hints; None where none is found, so that `peak_at` has to measure. Where the program cannot be
    measured: what the plan and the reports of the kernels add up to.
    """
    planned = program_peak(program.lowered(plan), program.workspace)
    steps = [step.elements for step in plan.steps]
    return as_expression(lambda values: _moments(plan, program, values), planned, steps, _values(plan))


def peak_at(plan: Plan, program: Program, values: Mapping[str, int]) -> int:
    """The same at sizes for the symbols, with what native convolutions take for themselves."""
    return _measured(plan, program, values, "with_scratch")


def measured_peak(plan: Plan, program: Program, values: Mapping[str, int]) -> int:
    """`peak_elements` at sizes for all symbols.

    Raises:
        NetworkError: a symbol has no size.
    """
    for name in _values(plan):
        evaluate(symbol(name), values)
    return _measured(plan, program, values, "peak")


def _measured(plan: Plan, program: Program, values: Mapping[str, int], what: str) -> int:
    memory, more = _watched(measured_at, plan, program, values)
    if memory is None:
        return evaluate(program_peak(program.lowered(plan), program.workspace), values)
    return in_elements(getattr(memory, what)) + more


def _moments(plan: Plan, program: Program, values: Mapping[str, int]) -> list[Moment] | None:
    """What is live after each operator of a program; None where it does not run on the meta device."""
    moments, more = _watched(moments_at, plan, program, values)
    if moments is None:
        return None
    start = [Moment(0, "", more * ITEM)] if more else []
    return start + [replace(moment, live=moment.live + more * ITEM) for moment in moments]


def _watched(how: Callable[..., W], plan: Plan, program: Program, values: Mapping[str, int]) -> tuple[W, int]:
    """What is seen of a program, or of one chunk of it, and the elements that are live besides."""
    values = {**plan.hints, **values}
    if not plan.slices or program.chunk is None:
        shapes = {n: plan.arguments[n] for n in program.arguments}
        return how(program.function, shapes, values, plan.tables), 0
    parts = values | {s.part: min(s.chunk, evaluate(s.size, values)) for s in plan.slices}
    inner = program.chunk
    found = how(inner.function, {n: plan.arguments[n] for n in inner.arguments}, parts, plan.tables)
    whole = values | {s.part: evaluate(s.size, values) for s in plan.slices}
    pieces = (evaluate(product(plan.arguments[name]), parts) for name in plan.copied)
    return found, evaluate(product(plan.output_sizes), whole) + sum(pieces)


def as_expression(at: At, planned: Size, sizes: Iterable[Size], values: Mapping[str, int]) -> Size | None:
    """A measured peak as an expression of the symbols: what is live at one of the moments of the program, or more.

    None where there are more symbols than a bound is made of, or it would be far above what is live at the values.

    Args:
        at: measures it.
        planned: what it was thought to be.
        sizes: expressions that say which powers of symbols there are.
        values: of all symbols, near which it is measured.
    """
    if len(values) > _MOST_SYMBOLS:
        return None
    here = at(values)
    if here is None:
        return planned
    if not values:
        return in_elements(peak_of(here))
    every_size = [*sizes, planned]
    powers = {name: power for name in values if (power := _degree(name, every_size))}
    if len(powers) < len(values) or prod(power + 1 for power in powers.values()) > _MOST_RUNS:
        return None if len(values) > 1 else _raised(at, planned, in_elements(peak_of(here)), values)
    names, polys = list(powers), bounds(at, powers, values)
    if not polys and peak_of(here):  # not measured at other sizes
        return _raised(at, planned, in_elements(peak_of(here)), values)
    polys = polys or [spread(np.array(0, dtype=object), [], powers)]  # nothing is made
    ways = 0
    for place in _places(values):
        most = peak_of(at(place) or ())
        if most > max(value(poly, [place[n] for n in names]) for poly in polys):
            ways += 1
            if len(values) > 1 and ways > _MOST_WAYS:
                return None
            grown = {name: power for name, power in powers.items() if place[name] > 1}
            found = (grown and bounds(at, grown, place)) or [np.array(most, dtype=object)]
            polys = largest([*polys, *(spread(poly, list(grown), powers) for poly in found)])
    found = normal(sympy.Max(*(expression(poly, names) for poly in polys)))
    return found if len(values) < 2 or _is_sane(found, at, values, len(polys[0].flat)) else None


def _is_sane(found: Size, at: At, values: Mapping[str, int], rounded: int) -> bool:
    """Whether a bound is close to what is live at the values, and not far above where one is larger.

    Args:
        found: the bound.
        at: measures the program.
        values: of all symbols.
        rounded: elements by which rounding may raise it.
    """
    places = [(_CLOSE, dict(values)), *((_SANE, {**values, name: _FAR * values[name]}) for name in values)]
    for times, place in places:
        moments = at(place)
        if moments is not None and evaluate(found, place) > times * in_elements(peak_of(moments)) + rounded:
            return False
    return True


def _places(names: Iterable[str]) -> Iterator[dict[str, int]]:
    """Other sizes, small and large: where one is 1 there is less to copy, and a program may choose by sizes."""
    names = list(names)
    if len(names) <= _FEW:
        yield from (dict(zip(names, sizes, strict=True)) for sizes in grid(*([_SMALL] * len(names))))
    yield from (dict.fromkeys(names, size) for size in _OTHER)


def _values(plan: Plan) -> dict[str, int]:
    """The hints of all symbols but the sizes of chunks."""
    names = {s for sizes in plan.arguments.values() for size in sizes for s in symbol_names(size)}
    names |= {s for each in plan.slices for s in symbol_names(each.size)}
    names |= {s for step in plan.steps for axis in step.output for s in symbol_names(axis.size)}
    names -= {each.part for each in plan.slices}
    return {name: plan.hints.get(name, DEFAULT_HINT) for name in sorted(names)}


def _degree(name: str, sizes: Sequence[Size]) -> int | None:
    """The highest power of a symbol in some sizes, one at least; None where they are no polynomials."""
    found = 1
    for size in sizes:
        if name in symbol_names(size):
            whole, letter = sympy.expand(size), sympy.sympify(symbol(name))
            if not whole.is_polynomial(letter):
                return None
            found = max(found, int(sympy.degree(whole, letter)))
    return found


def _raised(at: At, planned: Size, here: int, values: Mapping[str, int]) -> Size:
    """What was planned, with so much in proportion to a symbol that it is the number measured here at least.

    Where that is too little at other sizes, a number is added.
    """
    name = next(iter(values))
    missing = max(0, here - evaluate(planned, values))
    found = normal(planned + -(-missing // values[name]) * symbol(name))
    places = ((at(place), place) for place in _places(values))
    more = max(in_elements(peak_of(seen)) - evaluate(found, place) for seen, place in places if seen)
    return normal(found + max(0, more))
