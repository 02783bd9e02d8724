"""Block terms: a sum of Tucker decompositions (De Lathauwer 2008)."""

from dataclasses import dataclass

from torch import Tensor

from tnconv import ir
from tnconv.errors import SpecError
from tnconv.ir import as_integer
from tnconv.nn.tensorised import decompose
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, WeightShape, bond
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions
from tnconv.nn.tensorised.tucker import channel_factors, channel_limits, core_and_factors
from tnconv.spec.fields import shown


@dataclass(frozen=True, slots=True)
class BlockTerm(Family):
    """`W[d, c, k1, k2] = Σ_b Σ core[b, r_out, r_in, k1, k2] out[b, d, r_out] in[b, c, r_in]`.

    Args:
        blocks: number of terms.

    Raises:
        SpecError: it is no int of at least 1.
    """

    name = "bt"
    blocks: int = 4

    def __post_init__(self) -> None:
        count = as_integer(self.blocks)
        if count is None or count < 1:
            raise SpecError(f"blocks is {shown(self.blocks)}; give the number of terms, an int of at least 1")
        object.__setattr__(self, "blocks", count)

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """One bond for each channel axis, out-channels first; the blocks are no rank."""
        return channel_limits(shape)

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """The cores `[b, *r_out, *r_in, *k]` and factors `[b, channels, r]`."""
        return core_and_factors(shape, ranks, bond("b", self.blocks))

    def paths(self, ranks: Ranks) -> int:
        """Products of all blocks."""
        return self.blocks * Family.paths(self, ranks)

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By alternating least squares."""
        channels = channel_factors(shape)
        wanted = [ranks[name] for name, _ in channels]
        found = decompose.block_terms(self.product(shape, ranks), weight, self.blocks, wanted, budget)
        names = ["core", *(site.name for _, site in channels)]
        return dict(zip(names, found, strict=True))


class BTConv(TensorisedConv):
    """A convolution whose weight is a sum of Tucker terms, 4 unless `blocks=` says otherwise. See `TensorisedConv`."""

    family = BlockTerm()


class BTConv1d(OfOneDimension, BTConv):
    """`BTConv` in one spatial dimension."""


class BTConv2d(OfTwoDimensions, BTConv):
    """`BTConv` in two spatial dimensions."""


class BTConv3d(OfThreeDimensions, BTConv):
    """`BTConv` in three spatial dimensions."""


class BTConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a sum of Tucker terms. See `TensorisedConvTranspose`."""

    family = BlockTerm()


class BTLinear(TensorisedLinear):
    """A linear layer whose weight is a sum of Tucker terms. See `TensorisedLinear`."""

    family = BlockTerm()
