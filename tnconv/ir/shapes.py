"""Convolved axes: the cells that windows read, how many windows fit, and all numbers of an axis as one value.

Everything follows from the relation `cell = stride·position + dilation·tap + offset`; the offset is minus the padding
on the left. A transposed convolution is the same relation, with the cells as its output.
"""

from dataclasses import dataclass, replace
from math import gcd


def covered(kernel: int, dilation: int = 1, positions: int = 1, stride: int = 1) -> int:
    """Cells from the first to the last that a kernel reads at so many positions, those between them included.

    Of a transposed convolution without padding that is the size of the output.
    """
    return stride * (positions - 1) + dilation * (kernel - 1) + 1


def window_count(cells: int, kernel: int, stride: int = 1, dilation: int = 1) -> int:
    """How many windows lie within so many cells, the padding included: the output size of a convolution.

    Less than 1 where none does.
    """
    return (cells - covered(kernel, dilation)) // stride + 1


@dataclass(frozen=True, slots=True)
class ConvAxis:
    """One convolved axis: `cell = stride·position + dilation·tap + offset`.

    Args:
        size: cells.
        kernel: taps.
        stride: cells from one position to the next.
        dilation: cells from one tap to the next.
        offset: the cell of the first tap at the first position; minus the padding on the left.
        positions: how many there are.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    offset: int
    positions: int

    @property
    def reach(self) -> int:
        """Cells from the first that a position reads to the last."""
        return covered(self.kernel, self.dilation, self.positions, self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """Cells that are read before the first and behind the last; negative where cells there are not read."""
        return -self.offset, self.offset + self.reach - self.size

    @property
    def phases(self) -> int:
        """Taps this far apart read cells that differ by whole strides."""
        return self.stride // gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        """Positions by which taps that are `phases` apart differ."""
        return self.dilation // gcd(self.stride, self.dilation)

    def used(self) -> tuple[int, int]:
        """The range of the cells that exist and lie within reach."""
        low = min(max(self.offset, 0), self.size)
        return low, max(low, min(self.size, self.offset + self.reach))

    def cropped(self) -> "ConvAxis":
        """The axis of the used cells only; its offset is never positive."""
        low, high = self.used()
        return replace(self, size=high - low, offset=self.offset - low if high > low else 0)
