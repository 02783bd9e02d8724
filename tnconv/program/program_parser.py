"""Reads the text of a program back. Nothing in a text is ever evaluated.

    text      = "program" NAME "{" argument* size* statement* "return" call, … "}"
    argument  = "argument" NAME ["[" size, … "]"]
    size      = "size" NAME "=" NAME ".shape[" INTEGER "]", or "(" that "- (" size "))", then "// (" size ")"
    statement = NAME ["[" dims "]"] "=" ["new" | "view" | "overlapping"] call | "free" NAME, …
              | "in" NAME ["[" dims "]"] ":" call
              | "loop" NAME "<" size "by" INTEGER "{" statement* "}" | "once" "{" statement* "}"
    dims      = dim, …    dim = INDEX "=" size | "(" (INDEX "=" size)… ")" | "1"
    call      = Python's notation of calls, methods, operators, numbers, texts and tuples

A note stands behind two blanks and `#`. A name in a call that is none of the size symbols is a variable.
"""

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass

from tnconv.errors import ParseError
from tnconv.ir import Index, Size, parse_index
from tnconv.ir.network_parser import Lines
from tnconv.ir.size import normal, parse_expression
from tnconv.program.program import ProgramText
from tnconv.program.program_text import EVERY, INFIX, INSERT, METHODS, PROPERTIES, SPREAD
from tnconv.program.statements import (
    Argument,
    Call,
    Dims,
    Free,
    Given,
    InPlace,
    Let,
    Loop,
    Memory,
    Once,
    SizeOf,
    Statement,
    Var,
)

_GIVEN = re.compile(r"argument (\w+)(?: \[(.*)\])?\Z", re.ASCII)
_SIZE = re.compile(r"size (\w+) = \(?(\w+)\.shape\[(\d+)\](?: - \((.*?)\)\))?(?: // \((.*)\))?\Z", re.ASCII)
_LET = re.compile(r"(\w+)(?: \[(.*?)\])? = (?:(new|view|overlapping) )?(.*)\Z", re.ASCII)
_IN_PLACE = re.compile(r"in (\w+)(?: \[(.*?)\])?: (.*)\Z", re.ASCII)
_LOOP = re.compile(r"loop (\w+) < (.+) by (\d+) \{\Z", re.ASCII)
_DIM = re.compile(r"\(([^()]*=.*?)\)(?=, |\Z)|(1)(?=, |\Z)|(\w+(?::\w+)?=.*?)(?=, |\Z)", re.ASCII)
_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Mod: "mod", ast.FloorDiv: "div", ast.BitAnd: "and",
    ast.Eq: "eq", ast.GtE: "ge", ast.Lt: "lt",
}  # fmt: skip


def parse_program(text: str) -> ProgramText:
    """Read what `str(program)` gives, or the same written by hand.

    Raises:
        ParseError: the text does not follow the grammar, or reads what is not computed; the message shows the line.
    """
    reader = _Reader(Lines.of(text, "program", notes=True))
    return reader.lines.guard(reader.program)


