"""How `gram` goes about a product of a matrix with itself: which ways there are, their counts, which is fastest.

Nothing here touches a tensor, so the compiler decides with it, and writes the decision into the program.
"""

from functools import lru_cache
from typing import NamedTuple

from tnconv.backends.torch.numerics.gram import block_rows
from tnconv.backends.torch.numerics.triangle import SHORT
from tnconv.backends.torch.profile import DEFAULT, Profile

PACKED = SHORT + 1, 32, 256  # rows of a packed result that is made by blocks, the least and the most of one


class Ways(NamedTuple):
    """How `gram` computes `[g, n, r, t]`: the options of its call.

    Args:
        block: rows of a block of the result, of which only those below the diagonal are computed; 0 for all at once.
        strip: rows of a strip of a result that is bound by writing it; 0 for none.
        apart: whether the products of single examples are added up, so that these need not be copied side by side.
    """

    block: int = 0
    strip: int = 0
    apart: bool = False

    @property
    def options(self) -> dict[str, int | bool]:
        """Those that are not what `gram` does by itself."""
        return {name: value for name, value in self._asdict().items() if value}


@lru_cache(maxsize=512)
def choose(
    groups: int, count: int, rows: int, length: int, profile: Profile = DEFAULT, packed: bool = False
) -> Ways:
    """How `gram` is predicted to be fastest.

    Args:
        groups: number of results.
        count: examples that are summed.
        rows: of a result.
        length: products of an example that a cell sums.
        profile: rates of the machine.
        packed: whether the lower triangle alone is made, whose blocks are all that is made besides.
    """
    apart = count > 1 and 2 * rows <= length
    if packed:
        return Ways(block=block_rows(rows, *PACKED), apart=apart)
    block = row_width(rows, count * length, profile)
    if not worth_halves(groups, rows, count * length, profile):
        return Ways(apart=apart)
    if block < rows:
        return Ways(block=block, apart=apart)
    if apart:
        small = groups == 1 and count * rows * rows <= 2 * profile.cache
        return Ways(apart=True, block=0 if small else rows)
    strip = _strip(rows, int(profile.strip))
    if rows >= profile.strip_rows and 1 < count * length <= profile.strip_sum and strip:
        return Ways(strip=strip)
    return Ways(block=rows if groups > 1 or rows >= profile.strip_rows else 0)


def _strip(rows: int, best: int) -> int:
    """Rows of a strip that divide all rows, the nearest to the best from half to twice as many; 0 if none do."""
    widths = [w for w in range(best // 2, 2 * best + 1, 4) if rows % w == 0]
    return min(widths, key=lambda w: abs(w - best), default=0)


def predicted(groups: int, rows: int, length: int, ways: Ways, profile: Profile = DEFAULT) -> float:
    """Microseconds of the products of `gram`, of an operand that lies as it takes it.

    Args:
        groups: number of results.
        rows: of a result.
        length: products that a cell sums.
        ways: how `gram` goes about it.
        profile: rates of the machine.
    """
    total = _product(rows, length, ways.block, profile)
    calls = profile.batched if groups > 1 and not ways.block else profile.call
    return profile.call + groups * (total + calls) + profile.streaming(groups * rows * rows)


def _product(rows: int, length: int, block: int, profile: Profile) -> float:
    """Microseconds of one result, all at once or by blocks of which the upper half is a copy."""
    halved = 0 < block < rows
    width = block if halved else rows
    work = length * computed(rows, block)
    total = profile.multiplying(work, rows / width) / efficiency(width, length, profile=profile)
    if not halved:
        return total
    near = rows * rows < profile.mirror_near * profile.cache
    calls = profile.block_calls * profile.call * (-(-rows // width) + 1)
    return total + calls + rows * rows / (profile.mirror if near else profile.mirror_far)


def row_width(rows: int, length: int, profile: Profile = DEFAULT) -> int:
    """Rows of a block of the result; all of them where the half does not pay.

    Args:
        rows: of the result.
        length: products that a cell sums.
        profile: rates of the machine.
    """
    if rows < profile.half_rows or length < profile.half_sum:
        return rows
    width = block_rows(rows, 0, int(profile.block_least), int(profile.block_most))
    halves, whole = (_product(rows, length, block, profile) for block in (width, rows))
    return width if halves < profile.half_worth * whole else rows


@lru_cache(maxsize=64)
def first_halved(length: int, profile: Profile = DEFAULT) -> int | None:
    """The fewest rows, about, from which on blocks pay; None where they do not pay below some thousands."""
    return next((r for r in range(16, int(profile.half_most), 16) if row_width(r, length, profile) < r), None)


def computed(rows: int, block: int) -> int:
    """Cells of a result that are computed: those of the k-th block are `block` rows of `k·block`, the last is narrower.

    Args:
        rows: of the result.
        block: rows of a block; 0 for all cells.
    """
    if not 0 < block < rows:
        return rows * rows
    full = rows // block
    return block * block * full * (full + 1) // 2 + (rows - full * block) * rows


def worth_halves(groups: int, rows: int, length: int, profile: Profile = DEFAULT) -> bool:
    """Whether a group is large enough for calls of its own; one that is alone has them in any case."""
    return groups == 1 or (rows >= profile.half_rows and rows * rows * length >= profile.group_work)


def efficiency(width: int, length: int, outermost: bool = True, profile: Profile = DEFAULT) -> float:
    """The share of the rate of large products that a product reaches whose result has so many columns and rows.

    Args:
        width: of the result.
        length: number of products that a cell sums.
        outermost: whether what is summed lies side by side in memory, and not the columns.
        profile: rates of the machine.
    """
    if width <= profile.narrowest:
        short = (length + 1) / (length + 1 + profile.short_half)
        side_by_side = min(profile.narrow_most, profile.narrow_column * width)
        return short * (side_by_side if outermost else profile.narrow_apart * width)
    return width / (width + (profile.narrow_half if width % 4 == 0 else profile.odd_half))
