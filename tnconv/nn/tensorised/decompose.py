"""Decompositions of a weight, deterministic and on the CPU, in float64 or complex128."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnconv.nn.tensorised import algebraic, linalg
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.fit import LARGE, Drawn, drawn, fit, solution
from tnconv.nn.tensorised.linalg import expanded, leading, projected, unfolded
from tnconv.nn.tensorised.product import Product

_STARTS = 6
_CORE_STEPS = 100
_STALLED = 1e-7  # relative gain of a core's norm in a sweep
_STALLED_LARGE = 1e-5

Terms = list[tuple[Tensor, list[Tensor]]]


def tensor_train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """One factor an axis, `[rank, size, rank]`, by singular value decompositions in a row (Oseledets 2011).

    Ranks come out smaller where the tensor has fewer singular values.
    """
    return linalg.train(tensor[None, ..., None], ranks)


def tucker(tensor: Tensor, ranks: Sequence[int], budget: Budget) -> tuple[Tensor, list[Tensor]]:
    """The core and a factor `[size, rank]` for each of the first axes: higher-order orthogonal iteration."""
    core, factors = higher_order_svd(tensor, ranks, ())
    least = _STALLED if tensor.numel() < LARGE else _STALLED_LARGE
    for _ in range(budget.iterations):
        if budget.over:
            break
        before = float(core.norm())
        core, factors = higher_order_svd(tensor, ranks, factors)
        if float(core.norm()) <= before * (1 + least):
            break
    return core, factors


def higher_order_svd(
    tensor: Tensor, ranks: Sequence[int], factors: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Core and factors of the first axes: one sweep from some factors, from those of the unfoldings if none."""
    found = list(factors) or [leading(unfolded(tensor, mode), rank) for mode, rank in enumerate(ranks)]
    for mode, rank in enumerate(ranks):
        found[mode] = leading(unfolded(projected(tensor, found, leave=mode), mode), rank)
    return projected(tensor, found), found


# -- fitted --------------------------------------------------------------------------------------------


def cp(product: Product, tensor: Tensor, budget: Budget) -> list[Tensor]:
    """Factors whose columns are multiplied: from eigenvectors, from singular vectors, or from drawn ones."""
    ((_, rank),) = product.extents

    def algebraically(core: Tensor) -> list[Tensor] | None:
        found = algebraic.cp(_merged(product, core), rank)
        return found and _placed(product, found, core)

    def from_vectors(core: Tensor) -> list[Tensor]:
        merged = _merged(product, core)
        found = linalg.normal([(size, rank) for size in merged.shape], core.dtype)
        for mode, vectors in enumerate(found):
            count = min(vectors.shape)
            vectors[:, :count] = leading(unfolded(merged, mode), count)
        return _placed(product, found, core)

    return fit(product, tensor, algebraically, [from_vectors, *_drawn(product)], budget)


def tensor_ring(product: Product, tensor: Tensor, ranks: Sequence[int], budget: Budget) -> list[Tensor]:
    """Factors `[left, site, right]` in a row, the last joined to the first.

    From eigenvectors, from singular value decompositions in a row (Zhao et al. 2016), or from drawn ones; with a
    first rank of 1 it is a tensor train.

    Args:
        product: its factors in their order around the ring.
        tensor: in the product's order.
        ranks: left of every factor.
        budget: of sweeps.
    """

    def algebraically(core: Tensor) -> list[Tensor] | None:
        merged = _merged(product, core)
        turn = _turn(merged.shape)
        order = [*range(turn, len(ranks)), *range(turn)]
        found = algebraic.ring(merged.permute(order), [ranks[place] for place in order])
        return found and shaped([found[order.index(place)] for place in range(len(ranks))], core)

    def in_a_row(core: Tensor) -> list[Tensor]:
        return shaped(_opened_ring(_merged(product, core), ranks), core)

    def shaped(found: Sequence[Tensor], core: Tensor) -> list[Tensor]:
        return [value.reshape(shape) for value, shape in zip(found, product.shapes(core), strict=True)]

    return fit(product, tensor, algebraically, [in_a_row, *_drawn(product)], budget)


def _turn(sizes: Sequence[int]) -> int:
    """Where the ring is to be cut so that its first and last axes are long: between neighbours."""
    return max(range(len(sizes)), key=lambda place: min(sizes[place], sizes[place - 1]))


