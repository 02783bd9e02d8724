"""The texts of a diagram and the room that they take; widths are generous, for fonts differ."""

import math

from tnconv.ir import Index, Tensor

CHARACTER = 0.62  # width of a character in units of the font size
TEXT = 13.0
SMALL = 12.0
_MAX_WIDTH = 5.0
_OPEN_BITS = 5.0  # a size that is a symbol is drawn as 2^5


def width_of(text: str, size: float = TEXT) -> float:
    """The width of a text in pixels."""
    return len(text) * size * CHARACTER


def leg_text(leg: Index) -> str:
    """`c=64`: the name and the size of an open leg."""
    return f"{leg.name}={leg.size}"


def index_title(index: Index) -> str:
    """What an index shows on hover."""
    return f"{index.name}, size {index.size}"


def tensor_label(tensor: Tensor) -> str:
    """What is written on a tensor: its name, with a star where it reads the conjugate of its argument."""
    return f"{tensor.name}*" if tensor.conj else tensor.name


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
