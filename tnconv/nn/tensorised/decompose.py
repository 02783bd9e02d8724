"""Decompositions of a weight: those of tensorly, and two that it does not have.

All work on float64 tensors on the CPU and are deterministic.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tnconv.errors import PluginError

_SEED = 0
_STARTS = 3  # alternating methods end in local minima
_LARGE = 100_000  # cells from which one start has to do


def _tensorly(function: str, tensor: Tensor, *args: Any, **options: Any) -> Any:
    """Call a decomposition of tensorly on NumPy arrays, whatever backend is set."""
    try:
        tensorly = importlib.import_module("tensorly")
        found = getattr(importlib.import_module("tensorly.decomposition"), function)
    except ImportError as error:
        raise PluginError(
            "from_conv needs tensorly, which is not installed; pip install 'tnconv[decompose]', or start from random "
            "factors"
        ) from error
    with tensorly.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it fills up singular vectors with random ones
        return found(tensor.numpy(), *args, **options)


def cp(tensor: Tensor, rank: int, iterations: int) -> list[Tensor]:
    """One factor an axis, `[size, rank]`: alternating least squares by tensorly, and a last exact step."""
    _, found = _tensorly(
        "parafac",
        tensor,
        rank,
        n_iter_max=iterations,
        init="svd",
        random_state=_SEED,
        normalize_factors=False,
    )
    factors = [torch.from_numpy(factor.copy()) for factor in found]
    largest = max(range(len(factors)), key=lambda place: tensor.shape[place])
    others = [factor for place, factor in enumerate(factors) if place != largest]
    design = others[0]
    for factor in others[1:]:
        design = (design.unsqueeze(1) * factor).reshape(-1, rank)
    target = tensor.movedim(largest, -1).reshape(design.shape[0], -1)
    factors[largest] = _least_squares(design, target).mT
    return factors


def tucker(tensor: Tensor, ranks: Sequence[int], iterations: int) -> tuple[Tensor, list[Tensor]]:
    """The core and a factor `[size, rank]` for each of the first axes, by tensorly's higher-order iteration."""
    modes = list(range(len(ranks)))
    (core, factors), _ = _tensorly(
        "partial_tucker", tensor, list(ranks), modes=modes, n_iter_max=iterations, random_state=_SEED
    )
    return torch.from_numpy(core.copy()), [torch.from_numpy(factor.copy()) for factor in factors]


def tensor_train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """One factor an axis, `[rank, size, rank]`, by tensorly's sequence of singular value decompositions."""
    found = _tensorly("tensor_train", tensor, [1, *ranks, 1])
    return [torch.from_numpy(factor.copy()) for factor in found]


def tensor_ring(tensor: Tensor, ranks: Sequence[int], iterations: int) -> list[Tensor]:
    """One factor an axis, `[rank, size, rank]`, the last rank that of the first; the best of several by tensorly.

    Alternating least squares from random starts, and a sequence of singular value decompositions, which needs a
    first axis with as many cells as its two bonds have together; with a ring that is open it is exact.
    """
    closed = [*ranks, ranks[0]]
    found = []
    if ranks[0] * ranks[1] <= min(tensor.shape[0], tensor[0].numel()):
        found.append(_tensorly("tensor_ring", tensor, closed))
    if ranks[0] > 1 or not found:
        starts = range(_STARTS)
        found += [
            _tensorly("tensor_ring_als", tensor, closed, n_iter_max=iterations, random_state=s)
            for s in starts
        ]
    rings = [[torch.from_numpy(factor.copy()) for factor in ring] for ring in found]
    return min(rings, key=lambda ring: float((_closed(ring) - tensor).norm()))


def _closed(ring: Sequence[Tensor]) -> Tensor:
    """The tensor that a ring is."""
    whole = ring[0]
    for factor in ring[1:]:
        whole = torch.tensordot(whole, factor, 1)
    return whole.diagonal(dim1=0, dim2=-1).sum(-1)


def _starts(tensor: Tensor) -> range:
    """The seeds of an alternating method."""
    return range(_STARTS if tensor.numel() < _LARGE else 1)


def _least_squares(design: Tensor, target: Tensor) -> Tensor:
    """The solution of least norm: a design matrix may lack rank."""
    solution: Tensor = torch.linalg.lstsq(design, target, driver="gelsd").solution
    return solution


# -- not in tensorly -----------------------------------------------------------------------------------


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, `[rows, rank]`; zeros where there are fewer."""
    if matrix.shape[0] <= matrix.shape[1]:  # a few hundred channels against thousands of columns
        vectors = torch.linalg.eigh(matrix @ matrix.mT)[1].flip(1)[:, :rank]
    else:
        vectors = torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
    return torch.nn.functional.pad(vectors, (0, rank - vectors.shape[1]))


Terms = list[tuple[Tensor, list[Tensor]]]


def block_terms(tensor: Tensor, blocks: int, ranks: Sequence[int], iterations: int) -> Terms:
    """A sum of Tucker terms, each a core and a factor for each of the first axes.

    Each term is fitted in turn to what the others leave (De Lathauwer and Nion 2008), from several starts.
    """
    starts = _starts(tensor) if blocks > 1 else range(1)
    found = (_block_terms(tensor, blocks, ranks, iterations, start) for start in starts)
    return min(found, key=lambda made: made[0])[1]


def _block_terms(
    tensor: Tensor, blocks: int, ranks: Sequence[int], iterations: int, seed: int
) -> tuple[float, Terms]:
    """Error and terms; the first start takes the largest term first, the others begin with random ones."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.zeros_like(tensor)] * blocks
    if seed:
        frames = [
            [_frame(*pair, generator) for pair in zip(tensor.shape, ranks, strict=False)] for _ in values
        ]
        values = [_expanded(_projected(tensor, each), each) for each in frames]
    terms: Terms = [(tensor, [])] * blocks
    total = torch.stack(values).sum(0)
    for _ in range(max(1, iterations // 10)):  # a sweep takes as long as ten of the other methods
        for block in range(blocks):
            rest = tensor - total + values[block]
            terms[block] = _higher_order_svd(rest, ranks, terms[block][1])
            values[block] = _expanded(*terms[block])
            total = tensor - rest + values[block]
    return float((tensor - total).norm()), terms


def _frame(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns."""
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    frame: Tensor = torch.linalg.qr(drawn)[0]
    return frame


def _higher_order_svd(
    tensor: Tensor, ranks: Sequence[int], factors: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Core and factors of the first axes: one sweep of the higher-order orthogonal iteration from some factors."""
    found = list(factors) or [leading(_unfolded(tensor, mode), rank) for mode, rank in enumerate(ranks)]
    for mode, rank in enumerate(ranks):
        found[mode] = leading(_unfolded(_projected(tensor, found, leave=mode), mode), rank)
    return _projected(tensor, found), found


def _unfolded(tensor: Tensor, mode: int) -> Tensor:
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)


def _projected(tensor: Tensor, factors: Sequence[Tensor], leave: int | None = None) -> Tensor:
    for mode, factor in enumerate(factors):
        if mode != leave:
            tensor = torch.tensordot(factor.mT, tensor.movedim(mode, 0), 1).movedim(0, mode)
    return tensor


def _expanded(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    return _projected(core, [factor.mT for factor in factors])


def balanced(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The factors with equal root mean squares and the same product, so that gradients are of one size."""
    norms = torch.stack([factor.square().mean().sqrt() for factor in factors.values()])
    if not bool((norms > 0).all()):
        return factors
    common = norms.log().mean().exp()
    return {
        name: factor * (common / norm) for (name, factor), norm in zip(factors.items(), norms, strict=True)
    }
