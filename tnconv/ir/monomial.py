"""Sizes such as `64*N` and scales such as `1/(3136*N)` without sympy, which is loaded where a sum or a floor needs it.

A *monomial* is a rational number times powers of positive integer symbols. Nearly every size, count and scale of a
layer is one. It has the value, the text and the interface of the sympy expression that it stands for: whatever it does
not do itself, that expression does. Every expression that is a monomial is one here (`tnconv.ir.index.normal`), so that
equal sizes have equal hashes.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any


class _Sympy:
    """The package, imported when something of it is asked for: that takes a quarter of a second."""

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__[name] = getattr(importlib.import_module("sympy"), name)
        return found


sympy: Any = _Sympy()
Scalar = Any  # Monomial | sympy.Expr; sympy is untyped, so the union would collapse to Any all the same
Rational = int | Fraction


class Monomial:
    """A rational number times powers of size symbols, as an immutable value.

    Args:
        coefficient: the number; an int where it is one.
        powers: (symbol, exponent) with exponents other than 0, sorted by symbol; none where the number is 0.
    """

    __slots__ = ("_hash", "coefficient", "powers")
    __array_ufunc__ = None  # numbers of NumPy leave products to it
    is_finite = is_real = True

    def __init__(self, coefficient: Rational, powers: tuple[tuple[str, int], ...] = ()) -> None:
        if type(coefficient) is not int and coefficient.denominator == 1:
            coefficient = int(coefficient)
        self.coefficient: Rational = coefficient
        self.powers = powers if coefficient else ()
        self._hash = hash((coefficient, powers)) if self.powers else hash(coefficient)  # that of an equal int

    def __reduce__(self) -> tuple[Any, ...]:
        return Monomial, (self.coefficient, self.powers)

    def __copy__(self) -> "Monomial":
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> "Monomial":
        return self

    # -- as sympy sees it --------------------------------------------------------------------------

    def _sympy_(self) -> Any:
        return _as_sympy(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # protocols that are looked up: it has those that it has
            raise AttributeError(f"a monomial has no {name!r}")
        return getattr(_as_sympy(self), name)

    @property
    def is_Symbol(self) -> bool:
        """Whether it is a symbol alone."""
        return self.coefficient == 1 and len(self.powers) == 1 and self.powers[0][1] == 1

    @property
    def is_Integer(self) -> bool:
        """Whether it is an integer without symbols."""
        return not self.powers and type(self.coefficient) is int

    @property
    def is_integer(self) -> bool | None:
        """Whether it is an integer whatever the symbols are; None where that depends on them."""
        if type(self.coefficient) is int and all(power > 0 for _, power in self.powers):
            return True
        found: bool | None = _as_sympy(self).is_integer
        return found

    @property
    def is_nonpositive(self) -> bool:
        """Whether it is never positive."""
        return self.coefficient <= 0

    @property
    def p(self) -> int:
        """The numerator of its number."""
        return self.coefficient.numerator

    @property
    def q(self) -> int:
        """The denominator of its number."""
        return self.coefficient.denominator

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its symbols, sorted."""
        return tuple([name for name, _ in self.powers])

    @property
    def free_symbols(self) -> "set[Any]":
        """Its symbols."""
        return {Monomial(1, ((name, 1),)) for name, _ in self.powers}

    @property
    def name(self) -> str:
        """The name of a symbol."""
        if not self.is_Symbol:
            raise AttributeError  # which sympy words
        return self.powers[0][0]

    def as_numer_denom(self) -> tuple["Monomial", "Monomial"]:
        """Numerator and denominator, which are polynomials."""
        over = tuple((name, power) for name, power in self.powers if power > 0)
        under = tuple((name, -power) for name, power in self.powers if power < 0)
        return Monomial(self.p, over), Monomial(self.q, under)

    def subs(self, *given: Any) -> Any:
        """The value with sizes in place of symbols: a mapping, or one symbol and what takes its place."""
        mapping = given[0] if len(given) == 1 and isinstance(given[0], Mapping) else dict([given[:2]])
        plain = all(isinstance(key, Monomial) and key.is_Symbol for key in mapping) and len(given) < 3
        values = {key.name: value for key, value in mapping.items()} if plain else {}
        if not plain or not all(isinstance(v, int | Monomial) and v != 0 for v in values.values()):
            return _as_sympy(self).subs(*given)
        made = Monomial(self.coefficient)
        for name, power in self.powers:
            made = made * _one(values.get(name, Monomial(1, ((name, 1),)))) ** power
        return made

    # -- arithmetic --------------------------------------------------------------------------------

    def __mul__(self, other: Any) -> Any:
        other = _one(other)
        if not isinstance(other, Monomial):
            return NotImplemented if other is None else _as_sympy(self) * other
        if not other.powers:
            return Monomial(self.coefficient * other.coefficient, self.powers)
        powers = dict(self.powers)
        for name, power in other.powers:
            powers[name] = powers.get(name, 0) + power
        kept = tuple(sorted((name, power) for name, power in powers.items() if power))
        return Monomial(self.coefficient * other.coefficient, kept)

    __rmul__ = __mul__

    def __pow__(self, power: Any) -> Any:
        exponent = _one(power)
        if isinstance(exponent, Monomial) and exponent.is_Integer:
            times = exponent.p
            if times >= 0 or self.coefficient:
                raised = tuple((name, each * times) for name, each in self.powers) if times else ()
                return Monomial(Fraction(self.coefficient) ** times, raised)
        return NotImplemented if exponent is None else _as_sympy(self) ** power

    def __rpow__(self, base: Any) -> Any:
        base = _one(base)
        return NotImplemented if base is None else sympy.sympify(base) ** _as_sympy(self)

    def __truediv__(self, other: Any) -> Any:
        other = _one(other)
        if isinstance(other, Monomial) and other.coefficient:
            return self * other**-1
        return NotImplemented if other is None else _as_sympy(self) / sympy.sympify(other)

    def __rtruediv__(self, other: Any) -> Any:
        other = _one(other)
        if isinstance(other, Monomial) and self.coefficient:
            return other * self**-1
        return NotImplemented if other is None else sympy.sympify(other) / _as_sympy(self)

    def __add__(self, other: Any) -> Any:
        other = _one(other)
        if isinstance(other, Monomial):
            if not other.coefficient:
                return self
            if not self.coefficient or self.powers == other.powers:
                return Monomial(self.coefficient + other.coefficient, other.powers)
        return NotImplemented if other is None else _as_sympy(self) + sympy.sympify(other)

    __radd__ = __add__

    def __neg__(self) -> "Monomial":
        return Monomial(-self.coefficient, self.powers)

    def __pos__(self) -> "Monomial":
        return self

    def __sub__(self, other: Any) -> Any:
        other = _one(other)
        return NotImplemented if other is None else self + (-other)

    def __rsub__(self, other: Any) -> Any:
        other = _one(other)
        return NotImplemented if other is None else -self + other

    def __abs__(self) -> "Monomial":
        return self if self.coefficient >= 0 else -self  # symbols are positive

    def __floordiv__(self, other: Any) -> Any:
        return _as_sympy(self) // other

    def __rfloordiv__(self, other: Any) -> Any:
        return other // _as_sympy(self)

    def __mod__(self, other: Any) -> Any:
        return _as_sympy(self) % other

    def __rmod__(self, other: Any) -> Any:
        return other % _as_sympy(self)

    def __int__(self) -> int:
        return int(_as_sympy(self)) if self.powers else int(self.coefficient)

    def __float__(self) -> float:
        return float(_as_sympy(self)) if self.powers else float(self.coefficient)

    def __index__(self) -> int:
        if not self.is_Integer:
            raise TypeError(f"size {self} is no integer")
        return int(self.coefficient)

    def __bool__(self) -> bool:
        return bool(self.coefficient)

    # -- comparison --------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Monomial):
            return self.coefficient == other.coefficient and self.powers == other.powers
        if isinstance(other, int | Fraction) and not isinstance(other, bool):
            return not self.powers and self.coefficient == other
        return bool(_as_sympy(self) == other) if is_sympy(other) else False

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Any) -> Any:
        return self._sign(other) < 0 if self._tells(other) else _as_sympy(self) < other

    def __le__(self, other: Any) -> Any:
        return self._sign(other) <= 0 if self._tells(other) else _as_sympy(self) <= other

    def __gt__(self, other: Any) -> Any:
        return self._sign(other) > 0 if self._tells(other) else _as_sympy(self) > other

    def __ge__(self, other: Any) -> Any:
        return self._sign(other) >= 0 if self._tells(other) else _as_sympy(self) >= other

    def _tells(self, other: Any) -> bool:
        """Whether a comparison needs no values of symbols."""
        other = _one(other)
        return isinstance(other, Monomial) and (not other.coefficient or self.powers == other.powers)

    def _sign(self, other: Any) -> Rational:
        return self.coefficient - (other.coefficient if isinstance(other, Monomial) else other)

    # -- text --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.text({})

    def text(self, names: Mapping[str, str]) -> str:
        """As sympy writes it, which is Python too.

        Args:
            names: what symbols are called in the text, where that is something else.
        """
        powers = [(names.get(name, name), power) for name, power in self.powers]
        if self.coefficient == 1 and len(powers) == 1 and powers[0][1] < -1:
            return f"{powers[0][0]}**({powers[0][1]})"
        sign, number = ("-" if self.coefficient < 0 else ""), abs(Fraction(self.coefficient))
        over = [_power(name, power) for name, power in powers if power > 0]
        under = [_power(name, -power) for name, power in powers if power < 0]
        if number.numerator != 1 or not over:
            over.insert(0, str(number.numerator))
        if number.denominator != 1:
            under.insert(0, str(number.denominator))
        bottom = "*".join(under)
        return f"{sign}{'*'.join(over)}" + (
            f"/({bottom})" if len(under) > 1 else f"/{bottom}" if under else ""
        )


