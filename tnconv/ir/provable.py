"""What holds whatever the symbols of sizes are: polynomials and floors that are never negative.

A symbol is at least 1, and whatever else `Bounds` say: `H >= K - 2`, since a convolution has an output. A polynomial is
never negative if no coefficient is, once every symbol is written as its bound and a rest `>= 0`. Of `q = top//b` it is
known that `(top - b + 1)/b <= q <= top/b`, and what bounds say. So "no" means no more than that no proof was found.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import product as choices
from math import ceil
from typing import Any

from tnconv.ir.monomial import Monomial, sympy
from tnconv.ir.quotient import is_quotient
from tnconv.ir.size import Size

Powers = tuple[tuple[Any, int], ...]  # of atoms: names of symbols, and floors as sympy has them
Polynomial = Mapping[Powers, Fraction]
Bounds = tuple[tuple[Any, tuple[tuple[Powers, Fraction], ...]], ...]  # atoms, and what each is at least

_MOST_BOUNDS = 3  # that are tried of a symbol
_MOST_TRIES = 64
_DEEPEST = 6  # floors in one expression
_ONE: Polynomial = {(): Fraction(1)}
_MINUS: Polynomial = {(): Fraction(-1)}


def never_negative(value: Size, bounds: Bounds = ()) -> bool:
    """Whether it is proved that a value is at least 0 for all sizes within the bounds."""
    if isinstance(value, int):
        return value >= 0
    if isinstance(value, Monomial):
        return value.coefficient >= 0
    return _proved(value, bounds)


def bounds_of(sizes: Iterable[Size]) -> Bounds:
    """What follows for symbols and floors from sizes that are at least 1."""
    found: dict[Any, None] = {}
    for size in dict.fromkeys(sizes):
        if not isinstance(size, int | Monomial):
            found |= dict.fromkeys(_bounds(size))
    return tuple(found)


@lru_cache(maxsize=1024)
def _bounds(size: Any) -> Bounds:
    """What follows for each symbol and floor that is linear in a size, with a positive number before it."""
    value = _polynomial(size)
    if value is None:
        return ()
    found: list[Any] = []
    _add_bounds(_sum(value, _MINUS), found)
    return tuple(found)


def _add_bounds(value: Polynomial, found: list[Any]) -> None:
    """Add what follows from `value >= 0`."""
    for atom in sorted({a for powers in value for a, _ in powers}, key=str):
        slope, rest = _linear(value, atom)
        if slope is None or set(slope) != {()} or slope[()] <= 0:
            continue
        low = _times(rest, {(): -1 / slope[()]})
        found.append((atom, tuple(sorted(low.items(), key=str))))
        if not isinstance(atom, str) and set(rest) <= {()}:  # top//b >= m for an integer m: top >= b*m
            top, bottom = map(_polynomial, atom.args)
            if top is not None and bottom is not None:
                least = Fraction(-ceil(low.get((), 0)))
                _add_bounds(_sum(top, _times(bottom, {(): least})), found)


@lru_cache(maxsize=8192)
def _proved(value: Any, bounds: Bounds) -> bool:
    made = _polynomial(value)
    if made is None:
        return False
    known: dict[Any, list[Polynomial]] = {}
    for atom, low in bounds:
        known.setdefault(atom, []).append(dict(low))
    return _without_floors(made, known, _DEEPEST)


Known = Mapping[Any, list[Polynomial]]


def _without_floors(value: Polynomial, known: Known, depth: int) -> bool:
    """Whether a value is never negative, floors first, those that hold others before these."""
    floors = {a for powers in value for a, _ in powers if not isinstance(a, str)}
    if not floors:
        return _without_bounds(value, known)
    floor = max(floors, key=lambda f: (len(str(f)), str(f)))
    top, bottom = map(_polynomial, floor.args)
    slope, rest = _linear(value, floor)
    if depth == 0 or slope is None or top is None or bottom is None or set(bottom) != {()}:
        return False
    over: Polynomial = {(): 1 / bottom[()]}
    if _without_floors(slope, known, depth - 1):
        low = _times(_sum(top, _sum(_ONE, _times(bottom, _MINUS))), over)
        tried = [low, *known.get(floor, ())]
    elif _without_floors(_times(slope, _MINUS), known, depth - 1):
        tried = [_times(top, over)]
    else:
        return False
    return any(_without_floors(_sum(rest, _times(slope, low)), known, depth - 1) for low in tried)


def _without_bounds(value: Polynomial, known: Known) -> bool:
    """Whether no coefficient is negative for some choice of the bounds of its symbols."""
    names = sorted({a for powers in value for a, _ in powers})
    lows = [[*known.get(name, ())[:_MOST_BOUNDS], _ONE] for name in names]
    for tried, chosen in enumerate(choices(*lows)):
        if tried >= _MOST_TRIES:
            break
        if _shifted(value, [(n, low) for n, low in zip(names, chosen, strict=True) if low is not _ONE]):
            return True
    return False


def _shifted(value: Polynomial, lows: list[tuple[str, Polynomial]]) -> bool:
    """Whether no coefficient is negative where each symbol is a bound and a rest."""
    gone = {name for name, _ in lows}
    for name, low in lows:
        if any(not isinstance(a, str) or a in gone for powers in low for a, _ in powers):
            return False  # a bound by a floor, or bounds that go in a circle
        value = _put(value, name, _sum(low, {((_rest(name), 1),): Fraction(1)}))
    for name in sorted({a for powers in value for a, _ in powers}):
        if not name.endswith("'"):
            value = _put(value, name, {(): Fraction(1), ((_rest(name), 1),): Fraction(1)})
    return all(number >= 0 for number in value.values())


def _rest(name: str) -> str:
    return f"{name}'"


# -- polynomials -------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _polynomial(value: Any) -> Polynomial | None:
    """An expression as a polynomial of its symbols and floors; None where it is none."""
    made: dict[Powers, Fraction] = {}
    for term in sympy.Add.make_args(sympy.expand(value)):
        number, part = term.as_coeff_Mul()
        powers: list[tuple[Any, int]] = []
        for factor in sympy.Mul.make_args(part):
            base, power = factor.as_base_exp()
            if factor == 1:
                continue
            if not power.is_Integer or power < 0 or not number.is_Rational:
                return None
            if base.is_Symbol:
                powers.append((base.name, int(power)))
            elif is_quotient(base):
                powers.append((base, int(power)))
            else:
                return None
        key = tuple(sorted(powers, key=str))
        made[key] = made.get(key, Fraction(0)) + Fraction(int(number.p), int(number.q))
    return {powers: number for powers, number in made.items() if number}


def _sum(one: Polynomial, other: Polynomial) -> Polynomial:
    made = dict(one)
    for powers, number in other.items():
        made[powers] = made.get(powers, Fraction(0)) + number
    return {powers: number for powers, number in made.items() if number}


def _times(one: Polynomial, other: Polynomial) -> Polynomial:
    made: dict[Powers, Fraction] = {}
    for a, x in one.items():
        for b, y in other.items():
            powers = dict(a)
            for atom, power in b:
                powers[atom] = powers.get(atom, 0) + power
            key = tuple(sorted(powers.items(), key=str))
            made[key] = made.get(key, Fraction(0)) + x * y
    return {powers: number for powers, number in made.items() if number}


def _put(value: Polynomial, name: str, by: Polynomial) -> Polynomial:
    """A polynomial with another in place of a symbol."""
    made: Polynomial = {}
    for powers, number in value.items():
        term: Polynomial = {tuple((a, p) for a, p in powers if a != name): number}
        for _ in range(dict(powers).get(name, 0)):
            term = _times(term, by)
        made = _sum(made, term)
    return made


def _linear(value: Polynomial, atom: Any) -> tuple[Polynomial | None, Polynomial]:
    """(slope, rest) of a polynomial that is linear in an atom; no slope where it is not."""
    slope: dict[Powers, Fraction] = {}
    rest: dict[Powers, Fraction] = {}
    for powers, number in value.items():
        power = next((p for a, p in powers if a == atom), 0)
        if power > 1:
            return None, value
        if power:
            slope[tuple((a, p) for a, p in powers if a != atom)] = number
        else:
            rest[powers] = number
    return slope, rest
