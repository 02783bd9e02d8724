"""The text of a guard: where all else cancels a remainder, else what is added on one side, subtracted on the other."""

from functools import lru_cache
from typing import Any

from tnconv.ir.monomial import Monomial, sympy
from tnconv.ir.quotient import quotients
from tnconv.ir.size import Size, normal

LEAST, ZERO, NONZERO, WHOLE = ">= 0", "== 0", "!= 0", "whole"


@lru_cache(maxsize=1024)
def guard_text(value: Size, says: str) -> str:
    """A condition on an expression as a reader would write it: `H % 2 == 0`, `3 <= H`."""
    if says == WHOLE:
        top, bottom = denominator(value)
        return f"{_atom(top)} % {_atom(bottom)} == 0"
    if isinstance(value, int):
        return f"{value} {says}"
    return _modular(value, says) or _compared(value, says)


def _modular(value: Size, says: str) -> str | None:
    """`H % 2 == 0`, where all else cancels against a floor: `bottom*(top//bottom) = top - top % bottom`."""
    for floor in quotients(sympy.sympify(value)):
        top, bottom = floor.args
        times = value.coeff(floor, 1) / bottom if bottom.is_Integer else 0
        if times not in (1, -1):
            continue
        constant = sympy.expand(value - times * (bottom * floor - top))
        if not constant.is_Integer:
            continue
        rest, least = int(constant), int(bottom)
        if says != LEAST:
            return _remainder(top, least, rest * int(times), says[:2])
        # constant - times*(top % bottom) >= 0
        if times == 1:
            return _remainder(top, least, 0, "==") if rest == 0 else _remainder(top, least, rest, "<=")
        return _remainder(top, least, -rest, "==" if -rest == least - 1 else ">=")
    return None


def _remainder(top: Any, bottom: int, value: int, sign: str) -> str:
    """`(H - 1) % 3 >= 1`; where it is an equation the constant goes to the right."""
    if sign in ("==", "!="):
        constant = top.as_coeff_Add()[0]
        top, value = top - constant, (value - int(constant)) % bottom
    return f"{_atom(top)} % {bottom} {sign} {value}"


def _compared(value: Size, says: str) -> str:
    """What is added on one side, what is subtracted on the other."""
    constant, rest = sympy.sympify(value).as_coeff_Add()
    terms = sympy.Add.make_args(rest)
    right = sympy.Add(*(t for t in terms if not t.could_extract_minus_sign()))
    left = sympy.Add(*(-t for t in terms if t.could_extract_minus_sign()))
    if left == 0:
        return f"{right} {says[:2]} {-constant}"
    if says != LEAST:
        return f"{right + constant} {says[:2]} {left}" if right != 0 else f"{left} {says[:2]} {constant}"
    return f"{left} <= {right + constant}" if right != 0 or constant >= 0 else f"{left} <= {constant}"


def _atom(value: Size) -> str:
    text = str(value)
    return text if text.replace("_", "").isalnum() else f"({text})"


@lru_cache(maxsize=1024)
def denominator(value: Size) -> tuple[Size, Size]:
    """An expression as what is over, and under, its fraction bar."""
    if isinstance(value, Monomial):
        return value.as_numer_denom()
    top, bottom = sympy.fraction(sympy.together(value))
    return normal(top), normal(bottom)
