"""The text of `tnconv.conv_einsum`, read: terms as in einsum, and behind `|` the letters that are convolved."""

from dataclasses import dataclass

from tnconv.notation.equation_text import NAME, Part, check_length, fault, split_equation


@dataclass(frozen=True, slots=True)
class Convolution:
    """A parsed equation: the names of every operand, of the result, and of what is convolved."""

    terms: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    convolved: tuple[str, ...]


def parse_convolution(equation: str) -> Convolution:
    """Read an equation such as `"ijk,jl->ik|j"`.

    Raises:
        ParseError: it does not parse; the message points at the character.
    """
    parts, rest = split_equation(equation)
    output, *behind = rest.split("|")
    if len(behind) > 1:
        raise fault(
            equation, behind[1].start - 1, "'|' is there twice; write the convolved letters behind one"
        )
    bar = equation.find("|")
    if 0 <= bar < rest.start:
        raise fault(equation, bar, "'|' stands behind the result, as in ij,jk->ik|j")
    convolved = [piece for part in behind for piece in part.split(",")]
    single = not any(len(part.text.split()) > 1 for part in (*parts, output))
    read = [_names(equation, part, single) for part in (*parts, output)]
    letters = [name for part in convolved for name in _names(equation, part, single)]
    held = {name.text for term in read[:-1] for name in term}
    seen: set[str] = set()
    for letter in letters:
        if letter.text not in held:
            raise fault(
                equation,
                letter.start,
                f"no operand holds {letter.text!r}; only letters of operands are convolved",
            )
        if letter.text in seen:
            raise fault(equation, letter.start, f"{letter.text!r} is convolved twice; write it once")
        seen.add(letter.text)
    for name in read[-1]:
        if name.text not in held:
            raise fault(
                equation, name.start, f"{name.text!r} of the result is on no operand; write it there too"
            )
    *terms, result = (tuple(name.text for name in term) for term in read)
    return Convolution(tuple(terms), result, tuple(letter.text for letter in letters))


def _names(equation: str, part: Part, single: bool) -> list[Part]:
    names: list[Part] = []
    place = 0
    while place < len(part.text):
        found = NAME.match(part.text, place)
        if part.text[place].isspace():
            place += 1
        elif found is None:
            what = "letters" if single else "names of ASCII letters, digits and '_'"
            raise fault(equation, part.start + place, f"unexpected {part.text[place]!r}; a term holds {what}")
        else:
            text = found.group()[0] if single else found.group()
            check_length(equation, text, part.start + place)
            names.append(Part(text, part.start + place))
            place += len(text)
    return names