@dataclass
class _Reader:
    """The lines of a text, and the size symbols that were read."""

    lines: Lines
    symbols: Collection[str] = ()

    def program(self) -> ProgramText:
        name = self.lines.header("program") if self.lines.peek() else self.next()
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise self.error("expected 'program NAME {'")
        given: list[Given] = []
        sizes: list[SizeOf] = []
        line = self.next()
        while found := _GIVEN.match(line):
            given.append(Given(found[1], self.shape(found[2])))
            line = self.next()
        while found := _SIZE.match(line):
            symbol, argument, axis, rest, factor = found.groups()
            sizes.append(
                SizeOf(symbol, argument, int(axis), self.size(factor or "1"), self.size(rest or "0"))
            )
            line = self.next()
        self.symbols = {each.symbol for each in sizes}
        statements: list[Statement] = []
        while not line.startswith("return "):
            statements.append(self.statement(line))
            line = self.next()
        results = self.argument(f"({line.removeprefix('return ')},)")
        self.lines.expect("}")
        self.lines.end()
        return ProgramText(name, tuple(given), tuple(sizes), tuple(statements), results)

    def shape(self, text: str | None) -> tuple[Size, ...] | None:
        if text is None:
            return None
        return tuple(self.size(each) for each in text.split(",") if each.strip())

    def statement(self, line: str) -> Statement:
        if line.startswith("free "):
            return Free(tuple(name.strip() for name in line.removeprefix("free ").split(",")))
        if found := _LOOP.match(line):
            return Loop(found[1], self.size(found[2]), int(found[3]), self.block())
        if line == "once {":
            return Once(self.block())
        line, _, note = line.partition("  # ")
        if found := _IN_PLACE.match(line):
            return InPlace(found[1], self.call(found[3]), self.dims(found[2]), note)
        if found := _LET.match(line):
            return Let(found[1], self.call(found[4]), self.dims(found[2]), Memory(found[3] or ""), note)
        raise self.error("expected 'name [dims] = call', 'in name: call', 'free name', 'loop' or 'return'")

    def block(self) -> tuple[Statement, ...]:
        """The statements up to the closing brace."""
        body: list[Statement] = []
        while (line := self.next()) != "}":
            body.append(self.statement(line))
        return tuple(body)

    def dims(self, text: str | None) -> Dims | None:
        if text is None:
            return None
        dims: list[tuple[Index, ...]] = []
        place = 0
        while place < len(text):
            found = _DIM.match(text, place)
            if not found:
                raise self.error(f"{text[place:]!r} is no dimension; write n=N, (g=1 c=3) or 1")
            dims.append(tuple(parse_index(each) for each in (found[1] or found[3] or "").split()))
            place = found.end() + 2
        return tuple(dims)

    def size(self, text: str) -> Size:
        found = normal(parse_expression(text))
        return int(found) if getattr(found, "is_Integer", False) else found

    def call(self, text: str) -> Call:
        found = self.argument(text)
        if not isinstance(found, Call):
            raise self.error(f"{text!r} is no call")
        return found

    def argument(self, text: str) -> Argument:
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.error(f"{text!r} is no call") from error
        return self.read(tree)

    def read(self, node: ast.expr) -> Argument:
        """An argument from Python's tree of it."""
        match node:
            case ast.Name(id=name):
                return self.size(name) if name in self.symbols else Var(name)
            case ast.Constant(value=int() | float() | complex() | str() | None as value):
                return value
            case ast.Tuple(elts=elements):
                return tuple(self.read(each) for each in elements)
            case ast.Call(func=ast.Attribute(value=first, attr=name)) if name in METHODS:
                rest = [self.read(each) for each in node.args]
                if name in SPREAD and not (len(rest) == 1 and isinstance(rest[0], tuple)):
                    rest = [tuple(rest)]
                return self.made(name, node, [self.read(first), *rest])
            case ast.Call(func=ast.Name(id=name)):
                return self.made(name, node, [self.read(each) for each in node.args])
            case ast.Attribute(value=first, attr=name) if name in PROPERTIES:
                return Call(name, (self.read(first),))
            case ast.Subscript(value=first, slice=key):
                return self.subscript(first, key)
            case ast.BinOp(left=left, op=op, right=right) if not self.is_size(node):
                return self.binary(op, left, right, node)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.binary(op, left, right, node)
        if self.is_size(node):
            try:
                number = ast.literal_eval(node)
            except ValueError:
                return self.size(ast.unparse(node))
            return number if isinstance(number, int | float | complex) else self.size(ast.unparse(node))
        raise self.error(f"{ast.unparse(node)!r} is no argument of a call")

    def made(self, name: str, node: ast.Call, args: list[Argument]) -> Call:
        options = tuple((each.arg or "", self.read(each.value)) for each in node.keywords)
        return Call(name, tuple(args), options)

    def binary(self, op: ast.AST, left: ast.expr, right: ast.expr, node: ast.expr) -> Call:
        name = _BINARY.get(type(op))
        if name not in INFIX:
            raise self.error(f"{ast.unparse(node)!r} has an operator that no call has")
        return Call(name, (self.read(left), self.read(right)))

    def subscript(self, first: ast.expr, key: ast.expr) -> Call:
        """`x[:, 1:8:2]`, or `x[:, None, ...]`."""
        keys = key.elts if isinstance(key, ast.Tuple) else [key]
        if any(isinstance(each, ast.Slice) and each.step is not None for each in keys):
            return Call(EVERY, (self.read(first), tuple([self.sliced(each) for each in keys])))
        return Call(INSERT, (self.read(first), tuple(ast.unparse(each) for each in keys)))

    def sliced(self, key: ast.expr) -> tuple[int, int | None, int]:
        """Where a slice begins, where it ends if not with the dimension, and its step."""
        if not isinstance(key, ast.Slice):
            raise self.error(f"{ast.unparse(key)!r} is no slice")
        start, stop, step = [
            None if each is None else self.read(each) for each in (key.lower, key.upper, key.step)
        ]
        return start or 0, stop, step or 1

    def is_size(self, node: ast.expr) -> bool:
        """Whether an expression is made of numbers and size symbols alone."""
        return all(
            isinstance(
                each, ast.operator | ast.unaryop | ast.BinOp | ast.UnaryOp | ast.Constant | ast.expr_context
            )
            or (isinstance(each, ast.Name) and each.id in self.symbols)
            for each in ast.walk(node)
        )

    def next(self) -> str:
        return self.lines.next()

    def error(self, message: str) -> ParseError:
        """A ParseError that shows the line that was read last."""
        return self.lines.error(message, back=1)
