"""From an equation and shapes to a network: `affine_network`.

"n c 2*h+r-1, k c r -> n k h"   with shapes (8, 3, 9) and (4, 3, 3)

network einsum {
  index [n=8, c=3, h=5, i1=9, k=4, r=3]
  x1 = input     [n, c, i1]
  p1 = pattern   [i1 = 2*h + r - 1]
  x2 = parameter [k, c, r]
  output         [n, k, h]
}
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tnconv.errors import ArgumentError, ParseError
from tnconv.ir import Axis, Index, Network, Role, Size, Tensor, group, pattern, product
from tnconv.ir.affine import reach_of_sizes
from tnconv.notation.affine_grammar import Affine, Dots, Equation, Group, Item, Term, parse_equation
from tnconv.notation.equation_sizes import Sizes, Slot
from tnconv.notation.equation_text import Names, check_shapes, operand_name, with_spaces
from tnconv.notation.kinds import with_kinds


def affine_network(
    equation: str,
    shapes: Sequence[Sequence[object]],
    sizes: Mapping[str, object] | None = None,
    mode: str | None = None,
) -> Network:
    """The network of an equation in tnconv's notation.

    Operands are called `x1`, `x2`, …; the first is an input, the others are parameters. An expression on an axis
    becomes an index and one pattern.

    Args:
        equation: such as `"n c 2*h+r-3, k c r -> n k h"`.
        shapes: one an operand; sizes of axes that are plain names may be symbols.
        sizes: sizes of indices, for those that the shapes leave open, or to override what follows from them.
        mode: `"full"`, `"same"`, `"valid"` or `"circular"`, for expressions without an offset.

    Raises:
        ParseError: the equation does not parse.
        ArgumentError: shapes or sizes do not fit it.
    """
    with _explained(equation, shapes, sizes or {}):
        return _Builder(equation, shapes, sizes or {}, mode).network()


def affine_shape(
    equation: str,
    shapes: Sequence[Sequence[object]],
    sizes: Mapping[str, object] | None = None,
    mode: str | None = None,
) -> tuple[Size, ...]:
    """The shape of the result of an equation; axes may be empty, which axes of a network may not.

    Args:
        equation: as for `affine_network`.
        shapes: as for `affine_network`, with sizes of 0 too.
        sizes: as for `affine_network`.
        mode: as for `affine_network`.

    Raises:
        ParseError: the equation does not parse.
        ArgumentError: shapes or sizes do not fit it.
    """
    with _explained(equation, shapes, sizes or {}):
        return _Builder(equation, shapes, sizes or {}, mode, least=0).shape()


@contextmanager
def _explained(equation: str, shapes: Sequence[Any], sizes: Mapping[str, object]) -> Iterator[None]:
    """Say what was probably meant where letters stand without spaces, as other packages read them."""
    try:
        yield
    except (ParseError, ArgumentError) as error:
        meant = None
        if isinstance(equation, str) and all(len(name) == 1 for name in sizes):
            meant = with_spaces(
                equation, [len(shape) if isinstance(shape, Sequence) else -1 for shape in shapes]
            )
        if meant is None:
            raise
        raise type(error)(
            f"equation {equation!r} does not fit operands of shapes {', '.join(map(str, map(tuple, shapes)))}: names "
            f"are separated by spaces; did you mean {meant!r}?"
        ) from error


def _check_given(equation: Equation, sizes: Mapping[str, object]) -> None:
    for name, size in sizes.items():
        if name not in equation.names:
            raise ArgumentError(
                f"{name}={size!r} is given but no index {name!r} is in the equation; "
                f"its indices are {', '.join(equation.names) or 'none'}"
            )


class _Builder(Names):
    """Makes the indices, patterns and axes of one equation."""

    def __init__(
        self,
        text: str,
        operands: Sequence[object],
        given: Mapping[str, object],
        mode: str | None,
        least: int = 1,
    ) -> None:
        equation = parse_equation(text)
        _check_given(equation, given)
        shapes = check_shapes(len(equation.terms), operands, least)
        self.equation, self.mode = equation, mode
        super().__init__(equation.names)
        counts = [_axes_of_dots(number, *pair) for number, pair in enumerate(self._pairs(shapes))]
        self.dots = [self.fresh(f"b{place + 1}") for place in range(max(counts, default=0))]
        rows = [self._slots(number, *pair) for number, pair in enumerate(self._pairs(shapes))]
        self.rows = self._broadcast(rows)
        self.result = self._expanded(equation.output, len(self.dots))
        names = tuple(n for item in self.result for n in item.names)
        self.sizes = Sizes([slot for row in self.rows for slot in row], names, given, mode)
        self.extents = self.sizes.solve()

    def shape(self) -> tuple[Size, ...]:
        return tuple(
            self._length(item)
            if isinstance(item, Affine) and item.plain is None
            else product(self.extents[name] for name in item.names)
            for item in self.result
        )

    def network(self) -> Network:
        self.indices = {name: Index(name, size) for name, size in self.extents.items()}
        tensors = [
            Tensor(
                operand_name(number), Role.PARAMETER if number else Role.INPUT, tuple(map(self._axis, row))
            )
            for number, row in enumerate(self.rows)
        ]
        seen: set[str] = set()
        output = tuple(self._output_axis(item, seen) for item in self.result)
        return with_kinds(Network("einsum", (*tensors, *self.patterns), output))

    # -- axes of the operands ------------------------------------------------------------------------

    def _pairs(self, shapes: Sequence[tuple[Size, ...]]) -> list[tuple[Term, tuple[Size, ...]]]:
        return list(zip(self.equation.terms, shapes, strict=True))

    def _expanded(self, term: Term, count: int) -> list[Affine | Group]:
        """The items of a term, the dots replaced by the last `count` of their indices."""
        items: list[Affine | Group] = []
        for item in term.items:
            if isinstance(item, Dots):
                names = self.dots[len(self.dots) - count :]
                items += [Affine(((1, name),), None, "...", item.start) for name in names]
            else:
                items.append(item)
        return items

    def _slots(self, number: int, term: Term, shape: tuple[Size, ...]) -> list[Slot]:
        items = self._expanded(term, _axes_of_dots(number, term, shape))
        return [
            Slot(item, size, f"axis {place} of operand {operand_name(number)}")
            for place, (item, size) in enumerate(zip(items, shape, strict=True))
        ]

    def _broadcast(self, rows: list[list[Slot]]) -> list[list[Slot]]:
        """Axes of size 1 without their index, where another operand has more cells, or none."""
        sizes = [_plain_sizes(row) for row in rows]  # of every name, on each operand
        large = {name for own in sizes for name, found in own.items() if found != {1}}
        return [
            [
                Slot(Group((), slot.item.text, 0), 1, slot.where)
                if isinstance(slot.item, Affine) and slot.item.plain in large and own[slot.item.plain] == {1}
                else slot
                for slot in row
            ]
            for row, own in zip(rows, sizes, strict=True)
        ]

    def _axis(self, slot: Slot) -> Axis:
        item = slot.item
        if isinstance(item, Group):
            return Axis(tuple(self.indices[name] for name in item.names))
        if item.plain is not None:
            return group(self.indices[item.plain])
        leg = Index(self.fresh(f"i{len(self.patterns) + 1}"), slot.size)
        modulus = slot.size if self.sizes.is_circular(slot) else None
        self._relate(leg, item, self.sizes.offsets[slot], modulus)
        return group(leg)

    def _relate(self, left: Index, item: Affine, offset: int, modulus: Size | None = None) -> None:
        terms = tuple((coefficient, self.indices[name]) for coefficient, name in item.terms)
        self.patterns.append(pattern(f"p{len(self.patterns) + 1}", left, terms, offset, modulus))

    # -- axes of the result --------------------------------------------------------------------------

    def _output_axis(self, item: Item, seen: set[str]) -> Axis:
        match item:
            case Group():
                return Axis(tuple(self._output_index(name, seen) for name in item.names))
            case Affine(plain=str() as name):
                return group(self._output_index(name, seen))
            case Affine():
                return group(self._output_sum(item))
            case _:
                raise AssertionError(item)  # dots are expanded

    def _output_index(self, name: str, seen: set[str]) -> Index:
        """The index; a second time, a copy of it on the diagonal."""
        index = self.indices[name]
        if name not in seen:
            seen.add(name)
            return index
        return self.second(index)

    def _output_sum(self, item: Affine) -> Index:
        index = Index(self.fresh(f"o{len(self.patterns) + 1}"), self._length(item))
        self._relate(index, item, item.offset or 0)
        return index

    def _length(self, item: Affine) -> int:
        """Positions of the result: as many cells are cut at the end as the relation has before the first."""
        if self.mode is not None and item.offset is None:
            raise ArgumentError(
                f"mode={self.mode!r} is for operands, but {item.text!r} of the result has no offset either; write it"
            )
        for _, name in item.terms:
            size = self.extents[name]
            if size == 0:
                raise ArgumentError(
                    f"index {name!r} is empty, so {item.text!r} of the result has no cells; write it out"
                )
            if not isinstance(size, int):
                raise ArgumentError(
                    f"index {name!r} has the symbolic size {size}, but sizes of relations are integers; give one"
                )
        low, high = reach_of_sizes(((a, self.extents[name]) for a, name in item.terms), item.offset or 0)
        length = high + 1 - max(0, -low)
        if length < 1:
            raise ArgumentError(
                f"{item.text!r} leaves no cell of the result: it reaches from {low} to {high}, and {-low} cells are "
                "cut at either end; write a larger offset"
            )
        return int(length)


def _plain_sizes(row: Sequence[Slot]) -> dict[str, set[Size]]:
    found: dict[str, set[Size]] = {}
    for slot in row:
        if isinstance(slot.item, Affine) and slot.item.plain is not None:
            found.setdefault(slot.item.plain, set()).add(slot.size)
    return found


def _axes_of_dots(number: int, term: Term, shape: tuple[Size, ...]) -> int:
    """How many axes of an operand the dots stand for."""
    named = len(term.items) - (term.dots is not None)
    count = len(shape) - named
    if count < 0 or (count and term.dots is None):
        least = " or more" if term.dots is not None else ""
        raise ArgumentError(
            f"operand {operand_name(number)} has {len(shape)} axes, shape {shape}, but its term {term.text!r} has "
            f"{named}{least}; give one each"
        )
    return count if term.dots is not None else 0
