"""Sizes: a positive integer, or an expression of positive integer symbols (`N`).

An expression is a monomial (`64*N`), or one of sympy; as a text it is arithmetic, read without eval.
"""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from tnconv.errors import NetworkError
from tnconv.ir.integers import as_integer
from tnconv.ir.monomial import Monomial, is_expression, is_sympy, monomial_of, sympy
from tnconv.ir.quotient import is_quotient, quotient, without_floors

Size = Any  # int | Monomial | sympy.Expr; sympy is untyped, so the union would collapse to Any all the same

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z", re.ASCII)
NETWORK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*\Z", re.ASCII)
# Python reads more than arithmetic, and warns of some of it: `9if N else 1`.
_ARITHMETIC = re.compile(r"(?:[A-Za-z_]\w*|\d[\d_]*(?!\w)|[-+*/()\s])*\Z", re.ASCII)
_MAX_NAME = 64
_MAX_INTEGER = 2**62
_MAX_SIZE_TEXT = 400
_MAX_NUMBER = 2**512  # of a numerator or denominator within an expression
_MAX_POWER = 64
_MAX_DEGREE = 6


def check_name(name: object, what: str, alphabet: re.Pattern[str] = NAME) -> str:
    """Return `name` if it is in the alphabet of the IR, else raise NetworkError.

    Generated source uses these names, so nothing but ASCII letters, digits and underscores passes.
    """
    if not isinstance(name, str) or len(name) > _MAX_NAME or not alphabet.match(name):
        raise NetworkError(
            f"{what} name {name!r} is not a name; use ASCII letters, digits and '_', starting with a letter, "
            f"at most {_MAX_NAME} characters"
        )
    return name


def symbol(name: str) -> Monomial:
    """A size symbol: a positive integer called `name`."""
    return Monomial(1, ((check_name(name, "size"), 1),))


def as_size(value: object) -> Size:
    """Normalise a size: an int, an expression or a text such as `"N"` or `"2*N + 1"`.

    Raises:
        NetworkError: the value is not a size, or an integer size that is not between 1 and 2**62.
    """
    if isinstance(value, str):
        value = parse_expression(value)
    size = normal(without_floors(value) if is_sympy(value) else value)
    if is_expression(size):
        return _checked(size)
    number = as_integer(size)
    if number is None:
        raise NetworkError(
            f"size {value!r} is not an integer or a sympy expression; write an int or a symbol"
        )
    if not 1 <= number <= _MAX_INTEGER:
        raise NetworkError(f"size {number} is not between 1 and 2**62; every index needs at least one value")
    return number


def _checked(size: Size) -> Size:
    if size.is_nonpositive:
        raise NetworkError(f"size {size} is never positive; every index needs at least one value")
    if size.is_integer is False or not all(name.is_integer for name in size.free_symbols):
        raise NetworkError(
            f"size {size} is not known to be an integer; build its symbols with tnconv.ir.symbol"
        )
    check_readable(size, "size")
    return size


@lru_cache(maxsize=4096)
def check_readable(value: Size, what: str) -> None:
    """Refuse an expression whose text would not be read back as the same value.

    Raises:
        NetworkError: it holds another function than a floor, a symbol that `symbol` did not make, or it is
            too long or too large.
    """
    if value.is_Symbol and value == symbol(value.name):
        return
    try:
        same = parse_expression(str(value)) == value
    except (NetworkError, RecursionError):
        same = False
    if not same:
        raise NetworkError(
            f"{what} {value} cannot be written in the text of a network; use integers, + - * / // ** and "
            "symbols made with tnconv.ir.symbol"
        )


