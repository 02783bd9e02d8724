"""Linear algebra that cannot fail on finite numbers: zero, constant and rank-deficient matrices are ordinary ones.

Every decomposition solves and factorises here and nowhere else; that the weight is finite is checked before.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_RIDGES = (1e-11, 1e-7, 1e-3)  # of a matrix with ones on its diagonal
_FAILED: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`u [*, rows, k]`, `s [*, k]`, `v [*, k, columns]` with `matrix = u @ diag(s) @ v`, largest first."""
    try:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    except _FAILED:  # the fast method did not converge, which happens with many equal singular values
        tall = matrix.shape[-2] > matrix.shape[-1]
        wide = matrix.mH if tall else matrix
        squares, u = torch.linalg.eigh(wide @ wide.mH)
        s, u = squares.clamp_min(0).sqrt().flip(-1), u.flip(-1)
        v = u.mH @ wide / s.clamp_min(torch.finfo(s.dtype).tiny).unsqueeze(-1)
        u, v = (v.mH, u.mH) if tall else (u, v)
    return u, s, v


def singular_values(matrix: Tensor) -> Tensor:
    """All singular values, largest first, `[min(rows, columns)]`."""
    try:
        found: Tensor = torch.linalg.svdvals(matrix)
    except _FAILED:
        found = singular(matrix)[1]
    return found


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, `[rows, rank]`; zeros where there are fewer."""
    if matrix.shape[0] <= matrix.shape[1]:  # a few hundred channels against thousands of columns
        vectors = torch.linalg.eigh(matrix @ matrix.mH)[1].flip(1)[:, :rank]
    else:
        vectors = singular(matrix)[0][:, :rank]
    return torch.nn.functional.pad(vectors, (0, rank - vectors.shape[1]))


def span(matrix: Tensor, tolerance: float) -> Tensor:
    """Orthonormal columns that span a matrix but for parts below a tolerance, relative to its norm."""
    if matrix.shape[0] > matrix.shape[1]:
        u, s, _ = singular(matrix)
        return u[:, s > tolerance * s.norm()]
    squares, u = torch.linalg.eigh(matrix @ matrix.mH)
    spanned: Tensor = u.flip(1)[:, squares.flip(0) > tolerance**2 * squares.sum()]
    return spanned


def train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """A tensor `[left, *sizes, right]` as factors `[left, size, right]` in a row, by singular values of each matrix."""
    found, rest = [], tensor
    for rank in ranks:
        left, size = rest.shape[:2]
        u, s, v = singular(rest.reshape(left * size, -1))
        found.append(u[:, :rank].reshape(left, size, -1))
        rest = (s[:rank, None] * v[:rank]).reshape(-1, *rest.shape[2:])
    return [*found, rest]


def normal(shapes: Iterable[Sequence[int]], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Tensors of standard normal numbers, one after the other from one seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def null_space(matrix: Tensor, rank: int) -> Tensor:
    """The right singular vectors of the smallest singular values of a square matrix, `[columns, rank]`."""
    return singular(matrix)[2][-rank:].mH


def normal_solution(gram: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """The solution of `gram @ x = target`, a positive semi-definite system, near a start where it has many.

    Args:
        gram: `[n, n]`, Hermitian.
        target: `[n, m]`.
        start: `[n, m]`; what the equations leave open stays near it.
    """
    diagonal = gram.diagonal().real
    top = float(diagonal.max())
    if not top > 0:
        return start
    scale = diagonal.clamp_min(1e-30 * top).rsqrt().unsqueeze(1)
    scaled = gram * scale * scale.mT
    change = scale * (target - gram @ start)
    for ridge in _RIDGES:
        shifted = scaled.clone()
        shifted.diagonal().add_(ridge)
        triangle, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            moved: Tensor = scale * torch.cholesky_solve(change, triangle)
            return start + moved
    return start


def solved(matrix: Tensor, target: Tensor) -> Tensor | None:
    """`matrix⁻¹ target`, or None where the matrix is singular."""
    found, failed = torch.linalg.solve_ex(matrix, target)
    return None if int(failed) or not bool(found.isfinite().all()) else found


def eigenvectors(matrix: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The eigenvectors of a matrix, complex, and their inverse; None where they are not to be had."""
    try:
        vectors = None if matrix is None else torch.linalg.eig(matrix)[1]
    except _FAILED:
        return None
    if vectors is None:
        return None
    inverse = solved(vectors, torch.eye(len(vectors), dtype=vectors.dtype))
    return None if inverse is None else (vectors, inverse)


def eigenvalues(matrix: Tensor) -> Tensor | None:
    """The eigenvalues of a matrix, complex; None where they are not to be had."""
    try:
        found: Tensor = torch.linalg.eigvals(matrix)
    except _FAILED:
        return None
    return found


def unfolded(tensor: Tensor, mode: int) -> Tensor:
    """`[size, all others]`."""
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)


def projected(tensor: Tensor, frames: Sequence[Tensor | None], leave: int | None = None) -> Tensor:
    """The coordinates of the first axes in frames `[size, rank]` of orthonormal columns.

    Args:
        tensor: any.
        frames: one for each of the first axes; None leaves the axis.
        leave: an axis to leave, whatever its frame.
    """
    for mode, frame in enumerate(frames):
        if mode != leave and frame is not None:
            tensor = torch.tensordot(frame.mH, tensor.movedim(mode, 0), 1).movedim(0, mode)
    return tensor


def expanded(core: Tensor, frames: Sequence[Tensor]) -> Tensor:
    """The tensor with a core's cells as coordinates in some frames."""
    return projected(core, [frame.mH for frame in frames])
