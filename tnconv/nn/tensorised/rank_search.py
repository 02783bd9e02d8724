"""Ranks that a weight asks for: as few as come near enough, or as are more than noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnconv.errors import SpecError
from tnconv.nn.tensorised import linalg
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.criteria import VBMF, Nearness, nearness
from tnconv.nn.tensorised.factors import Family, WeightShape
from tnconv.nn.tensorised.from_dense import Approximation, Target
from tnconv.nn.tensorised.ranks import Rank, last_that_fits, resolve_ranks, uniform
from tnconv.nn.tensorised.vbmf import evb_rank

_FINE = 16  # a search by fits ends where it knows a rank to one part in so many


def approximation(
    form: tuple[Family, WeightShape], weight: Tensor, rank: Rank, budget: Budget, decompose: bool = True
) -> Approximation:
    """Ranks and factors for a weight.

    Args:
        form: the kind of factorisation, and the weight's axes.
        weight: as torch has it.
        rank: see `TensorisedLayer.from_dense`.
        budget: of an alternating method.
        decompose: whether factors are wanted; none are made of a weight without values.

    Raises:
        SpecError: the rank does not fit, no rank comes near enough, or a cell is NaN or infinite.
    """
    family, shape = form
    near, noise = nearness(rank), isinstance(rank, str) and rank == VBMF
    if near is None and not noise:
        ranks = resolve_ranks(rank, family, shape)
        if not decompose or weight.is_meta:
            return Approximation(ranks)
        return Target.of(family, weight, shape).with_ranks(ranks, budget)
    if weight.is_meta:
        raise SpecError(
            f"rank is {near.said if near else repr(rank)}, but the weight is on the meta device and has no values; "
            "load it first, or give an int or a fraction"
        )
    target = Target.of(family, weight, shape)
    found = within(target, near, budget) if near else target.with_ranks(noise_ranks(target), budget)
    return found if decompose else Approximation(found.ranks)


# -- by singular values ----------------------------------------------------------------------------------


def spectra(target: Target) -> dict[str, tuple[Tensor, tuple[int, int]]]:
    """The singular values of the weight at each bond that is a cut, with the rows and columns of the matrix."""
    axes = range(target.tensor.ndim)
    found = {}
    for name, rows in target.family.cuts(target.shape).items():
        columns = [axis for axis in axes if axis not in rows]
        height = prod(target.tensor.shape[axis] for axis in rows)
        matrix = target.tensor.permute(*rows, *columns).reshape(height, -1)
        found[name] = (linalg.singular_values(matrix), (height, matrix.shape[1]))
    return found


def noise_ranks(target: Target) -> dict[str, int]:
    """The ranks that are more than noise, at least 1.

    Raises:
        SpecError: the bonds are no ranks of matrices.
    """
    found = spectra(target)
    if not found:
        raise SpecError(
            f"rank is {VBMF!r}, which is for kinds whose bonds are ranks of matrices, 'tucker', 'tt' and 'ht', but "
            f"this is {target.family.name!r}; take one of these, or give a rank or {{'error': 0.05}}"
        )
    limits = target.family.limits(target.shape)
    return {name: min(max(1, evb_rank(s, *sizes)), limits[name]) for name, (s, sizes) in found.items()}


# -- from few to many ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ladder:
    """Ranks in order, from 1 for all bonds to the largest that each can use.

    Of a kind whose bonds are cuts, a step has each bond drop singular values of the same norm; of others, all bonds
    have the same rank.

    Args:
        steps: how many there are.
        at: the ranks of a step.
        lost: of each step, the norm that no cut loses more of, relative to the weight's; none where bonds are no cuts.
    """

    steps: int
    at: Callable[[int], dict[str, int]]
    lost: tuple[float, ...] = ()

    @classmethod
    def of(cls, target: Target) -> "Ladder":
        """That of a weight."""
        limits = target.family.limits(target.shape)
        norm = float(target.tensor.norm())
        found = spectra(target) if norm else {}
        if not found:
            return cls(max(limits.values()), lambda step: uniform(step + 1, limits))
        tails = {name: _tails(values) / norm for name, (values, _) in found.items()}
        lost = sorted({float(loss) for tail in tails.values() for loss in tail[1:]}, reverse=True)

        def at(step: int) -> dict[str, int]:
            return {name: max(1, int((tail > lost[step]).sum())) for name, tail in tails.items()}

        return cls(len(lost), at, tuple(lost))

    def largest(self, fits: Callable[[dict[str, int]], bool]) -> int:
        """The last step that fits, -1 if none: what takes more than another that does not fit does not fit either."""
        return last_that_fits(-1, self.steps - 1, lambda step: fits(self.at(step)))


def _tails(values: Tensor) -> Tensor:
    """The norm of what is dropped with each rank, from 0 to all, `[k + 1]`; nothing is lost with all."""
    squares = values.square().flip(0).cumsum(0).flip(0)
    return torch.cat([squares.sqrt(), squares.new_zeros(1)])


def within(target: Target, near: Nearness, budget: Budget) -> Approximation:
    """Factors that come near enough, with nearly as few parameters as any step of the ladder.

    Args:
        target: the weight.
        near: how near.
        budget: of an alternating method, for all that is tried.

    Raises:
        SpecError: even the largest ranks do not come as near.
    """
    ladder = Ladder.of(target)
    tried: dict[int, Approximation] = {}

    def enough(step: int) -> bool:
        made = tried[step] = target.with_ranks(ladder.at(step), budget)
        assert made.error is not None
        return made.error <= near.error

    low, high = _bracket(ladder, near.error)
    while not enough(high):
        if high == ladder.steps - 1:
            raise SpecError(
                f"rank is {near.said}, an error of at most {near.error:.3g}, but {target.family.name!r} with the ranks "
                f"{tuple(tried[high].ranks.values())} comes to {tried[high].error:.3g}; give more, more iterations, or "
                "another kind"
            )
        low, high = high, min(2 * high + 1, ladder.steps - 1)
    while high - low > (1 if ladder.lost else max(1, low // _FINE)):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return tried[high]


def _bracket(ladder: Ladder, error: float) -> tuple[int, int]:
    """A step that is too small, -1 if none is known to be, and one that is near enough, or to begin with.

    An error is at least what one cut loses, and its square at most what all lose.
    """
    if not ladder.lost:
        return -1, 0
    cuts = len(ladder.at(0))
    first = [sum(lost > share for lost in ladder.lost) for share in (error, error / math.sqrt(cuts))]
    return first[0] - 1, min(first[1], ladder.steps - 1)