def normal(value: Size) -> Size:
    """A plain int where an expression is one, a monomial where it is one."""
    if type(value) is int:
        return value
    if is_sympy(value):
        found = monomial_of(value)
        value = value if found is None else found
    return int(value) if isinstance(value, Monomial) and value.is_Integer else value


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes: an int unless a symbol is among them."""
    return normal(math.prod(sizes))


def integers_of(values: Mapping[str, object]) -> dict[str, int]:
    """Values of size symbols as plain ints.

    Raises:
        NetworkError: one is no integer.
    """
    found = {}
    for name, value in values.items():
        number = as_integer(value)
        if number is None:
            raise NetworkError(f"size {name} is given as {value!r}, which is no integer; give {name}=4")
        found[name] = number
    return found


def evaluate(size: Size, values: Mapping[str, int]) -> int:
    """The integer that `size` is when its symbols have `values`."""
    if isinstance(size, int):
        return size
    if type(size) is Monomial:
        total = size.coefficient
        for name, power in size.powers:
            if power < 0 or name not in values:
                break
            total *= values[name] ** power
        else:
            if total == int(total):
                return int(total)
    return _compiled(size)(values)


def put(size: Size, values: Mapping[str, int]) -> Size:
    """A size with integers in place of some of its symbols; an int where none is left.

    Raises:
        NetworkError: none is left and it is no integer.
    """
    names = symbol_names(size)
    if all(name in values for name in names):
        return evaluate(size, values)
    known = {symbol(name): values[name] for name in names if name in values}
    return normal(size.subs(known)) if known else size


@lru_cache(maxsize=4096)
def _compiled(size: Size) -> Callable[[Mapping[str, int]], int]:
    """A function of exact integer arithmetic: floats would make `floor(N/49)` wrong at 49 and above 2**53."""
    names = symbol_names(size)
    source = _source(
        size if isinstance(size, Monomial) else without_floors(size),
        {name: f"a{place}" for place, name in enumerate(names)},
    )
    parameters = ", ".join(f"a{place}" for place in range(len(names)))
    # The text holds integers, operators and a0, a1, ...: no name of the user reaches it.
    function = eval(f"lambda {parameters}: {source}", {"Fraction": Fraction})

    def call(values: Mapping[str, int]) -> int:
        try:
            result = function(*[values[n] for n in names])
        except KeyError as error:
            missing = ", ".join(n for n in names if n not in values)
            raise NetworkError(f"size {size} needs a value for {missing}; got {dict(values)}") from error
        except ZeroDivisionError as error:
            raise NetworkError(f"size {size} divides by zero for {dict(values)}; give other sizes") from error
        if type(result) is int:
            return result
        if result != int(result):
            raise NetworkError(
                f"size {size} is {result} for {dict(values)}, not an integer; give other sizes"
            )
        return int(result)

    return call


def _source(size: Size, names: Mapping[str, str]) -> str:
    if isinstance(size, Monomial):
        number = f"Fraction({size.p}, {size.q})" if size.q != 1 else f"({size.p})"
        over = [f"{names[name]}**{power}" for name, power in size.powers if power > 0]
        under = [f"Fraction(1, {names[name]}**{-power})" for name, power in size.powers if power < 0]
        return f"({'*'.join([number, *over, *under])})"
    if size.is_Integer:
        return f"({int(size)})"
    if size.is_Rational:
        return f"Fraction({int(size.p)}, {int(size.q)})"
    if size.is_Symbol:
        return names[size.name]
    if size.is_Pow and size.exp.is_Integer:
        power = f"({_source(size.base, names)}**{abs(int(size.exp))})"
        return power if size.exp > 0 else f"Fraction(1, {power})"
    if is_quotient(size):
        top, bottom = size.args
        return f"({_source(top, names)} // {_source(bottom, names)})"
    if isinstance(size, sympy.Max):
        return f"max({', '.join(_source(part, names) for part in size.args)})"
    if size.is_Add or size.is_Mul:
        return f"({(' + ' if size.is_Add else '*').join(_source(part, names) for part in size.args)})"
    raise NetworkError(f"size holds {size}, which has no exact integer value; use + - * / // ** and Max")


def symbol_names(size: Size) -> tuple[str, ...]:
    """Names of the symbols in a size, sorted."""
    if isinstance(size, int):
        return ()
    return size.names if isinstance(size, Monomial) else tuple(sorted(s.name for s in size.free_symbols))


def parse_expression(text: str) -> Any:
    """Read an arithmetic text (integers, names, `+ - * / // **`, `floor`) as a number or an expression, without eval.

    Raises:
        NetworkError: the text holds anything else.
    """
    if len(text) > _MAX_SIZE_TEXT:
        raise NetworkError(f"expression of {len(text)} characters is too long; at most {_MAX_SIZE_TEXT}")
    try:
        if not _ARITHMETIC.match(text):
            raise ValueError("not integers, names and operators")
        tree = ast.parse(text.strip(), mode="eval")
        _degrees(tree.body)
        return normal(_walk(tree.body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError, TypeError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(
            f"{text!r} is not an arithmetic expression; use integers, names and + - * / // **"
        ) from error


def _degrees(node: ast.AST) -> tuple[Counter[str], Counter[str]]:
    """Degrees in every symbol, of numerator and denominator; refused where they are high.

    What sympy does to find the sign of a rational function grows without bound with its degree.
    """
    top: Counter[str] = Counter()
    low: Counter[str] = Counter()
    match node:
        case ast.Name(id=name):
            top[name] = 1
        case ast.UnaryOp(operand=operand):
            return _degrees(operand)
        case ast.Call(args=[argument]):
            over, under = _degrees(argument)
            top = over + under
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            over, under = _degrees(left)
            power = _exponent(right)
            top, low = (Counter({n: abs(power) * d for n, d in part.items()}) for part in (over, under))
            top, low = (top, low) if power > 0 else (low, top)
        case ast.BinOp(left=left, op=op, right=right):
            (a, b), (c, d) = _degrees(left), _degrees(right)
            if isinstance(op, ast.Div | ast.FloorDiv):
                c, d = d, c
            top, low = (
                (a + c, b + d)
                if isinstance(op, ast.Mult | ast.Div | ast.FloorDiv)
                else ((a + d) | (c + b), b + d)
            )
    if max((top + low).values(), default=0) > _MAX_DEGREE:
        raise ValueError(f"its degree in one symbol is above {_MAX_DEGREE}")
    return top, low


def _exponent(node: ast.AST) -> int:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_exponent(operand)
        case ast.Constant(value=int() as power) if abs(power) <= _MAX_POWER:
            return power
        case _:
            raise ValueError(f"an exponent is an integer of at most {_MAX_POWER}")


def _walk(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool) and value <= _MAX_NUMBER:
            return Monomial(value)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _walk(left), _walk(right))
        case ast.Call(func=ast.Name(id="floor"), args=[argument], keywords=[]):
            return quotient(_walk(argument))
        case _:
            raise ValueError("not arithmetic")


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    result = _combined(op, left, right)
    numbers = [result] if isinstance(result, Monomial) else result.atoms(sympy.Rational)
    if any(max(abs(n.p), n.q) > _MAX_NUMBER for n in numbers):
        raise ValueError("too large: a short text must not stand for endless work")
    return result


def _combined(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if right != 0:
            return left / right
        case ast.FloorDiv() if right != 0:
            return quotient(left, right)
        case ast.Pow() if left != 0:  # _exponent has checked the right side
            return left**right
        case _:
            raise ValueError("not arithmetic")
