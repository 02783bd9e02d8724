"""Tensor train: the sites in a row, joined by one bond between neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnconv import ir
from tnconv.nn.tensorised import decompose
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, Site, WeightShape, bond, parameter
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions


def cut_limits(sites: Sequence[Site]) -> dict[str, int]:
    """The largest useful rank of the bonds `r1`, `r2`, … between neighbours."""
    sizes = [site.size for site in sites]
    return {f"r{cut}": min(prod(sizes[:cut]), prod(sizes[cut:])) for cut in range(1, len(sizes))}


def in_shape(found: Sequence[Tensor], sites: Sequence[Site], ranks: Sequence[int]) -> list[Tensor]:
    """Factors `[left, size, right]` as `[left, *site, right]`, with zeros where a rank came out smaller.

    Args:
        found: the factors.
        sites: theirs.
        ranks: left of every site, and right of the last.
    """
    made = []
    for place, (factor, site) in enumerate(zip(found, sites, strict=True)):
        left, right = ranks[place], ranks[place + 1]
        padding = (0, right - factor.shape[2], 0, 0, 0, left - factor.shape[0])
        made.append(torch.nn.functional.pad(factor, padding).reshape(left, *site.sizes, right))
    return made


@dataclass(frozen=True, slots=True)
class TensorTrain(Family):
    """`W[d, c, k1, k2] = Σ in[c, r1] k1[r1, k1, r2] k2[r2, k2, r3] out[r3, d]`.

    Reshaped, `Σ f1[d1, c1, r1] f2[r1, d2, c2, r2] … kernel[rm, k1, k2]`.
    """

    name = "tt"

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """The bonds `r1`, `r2`, … in a row."""
        return cut_limits(shape.sites())

    def cuts(self, shape: WeightShape) -> dict[str, tuple[int, ...]]:
        """The axes of all sites before a bond."""
        sites = shape.sites()
        return {
            name: tuple(place for site in sites[:cut] for place in site.places)
            for cut, name in enumerate(cut_limits(sites), 1)
        }

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """One a site, `[r_left, *site, r_right]`; the ends have one bond."""
        sites = shape.sites()
        bonds = [[], *([bond(name, ranks[name])] for name in cut_limits(sites)), []]
        return [parameter(s.name, *bonds[place], *s.axes, *bonds[place + 1]) for place, s in enumerate(sites)]

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By singular value decompositions in a row; there are no iterations."""
        sites = shape.sites()
        wanted = [ranks[name] for name in cut_limits(sites)]
        found = in_shape(
            decompose.tensor_train(shape.arranged(weight, sites), wanted), sites, [1, *wanted, 1]
        )
        found[0], found[-1] = found[0].squeeze(0), found[-1].squeeze(-1)
        return {site.name: factor for site, factor in zip(sites, found, strict=True)}


class TTConv(TensorisedConv):
    """A convolution whose weight is a tensor train; one rank for each pair of neighbours. See `TensorisedConv`."""

    family = TensorTrain()


class TTConv1d(OfOneDimension, TTConv):
    """`TTConv` in one spatial dimension."""


class TTConv2d(OfTwoDimensions, TTConv):
    """`TTConv` in two spatial dimensions."""


class TTConv3d(OfThreeDimensions, TTConv):
    """`TTConv` in three spatial dimensions."""


class TTConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a tensor train. See `TensorisedConvTranspose`."""

    family = TensorTrain()


class TTLinear(TensorisedLinear):
    """A linear layer whose weight is a tensor train. See `TensorisedLinear`."""

    family = TensorTrain()
