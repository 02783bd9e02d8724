"""Floors of sizes, `(H - 1)//2 + 1`: functions of sympy that print as Python does and are read back.

Equal floors have one form: what is whole stands before, the constant above the bar lies in `(-bottom, 0]`, and nothing
can be cancelled. So `floor(H/2 + 1/2)`, `(H + 1)//2` and `(H - 1)//2 + 1` are one value.
"""

import math
import sys
from functools import cache
from typing import Any

from tnconv.ir.monomial import Monomial, monomial_of, sympy


def quotient(top: Any, bottom: Any = 1) -> Any:
    """The greatest integer of at most `top / bottom`: an int, a monomial or an expression of sympy.

    Args:
        top: an int or an expression, of integer value if the bottom is an int.
        bottom: an int or an expression.
    """
    if isinstance(top, int) and isinstance(bottom, int):
        return top // bottom
    if bottom == 1 and isinstance(top, Monomial) and top.is_integer:
        return top
    made = _kind()(sympy.sympify(top), sympy.sympify(bottom))
    found = monomial_of(made)
    return made if found is None else found


def is_quotient(value: object) -> bool:
    """Whether a value is a floor of this file, nothing around it."""
    return "sympy" in sys.modules and isinstance(value, _kind())


def quotients(value: Any) -> list[Any]:
    """The floors in an expression of sympy, those that hold others first."""
    return sorted(value.atoms(_kind()), key=lambda q: (-len(q.atoms(_kind())), str(q)))


def without_floors(value: Any) -> Any:
    """An expression of sympy with floors of this file in place of those of sympy."""
    return value.replace(sympy.floor, quotient) if value.has(sympy.floor) else value


@cache
def _kind() -> Any:
    """The class, for which sympy has to be loaded."""

    class Quotient(sympy.Function):  # type: ignore[misc]
        """floor(top / bottom)."""

        nargs = 2
        precedence = 40  # that of a sum: within a product it stands in parentheses

        @classmethod
        def eval(cls, top: Any, bottom: Any) -> Any:
            whole, over, under = _lowest(top, bottom)
            if under == 1:
                return whole
            if whole == 0 and over == top and under == bottom:
                return None
            return whole + cls(over, under)

        def _eval_is_integer(self) -> bool:
            return True

        def _eval_is_nonnegative(self) -> bool | None:
            top, bottom = self.args
            return True if top.is_nonnegative and bottom.is_positive else None

        def _eval_is_positive(self) -> bool | None:
            top, bottom = self.args
            return True if bottom.is_positive and (top - bottom).is_nonnegative else None

        def _eval_is_nonpositive(self) -> bool | None:
            top, bottom = self.args
            return True if top.is_nonpositive and bottom.is_positive else None

        def _sympystr(self, printer: Any) -> str:
            top, bottom = self.args
            return f"{printer.parenthesize(top, 50)}//{printer.parenthesize(bottom, 60)}"

        def _latex(self, printer: Any) -> str:
            top, bottom = self.args
            return rf"\left\lfloor \frac{{{printer.doprint(top)}}}{{{printer.doprint(bottom)}}} \right\rfloor"

        def __reduce__(self) -> tuple[Any, ...]:
            return quotient, self.args

    return Quotient


def _lowest(top: Any, bottom: Any) -> tuple[Any, Any, Any]:
    """(whole, over, under) with `top // bottom = whole + over // under`, in the one form; under is 1 for no floor."""
    value = sympy.expand(top / bottom)
    terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(value)]
    if any(not part.is_integer for _, part in terms):
        over, under = sympy.fraction(sympy.together(top / bottom))
        if not under.is_number:
            return sympy.Integer(0), sympy.expand(over), sympy.expand(under)
    under = math.lcm(*(int(number.q) for number, _ in terms))
    whole = sympy.Add(*(number * part for number, part in terms if number.q == 1))
    rest = [(int(number * under), part) for number, part in terms if number.q != 1]
    return _cancelled(whole, rest, under)


def _cancelled(whole: Any, rest: list[tuple[int, Any]], under: int) -> tuple[Any, Any, Any]:
    """The same from `Σ number·part` above the bar."""
    constant = sum(number for number, part in rest if part == 1)
    rest = [(number, part) for number, part in rest if part != 1]
    common = math.gcd(under, *(number for number, _ in rest))
    constant, under = constant // common, under // common
    rest = [(number // common, part) for number, part in rest]
    if not rest:
        return whole + constant // under, sympy.Integer(0), sympy.Integer(1)
    if len(rest) == 1 and rest[0][0] == 1 and is_quotient(rest[0][1]) and rest[0][1].args[1].is_Integer:
        top, bottom = rest[0][1].args  # a floor of a floor is one
        more, over, below = _lowest(top + constant * bottom, bottom * under)
        return whole + more, over, below
    up = -(-constant // under)
    over = sympy.Add(*(number * part for number, part in rest), constant - up * under)
    return whole + up, over, sympy.Integer(under)
