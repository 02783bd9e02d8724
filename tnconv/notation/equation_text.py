"""What both notations share: where the terms of an equation lie, and errors that point at a character.

"ij, jk -> ik"   terms "ij" and " jk ", output " ik", each with its first character's place in the text
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tnconv.errors import ArgumentError, ParseError
from tnconv.ir import Index, Node, Size, as_integer, as_size, fresh, pattern

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
MAX_NAME = 64
_LETTERS = re.compile(r"\.\.\.|[A-Za-z]")
_COMPACT = re.compile(r"(?:[A-Za-z,]|\.\.\.)*(?:->(?:[A-Za-z]|\.\.\.)*)?")
_SHOWN = 90  # characters of a long equation that an error shows


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an equation.

    Args:
        text: the piece, with its spaces.
        start: the place of its first character in the equation.
    """

    text: str
    start: int

    @property
    def end(self) -> int:
        """The place behind its last character."""
        return self.start + len(self.text)

    def split(self, separator: str) -> "tuple[Part, ...]":
        """The pieces between separators."""
        parts: list[Part] = []
        start = self.start
        for text in self.text.split(separator):
            parts.append(Part(text, start))
            start += len(text) + len(separator)
        return tuple(parts)


def fault(equation: str, place: int, message: str) -> ParseError:
    """A parse error that points at a character of the equation.

    Args:
        equation: the whole text.
        place: of the character, from 0; the length of the text points behind it.
        message: what is wrong, then what to do.
    """
    first = max(0, min(place - _SHOWN // 2, len(equation) - _SHOWN))
    cut = equation[first : first + _SHOWN]
    shown = "".join(c if c.isprintable() else " " for c in cut)  # one column a character
    return ParseError(f"{message}\n  {shown}\n  {' ' * (place - first)}^")


def split_equation(equation: object) -> tuple[tuple[Part, ...], Part]:
    """The terms of the operands and the rest behind `->`.

    Raises:
        ParseError: it is no text, or `->` is not in it exactly once.
    """
    if not isinstance(equation, str):
        raise ParseError(f"the equation is a {type(equation).__name__}, not a str; put it first")
    arrow = equation.find("->")
    if arrow < 0:
        raise fault(
            equation, len(equation), "'->' is missing; write the axes of the result behind it, none for a sum"
        )
    second = equation.find("->", arrow + 2)
    if second >= 0:
        raise fault(equation, second, "'->' is there twice; write it once")
    return Part(equation[:arrow], 0).split(","), Part(equation[arrow + 2 :], arrow + 2)


def with_spaces(equation: str, axes: Sequence[int]) -> str | None:
    """An equation of single letters without spaces, as other packages write it, in tnconv's notation.

        with_spaces("ij,jk->ik", (2, 2)) == "i j, j k -> i k"

    Args:
        equation: the text.
        axes: of every operand, how many it has.

    Returns:
        None where it has spaces already, holds more than letters and dots, or does not fit the operands either.
    """
    left, _, right = equation.partition("->")
    terms = [_LETTERS.findall(term) for term in left.split(",")]
    if not _COMPACT.fullmatch(equation) or not any(
        len(term) > 1 for term in [*terms, _LETTERS.findall(right)]
    ):
        return None
    known = [name for term in terms for name in term]
    fitting = len(terms) == len(axes) and all(
        len(term) == count or ("..." in term and len(term) - 1 <= count)
        for term, count in zip(terms, axes, strict=True)
    )
    result = _LETTERS.findall(right) if "->" in equation else _implicit(known)
    if not fitting or not set(result) <= {*known, "..."}:
        return None
    return f"{', '.join(map(' '.join, terms))} -> {' '.join(result)}".rstrip()


def _implicit(names: Sequence[str]) -> list[str]:
    """The result where none is written: the dots, then the letters that occur once, sorted."""
    once = sorted(name for name in set(names) if name != "..." and names.count(name) == 1)
    return [*(["..."] if "..." in names else []), *once]


def check_length(equation: str, name: str, place: int) -> None:
    """Refuse a name that is too long.

    Raises:
        ParseError: it has more than 64 characters.
    """
    if len(name) > MAX_NAME:
        raise fault(equation, place, f"a name of {len(name)} characters; use at most {MAX_NAME}")


class Names:
    """What makes the indices and patterns of an equation: no two have one name.

    Args:
        names: that the equation has.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.taken = set(names)
        self.patterns: list[Node] = []

    def fresh(self, base: str) -> str:
        """A name that nothing else has."""
        name = fresh(base, self.taken)
        self.taken.add(name)
        return name

    def second(self, index: Index) -> Index:
        """A copy of an index, on the diagonal."""
        copy = index.named(self.fresh(f"{index.name}_2"))
        self.patterns.append(pattern(f"p{len(self.patterns) + 1}", copy, ((1, index),)))
        return copy


def operand_name(number: int) -> str:
    """`x1` for the operand at place 0."""
    return f"x{number + 1}"


def check_shapes(terms: int, shapes: Sequence[object], least: int = 1) -> list[tuple[Size, ...]]:
    """The shape of every operand, as sizes.

    Args:
        terms: how many terms the equation has.
        shapes: one an operand; a size is an int, a sympy expression or a text such as `"N"`.
        least: 0 where axes may be empty.

    Raises:
        ArgumentError: there is not one shape a term, or a size is none.
    """
    if len(shapes) != terms:
        raise ArgumentError(
            f"the equation has {terms} terms in front of '->' but {len(shapes)} operands were given; give one each"
        )
    return [_checked_shape(operand_name(number), shape, least) for number, shape in enumerate(shapes)]


def _checked_shape(operand: str, shape: object, least: int) -> tuple[Size, ...]:
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ArgumentError(f"operand {operand} has shape {shape!r}; give a tuple of sizes")
    sizes = []
    for axis, size in enumerate(shape):
        try:
            sizes.append(0 if least == 0 and as_integer(size) == 0 else as_size(size))
        except ValueError as error:
            raise ArgumentError(f"operand {operand} has size {size!r} on axis {axis}: {error}") from error
    return tuple(sizes)
