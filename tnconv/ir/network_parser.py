"""Reads the text of a network, a sum or one line of them back. Nothing in a text is ever evaluated.

    text    = network | "sum" NAME "{" network+ "}"
    network = "network" NAME "{" "index" "[" NAME [":" KIND] "=" size, … "]" node* "output" ["{real}"] axes "}"
    KIND    = "v" | "n" | "g" | "c" | "k" | "o" | "x"
    node    = NAME "=" role ["{" ["of=" NAME] [","] ["conj"] "}"] axes | NAME "=" ("pattern" | "delta") "[" relation "]"
            | NAME "=" "select" "[" NAME "=" TABLE "[" NAME "]" "]" | NAME "=" "scale" "[" number "]"
    axes    = "[" axis, … "]"
    axis    = NAME | "(" NAME… ")" | "1" | affine "<" INTEGER
    relation= NAME "=" affine [("mod" | "reflect" | "replicate") size]
    affine  = ["-"] term (("+" | "-") term)*,  term = [INTEGER "*"] NAME | INTEGER

A `#` starts a comment. Whitespace within a line is free.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tnconv.errors import NetworkError, ParseError, meant
from tnconv.ir.index import Axis, Index, Kind, group
from tnconv.ir.network import Network
from tnconv.ir.network_sum import Expression, Sum
from tnconv.ir.nodes import MODES, ROLES, Node, Relational, Role, Scale, Select, Tensor, pattern
from tnconv.ir.size import as_size, parse_expression
from tnconv.ir.verify import INDEX_LINE, OUTPUT_LINE

_NODE = re.compile(r"(\w+)\s*=\s*([a-z]+)\s*(?:\{([^{}]*)\})?\s*\[(.*)\]\Z", re.ASCII)
_READS = re.compile(r"\s*(?:of\s*=\s*(\w+)\s*(?:,\s*(conj)\s*)?|(conj)\s*)\Z", re.ASCII)
_OUTPUT_HEAD = re.compile(rf"{OUTPUT_LINE}\s*(\{{[^{{}}]*\}}\s*)?\[")
_OUTPUT = re.compile(rf"{OUTPUT_LINE}\s*(\{{\s*real\s*\}})?\s*\[(.*)\]\Z")
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+)\s*\*\s*)?(?:([A-Za-z]\w*)|(\d+))\s*", re.ASCII)
# Behind a name or number: an index may be called `mod`, too.
_FOLD = re.compile(r"(.*\w)\s+(mod|reflect|replicate)\s+(\S.*)\Z", re.ASCII)
_SELECT = re.compile(r"\s*(\w+)\s*=\s*(\w+)\s*\[\s*(\w+)\s*\]\s*\Z", re.ASCII)
_MODES = {word: mode for mode, word in MODES.items()}
_MAX_DIGITS = 20
_MAX_TEXT = 2_000_000

T = TypeVar("T")


def parse(text: str) -> Expression:
    """Read a network or a sum.

    Args:
        text: what `str(network)` gives, or the same written by hand.

    Raises:
        ParseError: the text does not follow the grammar; the message shows the line.
        NetworkError: it does, but the network is invalid.
    """
    lines = Lines.of(text, "network")
    head = lines.peek()
    result: Expression
    if head.startswith("sum"):
        name = lines.header("sum")
        terms = []
        while lines.peek().startswith("network"):
            terms.append(_network(lines))
        lines.expect("}")
        result = lines.guard(lambda: Sum(name, tuple(terms)))
    else:
        result = _network(lines)
    lines.end()
    return result


def parse_network(text: str) -> Network:
    """Read a network; a sum is refused.

    Raises:
        ParseError: the text is not that of one network.
    """
    found = parse(text)
    if isinstance(found, Sum):
        raise ParseError(f"the text is a sum of {len(found.terms)} networks; one network is needed here")
    return found


@dataclass
class Lines:
    """The lines of a text that hold something, and the place of the reader."""

    lines: list[tuple[int, str]]
    place: int = 0

    @classmethod
    def of(cls, text: object, what: str, *, notes: bool = False) -> "Lines":
        """Split a text into its lines, without comments and runs of blanks (quadratic in a regex).

        Args:
            text: what a user gives.
            what: it should be the text of.
            notes: whether lines stay as they are, with what is behind a `#`.

        Raises:
            ParseError: it is no str, or too long.
        """
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise ParseError(
                f"the text is not a str, or longer than 2,000,000 characters; give the text of a {what}"
            )
        every = enumerate(text.splitlines(), 1)
        plain = ((n, line.strip() if notes else " ".join(line.split("#")[0].split())) for n, line in every)
        return cls([(number, line) for number, line in plain if line])

    def peek(self) -> str:
        """The current line, or an empty string at the end."""
        return self.lines[self.place][1] if self.place < len(self.lines) else ""

    def next(self) -> str:
        """The current line; step past it."""
        line = self.peek()
        if not line:
            raise self.error("the text ends too early; is a '}' missing?")
        self.place += 1
        return line

    def error(self, message: str, back: int = 0) -> ParseError:
        """A ParseError that shows the current line, or one `back` lines before."""
        place = min(self.place - back, len(self.lines) - 1)
        if place < 0:
            return ParseError(f"{message} (the text is empty)")
        number, line = self.lines[place]
        return ParseError(
            f"line {number}: {message}\n  {number} | {line}\n  {' ' * len(str(number))} | {'^' * len(line)}"
        )

    def guard(self, build: Callable[[], T]) -> T:
        """Run `build`; errors about one line are raised again with the line shown."""
        try:
            return build()
        except ParseError:
            raise
        except NetworkError as error:
            if str(error).startswith(("network", "sum")):
                raise
            raise self.error(str(error), back=1) from error

    def expect(self, wanted: str) -> None:
        """Step past a line that must read `wanted`."""
        if self.peek() != wanted:
            raise self.error(f"expected {wanted!r}")
        self.place += 1

    def header(self, keyword: str) -> str:
        """Step past `keyword NAME {` and return the name."""
        match = re.fullmatch(rf"{keyword}\s+(\S+)\s*\{{", self.peek())
        if not match:
            raise self.error(f"expected '{keyword} NAME {{'")
        self.place += 1
        return match[1]

    def end(self) -> None:
        """Refuse anything behind the closing brace."""
        if self.peek():
            raise self.error("text behind the closing '}'; remove it")


def _network(lines: Lines) -> Network:
    name = lines.header("network")
    indices = parse_index_line(lines)
    nodes: list[Node] = []
    while lines.peek() and not _OUTPUT_HEAD.match(lines.peek()):
        line = lines.next()
        nodes.append(lines.guard(lambda line=line: _node(line, indices)))  # type: ignore[misc]
    match = _OUTPUT.match(lines.next())
    if not match:
        raise lines.error("expected 'output [axes]' or 'output{real} [axes]'", back=1)
    output = lines.guard(lambda: parse_axes(match[2], indices))
    lines.expect("}")
    return lines.guard(lambda: Network(name, tuple(nodes), output, real=match[1] is not None))


def parse_index_line(lines: Lines) -> dict[str, Index]:
    """Step past `index [n=N, c=3]` and return the indices by name."""
    match = re.fullmatch(rf"{INDEX_LINE}\s*\[(.*)\]", lines.next())
    if not match:
        raise lines.error("expected 'index [name=size, ...]'", back=1)
    indices: dict[str, Index] = {}
    for item in filter(None, map(str.strip, match[1].split(","))):
        index = lines.guard(lambda item=item: parse_index(item))  # type: ignore[misc]
        if index.name in indices:
            raise lines.error(f"index {index.name!r} is declared twice; remove one", back=1)
        indices[index.name] = index
    return indices


def parse_index(text: str) -> Index:
    """Read `n=N`, or `b:n=N` with a kind.

    Raises:
        NetworkError: it has no size, or a part is none.
    """
    head, equals, size = (part.strip() for part in text.partition("="))
    name, colon, kind = (part.strip() for part in head.partition(":"))
    if not equals:
        raise NetworkError(f"index {text!r} has no size; write {text}=SIZE")
    return Index(name, as_size(size), Kind.of(kind)) if colon else Index(name, as_size(size))


def _node(line: str, indices: Mapping[str, Index]) -> Node:
    match = _NODE.match(line)
    if not match:
        raise NetworkError("expected 'name = kind [legs]'")
    name, kind, options, body = match.groups()
    if kind in ROLES:
        reads = _READS.match("conj" if options is None else options)
        if reads is None:
            raise NetworkError(
                f"node {name!r} has options {{{options}}}; write {{of=ARGUMENT}}, {{conj}} or {{of=ARGUMENT, conj}}"
            )
        conjugated = options is not None and bool(reads[2] or reads[3])
        return Tensor(name, Role(kind), parse_axes(body, indices), reads[1], conjugated)
    if options is not None:
        raise NetworkError(f"only a tensor reads an argument; remove {{{options}}} from {kind} {name!r}")
    if kind in ("pattern", "delta", "select"):
        made = parse_relation(name, body, indices)
        if (kind == "select") != isinstance(made, Select):
            raise NetworkError(
                f"{kind} {name!r} has the relation {body!r}; write c = rows[s] for a select, and only there"
            )
        return made
    if kind == "scale":
        return Scale(name, parse_expression(body))
    near = meant(kind, (*ROLES, "pattern", "delta", "select", "scale"))
    raise NetworkError(
        f"{kind!r} is not a node kind{near}; the kinds are {', '.join(ROLES)}, pattern, delta, select and scale"
    )


def parse_relation(name: str, body: str, indices: Mapping[str, Index]) -> Relational:
    """Read `i = 2*o + k - 3`, the same with `mod 8`, or `c = rows[s]` as the relation called `name`."""
    selected = _SELECT.match(body)
    if selected:
        return Select(name, _index(selected[1], indices), _index(selected[3], indices), selected[2])
    left, equals, right = body.partition("=")
    if not equals:
        raise NetworkError(f"relation {body!r} has no '='; write i = 2*o + k - 3")
    found = _FOLD.match(right)
    terms, offset = _affine(found[1] if found else right, indices)
    folds = (as_size(found[3]), _MODES[found[2]]) if found else ()
    return pattern(name, _index(left.strip(), indices), terms, offset, *folds)


def parse_axes(body: str, indices: Mapping[str, Index]) -> tuple[Axis, ...]:
    """Read `n, (g c), 2*o + k < 224` as axes."""
    if not body.strip():
        return ()
    return tuple(_axis(part.strip(), indices) for part in body.split(","))


def _axis(text: str, indices: Mapping[str, Index]) -> Axis:
    if "<" in text:
        affine, _, size = text.partition("<")
        terms, offset = _affine(affine, indices)
        return Axis(tuple(x for _, x in terms), tuple(a for a, _ in terms), offset, as_size(size))
    if text.startswith("(") and text.endswith(")"):
        return group(*(_index(name, indices) for name in text[1:-1].split()))
    return group() if text == "1" else group(_index(text, indices))


def _affine(text: str, indices: Mapping[str, Index]) -> tuple[tuple[tuple[int, Index], ...], int]:
    terms: list[tuple[int, Index]] = []
    offset, place, text = 0, 0, text.strip()
    while place < len(text) or not text:
        match = _TERM.match(text, place)
        if (
            not match
            or (place and not match[1])
            or any(len(g or "") > _MAX_DIGITS for g in match.group(2, 4))
        ):
            raise NetworkError(f"{text!r} is not affine at {text[place:]!r}; write for example 2*o + k - 3")
        sign, factor, name, number = match.groups()
        unit = -1 if sign == "-" else 1
        if name:
            terms.append((unit * int(factor or 1), _index(name, indices)))
        elif factor:
            raise NetworkError(f"{text!r} multiplies two numbers; write their product")
        else:
            offset += unit * int(number)
        place = match.end()
    return tuple(terms), offset


def _index(name: str, indices: Mapping[str, Index]) -> Index:
    if name not in indices:
        raise NetworkError(
            f"index {name!r} is not declared; add it to the index line, which has {', '.join(indices)}"
        )
    return indices[name]
