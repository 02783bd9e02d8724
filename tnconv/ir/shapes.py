"""Sizes along a convolved axis: the cells that windows read, how many windows fit.

Everything follows from the relation `cell = stride·position + dilation·tap - padding`. A transposed convolution
is the same relation, with the cells as its output.
"""


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
