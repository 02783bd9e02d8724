"""CP: a sum of products of one vector a site."""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from tnconv import ir
from tnconv.nn.tensorised import decompose
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, WeightShape, bond, parameter
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions


@dataclass(frozen=True, slots=True)
class CP(Family):
    """`W[d, c, k1, k2] = Σ_r out[d, r] in[c, r] k1[k1, r] k2[k2, r]`; reshaped, a factor holds `[d_m, c_m, r]`."""

    name = "cp"

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """One bond, `r`."""
        sizes = [site.size for site in shape.sites()]
        return {"r": prod(sizes) // max(sizes)}

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """One a site, `[*site, r]`."""
        return [parameter(site.name, *site.axes, bond("r", ranks["r"])) for site in shape.sites()]

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By alternating least squares."""
        found = decompose.cp(self.product(shape, ranks), weight, budget)
        return {site.name: factor for site, factor in zip(shape.sites(), found, strict=True)}


class CPConv(TensorisedConv):
    """A convolution whose weight is a CP decomposition; one rank. See `TensorisedConv`."""

    family = CP()


class CPConv1d(OfOneDimension, CPConv):
    """`CPConv` in one spatial dimension."""


class CPConv2d(OfTwoDimensions, CPConv):
    """`CPConv` in two spatial dimensions."""


class CPConv3d(OfThreeDimensions, CPConv):
    """`CPConv` in three spatial dimensions."""


class CPConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a CP decomposition. See `TensorisedConvTranspose`."""

    family = CP()


class CPLinear(TensorisedLinear):
    """A linear layer whose weight is a CP decomposition. See `TensorisedLinear`."""

    family = CP()
