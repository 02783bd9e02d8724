"""The writer of JAX source: straight-line statements, one value a line, with the indices of its axes behind it.

XLA compiles the whole, reuses buffers and fuses what is elementwise, so nothing here is about memory.
"""

import keyword
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tnconv.errors import LoweringError
from tnconv.ir import Index, Size, evaluate, fresh, product
from tnconv.ir.monomial import Scalar, polynomial_text
from tnconv.ir.size import normal

RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, "jax", "jnp", "np", "rt"})
_COMMENT_COLUMN = 80
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Value:
    """A variable of the program.

    Args:
        name: the Python name.
        legs: the index of each axis.
    """

    name: str
    legs: tuple[Index, ...]

    def rename(self, mapping: Mapping[Index, Index]) -> "Value":
        """The same variable under other index names."""
        return replace(self, legs=tuple(mapping.get(i, i) for i in self.legs))


class Writer:
    """Writes statements.

    Args:
        taken: names that arguments and size symbols have.
        symbols: Python names of the size symbols.
        hints: an integer for each of them.
        arguments: Python names of the arguments.
    """

    def __init__(
        self,
        taken: Collection[str],
        symbols: Mapping[str, str],
        hints: Mapping[str, int],
        arguments: Mapping[str, str],
    ) -> None:
        self.taken, self.symbols, self.hints, self.arguments = {*taken, *RESERVED}, symbols, hints, arguments
        self.lines: list[str] = []
        self.buffers: list[tuple[str, Size]] = []  # windows that a product needs in memory

    # -- text ------------------------------------------------------------------------------------

    def text(self, size: Size) -> str:
        """A size, or another polynomial of sizes, as source.

        Raises:
            LoweringError: it is no polynomial.
        """
        found = polynomial_text(normal(size), self.symbols)
        if found is None:
            raise LoweringError(
                f"size {size} is not a polynomial of the size symbols; give it an integer value"
            )
        return found

    def tuple(self, sizes: Iterable[Size]) -> str:
        """Sizes as a tuple in source."""
        texts = [self.text(size) for size in sizes]
        return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"

    def sizes(self, legs: Iterable[Index]) -> str:
        """The sizes of indices as a tuple in source."""
        return self.tuple(i.size for i in legs)

    def scale(self, scale: Scalar) -> str:
        """A scalar as source.

        Raises:
            LoweringError: it is no ratio of polynomials in the size symbols.
        """
        if scale.is_Integer:
            return str(int(scale))
        if not scale.free_symbols:
            return repr(float(scale)) if scale.is_real else repr(complex(scale))
        top, bottom = (polynomial_text(part, self.symbols) for part in scale.as_numer_denom())
        if top is None or bottom is None:
            raise LoweringError(f"scale {scale} is not a ratio of polynomials in the size symbols")
        return f"rt.ratio({top}, {bottom})"

    def fresh(self, stem: str) -> str:
        """A name that is not taken, and is from now on."""
        name = fresh(stem, self.taken)
        self.taken.add(name)
        return name

    def count(self, legs: Iterable[Index]) -> int:
        """Cells of indices, symbols at the hints."""
        return evaluate(product(i.size for i in legs), self.hints)

    # -- statements ------------------------------------------------------------------------------

    def line(self, text: str, comment: str = "") -> None:
        """A statement."""
        self.lines.append(f"    {text:<{_COMMENT_COLUMN}}  # {comment}" if comment else f"    {text}")

    def assign(self, stem: str, text: str, legs: Sequence[Index]) -> Value:
        """A value with these indices, one an axis."""
        name = self.fresh(stem)
        self.line(f"{name} = {text}", f"[{', '.join(i.name for i in legs)}] = {self.sizes(legs)}")
        return Value(name, tuple(legs))

    def order(self, value: Value, legs: Sequence[Index]) -> Value:
        """The axes of a value in another order."""
        if value.legs == tuple(legs):
            return value
        places = ", ".join(str(value.legs.index(i)) for i in legs)
        return self.assign(value.name, f"{value.name}.transpose({places})", legs)

    def broadcast(self, value: Value, legs: Sequence[Index]) -> Value:
        """A value with some more indices in front, along which it is constant."""
        missing = [i for i in legs if i not in value.legs]
        if not missing:
            return value
        wide = (*missing, *value.legs)
        return self.assign("wide", f"jnp.broadcast_to({value.name}, {self.sizes(wide)})", wide)

    def reshape(
        self, value: Value, groups: Sequence[Sequence[Index]], sizes: Sequence[Size], stem: str
    ) -> str:
        """The name of a value whose axes are groups of its indices."""
        legs = [i for group in groups for i in group]
        ordered = self.order(value, legs)
        if [list(group) for group in groups] == [[i] for i in legs]:
            return ordered.name
        name = self.fresh(stem)
        shown = ", ".join(f"({' '.join(i.name for i in group)})" for group in groups)
        self.line(f"{name} = {ordered.name}.reshape{self.tuple(sizes)}", f"[{shown}]")
        return name

    def einsum(self, values: Sequence[Value], output: Sequence[Index]) -> Value:
        """The product of values, summed over what is not in the output.

        Raises:
            LoweringError: there are more indices than letters.
        """
        every = list(dict.fromkeys(i for v in values for i in v.legs))
        if len(values) == 1 and len(every) == len(output):
            return self.order(values[0], output)
        if len(every) > len(_LETTERS):
            raise LoweringError(
                f"a step has {len(every)} indices but einsum takes {len(_LETTERS)}; merge some"
            )
        letter = dict(zip(every, _LETTERS, strict=False))
        terms = ",".join("".join(letter[i] for i in v.legs) for v in values)
        text = f"jnp.einsum('{terms}->{''.join(letter[i] for i in output)}', {', '.join(v.name for v in values)})"
        return self.assign("product", text, output)
