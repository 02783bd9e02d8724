"""Products of a matrix with its own conjugate transpose, `Σ x xᴴ`: half of one is computed, the other half copied.

Blocks of rows of the lower half are products that write straight into the result, the upper half is their
conjugate transpose. The narrower the blocks, the less is computed twice, and the slower each product; `gram_scheme`
chooses. Where autograd, `vmap` or a compiler records what happens, nothing is written in place.

What is added to a matrix that is there, Hermitian or not, is added in the same products; of halves, block by block.
Where the lower half alone is asked for, packed, each block is made aside, and the upper half nowhere.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.backends.torch.numerics.huge_pages import HALF, new_empty
from tnconv.backends.torch.numerics.inner import add_product, inner_products, scaled_product
from tnconv.backends.torch.numerics.into import add_into
from tnconv.backends.torch.numerics.triangle import MANY, pack_rows, pack_triangle, triangle_cells

_ASIDE = 1 << 14  # cells of the whole results of several groups that are made before they are packed


def gram(
    x: Tensor,
    scale: float = 1.0,
    out: Tensor | None = None,
    beta: float = 0.0,
    *,
    block: int = 0,
    strip: int = 0,
    apart: bool = False,
    packed: bool = False,
) -> Tensor:
    """`scale · Σ_n x xᴴ` for each group; of complex values, the second factor is conjugated.

    Args:
        x: `[g, n, r, t]`; what is summed, n and t, may be split in the way that copies least.
        scale: of the result.
        out: `[g, r, r]`, which becomes `beta · out + scale · Σ_n x xᴴ`; only where nothing records what happens.
        beta: of what is there.
        block: rows of a block, of which only those below the diagonal are computed; 0 for a result in one piece.
        strip: rows of a product that writes a strip of the result, where these divide its rows; 0 for none.
        apart: whether the products of single examples are added up; of half precision never, which is rounded once.
        packed: whether of results, and of `out`, there is the lower triangle alone; see `triangle`.

    Returns:
        `[g, r, r]`, Hermitian; its rows are products over n and t. Packed: `[g, r·(r + 1)/2]`. Or `out`.
    """
    if packed:
        return _packed(x, scale, out, beta, block, apart)
    groups, count, rows, _ = x.shape
    if out is None and not may_write(x):
        flat = _merged(x)
        product = torch.mm(flat[0], flat[0].mH)[None] if groups == 1 else torch.bmm(flat, flat.mH)
        return product if scale == 1 else product * scale
    if not x.numel():
        zeros = x.new_zeros((groups, rows, rows) if out is None else (1, 1, 1))
        zeros = zeros if scale == 1 else zeros * scale
        return zeros if out is None else add_into(out, zeros, beta)
    apart = apart and count > 1 and x.dtype.itemsize > HALF
    if not block and not (strip and rows % strip == 0):
        if groups == 1 and not apart:
            return _small(x, scale, out, beta)
        return _by_batch(x, apart, scale, out, beta)
    parts = x if apart else _merged(x)[:, None]
    made = new_empty(x, (groups, rows, rows)) if out is None else out
    for group, result in zip(parts.unbind(), made.unbind(), strict=True):
        if block:
            _write(result, group, block, scale, beta)
        else:
            _write_strips(result, group[0], strip, scale, beta)
    return made


def block_rows(rows: int, first: int, least: int, most: int) -> int:
    """Rows of a block of a result whose size is only known now: an eighth, in steps of 16; 0 for one piece.

    Args:
        rows: of the result.
        first: the fewest rows that are worth it.
        least: rows of a block.
        most: rows of a block.
    """
    return min(max(least, -(-rows // 8 // 16) * 16), most) if rows >= first else 0


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
        add_product(out[0], flat, flat.mH, beta=beta, alpha=scale)
        return out
    return scaled_product(flat, flat.mH, scale)[None]


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
        return _handed_over(inner_products(flat, flat.mH), scale, None, beta)
    groups, count, rows, length = x.shape
    flat = x.transpose(0, 1).reshape(count * groups, rows, length)
    total = inner_products(flat, flat.mH).view(count, groups, rows, rows).sum(0)
    return _handed_over(total, scale, out, beta)


def _write(out: Tensor, parts: Tensor, height: int, scale: float, beta: float) -> None:
    """Write one group's product `[r, r]` from `[n, r, t]`, or add it to what is there."""
    cuts = [*range(0, len(out), height), len(out)]
    # What is added to is no mirror image of itself: a block of rows is made aside, while it is in a cache.
    aside = parts.new_empty((cuts[1], len(out))) if beta != 0 and len(cuts) > 2 else None
    for low, high in pairwise(cuts):
        block = out[low:high, :high] if aside is None else aside[: high - low, :high]
        _multiply(block, parts, low, scale, beta if aside is None else 0.0)
        if aside is not None:
            add_into(out[low:high, :high], block, beta)
        if low:
            add_into(out[:low, low:high], block[:, :low].mH, beta)


def _multiply(block: Tensor, parts: Tensor, low: int, scale: float, beta: float) -> None:
    """Write rows of a group's product `[r, r]` from `[n, r, t]`, those from `low` on up to the diagonal's column."""
    height, width = block.shape
    for place, part in enumerate(parts.unbind()):
        kept = 1.0 if place else beta
        add_product(block, part[low : low + height], part[:width].mH, beta=kept, alpha=scale)


def _packed(x: Tensor, scale: float, out: Tensor | None, beta: float, block: int, apart: bool) -> Tensor:
    """`gram` of which there is the lower triangle alone; without `block` by whole results, of some groups at once."""
    groups, count, rows, _ = x.shape
    if not (may_write(x) and x.numel()):
        lower = pack_triangle(gram(x, scale, apart=apart))
        return lower if out is None else add_into(out, lower, beta)
    few = max(1, _ASIDE // max(rows**2, 1))
    if out is None and not block and groups <= few:
        return pack_triangle(gram(x, scale, apart=apart))
    made = new_empty(x, (groups, triangle_cells(rows))) if out is None else out
    if not block:
        for start in range(0, groups, few):
            whole, rest = gram(x[start : start + few], scale, apart=apart), made[start : start + few]
            if len(whole) < MANY:
                for matrix, cells in zip(whole.unbind(), rest.unbind(), strict=True):
                    pack_rows(matrix, 0, cells, beta)
            else:
                add_into(rest, pack_triangle(whole), beta)
        return made
    parts = x if apart and count > 1 and x.dtype.itemsize > HALF else _merged(x)[:, None]
    aside = x.new_empty((min(block, rows) * rows,))
    for group, result in zip(parts.unbind(), made.unbind(), strict=True):
        for low, high in pairwise([*range(0, rows, block), rows]):
            piece = aside[: (high - low) * high].view(high - low, high)
            _multiply(piece, group, low, scale, 0.0)
            pack_rows(piece, low, result[triangle_cells(low) : triangle_cells(high)], beta)
    return made


def _write_strips(out: Tensor, x: Tensor, width: int, scale: float, beta: float) -> None:
    """Write `[r, r]` from `[r, t]` with a short sum: one product of few rows each is written at the speed of memory."""
    strips = x.reshape(len(x) // width, width, x.shape[1])
    result = out.view(len(x) // width, width, len(x))
    torch.baddbmm(result, strips, x.mH.expand(len(strips), -1, -1), beta=beta, alpha=scale, out=result)
