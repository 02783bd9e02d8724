"""What a program is made of, as immutable values; `text` has how they are written, `parser` reads that.

    program conv2d_weight_vjp {
      argument x [N, 3, 5]
      argument grad_output [N, 4, 5]
      size N = x.shape[0]
      grad_t [(n=N o1=5), d=4] = view grad_output.permute(0, 2, 1).reshape(5*N, 4)
      product [d=4, (c=3 k=2)] = new mm(grad_t, x_windows)
      in product: product.mul_(0.5)
      free grad_t
      return product
    }

A `Call` is an operation on arguments: variables, calls that nobody else reads, sizes, numbers, texts, tuples of these.
Operations have names and no code: a backend says how each is written. A `Let` computes a variable once and says whose
memory that has; only `InPlace` changes memory. Nothing is read before it is computed, or after it is freed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from tnconv.ir import Index, Size
from tnconv.ir.monomial import is_expression
from tnconv.ir.size import symbol_names

Dims = tuple[tuple[Index, ...], ...]


@dataclass(frozen=True, slots=True)
class Var:
    """A variable: an argument, or what a statement has computed."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on arguments.

    Args:
        op: what is done, by name; `template` is source that only the backend understands, `{0}` in it the first of
            the arguments behind it.
        args: in order; of an operation with a result in the memory of a variable, that variable first.
        options: (name, value) of what is given by name.
    """

    op: str
    args: tuple["Argument", ...]
    options: tuple[tuple[str, "Argument"], ...] = ()


# Var | Call | Size | float | complex | bool | str | None | tuple[Argument, ...]; Size is untyped, and so is the union.
Argument = Any
TEMPLATE = "template"
# A name that is no attribute, and no part of a number.
_NAMES = re.compile(r"(?<![\w.])[^\W\d]\w*")


class Memory(Enum):
    """Where the cells of a variable are."""

    ANY = ""  # nobody may rely on anything: memory of its own, or that of what is read
    NEW = "new"  # of its own, made by this very statement
    VIEW = "view"  # or may be, where sizes are 1: that of the first variable that is read
    OVERLAPPING = "overlapping"  # a view several of whose cells may lie at one place


@dataclass(frozen=True, slots=True)
class Let:
    """`name [dims] = memory value`: computes a variable.

    Args:
        name: is computed here and nowhere else.
        value: what it is.
        dims: the indices on each dimension; None for what is no tensor of the network, such as rows of a table.
        memory: where its cells are.
        note: for people.
    """

    name: str
    value: Call
    dims: Dims | None = None
    memory: Memory = Memory.ANY
    note: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class InPlace:
    """`in target [dims]: value`: changes the memory of a variable.

    Args:
        target: whose memory.
        value: what is done.
        dims: the indices of what is written, where it is a result of its own that is added.
        note: for people.
    """

    target: str
    value: Call
    dims: Dims | None = None
    note: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Free:
    """`free a, b`: nobody reads them any more."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """`loop n < N by 8 { … }`: statements for each chunk of an index.

    Args:
        start: the variable with the first value of the chunk, an integer.
        size: of the index.
        chunk: values in each chunk but the last.
        body: the statements of a chunk.
    """

    start: str
    size: Size
    chunk: int
    body: tuple["Statement", ...]


@dataclass(frozen=True, slots=True)
class Given:
    """`argument x [N, 3]`: a variable that a call gives.

    Args:
        name: of the variable.
        sizes: of its dimensions; None for what is no tensor, such as a number.
    """

    name: str
    sizes: tuple[Size, ...] | None = None


@dataclass(frozen=True, slots=True)
class SizeOf:
    """`size N = (x.shape[0] - rest) // factor`: a size symbol, read off the shape of an argument."""

    symbol: str
    argument: str
    axis: int
    factor: Size = 1
    rest: Size = 0


@dataclass(frozen=True, slots=True)
class Once:
    """`once { … }`: statements that read constant arguments alone; kept between calls while these stay as they are."""

    body: tuple["Statement", ...]


Statement = Let | InPlace | Free | Loop | Once


def template(text: str, reads: Sequence[str], symbols: Mapping[str, Size]) -> Call:
    """Source that only a backend understands, as a call: what it reads may be renamed.

    Args:
        text: the source of an expression.
        reads: the variables in it, and those that are to live until then.
        symbols: the size symbols, by the names that they have in it.
    """
    args: list[Argument] = [Var(name) for name in dict.fromkeys(reads)]
    places = {name: place for place, name in enumerate(dict.fromkeys(reads))}

    def placed(found: re.Match[str]) -> str:
        name = found[0]
        if name not in places and name in symbols:
            places[name] = len(args)
            args.append(symbols[name])
        return f"{{{places[name]}}}" if name in places else name

    return Call(TEMPLATE, (_NAMES.sub(placed, text.replace("{", "{{").replace("}", "}}")), *args))


def variables(argument: Argument) -> Iterator[str]:
    """The variables that an argument reads, in order, as often as it reads them."""
    if isinstance(argument, Var):
        yield argument.name
    elif isinstance(argument, Call):
        for each in argument.args:
            yield from variables(each)
        for _, value in argument.options:
            yield from variables(value)
    elif isinstance(argument, tuple):
        for each in argument:
            yield from variables(each)


def flatten(dims: Dims) -> tuple[Index, ...]:
    """All indices of the dimensions, in order."""
    return tuple([i for dim in dims for i in dim])


def substituted(each: Any, names: Mapping[str, Var]) -> Any:
    """A statement or an argument with other variables in place of some, those that it changes in place too."""
    if not names:
        return each
    match each:
        case Var(name=name):
            return names.get(name, each)
        case Call(op=op, args=args, options=options):
            more = tuple([(name, substituted(value, names)) for name, value in options])
            return Call(op, tuple([substituted(argument, names) for argument in args]), more)
        case tuple():
            return tuple([substituted(argument, names) for argument in each])
        case Let():
            return replace(each, value=substituted(each.value, names))
        case InPlace():
            target = names.get(each.target)
            value = substituted(each.value, names)
            return replace(each, target=target.name if target else each.target, value=value)
        case Free():
            return Free(tuple(names[name].name if name in names else name for name in each.names))
        case Loop() | Once():
            return replace(each, body=substituted(each.body, names))
        case _:
            return each


def has_symbols(argument: Argument) -> bool:
    """Whether an argument has a size that is no integer."""
    if isinstance(argument, Call):
        return any(map(has_symbols, argument.args)) or any(
            has_symbols(value) for _, value in argument.options
        )
    if isinstance(argument, tuple):
        return any(map(has_symbols, argument))
    return is_expression(argument) and bool(symbol_names(argument))


def reads(statement: Statement) -> list[str]:
    """The variables that a statement reads, each once; what it changes in place comes first."""
    match statement:
        case Let():
            return list(dict.fromkeys(variables(statement.value)))
        case InPlace():
            return list(dict.fromkeys((statement.target, *variables(statement.value))))
        case Free():
            return []
        case Loop() | Once():
            made = {name for each in statement.body if (name := writes(each))}
            every = dict.fromkeys(name for each in statement.body for name in reads(each))
            return [name for name in every if name not in made]


def lines(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """The statements, and in place of blocks those in them."""
    found: list[Statement] = []
    for each in statements:
        found += lines(each.body) if isinstance(each, Loop | Once) else [each]
    return tuple(found)


def writes(statement: Statement) -> str | None:
    """The variable that a statement computes."""
    return statement.name if isinstance(statement, Let) else None


def owners(statements: Iterable[Statement]) -> dict[str, str]:
    """For each variable that is a view, the variable that has made its memory, as far as that is known."""
    found: dict[str, str] = {}
    for each in statements:
        if isinstance(each, Let) and each.memory in (Memory.VIEW, Memory.OVERLAPPING):
            base = next(variables(each.value), None)
            if base is not None:
                found[each.name] = found.get(base, base)
    return found
