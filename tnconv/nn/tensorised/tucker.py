"""Tucker: a core with the whole kernel, and a factor for each channel axis."""

from dataclasses import dataclass

from torch import Tensor

from tnconv import ir
from tnconv.nn.tensorised import decompose
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, Site, WeightShape, bond, parameter
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions


def channel_factors(shape: WeightShape) -> list[tuple[str, Site]]:
    """Each channel axis as a site, with the name of its bond: out-channels first."""
    found = []
    for kind, axes, first in (("out", shape.out_axes, 0), ("in", shape.in_axes, len(shape.outs))):
        for m, axis in enumerate(axes):
            number = str(m + 1) if shape.reshaped else ""
            found.append((f"r_{kind}{number}", Site(f"factor_{kind}{number}", (axis,), (first + m,))))
    return found


def channel_limits(shape: WeightShape) -> dict[str, int]:
    """The largest useful rank of each channel axis."""
    return {name: min(site.size, shape.parameters // site.size) for name, site in channel_factors(shape)}


def core_and_factors(shape: WeightShape, ranks: Ranks, *first: ir.Axis) -> list[ir.Tensor]:
    """A core with the whole kernel, and a factor for each channel axis; all with the same first axes, if any."""
    channels = channel_factors(shape)
    bonds = [bond(name, ranks[name]) for name, _ in channels]
    core = parameter("core", *first, *bonds, *shape.kernel_axes)
    pairs = zip(channels, bonds, strict=True)
    return [core, *(parameter(site.name, *first, *site.axes, joined) for (_, site), joined in pairs)]


@dataclass(frozen=True, slots=True)
class Tucker(Family):
    """`W[d, c, k1, k2] = Σ core[r_out, r_in, k1, k2] out[d, r_out] in[c, r_in]`.

    Reshaped, the core has the bonds `r_out1, …, r_in1, …`.
    """

    name = "tucker"

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """One bond for each channel axis, out-channels first."""
        return channel_limits(shape)

    def cuts(self, shape: WeightShape) -> dict[str, tuple[int, ...]]:
        """Each channel axis."""
        return {name: site.places for name, site in channel_factors(shape)}

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """The core `[*r_out, *r_in, *k]` and factors `[channels, r]`."""
        return core_and_factors(shape, ranks)

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By higher-order orthogonal iteration."""
        channels = channel_factors(shape)
        wanted = [ranks[name] for name, _ in channels]
        core, found = decompose.tucker(weight, wanted, budget)
        names = [site.name for _, site in channels]
        return {"core": core} | dict(zip(names, found, strict=True))


class TuckerConv(TensorisedConv):
    """A convolution whose weight is a Tucker decomposition; ranks of out- and in-channels. See `TensorisedConv`."""

    family = Tucker()


class TuckerConv1d(OfOneDimension, TuckerConv):
    """`TuckerConv` in one spatial dimension."""


class TuckerConv2d(OfTwoDimensions, TuckerConv):
    """`TuckerConv` in two spatial dimensions."""


class TuckerConv3d(OfThreeDimensions, TuckerConv):
    """`TuckerConv` in three spatial dimensions."""


class TuckerConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a Tucker decomposition. See `TensorisedConvTranspose`."""

    family = Tucker()


class TuckerLinear(TensorisedLinear):
    """A linear layer whose weight is a Tucker decomposition. See `TensorisedLinear`."""

    family = Tucker()
