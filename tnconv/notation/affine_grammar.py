"""The grammar of `tnconv.einsum`: names, affine expressions, groups and dots.

equation := term ("," term)* "->" term
term     := axis*                            separated by spaces
axis     := "..." | "(" name* ")" | sum      "()" is an axis of size 1
sum      := ["-"] part (("+"|"-") part)*             no spaces
part     := integer | name | integer "*" name | name "*" integer
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tnconv.errors import ParseError
from tnconv.notation.equation_text import NAME, Part, check_length, fault, split_equation

_INTEGER = re.compile(r"[0-9]+", re.ASCII)
_MAX_DIGITS = 9  # so that coefficients stay below 2**31
_TOKEN = re.compile(r"\s+|\.\.\.|[()]|[^\s().]+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Affine:
    """A sum of indices: `h`, `2*h+r-3`.

    Args:
        terms: (coefficient, name), each name once.
        offset: the sum of the integers; None where none is written.
        text: as it was written.
        start: the place of its first character.
    """

    terms: tuple[tuple[int, str], ...]
    offset: int | None
    text: str
    start: int

    @property
    def plain(self) -> str | None:
        """The name, where the sum is one name."""
        return self.terms[0][1] if self.offset is None and self.terms == ((1, self.terms[0][1]),) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sum."""
        return tuple(name for _, name in self.terms)


@dataclass(frozen=True, slots=True)
class Group:
    """Indices on one axis in row-major order: `(g c)`; `()` for an axis of size 1."""

    names: tuple[str, ...]
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Dots:
    """Any number of axes: `...`."""

    start: int

    @property
    def names(self) -> tuple[str, ...]:
        """None are written."""
        return ()


Item = Affine | Group | Dots


@dataclass(frozen=True, slots=True)
class Term:
    """The axes of one operand or of the result."""

    items: tuple[Item, ...]
    text: str

    @property
    def dots(self) -> Dots | None:
        """The dots, where there are some."""
        return next((item for item in self.items if isinstance(item, Dots)), None)


@dataclass(frozen=True, slots=True)
class Equation:
    """A parsed equation."""

    text: str
    terms: tuple[Term, ...]
    output: Term

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in the order in which they are written."""
        terms = (*self.terms, self.output)
        return tuple(dict.fromkeys(n for term in terms for item in term.items for n in item.names))


def parse_equation(equation: str) -> Equation:
    """Read an equation such as `"n c 2*h+r-3, k c r -> n k h"`.

    Raises:
        ParseError: it does not parse; the message points at the character.
    """
    parts, output = split_equation(equation)
    commas = output.text.find(",")
    if commas >= 0:
        raise fault(
            equation, output.start + commas, "there is one result, so no ',' behind '->'; leave it out"
        )
    terms = [_term(equation, part) for part in (*parts, output)]
    *operands, result = terms
    return Equation(equation, tuple(operands), result)


def _term(equation: str, part: Part) -> Term:
    items = tuple(_items(equation, part))
    dots = [item for item in items if isinstance(item, Dots)]
    if len(dots) > 1:
        raise fault(equation, dots[1].start, "'...' is twice in one term; write it once")
    return Term(items, part.text.strip())


def _items(equation: str, part: Part) -> Iterator[Item]:
    tokens = [Part(m.group(), part.start + m.start()) for m in _TOKEN.finditer(part.text)]
    tokens = [token for token in tokens if not token.text.isspace()]
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.text == "(":
            close = next((p for p in range(place, len(tokens)) if tokens[p].text == ")"), None)
            if close is None:
                raise fault(equation, token.start, "'(' is never closed; write a group as (g c)")
            yield _group(equation, tokens[place : close + 1])
            place = close
        elif token.text == ")":
            raise fault(equation, token.start, "')' closes nothing; write a group as (g c)")
        elif token.text == "...":
            yield Dots(token.start)
        elif token.text == ".":
            raise fault(equation, token.start, "a single '.'; write '...' for any number of axes")
        else:
            yield _Sum(equation, token).read()
        place += 1


def _group(equation: str, tokens: list[Part]) -> Group:
    first, *inner, last = tokens
    for token in inner:
        found = NAME.match(token.text)
        end = found.end() if found else 0
        if end != len(token.text):
            raise fault(
                equation, token.start + end, "a group holds names only, as (g c); move this out of it"
            )
        check_length(equation, token.text, token.start)
    names = tuple(token.text for token in inner)
    return Group(names, equation[first.start : last.end], first.start)


class _Sum:
    """Reads one sum, from left to right."""

    def __init__(self, equation: str, part: Part) -> None:
        self.equation, self.part = equation, part
        self.place = 0
        self.offset: int | None = None
        self.coefficients: dict[str, int] = {}

    def read(self) -> Affine:
        """The sum."""
        text = self.part.text
        if text.startswith("+"):
            raise self._fault("an axis begins with '+'; write sums without spaces, as 2*h+r")
        self._part(self._sign() or 1)
        while self.place < len(text):
            following = self._sign()
            if following is None:
                raise self._fault("expected '+' or '-'; separate axes by spaces, and write 2*h + r as 2*h+r")
            self._part(following)
        for name, coefficient in self.coefficients.items():
            if not coefficient:
                raise fault(
                    self.equation, self.part.start, f"index {name!r} has coefficient 0 here; leave it out"
                )
        if not self.coefficients:
            raise fault(self.equation, self.part.start, "an axis without an index; write () for size 1")
        terms = tuple((coefficient, name) for name, coefficient in self.coefficients.items())
        return Affine(terms, self.offset, text, self.part.start)

    def _part(self, sign: int) -> None:
        number, name = self._integer(), self._name()
        if number is not None and name is not None:
            raise self._fault(f"write {number}*{name}", back=len(name))
        if number is None and name is None:
            raise self._fault(
                "expected a name of ASCII letters, digits and '_', or an integer; write sums without spaces, as 2*h+r"
            )
        if self.part.text.startswith("*", self.place):
            self.place += 1
            if name is None:
                name = self._name()
            else:
                number = self._integer()
            if name is None or number is None:
                raise self._fault("expected an integer times a name, as 2*h; other products are not affine")
        if name is None:
            self.offset = (self.offset or 0) + sign * (number or 0)
        else:
            factor = 1 if number is None else number
            self.coefficients[name] = self.coefficients.get(name, 0) + sign * factor

    def _sign(self) -> int | None:
        sign = {"+": 1, "-": -1}.get(self.part.text[self.place : self.place + 1])
        self.place += sign is not None
        return sign

    def _integer(self) -> int | None:
        found = _INTEGER.match(self.part.text, self.place)
        if found is None:
            return None
        if len(found.group()) > _MAX_DIGITS:
            raise self._fault(f"an integer of {len(found.group())} digits; use at most {_MAX_DIGITS}")
        self.place = found.end()
        return int(found.group())

    def _name(self) -> str | None:
        found = NAME.match(self.part.text, self.place)
        if found is None:
            return None
        check_length(self.equation, found.group(), self.part.start + self.place)
        self.place = found.end()
        return found.group()

    def _fault(self, message: str, back: int = 0) -> ParseError:
        return fault(self.equation, self.part.start + self.place - back, message)
