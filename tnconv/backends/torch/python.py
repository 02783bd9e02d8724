"""A program as Python source: how each operation is called, and one comment a statement with dimensions and shape."""

import keyword
from collections.abc import Collection, Iterator, Mapping

from tnconv.errors import LoweringError
from tnconv.ir import Index, Size, fresh, product
from tnconv.ir.size import symbol_names
from tnconv.program import Call, Dims, Free, InPlace, Let, Loop, ProgramText, SizeOf, Statement
from tnconv.program.program_text import Notation

RESERVED = frozenset(
    {*keyword.kwlist, *keyword.softkwlist, "torch", "F", "math", "rt", "int", "float", "sum", "range"}
)
_BUILTINS = frozenset(("max", "min"))
_TORCH = frozenset((
    "addcmul", "addmm", "arange", "baddbmm", "bmm", "cat", "diag_embed", "einsum", "full", "mm", "ones", "where",
))  # fmt: skip
_CONVOLUTIONS = frozenset(f"conv{turned}{rank}d" for turned in ("", "_transpose") for rank in (1, 2, 3))
_FUNCTIONAL = _CONVOLUTIONS | {"fold", "pad"}
# What lies in a module of the runtime.
_INSIDE = frozenset(("depthwise_convolution", "depthwise_transposed", "fourier_convolution"))
# Calls of another operation under a condition: `grouped_conv2d(...)` is `rt.grouped(F.conv2d, ...)`.
_AROUND = frozenset(("grouped", "transposed", "plain"))
_METHODS = {"copy": "clone(memory_format=torch.contiguous_format"}
# What stands in place of a variable where a size is 0.
_EMPTY = {"unless_empty": "rt.undefined({})", "undefined_if_empty": "{}.mul_(float('nan'))"}
# What is done to the result of the chunks so far, which is None before the first.
_CHUNKS = {
    "nothing": "None",
    "add_part": "{0} = {1} if {0} is None else rt.add({0}, {1})",
    "begin": "{0} = {1}.new_empty({2}) if {0} is None else {0}",
    "begin_sum": "{0} = {1}.new_zeros({2}) if {0} is None else {0}",
}
_COMMENT_COLUMN = 88
_INDENT = "    "


class _Python(Notation):
    """Calls as Python source; a value that is not a number where a size is 0 depends on that.

    `used` has the size symbols that were written.
    """

    def __init__(self, functions: Collection[str], names: Mapping[str, str]) -> None:
        super().__init__(lambda op: f"{op}(" if op in functions else callee(op), names, _METHODS)
        self.used: set[str] = set()

    def size(self, size: Size, tight: int = 0) -> str:
        self.used.update(symbol_names(size))
        return super().size(size, tight)

    def call(self, call: Call, tight: int = 0) -> str:
        if call.op in _CHUNKS:
            return _CHUNKS[call.op].format(*map(self.argument, call.args))
        if call.op not in _EMPTY:
            return super().call(call, tight)
        first, *sizes = map(self.argument, call.args)
        return f"{first} if {' and '.join(sizes)} else {_EMPTY[call.op].format(first)}"


def callee(op: str) -> str:
    """What stands before the arguments of an operation: `torch.mm(` of `mm`; what is not torch's is the runtime's."""
    if op in _BUILTINS:
        return f"{op}("
    if op in _TORCH:
        return f"torch.{op}("
    if op in _FUNCTIONAL:
        return f"F.{op}("
    if op == "add_reusing":
        return "rt.add("
    around, _, rest = op.partition("_")
    if op in _INSIDE:
        return f"rt.{around}.{rest}("
    return f"rt.{around}({callee(rest)[:-1]}, " if around in _AROUND and rest else f"rt.{op}("


def symbol_variables(symbols: Mapping[str, object] | tuple[str, ...]) -> dict[str, str]:
    """The Python variable of each size symbol, which is its name but for words that Python or a program uses."""
    found: dict[str, str] = {}
    for name in sorted(symbols):
        others = {*symbols} - {name} | {*found.values()}
        found[name] = fresh(name, {*RESERVED, *others})
    return found


def format_python(program: ProgramText, functions: Collection[str] = ()) -> str:
    """The source of a function that computes a program.

    Args:
        program: without a block that is computed once.
        functions: operations that are functions by the same name.

    Raises:
        LoweringError: a size is not a polynomial with integer coefficients.
    """
    names = symbol_variables(tuple(each.symbol for each in program.sizes))
    notation = _Python(functions, names)
    body = [line for each in program.statements for line in _lines(each, notation, _INDENT)]
    body.append(f"{_INDENT}return {', '.join(map(notation.argument, program.results))}")
    for each in reversed(program.sizes):  # what no statement uses is not read: a call may take microseconds
        if each.symbol in notation.used:
            body.insert(0, f"{_INDENT}{names[each.symbol]} = {_size(each, notation)}")
    head = f"def {program.name}({', '.join(each.name for each in program.arguments)}):"
    return "\n".join([head, *body]) + "\n"


def _lines(statement: Statement, notation: Notation, indent: str) -> Iterator[str]:
    match statement:
        case Let():
            text = f"{statement.name} = {notation.call(statement.value)}"
            dims, note = statement.dims, statement.note
        case InPlace():
            text, dims, note = notation.call(statement.value), statement.dims, statement.note
        case Free():
            text, dims, note = f"del {', '.join(statement.names)}", None, ""
        case Loop():
            count = notation.size(statement.size)
            bound = count if isinstance(statement.size, int) else f"max({count}, 1)"
            yield f"{indent}for {statement.start} in range(0, {bound}, {statement.chunk}):"
            for each in statement.body:
                yield from _lines(each, notation, indent + _INDENT)
            return
        case _:
            raise LoweringError(f"{statement} has no source; take blocks apart first")
    shape = "" if dims is None else format_shape(dims, Notation(names=notation.names))
    comment = "; ".join(filter(None, (shape, note)))
    yield f"{indent + text:<{_COMMENT_COLUMN}}  # {comment}" if comment else indent + text


def format_shape(dims: Dims, notation: Notation) -> str:
    """`[n, (g c), 1] = (N, 6, 1)`."""
    sizes = [notation.size(product(i.size for i in dim)) for dim in dims]
    shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})" if sizes else "(())"
    return f"[{', '.join(map(_dim, dims))}] = {shape}"


def _dim(dim: tuple[Index, ...]) -> str:
    names = " ".join(i.name for i in dim)
    return names if len(dim) == 1 else f"({names})" if dim else "1"


def _size(found: SizeOf, notation: Notation) -> str:
    text = f"{found.argument}.shape[{found.axis}]"
    if found.rest != 0:
        text = f"({text} - ({notation.size(found.rest)}))"
    return text if found.factor == 1 else f"{text} // ({notation.size(found.factor)})"
