"""Tensor ring: the sites in a row, and the last joined to the first."""

from dataclasses import dataclass

from torch import Tensor

from tnconv import ir
from tnconv.nn.tensorised import decompose
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, WeightShape, bond, parameter
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions
from tnconv.nn.tensorised.tensor_train import cut_limits


@dataclass(frozen=True, slots=True)
class TensorRing(Family):
    """`W[d, c, k1, k2] = Σ in[r0, c, r1] k1[r1, k1, r2] k2[r2, k2, r3] out[r3, d, r0]`.

    Reshaped, `Σ f1[r0, d1, c1, r1] … kernel[rm, k1, k2, r0]`. With `r0 = 1` it is a tensor train.
    """

    name = "tr"

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """The bonds `r0`, `r1`, …; `r0` closes the ring."""
        cuts = cut_limits(shape.sites())
        ends = list(cuts.values())
        return {"r0": min(ends[0], ends[-1])} | cuts

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """One a site, `[r_left, *site, r_right]`."""
        bonds = [bond(name, ranks[name]) for name in self.limits(shape)]
        bonds.append(bonds[0])
        return [
            parameter(site.name, bonds[place], *site.axes, bonds[place + 1])
            for place, site in enumerate(shape.sites())
        ]

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By alternating least squares."""
        wanted = [ranks[name] for name in self.limits(shape)]
        found = decompose.tensor_ring(self.product(shape, ranks), weight, wanted, budget)
        return {site.name: factor for site, factor in zip(shape.sites(), found, strict=True)}


class TRConv(TensorisedConv):
    """A convolution whose weight is a tensor ring; one rank a site, the first closes it. See `TensorisedConv`."""

    family = TensorRing()


class TRConv1d(OfOneDimension, TRConv):
    """`TRConv` in one spatial dimension."""


class TRConv2d(OfTwoDimensions, TRConv):
    """`TRConv` in two spatial dimensions."""


class TRConv3d(OfThreeDimensions, TRConv):
    """`TRConv` in three spatial dimensions."""


class TRConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a tensor ring. See `TensorisedConvTranspose`."""

    family = TensorRing()


class TRLinear(TensorisedLinear):
    """A linear layer whose weight is a tensor ring. See `TensorisedLinear`."""

    family = TensorRing()
