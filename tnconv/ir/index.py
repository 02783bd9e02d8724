"""Sizes, indices and axes: what the edges of a network are made of.

A *size* is a positive integer or an expression of positive integer symbols (`N`): a monomial (`64*N`), or one of
sympy. An *index* is a named summation variable with a size and a kind: what it is to a layer. An *axis* says how the
indices of a node lie on one axis of the tensor that a torch user passes: `i`, the group `(g c)`, or an injective affine
position `2*o + k < 224`.
"""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import lru_cache, reduce
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
_CONVENTIONAL = {letter: rank for rank, letter in enumerate("vngcd")}


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


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that orders `k2` before `k10`."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in parts)


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
    """An expression that is a size."""
    if size.is_nonpositive:
        raise NetworkError(f"size {size} is never positive; every index needs at least one value")
    if size.is_integer is False or not all(map(_is_own, size.free_symbols)):
        raise NetworkError(
            f"size {size} is not known to be an integer; build its symbols with tnconv.ir.symbol"
        )
    check_readable(size, "size")
    return size


def _is_own(name: Any) -> bool:
    """Whether a symbol is a positive integer, as those of this package are."""
    return bool(name.is_integer)


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
        missing = [n for n in names if n not in values]
        if missing:
            raise NetworkError(f"size {size} needs a value for {', '.join(missing)}; got {dict(values)}")
        try:
            result = function(*(values[n] for n in names))
        except ZeroDivisionError as error:
            raise NetworkError(f"size {size} divides by zero for {dict(values)}; give other sizes") from error
        if result != int(result):
            raise NetworkError(
                f"size {size} is {result} for {dict(values)}, not an integer; give other sizes"
            )
        return int(result)

    return call


def _source(size: Size, names: Mapping[str, str]) -> str:
    """Python text of a size in exact arithmetic."""
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


class Kind(Enum):
    """What an index is to a layer; the value is the letter that says so in a text, `b:n=N`.

    No value depends on a kind. Planners put legs in the order of kinds, loops over chunks take vectors and examples
    first, and what has one example alone may come without an axis for it.
    """

    VECTOR = "v"
    BATCH = "n"
    GROUP = "g"
    CHANNEL = "c"
    POSITION = "o"
    KERNEL = "k"
    NONE = "x"

    letter: str
    rank: int

    def __init__(self, letter: str) -> None:
        self.letter = letter  # as it is written
        self.rank = "vngckox".index(letter)  # in the layout that kernels like best

    @classmethod
    def of(cls, letter: str) -> "Kind":
        """The kind that a letter says.

        Raises:
            NetworkError: it says none.
        """
        if letter not in _KINDS:
            known = ", ".join(f"{k.letter} ({k.name.lower()})" for k in cls)
            raise NetworkError(f"{letter!r} is no kind of an index; the kinds are {known}")
        return _KINDS[letter]

    def joined(self, other: "Kind") -> "Kind":
        """The kind of an index in place of two; channels with groups or kernel cells are channels still."""
        if self is other:
            return self
        return Kind.CHANNEL if {self, other} <= {Kind.GROUP, Kind.CHANNEL, Kind.KERNEL} else Kind.NONE


_KINDS = {kind.letter: kind for kind in Kind}
# The one place where a name says something: what an index is that was made, or written, without a kind.
# `i` and `j` are positions of an input, plain and padded, `q` those that several kernels share.
_USUAL = {letter: Kind(kind) for letter, kind in zip("vngcdijoqk", "vngccooook", strict=True)}
_LETTERS = re.compile(r"((?:[a-z]\d*)+)(?:_\d+)?\Z")


@lru_cache(maxsize=4096)
def usual_kind(name: str) -> Kind:
    """The kind that goes without saying, by the letters of this package: `n`, `k1_2`, `gc`; none for other names."""
    found = _LETTERS.match(name)
    letters = re.findall("[a-z]", found[1]) if found else ["?"]
    return reduce(Kind.joined, (_USUAL.get(letter, Kind.NONE) for letter in letters))


