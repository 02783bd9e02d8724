"""Convolutions to few channels, transposed or not, where the native one leaves most of a vector register empty.

By folding: one matrix product gives what each position adds to each cell in reach, and these are added up.
By stride phases: cells `i = s·u + d·t - p` with one remainder `t` of the kernel cell are a small convolution
of their own; all of them are the channels of one convolution, whose results interleave.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.numerics.depthwise import NATIVE, TRANSPOSED
from tnconv.backends.torch.numerics.huge_pages import HALF, HOST
from tnconv.ir.shapes import covered

Sizes = tuple[int, ...]


def by_fold(
    image: Tensor, weight: Tensor, bias: Tensor | None = None, *,
    stride: Sizes, padding: Sizes, output_padding: Sizes, dilation: Sizes, groups: int,
) -> Tensor:  # fmt: skip
    """`F.conv_transposeNd` in one or two dimensions by a matrix product and `F.fold`; arguments as there."""
    rank, kernel = len(stride), tuple(weight.shape[2:])
    cells = _cells(image, kernel, stride, padding, output_padding, dilation)
    # F.fold sees one more window where the output is padded by a whole stride.
    ragged = any(e >= s for e, s in zip(output_padding, stride, strict=True))
    if ragged or image.is_complex() or not _gains(image, weight, cells):
        return TRANSPOSED[rank](image, weight, bias, stride, padding, output_padding, groups, dilation)
    columns = _columns(image, weight, groups)
    if rank == 1:
        line = F.fold(columns, (1, *cells), (1, *kernel), (1, *dilation), (0, *padding), (1, *stride))
        return _biased(line.squeeze(2), bias)
    return _biased(F.fold(columns, cells, kernel, dilation, padding, stride), bias)


def _biased(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias.reshape(-1, *(1,) * (result.dim() - 2))


def convolution_by_fold(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """`F.convNd` in one or two dimensions at stride 1, as the transposed convolution with the kernel reversed."""
    around = mirrored(tuple(weight.shape[2:]), padding, dilation)
    if max(stride) > 1 or min(around) < 0 or not _gains(image, weight):
        return NATIVE[len(stride)](image, weight, bias, stride, padding, dilation, groups)
    outer, inner = weight.shape[0] // groups, weight.shape[1]
    kernel = weight.flip(list(range(2, weight.dim()))).reshape(groups, outer, inner, *weight.shape[2:])
    kernel, none = kernel.transpose(1, 2).flatten(0, 1), (0,) * len(stride)
    options: dict[str, Any] = {"stride": stride, "output_padding": none, "dilation": dilation}
    return by_fold(image, kernel, bias, padding=around, groups=groups, **options)


def mirrored(kernel: Sizes, padding: Sizes, dilation: Sizes) -> Sizes:
    """The padding of a convolution at stride 1 with the kernel reversed and input and output exchanged."""
    return tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))


def _gains(image: Tensor, weight: Tensor, cells: Sizes = ()) -> bool:
    """Whether sums in the dtype itself are as good as the native ones, on a device where they are quicker."""
    exact = image.dtype.itemsize > HALF and image.dtype == weight.dtype
    return exact and image.device.type in HOST and bool(image.numel() and weight.numel() and all(cells))


def _cells(
    image: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, more: Sizes, dilation: Sizes
) -> Sizes:
    """The size of the result along each axis, as PyTorch has it."""
    full = map(covered, kernel, dilation, image.shape[2:], stride)
    return tuple(size - 2 * p + e for size, p, e in zip(full, padding, more, strict=True))


def _columns(image: Tensor, weight: Tensor, groups: int) -> Tensor:
    """What each position adds to the cells in its reach, `[n, (g c *k), (*o)]`."""
    examples, channels = image.shape[:2]
    if groups == 1:
        matrix = weight.reshape(channels, -1).t()
        return torch.bmm(matrix.expand(examples, -1, -1), image.reshape(examples, channels, -1))
    matrix = weight.reshape(groups, channels // groups, -1).mT
    return torch.matmul(matrix, image.reshape(examples, groups, channels // groups, -1)).flatten(1, 2)


def by_phases(
    image: Tensor, weight: Tensor, bias: Tensor | None = None, *,
    stride: Sizes, padding: Sizes, output_padding: Sizes, dilation: Sizes, groups: int,
) -> Tensor:  # fmt: skip
    """`F.conv_transposeNd` by one convolution with all stride phases as channels; arguments as there."""
    rank = len(stride)
    cells = _cells(image, tuple(weight.shape[2:]), stride, padding, output_padding, dilation)
    if not _gains(image, weight, cells):
        return TRANSPOSED[rank](image, weight, bias, stride, padding, output_padding, groups, dilation)
    axes = [
        _Phases.of(*numbers)
        for numbers in zip(stride, dilation, padding, weight.shape[2:], image.shape[2:], cells, strict=True)
    ]
    kernel = _phased(weight, [len(axis.runs) for axis in axes], groups)
    around, apart = [axis.padding for axis in axes], [axis.dilation for axis in axes]
    parts = NATIVE[rank](image, kernel, None, 1, around, apart, groups)
    shape = (image.shape[0], groups * weight.shape[1], *cells)
    parts = parts.reshape(*shape[:2], *(len(axis.runs) for axis in axes), *parts.shape[2:])
    covered = all(sum(run.length for run in axis.runs) == i for axis, i in zip(axes, cells, strict=True))
    result = parts.new_empty(shape) if covered else parts.new_zeros(shape)
    for phase in itertools.product(*(range(len(axis.runs)) for axis in axes)):
        where: tuple[Any, ...] = (slice(None), slice(None), *phase)
        target, source = result, parts[where]
        for place, (axis, t) in enumerate(zip(axes, phase, strict=True), 2):
            target, source = axis.runs[t].narrow(target, source, place, axis.stride)
        target.copy_(source)
    return _biased(result, bias)


class _Run(NamedTuple):
    """The positions of one phase that are kept, and the cell of the result that the first of them goes to."""

    start: int
    length: int
    cell: int

    def narrow(self, target: Tensor, source: Tensor, axis: int, stride: int) -> tuple[Tensor, Tensor]:
        """The cells and the positions of the run along an axis."""
        before: tuple[Any, ...] = (slice(None),) * axis
        cells = target[(*before, slice(self.cell, self.cell + self.length * stride, stride))]
        return cells, source.narrow(axis, self.start, self.length)


class _Phases(NamedTuple):
    """One axis: the convolution that computes all of its phases, and where each of them goes."""

    stride: int
    padding: int
    dilation: int
    runs: tuple[_Run, ...]

    @classmethod
    def of(cls, stride: int, dilation: int, padding: int, taps: int, positions: int, cells: int) -> "_Phases":
        """Phase `t` has the kernel cells `k = T·j + t`, so `i = s·u + d·t - p` where `u = o + dilation·j`."""
        common = math.gcd(stride, dilation)
        phases, apart = stride // common, dilation // common
        reach = apart * (-(-taps // phases) - 1)
        # Positions u that no cell needs are left out, as many at either end, but not all of them.
        first = max(0, _up(padding - dilation * (phases - 1), stride))
        last = (cells - 1 + padding) // stride
        spare = min(reach, (positions + reach - 1) // 2, first, max(0, positions + reach - 1 - last))
        runs = []
        for t in range(phases):
            offset = dilation * t - padding + stride * spare
            start = max(0, _up(-offset, stride))
            end = min(positions + reach - 2 * spare - 1, (cells - 1 - offset) // stride)
            length = max(0, end - start + 1)
            runs.append(_Run(start, length, stride * start + offset) if length else _Run(0, 0, 0))
        return cls(stride, reach - spare, apart, tuple(runs))


def _up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _phased(weight: Tensor, phases: list[int], groups: int) -> Tensor:
    """The kernel `[(g d), c, *k]` with `k = T·j + t` as `[(g c *t), d, *j]`, `j` reversed."""
    rank, outer, inner = len(phases), weight.shape[0] // groups, weight.shape[1]
    missing = [-k % t for k, t in zip(weight.shape[2:], phases, strict=True)]
    if any(missing):
        weight = F.pad(weight, [m for amount in reversed(missing) for m in (0, amount)])
    taps = [k // t for k, t in zip(weight.shape[2:], phases, strict=True)]
    split = [size for pair in zip(taps, phases, strict=True) for size in pair]
    order = [0, 2, *range(4, 3 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)]
    parts = weight.reshape(groups, outer, inner, *split).permute(order)
    return parts.reshape(groups * inner * math.prod(phases), outer, *taps).flip(list(range(2, 2 + rank)))
