"""Products of a matrix with its own conjugate transpose, `Σ x xᴴ`: half of one is computed, the other half copied.

Blocks of rows of the lower half are products that write straight into the result, the upper half is their
conjugate transpose. That pays from about a hundred rows; the narrower the blocks, the less is computed twice, and
the slower each product. Where autograd, `vmap` or a compiler records what happens, nothing is written in place.

What is added to a matrix that is there, Hermitian or not, is added in the same products; of halves, block by block.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.numerics.huge_pages import HALF, new_empty
from tnconv.backends.torch.numerics.into import add_into

# Measured on one and two CPU cores in float32.
_LEAST_ROWS, _LEAST_SUM = 112, 64  # from here on the half may pay
_NARROW, _WIDE = 48, 256  # rows of a block
_RATE, _CALL = 45_000, 14  # multiplications a microsecond, microseconds of a call
_WORTH = 0.93  # of the time of the whole
_MIRROR_NEAR, _MIRROR_FAR, _NEAR_ROWS = (
    3_000,
    1_000,
    2_000,
)  # elements a microsecond, of a result that fits in a cache
_NARROW_HALF, _ODD_HALF = 14, 40  # columns at which a product runs at half of the rate; of a width not 4 n
_SHORT_HALF = 40  # products that a cell sums, at which a narrow one runs at half of its rate
_NARROWEST = 10  # columns of a product that runs at another rate
_LEAST_GROUP = 2_000_000  # multiplications of one group that are worth calls of their own
_FEW_CELLS = 1 << 19  # results of several examples that stay in the cache until they are added up
_THIN_SUM, _THIN_ROWS, _STRIPS = 24, 1024, (32, 48, 36, 64, 24, 16)  # a product that is bound by writing it


def gram(x: Tensor, scale: float = 1.0, out: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """`scale · Σ_n x xᴴ` for each group; of complex values, the second factor is conjugated.

    Args:
        x: `[g, n, r, t]`; what is summed, n and t, may be split in the way that copies least.
        scale: of the result.
        out: `[g, r, r]`, which becomes `beta · out + scale · Σ_n x xᴴ`; only where nothing records what happens.
        beta: of what is there.

    Returns:
        `[g, r, r]`, Hermitian; its rows are products over n and t. Or `out`.
    """
    groups, count, rows, length = x.shape
    if out is None and not may_write(x):
        flat = _merged(x)
        product = torch.mm(flat[0], flat[0].mH)[None] if groups == 1 else torch.bmm(flat, flat.mH)
        return product if scale == 1 else product * scale
    if not x.numel():
        zeros = x.new_zeros((groups, rows, rows) if out is None else (1, 1, 1))
        zeros = zeros if scale == 1 else zeros * scale
        return zeros if out is None else add_into(out, zeros, beta)
    apart = count > 1 and 2 * rows <= length and x.dtype.itemsize > HALF
    whole = row_width(rows, count * length) == rows
    if groups == 1 and whole and not apart and rows < _THIN_ROWS:
        return _small(x, scale, out, beta)
    if groups > 1 and not _halves(rows, count * length, groups):
        return _by_batch(x, apart, scale, out, beta)
    if groups == 1 and apart and whole and count * rows * rows <= _FEW_CELLS:
        return _handed_over(torch.bmm(x[0], x[0].mH).sum(0, keepdim=True), scale, out, beta)
    parts = x if apart else _merged(x)[:, None]
    made = new_empty(x, (groups, rows, rows)) if out is None else out
    for group, result in zip(parts.unbind(), made.unbind(), strict=True):
        strip = next((w for w in _STRIPS if rows % w == 0), 0)
        if len(group) == 1 and 1 < group.shape[2] <= _THIN_SUM and rows >= _THIN_ROWS and strip:
            _write_strips(result, group[0], strip, scale, beta)
        else:
            _write(result, group, scale, beta)
    return made


def row_cuts(rows: int, length: int) -> list[int]:
    """Where `gram` cuts the rows of its result; `length` is the number of products that a cell sums."""
    return [*range(0, rows, max(1, row_width(rows, length))), rows]


def row_width(rows: int, length: int) -> int:
    """Rows of a block of the result; all of them where the half does not pay."""
    if rows < _LEAST_ROWS or length < _LEAST_SUM:
        return rows
    width = min(max(_NARROW, -(-rows // 8 // 16) * 16), _WIDE)
    whole = length * rows * rows / (_RATE * efficiency(rows, length))
    calls = _CALL * (-(-rows // width) + 1)
    halves = length * _lower(rows, width) / (_RATE * efficiency(width, length)) + calls
    mirrored = rows * rows / (_MIRROR_NEAR if rows < _NEAR_ROWS else _MIRROR_FAR)
    return width if halves + mirrored < _WORTH * whole else rows


def _lower(rows: int, width: int) -> int:
    """Cells of the blocks that are computed: the k-th has `width` rows of `k·width` cells, the last is narrower."""
    full = rows // max(1, width)
    return width * width * full * (full + 1) // 2 + (rows - full * width) * rows


def multiplications(groups: int, rows: int, length: int) -> int:
    """The exact number of scalar multiplications in the products of `gram`.

    Args:
        groups: number of groups.
        rows: of a result.
        length: number of products that a cell sums.
    """
    if groups > 1 and not _halves(rows, length, groups):
        return groups * rows * rows * length
    return groups * length * _lower(rows, row_width(rows, length))


def efficiency(width: int, length: int, outermost: bool = True) -> float:
    """The share of the rate of large products that a product reaches whose result has so many columns and rows.

    Args:
        width: of the result.
        length: number of products that a cell sums.
        outermost: whether what is summed lies side by side in memory, and not the columns.
    """
    if width <= _NARROWEST:
        short = (length + 1) / (length + 1 + _SHORT_HALF)
        return short * (min(0.3, 0.07 * width) if outermost else 0.012 * width)
    return width / (width + (_NARROW_HALF if width % 4 == 0 else _ODD_HALF))


def _halves(rows: int, length: int, groups: int) -> bool:
    """Whether a group is large enough for calls of its own."""
    return groups == 1 or (rows >= _LEAST_ROWS and rows * rows * length >= _LEAST_GROUP)


def _merged(x: Tensor) -> Tensor:
    """`[g, r, (n t)]`."""
    return x[:, 0] if x.shape[1] == 1 else x.transpose(1, 2).flatten(2)


def _small(x: Tensor, scale: float, out: Tensor | None, beta: float) -> Tensor:
    """One product of one group, in few calls."""
    _, count, rows, length = x.shape
    if length == 1:
        flat = x.reshape(count, rows).t()
    else:
        flat = x.reshape(rows, length) if count == 1 else x[0].transpose(0, 1).flatten(1)
    if out is not None:
        torch.addmm(out[0], flat, flat.mH, beta=beta, alpha=scale, out=out[0])
        return out
    return torch.addmm(flat.new_empty(()), flat, flat.mH, beta=0, alpha=scale)[None]


def _handed_over(result: Tensor, scale: float, out: Tensor | None, beta: float) -> Tensor:
    """The scaled result, which may be changed; or `out` with it."""
    if scale != 1:
        result = result.mul_(scale)
    return result if out is None else add_into(out, result, beta)


def _by_batch(x: Tensor, apart: bool, scale: float, out: Tensor | None, beta: float) -> Tensor:
    """One batched product: of groups, or of groups and examples if their sum behind it is cheaper than a copy."""
    if not apart:
        flat = _merged(x)
        if 1 not in flat.stride()[1:]:  # torch would go through the batch one by one
            flat = flat.contiguous()
        if out is not None:
            return torch.baddbmm(out, flat, flat.mH, beta=beta, alpha=scale, out=out)
        return _handed_over(torch.bmm(flat, flat.mH), scale, None, beta)
    groups, count, rows, length = x.shape
    flat = x.transpose(0, 1).reshape(count * groups, rows, length)
    total = torch.bmm(flat, flat.mH).view(count, groups, rows, rows).sum(0)
    return _handed_over(total, scale, out, beta)


def _write(out: Tensor, parts: Tensor, scale: float, beta: float) -> None:
    """Write one group's product `[r, r]` from `[n, r, t]`, or add it to what is there."""
    first, *others = parts.unbind()
    cuts = row_cuts(len(out), parts.shape[0] * parts.shape[2])
    # What is added to is no mirror image of itself: a block of rows is made aside, while it is in a cache.
    aside = parts.new_empty((cuts[1], len(out))) if beta != 0 and len(cuts) > 2 else None
    for low, high in pairwise(cuts):
        block = out[low:high, :high] if aside is None else aside[: high - low, :high]
        kept = beta if aside is None else 0.0
        torch.addmm(block, first[low:high], first[:high].mH, beta=kept, alpha=scale, out=block)
        for part in others:
            torch.addmm(block, part[low:high], part[:high].mH, alpha=scale, out=block)
        if aside is not None:
            add_into(out[low:high, :high], block, beta)
        if low:
            add_into(out[:low, low:high], block[:, :low].mH, beta)


def _write_strips(out: Tensor, x: Tensor, width: int, scale: float, beta: float) -> None:
    """Write `[r, r]` from `[r, t]` with a short sum: one product of few rows each is written at the speed of memory."""
    strips = x.reshape(len(x) // width, width, x.shape[1])
    result = out.view(len(x) // width, width, len(x))
    torch.baddbmm(result, strips, x.mH.expand(len(strips), -1, -1), beta=beta, alpha=scale, out=result)