def _opened_ring(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """A ring whose first factor is made of the leading singular vectors of the first axis, the others a train.

    What singular vectors are lacking is filled up with small random numbers.
    """
    closing, second = ranks[:2]
    u, s, v = linalg.singular(tensor.reshape(tensor.shape[0], -1))
    count = min(closing * second, len(s))
    first = _filled(u[:, :count], (tensor.shape[0], closing * second))
    rest = _filled(s[:count, None] * v[:count], (closing * second, v.shape[1]))
    row = rest.reshape(closing, second, *tensor.shape[1:]).movedim(0, -1)
    train = tensor_train(row.reshape(second * tensor.shape[1], *row.shape[2:]), [*ranks[2:], closing])
    train[0] = train[0].reshape(second, tensor.shape[1], -1)
    train[-2:] = [torch.tensordot(train[-2], train[-1].squeeze(-1), 1)]
    sizes = [*ranks[1:], closing]
    shapes = [(sizes[place], size, sizes[place + 1]) for place, size in enumerate(tensor.shape[1:])]
    others = [_filled(value, shape) for value, shape in zip(train, shapes, strict=True)]
    return [first.reshape(-1, closing, second).movedim(1, 0), *others]


def _filled(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor with more cells, which hold small random numbers."""
    if value.shape == tuple(shape):
        return value
    small = 0.1 * float(value.abs().square().mean().sqrt())
    made = small * linalg.normal([shape], value.dtype)[0]
    made[tuple(map(slice, value.shape))] = value
    return made


def block_terms(
    product: Product, tensor: Tensor, blocks: int, ranks: Sequence[int], budget: Budget
) -> list[Tensor]:
    """Cores `[blocks, *ranks, *kernel]` and a factor `[blocks, size, rank]` for each of the first axes.

    From eigenvectors, from one term after the other fitted to what the others leave (De Lathauwer and Nion 2008), or
    from drawn factors.
    """
    if blocks == 1:
        core, factors = tucker(tensor, ranks, budget)
        return [core.unsqueeze(0), *(factor.unsqueeze(0) for factor in factors)]

    def algebraically(core: Tensor) -> list[Tensor] | None:
        equal = len(ranks) == 2 and ranks[0] == ranks[1]
        frames = algebraic.block_frames(core, blocks, ranks[0]) if equal else None
        return frames and _with_core(product, core, frames)

    def one_by_one(core: Tensor) -> list[Tensor]:
        return _stacked(_in_turn(core, blocks, ranks))

    return fit(product, tensor, algebraically, [one_by_one, *_drawn(product)], budget)


def _with_core(product: Product, tensor: Tensor, frames: Sequence[Tensor]) -> list[Tensor]:
    """Factors with the best cores for some frames, which together span no more than the axes have."""
    values = [*drawn(product, 0)(tensor)[:1], *frames]
    pairs = [None if not place else product.pair(value, place) for place, value in enumerate(values)]
    partial, letters = product.partial(tensor, values, 1)
    target = product.target(partial, letters, values, 0, 1)
    found, _ = solution(product, values, pairs, 0, target, _CORE_STEPS)
    return [product.factor(found, values[0], 0), *frames]


def _in_turn(tensor: Tensor, blocks: int, ranks: Sequence[int]) -> Terms:
    values = [torch.zeros_like(tensor)] * blocks
    terms: Terms = [(tensor, [])] * blocks
    total = torch.zeros_like(tensor)
    for _ in range(2):
        for block in range(blocks):
            rest = tensor - total + values[block]
            terms[block] = higher_order_svd(rest, ranks, terms[block][1])
            values[block] = expanded(*terms[block])
            total = tensor - rest + values[block]
    return terms


def _stacked(terms: Terms) -> list[Tensor]:
    return [
        torch.stack([core for core, _ in terms]),
        *map(torch.stack, zip(*(f for _, f in terms), strict=True)),
    ]


# -- shapes and starts ---------------------------------------------------------------------------------


def _merged(product: Product, tensor: Tensor) -> Tensor:
    """A tensor with one axis a factor."""
    groups = [product.sites(place) for place in range(len(product.terms))]
    order = [product.output.index(letter) for letters in groups for letter in letters]
    moved = tensor.permute(order)
    sizes = dict(zip(product.output, tensor.shape, strict=True))
    return moved.reshape([math.prod(sizes[letter] for letter in letters) for letters in groups])


def _placed(product: Product, found: Sequence[Tensor], tensor: Tensor) -> list[Tensor]:
    """Factors `[sites, bond]` in the shapes of a product."""
    shapes = product.shapes(tensor)
    return [
        product.factor(value.mT, torch.empty(shape, device="meta"), place)
        for place, (value, shape) in enumerate(zip(found, shapes, strict=True))
    ]


def _drawn(product: Product) -> list[Drawn]:
    return [drawn(product, seed) for seed in range(_STARTS)]
