"""Values of size symbols, read off the shapes of arguments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tnconv.errors import ArgumentError
from tnconv.ir import Expression, Size, evaluate, symbol
from tnconv.ir.monomial import sympy
from tnconv.ir.size import symbol_names

Array = npt.NDArray[Any]


def bind_symbols(
    expression: Expression, shapes: Mapping[str, Sequence[int]], symbols: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The values that the shapes of the arguments give to the size symbols; checks every shape.

    An axis of size `N` or `2*N + 1` gives N; one of size `N*G` does once another axis has given G.

    Args:
        expression: a network or a sum.
        shapes: the shape of every argument.
        symbols: values known beforehand.

    Returns:
        A value for every symbol that the shapes determine, and those known beforehand.

    Raises:
        ArgumentError: an argument is missing, has another number of axes or another size than the
            network says, or two axes disagree about a symbol; the message has both sizes.
    """
    tensors = dict.fromkeys(tensor for term in expression.terms for tensor in term.tensors)
    layouts = [(tensor.argument, tuple(axis.size for axis in tensor.axes)) for tensor in tensors]
    layouts += [(name, expression.shapes[name]) for name in expression.tables]
    return solve_symbols(layouts, shapes, symbols or {})


@dataclass(frozen=True)
class _Equation:
    """One axis of an argument: its size in the network, and how many cells the array has."""

    argument: str
    axis: int
    size: Size
    extent: int

    def __str__(self) -> str:
        return f"axis {self.axis} of argument {self.argument!r}"


def solve_symbols(
    layouts: Iterable[tuple[str, tuple[Size, ...]]],
    shapes: Mapping[str, Sequence[int]],
    symbols: Mapping[str, int],
) -> dict[str, int]:
    """Values of the symbols from (name, sizes) of each argument and the shapes; `known` are given."""
    values = dict(symbols)
    origin: dict[str, str] = {}
    waiting = list(_equations(layouts, shapes))
    progress = True
    while progress:
        progress, still = False, []
        for equation in waiting:
            unknown = [name for name in symbol_names(equation.size) if name not in values]
            found = _linear_solution(equation, unknown[0], values) if len(unknown) == 1 else None
            if not unknown:
                _check(equation, values, origin)
            elif found is None:
                still.append(equation)
                continue
            else:
                values[unknown[0]], origin[unknown[0]] = found, str(equation)
            progress = True
        waiting = still
    return values


def _equations(
    layouts: Iterable[tuple[str, tuple[Size, ...]]], shapes: Mapping[str, Sequence[int]]
) -> Iterable[_Equation]:
    for argument, sizes in layouts:
        if argument not in shapes:
            raise ArgumentError(f"argument {argument!r} is missing; got {', '.join(shapes) or 'none'}")
        shape = tuple(shapes[argument])
        if len(shape) != len(sizes):
            raise ArgumentError(
                f"argument {argument!r} has {len(shape)} axes, shape {shape}, but the network reads "
                f"{len(sizes)}, [{', '.join(map(str, sizes))}]; pass an array with those axes"
            )
        yield from (
            _Equation(argument, axis, *pair) for axis, pair in enumerate(zip(sizes, shape, strict=True))
        )


def _check(equation: _Equation, values: Mapping[str, int], origin: Mapping[str, str]) -> None:
    wanted = evaluate(equation.size, values)
    if wanted == equation.extent:
        return
    names = symbol_names(equation.size)
    sources = [f"{n} = {values[n]}" + (f" from {origin[n]}" if n in origin else "") for n in names]
    because = f" ({equation.size} with {', '.join(sources)})" if sources else ""
    raise ArgumentError(
        f"{equation} has size {equation.extent} but the network says {wanted}{because}; make the shapes agree"
    )


def _linear_solution(equation: _Equation, name: str, values: Mapping[str, int]) -> int | None:
    """The value of the one unknown, or None where the size is not linear in it."""
    unknown = symbol(name)
    known = {symbol(n): v for n, v in values.items()}
    rest = sympy.expand(equation.size.subs(known) - equation.extent)
    slope = sympy.diff(rest, unknown)
    if not slope.is_Number or slope == 0 or rest.has(sympy.floor):
        return None
    solution = -rest.subs(unknown, 0) / slope
    if not solution.is_Integer or solution < 0:
        raise ArgumentError(
            f"{equation} has size {equation.extent} but the network says {equation.size}, "
            f"which needs {name} = {solution}; pass a size for which {name} is an integer, and not negative"
        )
    return int(solution)
