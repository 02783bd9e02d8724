"""The texts of a diagram and the room that they take; widths are generous, for fonts differ."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from tnconv.inspect.mathematics import mathematical, runs
from tnconv.ir import Expression, Index, Node, Size, Tensor
from tnconv.ir.monomial import Scalar, sympy

CHARACTER = 0.62  # width of a character in units of the font size
TEXT = 13.0
SMALL = 12.0
MATHEMATICS = 15.0
_MAX_WIDTH = 5.0
_OPEN_BITS = 5.0  # a size that is a symbol is drawn as 2^5


@dataclass(frozen=True, slots=True)
class Label:
    """What is written: plain text, or mathematics in TeX's language.

    Args:
        text: the text; what a reader hears in place of mathematics.
        tex: the mathematics, without dollars; empty where the text is written.
    """

    text: str = ""
    tex: str = ""

    def width(self, size: float = TEXT) -> float:
        """Its width in pixels, in a font of a size in pixels; mathematics has its own."""
        return math_width(self.tex) if self.tex else width_of(self.text, size)


NOTHING = Label()


@dataclass(frozen=True, slots=True)
class Labels:
    """What is written on nodes, lines and legs.

    Args:
        names: mathematics in place of names of nodes and indices.
        sizes: whether the sizes of open legs are written.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    sizes: bool = True

    def node(self, node: Node) -> Label:
        """The name of a node, with a star where a tensor reads the conjugate of its argument."""
        tex = self.names.get(node.name, "")
        if not isinstance(node, Tensor) or not node.conj:
            return Label(node.name, tex)
        base = f"{{{tex}}}" if "^" in tex else tex.rstrip("'")  # TeX takes one superscript
        raised = r"\prime" * (len(tex) - len(tex.rstrip("'"))) * ("^" not in tex) + "*"
        return Label(f"{node.name}*", f"{base}^{{{raised}}}" if tex else "")

    def scale(self, value: Scalar) -> Label:
        """The number that a network is multiplied by; as mathematics where names are."""
        return Label(f"{value} ×", rf"{size_tex(value)} \times" if self.names else "")

    def index(self, index: Index) -> Label:
        """The name of an index."""
        return Label(index.name, self.names.get(index.name, ""))

    def leg(self, index: Index) -> Label:
        """`c=64`: the name and the size of an open leg."""
        name = self.index(index)
        if not self.sizes:
            return name
        tex = f"{name.tex} = {size_tex(index.size)}" if name.tex else ""
        return Label(f"{name.text}={index.size}", tex)


def math_labels(network: Expression) -> dict[str, str]:
    """The names of all nodes and indices as mathematics, `k_1'` for `k1_2`: what `labels="math"` writes.

    Args:
        network: a network or a sum.
    """
    parts = (part for term in network.terms for part in (*term.nodes, *term.indices))
    return {part.name: mathematical(part.name) for part in parts}


def size_tex(size: Size | Scalar) -> str:
    """A size, or another number, as mathematics."""
    if isinstance(size, int):
        return str(size)
    return str(sympy.latex(sympy.sympify(size)))


def math_width(tex: str) -> float:
    """The width of mathematics in pixels."""
    return sum(
        CHARACTER * MATHEMATICS * run.scale * sum(1 for c in run.text if not unicodedata.combining(c))
        for run in runs(tex)
    )


def width_of(text: str, size: float = TEXT) -> float:
    """The width of a text in pixels."""
    return len(text) * size * CHARACTER


def index_title(index: Index) -> str:
    """What an index shows on hover."""
    return f"{index.name}, size {index.size}"


def tensor_title(tensor: Tensor) -> str:
    """What a tensor shows on hover."""
    read = "" if tensor.argument == tensor.name else f" of {tensor.argument}"
    read += ", conjugated," if tensor.conj else ""
    return f"{tensor.name}: {tensor.role}{read} [{', '.join(map(str, tensor.axes))}]"


def thickness(index: Index) -> float:
    """The width of the line of an index in pixels: it grows with the logarithm of the size."""
    bits = math.log2(max(index.size, 1)) if isinstance(index.size, int) else _OPEN_BITS
    return min(1.0 + 0.3 * bits, _MAX_WIDTH)


def number(value: float) -> str:
    """A number with at most one decimal, never `-0`."""
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"
