"""A program runs for one chunk of its arguments after the other.

                                    program gram {
                                      argument x [N, 3]
                                      size N = x.shape[0]
program gram_part {                   result = nothing()
  argument x [n_part, 3]              loop n < N by 8 {
  …                                     part = gram_part(x.narrow(0, n, min(8, N - n)))
  return product                        in result: add_part(result, part)
}                                       free part
                                      }
                                      return result
                                    }

The result is the sum of those of the chunks, or is put together of them where it has the index that is cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tnconv.errors import LoweringError
from tnconv.ir import Size, fresh, symbol
from tnconv.ir.monomial import Scalar, expanded
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.plan import Slice
from tnconv.program.passes.program_pass import ProgramPass
from tnconv.program.program import ProgramText
from tnconv.program.size_symbols import readable
from tnconv.program.statements import Argument, Call, Free, Given, InPlace, Let, Loop, Statement, Var

_RESULT, _PART = Var("result"), Var("part")


@dataclass(frozen=True)
class LoopOverChunks(ProgramPass):
    """A loop that calls the program of one chunk.

    Args:
        function: name of the new program.
        slices: the indices that are cut, the outermost first.
        arguments: in the order of a call.
        output: the sizes of a chunk's result, in which the symbol of a slice stands for that of the chunk.
        copied: arguments whose pieces are brought into row-major order.
        scale: what the result is multiplied by.
    """

    name: ClassVar[str] = "loop"
    function: str = "loop"
    slices: tuple[Slice, ...] = ()
    arguments: tuple[str, ...] = ()
    output: tuple[Size, ...] = ()
    copied: tuple[str, ...] = ()
    scale: Scalar = 1

    def apply(self, program: ProgramText) -> ProgramText:
        """Call a program in a loop; the same where nothing is cut.

        Raises:
            LoweringError: a size that is needed is told by no argument, or the pieces of an axis have no fixed size.
        """
        if not self.slices:
            return program
        sizes = {each.name: each.sizes or () for each in program.arguments}
        whole = {name: tuple(map(self._whole, sizes[name])) for name in self.arguments}
        needed = (*(each.size for each in self.slices), *map(self._whole, self.output))
        symbols = {name for size in (*needed, self.scale) for name in symbol_names(size)}
        taken = {*self.arguments, *symbols, _RESULT.name, _PART.name, program.name}
        starts: dict[str, Var] = {}
        for each in self.slices:
            starts[each.part] = Var(fresh(each.part.removesuffix("_part"), taken))
            taken.add(starts[each.part].name)
        pieces = tuple(self._piece(name, sizes[name], starts) for name in sizes)
        body: tuple[Statement, ...] = (
            Let(_PART.name, Call(program.name, pieces)),
            *self._gathered(starts),
            Free((_PART.name,)),
        )
        for each in reversed(self.slices):
            body = (Loop(starts[each.part].name, each.size, each.chunk, body),)
        statements = [Let(_RESULT.name, Call("nothing", ())), *body]
        if self.scale != 1:
            top, bottom = map(normal, self.scale.as_numer_denom())
            statements.append(InPlace(_RESULT.name, Call("mul_", (_RESULT, Call("ratio", (top, bottom))))))
        given = tuple(Given(name, whole[name]) for name in self.arguments)
        return ProgramText(self.function, given, readable(whole, symbols), tuple(statements), (_RESULT,))

    def _whole(self, size: Size) -> Size:
        """A size with the indices as a whole in place of their chunks."""
        for each in self.slices:
            if each.part in symbol_names(size):
                size = normal(size.subs(symbol(each.part), each.size))
        return size

    def _piece(self, name: str, sizes: Sequence[Size], starts: dict[str, Var]) -> Argument:
        """The piece of an argument that a chunk needs."""
        found: Argument = Var(name)
        for each, axis, step in cut_axes(self.slices, sizes):
            found = Call("narrow", (found, axis, *_place(each, starts[each.part], step)))
        return Call("contiguous", (found,)) if name in self.copied else found

    def _gathered(self, starts: dict[str, Var]) -> Iterator[Statement]:
        """What adds a part to the result, or puts it into its place."""
        cuts = list(cut_axes(self.slices, self.output))
        if not cuts:
            yield InPlace(_RESULT.name, Call("add_part", (_RESULT, _PART)))
            return
        view: Argument = _RESULT
        for each, axis, step in cuts:
            view = Call("narrow", (view, axis, *_place(each, starts[each.part], step)))
        added = len({each.part for each, _, _ in cuts}) < len(self.slices)
        made = "begin_sum" if added else "begin"
        yield InPlace(_RESULT.name, Call(made, (_RESULT, _PART, tuple(map(self._whole, self.output)))))
        yield InPlace(_RESULT.name, Call("add_" if added else "copy_", (view, _PART)))


def cut_axes(slices: Sequence[Slice], sizes: Sequence[Size]) -> Iterator[tuple[Slice, int, int]]:
    """The axes that are cut, each with the cells for one value of the index.

    Args:
        slices: the indices that are cut.
        sizes: of the axes of a chunk.

    Raises:
        LoweringError: the number of cells depends on another size.
    """
    for each in slices:
        for axis, size in enumerate(sizes):
            if each.part in symbol_names(size):
                step = expanded(size).coeff(symbol(each.part), 1)
                for other in sorted(step.free_symbols, key=str):
                    raise LoweringError(
                        f"axis {axis} has size {size}, of which a piece has no fixed size for {other}; slice "
                        "another index"
                    )
                yield each, axis, int(step)


def _place(each: Slice, start: Var, step: int) -> tuple[Argument, Argument]:
    """The first cell and the number of cells of a piece."""
    length = Call("min", (each.chunk, Call("sub", (each.size, start))))
    return (start, length) if step == 1 else (Call("mul", (start, step)), Call("mul", (length, step)))