ONE = Monomial(1)


def _power(name: str, power: int) -> str:
    return name if power == 1 else f"{name}**{power}"


def is_sympy(value: object) -> bool:
    """Whether a value is an expression of sympy; none is where nobody has imported that."""
    if type(value) is int or type(value) is Monomial:
        return False
    return "sympy" in sys.modules and isinstance(value, sympy.Expr)


def is_expression(value: object) -> bool:
    """Whether a value is a monomial or another expression of sympy."""
    return isinstance(value, Monomial) or is_sympy(value)


def _one(value: Any) -> Any:
    """A number as a monomial; an expression of sympy as it is; None for what is no operand."""
    if isinstance(value, Monomial):
        return value
    if isinstance(value, int | Fraction):
        return Monomial(value + 0)
    if is_sympy(value):
        return value
    number = getattr(value, "__index__", None)  # an integer of NumPy
    return None if number is None else Monomial(number())


@lru_cache(maxsize=4096)
def _as_sympy(value: Monomial) -> Any:
    symbols = (sympy.Symbol(name, integer=True, positive=True) ** power for name, power in value.powers)
    return sympy.Mul(sympy.Rational(value.p, value.q), *symbols)


def monomial_of(value: Any) -> Monomial | None:
    """The monomial that an expression of sympy is; None where it is none."""
    if value.is_Rational:
        return Monomial(Fraction(int(value.p), int(value.q)))
    if value.is_Symbol:
        made = Monomial(1, ((value.name, 1),))
        return made if _as_sympy(made) == value else None  # not one with other assumptions
    if value.is_Pow and value.exp.is_Integer:
        base = monomial_of(value.base)
        return None if base is None else base ** int(value.exp)
    if not value.is_Mul:
        return None
    product: Any = ONE
    for part in value.args:
        factor = monomial_of(part)
        if factor is None:
            return None
        product = product * factor
    return product  # type: ignore[no-any-return]


def expanded(value: Any) -> Any:
    """A size as a sum of products."""
    return value if isinstance(value, int | Monomial) else sympy.expand(value)


def as_scalar(value: Any) -> Scalar:
    """A number as a monomial, an expression as one where it is one; anything else as it is."""
    if isinstance(value, int | Fraction) and not isinstance(value, bool):
        return Monomial(value)
    found = monomial_of(value) if is_sympy(value) else None
    return value if found is None else found


def polynomial_text(value: Any, names: Mapping[str, str]) -> str | None:
    """Python source of a polynomial of symbols and floors with integer coefficients; None where an expression is none.

    Args:
        value: an int or an expression.
        names: what stands for each symbol, with parentheses where it is no name.
    """
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Monomial):
        return value.text(names) if value.is_integer else None
    text = str(value)
    if "/" in text.replace("//", "") or "." in text or re.search(r"[A-Za-z]\(|\*\*\(?-", text):
        return None
    return re.sub(r"[A-Za-z_]\w*", lambda found: names[found[0]], text)
