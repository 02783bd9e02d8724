"""The text of a program, and of its calls in any dialect: a backend names the operations in its own words.

Operations on a variable are written behind it, `x.reshape(3, 4)`, arithmetic between its operands.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tnconv.errors import LoweringError
from tnconv.ir.monomial import Monomial, is_expression, polynomial_text
from tnconv.ir.size import Size, symbol_names
from tnconv.program.statements import (
    TEMPLATE,
    Argument,
    Call,
    Dims,
    Free,
    InPlace,
    Let,
    Loop,
    Once,
    Statement,
    Var,
)

if TYPE_CHECKING:
    from tnconv.program.program import ProgramText

METHODS = frozenset((
    "abs", "add_", "clamp", "clone", "conj", "conj_physical", "contiguous", "copy", "copy_", "diagonal", "expand",
    "flatten", "flip", "index_select", "mul_", "narrow", "new_empty", "new_ones", "new_zeros", "permute", "reshape",
    "select", "sum", "to", "unfold", "view",
))  # fmt: skip
PROPERTIES = frozenset(("T", "mT", "dtype", "device"))
# Whose one argument is written without its parentheses.
SPREAD = frozenset(("reshape", "expand", "permute", "view"))
INFIX = {
    "eq": ("==", 1), "ge": (">=", 1), "lt": ("<", 1), "and": ("&", 2), "add": ("+", 3), "sub": ("-", 3),
    "mul": ("*", 4), "mod": ("%", 4), "div": ("//", 4),
}  # fmt: skip
EVERY, INSERT = "every", "insert"
BEHIND = METHODS | PROPERTIES | {EVERY, INSERT}
_TIGHT = 9
_INDENT = "  "


class Notation:
    """How the arguments of calls are written.

    Args:
        callee: what stands before the arguments of an operation, with the opening parenthesis; its name if left out.
        names: of the size symbols; their own if left out.
        methods: the same as `callee` for operations behind a variable that are called otherwise than here.
    """

    def __init__(
        self,
        callee: Callable[[str], str] | None = None,
        names: Mapping[str, str] | None = None,
        methods: Mapping[str, str] | None = None,
    ) -> None:
        self.callee, self.names, self.methods = callee, names, methods or {}

    def argument(self, argument: Argument, tight: int = 0) -> str:
        """An argument as text; in parentheses where what stands beside it binds more tightly than `tight`."""
        if isinstance(argument, Var):
            return argument.name
        if isinstance(argument, Call):
            return self.call(argument, tight)
        if isinstance(argument, tuple):
            inner = ", ".join([self.argument(each) for each in argument])
            return f"({inner}{',' if len(argument) == 1 else ''})"
        if is_expression(argument):
            return self.size(argument, tight)
        text = repr(argument)
        return f"({text})" if tight == _TIGHT and not text.isidentifier() else text

    def size(self, size: Size, tight: int = 0) -> str:
        """A size as text: a polynomial with integer coefficients, or a quotient of two products, which is whole.

        Raises:
            LoweringError: it is none, and names are to be put in.
        """
        names = {name: name for name in symbol_names(size)} if self.names is None else self.names
        text = polynomial_text(size, names)
        if text is None and self.names is not None and isinstance(size, Monomial):
            top, bottom = (polynomial_text(part, names) for part in size.as_numer_denom())
            text = f"{top}//{bottom if str(bottom).isalnum() else f'({bottom})'}"
        if text is None and self.names is not None:
            raise LoweringError(f"size {size} is not a polynomial; write it with + - * and integers")
        text = str(size) if text is None else text
        return f"({text})" if tight and not text.isidentifier() and not text.isdigit() else text

    def call(self, call: Call, tight: int = 0) -> str:
        """A call as text."""
        op, args = call.op, call.args
        if op in INFIX:
            sign, binds = INFIX[op]
            text = f"{self.argument(args[0], binds)} {sign} {self.argument(args[1], binds + 1)}"
            return f"({text})" if binds < tight else text
        if op in BEHIND:
            first = self.argument(args[0], _TIGHT)
            if op in PROPERTIES:
                return f"{first}.{op}"
            if op == EVERY:
                return f"{first}[{', '.join([_sliced(*each) for each in args[1]])}]"
            if op == INSERT:
                return f"{first}[{', '.join(args[1])}]"
            head, args = f"{first}.{self.methods.get(op) or f'{op}('}", args[1:]
            if op in SPREAD and len(args) == 1 and len(args[0]) > 0:
                args = args[0]
        elif self.callee is None:
            head = f"{op}("
        elif op == TEMPLATE:
            return str(args[0]).format(*[self.argument(each, _TIGHT) for each in args[1:]])
        else:
            head = self.callee(op)
        given = [self.argument(each) for each in args]
        given += [f"{name}={self.argument(value)}" for name, value in call.options]
        return f"{head}{', '.join(given)})"


def _sliced(start: int, stop: int | None, step: int) -> str:
    """`1:8:2`: the cells of a dimension that are taken."""
    text = f"{start or ''}:{'' if stop is None else stop}"
    return text if step == 1 else f"{text}:{step}"


PLAIN = Notation()


def format_dims(dims: Dims) -> str:
    """`[n=N, (g=1 c=3), 1]`: the indices on each dimension, with their sizes."""
    shown = []
    for dim in dims:
        inner = " ".join([i.declaration.replace(" ", "") for i in dim])
        shown.append(inner if len(dim) == 1 else f"({inner})" if dim else "1")
    return f"[{', '.join(shown)}]"


def format_statement(statement: Statement, indent: str = "") -> list[str]:
    """The lines of a statement."""
    dims = ""
    if isinstance(statement, Let | InPlace) and statement.dims is not None:
        dims = f" {format_dims(statement.dims)}"
    match statement:
        case Let():
            memory = f"{statement.memory.value} " if statement.memory.value else ""
            line = f"{statement.name}{dims} = {memory}{PLAIN.call(statement.value)}"
        case InPlace():
            line = f"in {statement.target}{dims}: {PLAIN.call(statement.value)}"
        case Free():
            return [f"{indent}free {', '.join(statement.names)}"]
        case Loop() | Once():
            head = "once"
            if isinstance(statement, Loop):
                head = f"loop {statement.start} < {PLAIN.size(statement.size)} by {statement.chunk}"
            body = [line for each in statement.body for line in format_statement(each, indent + _INDENT)]
            return [f"{indent}{head} {{", *body, f"{indent}}}"]
    return [f"{indent}{line}{f'  # {statement.note}' if statement.note else ''}"]


def format_program(program: "ProgramText") -> str:
    """The text of a program."""
    lines = [f"program {program.name} {{"]
    for given in program.arguments:
        sizes = "" if given.sizes is None else f" [{', '.join(map(PLAIN.size, given.sizes))}]"
        lines.append(f"{_INDENT}argument {given.name}{sizes}")
    for each in program.sizes:
        text = f"{each.argument}.shape[{each.axis}]"
        text = f"({text} - ({PLAIN.size(each.rest)}))" if each.rest != 0 else text
        lines.append(
            f"{_INDENT}size {each.symbol} = {text}{'' if each.factor == 1 else f' // ({PLAIN.size(each.factor)})'}"
        )
    for statement in program.statements:
        lines += format_statement(statement, _INDENT)
    lines.append(f"{_INDENT}return {', '.join(map(PLAIN.argument, program.results))}")
    return "\n".join([*lines, "}"])
