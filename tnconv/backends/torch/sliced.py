"""The loop over the chunks of a plan with slices, as source that calls the program of one chunk.

def gram(x):
    result = None
    for n in range(0, max(x.shape[0], 1), 8):
        part = gram_part(x.narrow(0, n, min(8, x.shape[0] - n)))
        result = part if result is None else rt.add(result, part)
        del part
    return result
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from tnconv.backends.base import Program
from tnconv.backends.torch import runtime
from tnconv.backends.torch.define import define
from tnconv.backends.torch.python import RESERVED
from tnconv.errors import LoweringError
from tnconv.ir import Size, fresh, symbol
from tnconv.ir.index import symbol_names
from tnconv.ir.monomial import Scalar, expanded, polynomial_text
from tnconv.planner.plan import Plan, Slice

_INDENT = "    "
_USED = frozenset({"min", "max", "range", "result", "part"})


def loop_over_chunks(inner: Program, plan: Plan, arguments: Sequence[str]) -> Program:
    """The program of a plan with slices.

    Args:
        inner: the program of one chunk.
        plan: with slices.
        arguments: names of the arguments in the order of a call.

    Raises:
        LoweringError: the scale has a symbol that no argument gives away.
    """
    name = fresh(re.sub(r"\W", "_", plan.name), {*RESERVED, *_USED, inner.name})
    source = _Writer(plan, arguments, inner).source(name)
    function = define(name, source, {"torch": torch, "rt": runtime, inner.name: inner.function})
    return replace(
        inner,
        name=name,
        source=f"{inner.source}\n\n{source}",
        arguments=tuple(arguments),
        function=function,
        chunk=inner,
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """An axis that is cut: `step` cells for each value of the index."""

    axis: int
    step: int


class _Writer:
    """Writes the loops.

    Args:
        plan: with slices.
        arguments: names of the arguments in the order of a call.
        inner: the program of one chunk.
    """

    def __init__(self, plan: Plan, arguments: Sequence[str], inner: Program) -> None:
        self.plan, self.inner = plan, inner
        taken = {*RESERVED, *_USED, inner.name}
        self.python: dict[str, str] = {}
        for argument in arguments:
            self.python[argument] = fresh(argument, taken)
            taken.add(self.python[argument])
        self.start: dict[str, str] = {}
        for each in plan.slices:
            self.start[each.part] = fresh(each.part.removesuffix("_part"), taken)
            taken.add(self.start[each.part])
        last = next(step for step in plan.steps if step.result in plan.results)
        self.output = tuple(axis.size for axis in last.output)

    def source(self, name: str) -> str:
        """The text of the function."""
        lines = [f"def {name}({', '.join(self.python.values())}):", f"{_INDENT}result = None"]
        depth = _INDENT
        for each in self.plan.slices:
            start, count = self.start[each.part], self.count(each)
            bound = count if isinstance(each.size, int) else f"max({count}, 1)"
            lines.append(f"{depth}for {start} in range(0, {bound}, {each.chunk}):  # {each}")
            depth += _INDENT
        pieces = ", ".join(map(self.piece, self.inner.arguments))
        lines.append(f"{depth}part = {self.inner.name}({pieces})")
        lines += [depth + line for line in self.gathered()]
        lines.append(f"{depth}del part")
        if self.plan.scale != 1:
            lines.append(f"{_INDENT}result = result.mul_({self.scale()})")
        return "\n".join([*lines, f"{_INDENT}return result"]) + "\n"

    def gathered(self) -> Iterator[str]:
        """What adds a part to the result, or puts it into its place."""
        cuts = {each: cut for each in self.plan.slices for cut in _cuts(self.output, each)}
        if not cuts:
            yield "result = part if result is None else rt.add(result, part)"
            return
        sizes = [f"part.shape[{place}]" for place in range(len(self.output))]
        view = "result"
        for each, cut in cuts.items():
            sizes[cut.axis] = _times(self.count(each), cut.step)
            view += f".narrow({cut.axis}, {_times(self.start[each.part], cut.step)}, part.shape[{cut.axis}])"
        yield "if result is None:"
        added = len(cuts) < len(self.plan.slices)
        yield f"{_INDENT}result = part.{'new_zeros' if added else 'new_empty'}(({', '.join(sizes)},))"
        yield f"{view}.{'add_' if added else 'copy_'}(part)"

    def count(self, each: Slice) -> str:
        """The size of an index as a whole: a number, or read off the first argument that has it."""
        if isinstance(each.size, int):
            return str(each.size)
        argument, cut = next(
            (n, cut) for n, sizes in self.plan.arguments.items() for cut in _cuts(sizes, each)
        )
        text = f"{self.python[argument]}.shape[{cut.axis}]"
        return text if cut.step == 1 else f"{text} // {cut.step}"

    def piece(self, argument: str) -> str:
        """The piece of an argument that a chunk needs."""
        text = self.python[argument]
        for each in self.plan.slices:
            start, count = self.start[each.part], self.count(each)
            for cut in _cuts(self.plan.arguments[argument], each):
                length = _times(f"min({each.chunk}, {count} - {start})", cut.step)
                text += f".narrow({cut.axis}, {_times(start, cut.step)}, {length})"
        return f"{text}.contiguous()" if argument in self.plan.copied else text

    def scale(self) -> str:
        """The number that the total is multiplied by, the sizes that it depends on read off the arguments."""
        sizes = {each.size.name: self.count(each) for each in self.plan.slices if _is_symbol(each.size)}
        for name, shape in self.plan.arguments.items():
            for place, size in enumerate(shape):
                if _is_symbol(size):
                    sizes.setdefault(size.name, f"{self.python[name]}.shape[{place}]")
        missing = sorted(set(symbol_names(self.plan.scale)) - set(sizes))
        if missing:
            raise LoweringError(
                f"size symbol {missing[0]!r} of scale {self.plan.scale} cannot be read off the shape of an argument "
                f"({', '.join(self.plan.arguments)}); give it an integer value"
            )
        top, bottom = self.plan.scale.as_numer_denom()
        return f"rt.ratio({_text(top, sizes)}, {_text(bottom, sizes)})"


def _is_symbol(size: Size) -> bool:
    return not isinstance(size, int) and bool(size.is_Symbol)


def _text(number: Scalar, sizes: Mapping[str, str]) -> str:
    """A polynomial of sizes as Python source, what is read off an argument in parentheses."""
    text = polynomial_text(number, {name: f"({size})" for name, size in sizes.items()})
    if text is None:
        raise LoweringError(f"scale with {number} is not a ratio of polynomials in the size symbols")
    return text


def _times(text: str, step: int) -> str:
    if step == 1:
        return text
    return f"{text} * {step}" if text.isidentifier() or text.endswith(")") else f"({text}) * {step}"


def _cuts(sizes: Sequence[Size], each: Slice) -> Iterator[_Cut]:
    """The axes that a slice cuts."""
    for place, size in enumerate(sizes):
        if each.part in symbol_names(size):
            step = expanded(size).coeff(symbol(each.part), 1)
            for other in sorted(step.free_symbols, key=str):
                raise LoweringError(
                    f"axis {place} has size {size}, of which a piece has no fixed size for {other}; slice another index"
                )
            yield _Cut(place, int(step))
