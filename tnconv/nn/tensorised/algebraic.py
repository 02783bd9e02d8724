"""Starts that are exact where a tensor has exactly the form that is wanted: eigenvectors of a pencil of its slices.

The slices of a tensor along all axes but two are `left · D_k · right`, with `D_k` diagonal for CP (Leurgans, Ross and
Abel 1993), block-diagonal for block terms and `G_k ⊗ I` for a tensor ring. Mixtures `S_1` and `S_2` of them give
`S_1⁻¹ S_2 = right⁻¹ · D · right`, once the slices are square: both axes are projected to as many dimensions as
`right` has rows. Where that is impossible, as where a rank is larger than an axis, there is no such start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tnconv.nn.tensorised import linalg

_REAL = 1e-4  # imaginary part of something real, relative to its norm
_SEEDS = 6  # mixtures to choose from
_LARGE = 160  # dimensions from which the eigenspaces of a ring take too long


@dataclass(frozen=True, slots=True)
class Pencil:
    """Square slices of a tensor and three mixtures of them.

    Args:
        slices: `[K, n, n]`, in the frames.
        mixed: `[3, n, n]`.
        left: frame of the first axis, `[size, n]`.
        right: frame of the second, `[size, n]`.
    """

    slices: Tensor
    mixed: Tensor
    left: Tensor
    right: Tensor

    def quotient(self, place: int) -> Tensor | None:
        """`mixed[0]⁻¹ mixed[place]`, or None where it is not to be had."""
        return linalg.solved(self.mixed[0], self.mixed[place])


def pencil(tensor: Tensor, axes: tuple[int, int], size: int, seed: int = 0) -> Pencil | None:
    """The pencil of a tensor's slices.

    Args:
        tensor: any.
        axes: the two axes of a slice.
        size: dimensions to project both to.
        seed: of the mixtures.

    Returns:
        None where the axes are shorter than that, or there is but one slice.
    """
    sizes = [tensor.shape[axis] for axis in axes]
    slices = tensor.movedim(axes, (-2, -1)).reshape(-1, *sizes)
    if min(sizes) < size or len(slices) < 2:
        return None
    left, right = (linalg.leading(linalg.unfolded(tensor, axis), size) for axis in axes)
    slices = left.mH @ slices @ right.conj()
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(3, len(slices), generator=generator, dtype=torch.float64).to(tensor.dtype)
    return Pencil(slices, torch.tensordot(mixture, slices, 1), left, right)


def _diagonalised(tensor: Tensor, axes: tuple[int, int], size: int) -> tuple[Pencil, Tensor, Tensor] | None:
    """A pencil, the eigenvectors of its first quotient and their inverse: of some mixtures the best conditioned."""
    found, least = None, float("inf")
    for seed in range(_SEEDS if size <= _LARGE else 1):
        made = pencil(tensor, axes, size, seed)
        if made is None:
            return None
        inverse = linalg.solved(made.mixed[0], torch.eye(size, dtype=tensor.dtype))
        pair = None if inverse is None else linalg.eigenvectors(made.quotient(1))
        if inverse is not None and pair is not None:
            condition = float(inverse.norm() * made.mixed[0].norm() * pair[1].norm())
            if condition < least:
                found, least = (made, *pair), condition
    return found


# -- CP ------------------------------------------------------------------------------------------------


def cp(tensor: Tensor, rank: int) -> list[Tensor] | None:
    """One factor an axis, `[size, rank]`; None where the rank is too large or eigenvalues are complex."""
    first, second = sorted(range(tensor.ndim), key=lambda axis: -tensor.shape[axis])[:2]
    found = _diagonalised(tensor, (first, second), rank)
    if found is None:
        return None
    made, *both = found
    vectors, inverse = (_as(tensor, matrix) for matrix in both)
    if vectors is None or inverse is None:
        return None
    others = [axis for axis in range(tensor.ndim) if axis not in (first, second)]
    # Column r of slices @ vectors is column r of the first factor times the product of all others.
    rest = (made.left @ made.slices @ vectors).movedim(-1, 0)  # [r, K, size]
    factors = {second: made.right @ inverse.mT}
    for axis in others:
        u, s, v = linalg.singular(rest.reshape(rank, tensor.shape[axis], -1))
        factors[axis] = u[:, :, 0].mT
        rest = s[:, :1] * v[:, 0]
    factors[first] = rest.mT
    return [factors[axis] for axis in range(tensor.ndim)]


def _as(tensor: Tensor, matrix: Tensor) -> Tensor | None:
    if tensor.is_complex():
        return matrix
    return matrix.real if float(matrix.imag.norm()) <= _REAL * float(matrix.norm()) else None


# -- block terms ---------------------------------------------------------------------------------------


def block_frames(tensor: Tensor, blocks: int, rank: int) -> tuple[Tensor, Tensor] | None:
    """The frames of the first two axes, `[blocks, size, rank]`, of a sum of Tucker terms."""
    found = _diagonalised(tensor, (1, 0), blocks * rank)
    if found is None:
        return None
    made, vectors, inverse = found
    other = made.quotient(2)
    if other is None:
        return None
    coupled = (inverse @ other.to(vectors.dtype) @ vectors).abs()
    coupled = coupled + coupled.mT
    if not tensor.is_complex():
        coupled += 1e9 * coupled.max() * ((vectors.mT @ vectors).abs() > 1 - 1e-9)  # conjugate pairs
    groups = _grouped(coupled, rank)
    if groups is None:
        return None
    ins = ((made.slices.to(vectors.dtype) @ vectors[:, group]).movedim(1, 0).flatten(1) for group in groups)
    outs = (inverse[group].mT for group in groups)
    return _frames(made.right, outs, rank), _frames(made.left, ins, rank)


def _frames(frame: Tensor, columns: Iterable[Tensor], rank: int) -> Tensor:
    """Frames of the spaces of some columns, real where the frame that they are coordinates in is."""
    both = columns if frame.is_complex() else (torch.cat([c.real, c.imag], 1) for c in columns)
    return torch.stack([frame @ linalg.leading(c, rank) for c in both])


def _grouped(close: Tensor, size: int) -> list[list[int]] | None:
    """Groups of one size, the closest pairs first; None where that leaves some apart.

    Args:
        close: symmetric, `[n, n]`; the larger the closer.
        size: of each group.
    """
    count = len(close)
    group = list(range(count))
    members = {place: [place] for place in group}
    rows, columns = torch.triu_indices(count, count, 1).tolist()
    order = torch.argsort(close[rows, columns], descending=True, stable=True).tolist()
    for pair in order:
        one, two = group[rows[pair]], group[columns[pair]]
        if one != two and len(members[one]) + len(members[two]) <= size:
            for place in members[two]:
                group[place] = one
            members[one] += members.pop(two)
    found = list(members.values())
    return found if all(len(each) == size for each in found) else None


# -- tensor ring ---------------------------------------------------------------------------------------


def ring(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor] | None:
    """One factor an axis, `[left, size, right]`.

    Args:
        tensor: its first and last axes are those of the slices.
        ranks: left of each axis; that of the first is also right of the last.
    """
    closing, rank = ranks[0], ranks[1]
    size = closing * rank
    if rank != ranks[-1] or size > min(_LARGE, tensor.shape[0], tensor.shape[-1]):
        return None
    tries = (_ring(tensor, rank, closing, seed) for seed in range(_SEEDS))
    found = [made for made in tries if made is not None]
    if not found:
        return None
    _, first, middle, last = min(found, key=lambda made: made[0])
    return [first, *linalg.train(middle, ranks[2:-1]), last]


def _ring(tensor: Tensor, rank: int, closing: int, seed: int) -> tuple[float, Tensor, Tensor, Tensor] | None:
    """What a ring is off by, its first factor, all in the middle `[left, sizes, right]`, and its last factor."""
    size = rank * closing
    made = pencil(tensor, (0, tensor.ndim - 1), size, seed)
    vectors = None if made is None else _ring_vectors(made, rank, closing)
    inverse = None if vectors is None else linalg.solved(vectors, torch.eye(size, dtype=vectors.dtype))
    if made is None or vectors is None or inverse is None:
        return None
    left = made.mixed[0] @ vectors
    inner = linalg.solved(left, (made.slices @ vectors).movedim(0, 1).flatten(1))
    if inner is None:
        return None
    cells = inner.reshape(rank, closing, -1, rank, closing)
    middle = cells.diagonal(dim1=1, dim2=4).mean(-1)
    off = cells - torch.einsum("rks,ab->rakbs", middle, torch.eye(closing, dtype=cells.dtype)).transpose(3, 4)
    first = (made.left @ left).reshape(-1, rank, closing).permute(2, 0, 1)
    last = (made.right @ inverse.mT).reshape(-1, rank, closing).permute(1, 0, 2)
    return float(off.norm() / cells.norm()), first, middle.reshape(rank, *tensor.shape[1:-1], rank), last


def _ring_vectors(made: Pencil, rank: int, closing: int) -> Tensor | None:
    """The inverse of `right`, columns `(rank closing)`: eigenspaces in matching bases."""
    quotient, other = made.quotient(1), made.quotient(2)
    values = None if quotient is None else linalg.eigenvalues(quotient)
    if quotient is None or other is None or values is None:
        return None
    groups = _grouped(-(values.unsqueeze(1) - values).abs(), closing)
    if groups is None:
        return None
    centres = [complex(values[group].mean()) for group in groups]
    wide = values.dtype
    real = not made.slices.is_complex()
    limit = _REAL * float(values.abs().max())
    centres.sort(key=lambda value: (abs(value.imag) > limit, value.real, abs(value.imag), value.imag))
    if real and abs(centres[0].imag) > limit:
        return None  # a complex eigenspace has no basis that all others, and their conjugates, can match
    centres = [complex(v.real) if real and abs(v.imag) <= limit else v for v in centres]
    eye = torch.eye(len(quotient), dtype=wide)
    spaces = torch.cat([linalg.null_space(quotient - value * eye, closing) for value in centres], 1)
    if real and centres[0].imag == 0:
        spaces[:, :closing] = linalg.null_space(quotient - centres[0].real * eye.real, closing).to(wide)
    coordinates = linalg.solved(spaces, other.to(wide) @ spaces)
    if coordinates is None:
        return None
    first = coordinates[:closing].reshape(closing, rank, closing).movedim(1, 0)  # [rank, closing, closing]
    turned = [spaces[:, :closing]]
    for place in range(1, rank):
        own = linalg.solved(first[place].mT, spaces[:, place * closing : (place + 1) * closing].mT)
        if own is None:
            return None
        turned.append(own.mT)
    if real:
        turned = _real_pairs(turned, centres)
    return torch.cat(turned, 1) if len(turned) == rank else None


def _real_pairs(spaces: list[Tensor], values: Sequence[complex]) -> list[Tensor]:
    """Real bases, and the real and imaginary parts of one of each conjugate pair."""
    found: list[Tensor] = []
    for space, value in zip(spaces, values, strict=True):
        if value.imag >= 0:
            found += [space.real, space.imag] if value.imag > 0 else [space.real]
    return found