@dataclass(frozen=True, slots=True)
class Index:
    """A named summation variable with a size: an edge of the network.

    Args:
        name: unique within a network.
        size: number of values, an int or an expression.
        kind: what it is to a layer; the usual one of its name if left out.

    Raises:
        NetworkError: the name is outside the alphabet, or the size is not a size.
    """

    name: str
    size: Size
    kind: Kind = None  # type: ignore[assignment]  # __post_init__ fills it in

    def __hash__(self) -> int:
        return hash(self.name)  # which is quick; few indices of one name differ

    def __post_init__(self) -> None:
        check_name(self.name, "index")
        object.__setattr__(self, "size", as_size(self.size))
        if self.kind is None:
            object.__setattr__(self, "kind", usual_kind(self.name))

    def named(self, name: str) -> "Index":
        """The same under another name."""
        return Index(name, self.size, self.kind)

    def sized(self, size: Size) -> "Index":
        """The same with another size."""
        return Index(self.name, size, self.kind)

    @property
    def declaration(self) -> str:
        """As in the first line of a network: `n=N`, or `b:n=N` where the kind is not the usual one of the name."""
        kind = "" if self.kind is usual_kind(self.name) else f":{self.kind.letter}"
        return f"{self.name}{kind}={self.size}"

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """The order in texts: v, n, g, c, d first, then by name; a second copy behind its original."""
        base, _, copy = self.name.partition("_")
        return (_CONVENTIONAL.get(base, len(_CONVENTIONAL)), natural_key(base), natural_key(copy), self.name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an argument or of a result, and the indices that lie on it.

    The cell at index values `x_j` is at position `Σ strides_j·x_j + start` of an axis with `size` cells.
    On a tensor the other cells are not read; on an output they are zero. Left out, the strides are those
    of the row-major group `(a b)`, which covers the axis.

    Args:
        indices: the indices on this axis, outermost first; none for an axis of one cell.
        strides: positive, one an index; no two combinations of index values may share a cell.
        start: position of the first cell, in cells.
        size: cells on the axis; the least that fits if left out.
    """

    indices: tuple[Index, ...]
    strides: tuple[Size, ...] = ()
    start: int = 0
    size: Size = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(self.indices))
        strides = tuple(map(normal, self.strides)) or _row_major(self.indices)
        object.__setattr__(self, "strides", strides)
        if len(strides) != len(self.indices):
            raise NetworkError(
                f"axis has {len(self.indices)} indices but {len(strides)} strides; give one each"
            )
        object.__setattr__(self, "size", self.reach if self.size is None else normal(self.size))

    @property
    def reach(self) -> Size:
        """One more than the highest position that an index combination takes."""
        if self.strides == _row_major(self.indices):
            return normal(product(i.size for i in self.indices) + self.start)
        return normal(
            sum(s * (i.size - 1) for s, i in zip(self.strides, self.indices, strict=True)) + self.start + 1
        )

    @property
    def is_group(self) -> bool:
        """Whether the indices cover the axis in row-major order, as `(g c)` says."""
        return (
            self.start == 0
            and self.strides == _row_major(self.indices)
            and self.size == product(i.size for i in self.indices)
        )

    def substitute(self, mapping: Mapping[Index, Index]) -> "Axis":
        """The same axis with indices exchanged for others; a group stays a group."""
        indices = tuple(mapping.get(i, i) for i in self.indices)
        return Axis(indices) if self.is_group else replace(self, indices=indices)

    def resized(self, change: Callable[[Size], Size]) -> "Axis":
        """The same axis with all sizes changed, those of its indices too."""
        indices = tuple(i.sized(change(i.size)) for i in self.indices)
        return Axis(indices, tuple(map(change, self.strides)), self.start, change(self.size))

    def __str__(self) -> str:
        if not self.is_group:
            terms = tuple(zip(self.strides, self.indices, strict=True))
            return f"{format_affine(terms, self.start)} < {self.size}"
        if len(self.indices) == 1:
            return self.indices[0].name
        return f"({' '.join(i.name for i in self.indices)})" if self.indices else "1"


def _row_major(indices: Sequence[Index]) -> tuple[Size, ...]:
    strides: list[Size] = []
    stride: Size = 1
    for index in reversed(indices):
        strides.append(stride)
        stride = normal(stride * index.size)
    return tuple(reversed(strides))


def group(*indices: Index) -> Axis:
    """The axis that holds `indices` in row-major order, as `(g c)` in the text."""
    return Axis(indices)


def format_affine(terms: Sequence[tuple[Size, Index]], offset: int) -> str:
    """`2*o + k - 3` for terms ((2, o), (1, k)) and offset -3."""
    text = ""
    for coefficient, index in terms:
        sign = "-" if coefficient < 0 else "+"
        size = abs(coefficient)
        body = index.name if size == 1 else f"{size}*{index.name}"
        text += f" {sign} {body}" if text else (f"-{body}" if sign == "-" else body)
    if offset or not text:
        text += f" {'-' if offset < 0 else '+'} {abs(offset)}" if text else str(offset)
    return text
