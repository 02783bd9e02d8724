"""How the memory of a program grows with its size symbols: an upper bound for all sizes, from a few measurements.

What is live after an operator is a polynomial of the sizes as long as the program takes the same way through what it
calls. So each moment is found by differences and compared at one more place, and the bound is the largest of them all.
Polynomials are held by their forward differences at ones, `Σ_o c_o Π_s binom(n_s - 1, o_s)`: whatever has none
that is negative is nowhere negative, which is how one moment is seen to be below another for all sizes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from itertools import product as every
from math import comb, prod
from typing import Any

import numpy as np

from tnconv.backends.meter import ITEM, Moment
from tnconv.ir import Size, symbol
from tnconv.ir.monomial import ONE, sympy
from tnconv.ir.size import normal

At = Callable[[Mapping[str, int]], Sequence[Moment] | None]
Poly = np.ndarray[Any, np.dtype[Any]]  # differences by orders in each symbol; integers of Python
Steps = tuple[int, ...]


def peak_of(moments: Sequence[Moment]) -> int:
    """Most bytes live."""
    return max((moment.live for moment in moments), default=0)


def bounds(at: At, powers: Mapping[str, int], base: Mapping[str, int]) -> list[Poly]:
    """The moments that may be the largest of all, as polynomials over the symbols of `powers`, in order.

    Args:
        at: measures a program.
        powers: the highest power of each symbol.
        base: the smallest sizes at which it is measured; symbols without a power have these throughout.

    Returns:
        The polynomials; none where the program cannot be measured.
    """
    first, beyond = [base[name] for name in powers], tuple(power + 1 for power in powers.values())
    grid = list(every(*(range(count) for count in beyond)))
    found = {}
    for steps in (*grid, beyond):
        sizes = (start + step for start, step in zip(first, steps, strict=True))
        moments = at({**base, **dict(zip(powers, sizes, strict=True))})
        if moments is None:
            return []
        found[steps] = moments
    polys = []
    for series in _series(found):
        values = np.array([series[steps] for steps in grid], dtype=object).reshape(beyond)
        poly = _moved(_differences(values), first)
        missing = series[beyond] - value(poly, [f + b for f, b in zip(first, beyond, strict=True)])
        poly.flat[0] += max(0, missing)  # no polynomial, such as a number of blocks: above it at least
        polys.append(poly)
    return largest(polys)


def _series(found: Mapping[Steps, Sequence[Moment]]) -> Iterator[dict[Steps, int]]:
    """What is live at each moment, by place; of a line whose operators differ from place to place, the most in it."""
    lines = {s: {n: list(g) for n, g in groupby(sorted(m, key=_line), key=_line)} for s, m in found.items()}
    for line in dict.fromkeys(n for by_line in lines.values() for n in by_line):
        parts = {steps: by_line.get(line, []) for steps, by_line in lines.items()}
        ways = {tuple(moment.operator for moment in part) for part in parts.values()}
        if len(ways) == 1:
            for moments in zip(*parts.values(), strict=True):
                yield {s: moment.live for s, moment in zip(parts, moments, strict=True)}
        else:
            yield {s: peak_of(part) for s, part in parts.items()}


def _line(moment: Moment) -> int:
    return moment.line


def _differences(values: Poly) -> Poly:
    """Forward differences of all orders at the first place, from the values on a grid."""
    for axis in range(values.ndim):
        lines = np.moveaxis(values, axis, 0)
        orders = []
        for _ in range(len(lines)):
            orders.append(lines[0])
            lines = np.diff(lines, axis=0)
        values = np.moveaxis(np.stack(orders), 0, axis)
    return values


def _moved(poly: Poly, first: Sequence[int]) -> Poly:
    """Differences at ones from those at other places."""
    for axis, place in enumerate(first):
        count = poly.shape[axis]
        shift = [
            [_choose(1 - place, more - order) if more >= order else 0 for more in range(count)]
            for order in range(count)
        ]
        poly = np.moveaxis(np.tensordot(np.array(shift, dtype=object), poly, (1, axis)), 0, axis)
    return poly


def _choose(n: int, k: int) -> int:
    """The binomial coefficient, of a negative number too."""
    return comb(n, k) if n >= 0 else (-1) ** k * comb(k - n - 1, k)


def value(poly: Poly, sizes: Sequence[int]) -> int:
    """A polynomial at sizes, in order."""
    for size in sizes:
        poly = sum(_choose(size - 1, order) * part for order, part in enumerate(poly))
    return int(poly)


def largest(polys: Sequence[Poly]) -> list[Poly]:
    """The counts that are not below another one for all sizes."""
    kept: list[Poly] = []
    for poly in polys:
        if any((other - poly >= 0).all() for other in kept):
            continue
        kept = [other for other in kept if not (poly - other >= 0).all()]
        kept.append(poly)
    return kept


def spread(poly: Poly, names: Sequence[str], powers: Mapping[str, int]) -> Poly:
    """A polynomial of some symbols as one of all."""
    made = np.zeros([power + 1 for power in powers.values()], dtype=object)
    made[tuple(slice(None) if n in names else 0 for n in powers)] = poly
    return made


def expression(poly: Poly, names: Sequence[str]) -> Size:
    """A number of bytes as a number of elements, rounded up."""
    total: Size = 0
    for orders in np.ndindex(*poly.shape):
        count = -(-int(poly[orders]) // ITEM)
        basis = (_binomial(symbol(n) - 1, o) for n, o in zip(names, orders, strict=True))
        total += count * prod(basis, start=ONE)
    return normal(sympy.expand(total))


def _binomial(x: Any, count: int) -> Any:
    return prod((x - j for j in range(count)), start=ONE) / sympy.factorial(count)
