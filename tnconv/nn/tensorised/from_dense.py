"""From a dense weight to factors: checks, scale and dtype around a family's decomposition.

Whatever a weight is, zero, constant or of low rank, its factors are finite and can be trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tnconv.errors import SpecError
from tnconv.nn.tensorised import linalg
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, WeightShape


@dataclass(frozen=True, slots=True)
class Approximation:
    """Factors for a weight.

    Args:
        ranks: of every bond.
        factors: in float64 or complex128, on the CPU; none where they are to be drawn.
        error: of their product, `|made - dense| / |dense|` in Frobenius norms; None without factors.
    """

    ranks: Mapping[str, int]
    factors: Factors = field(default_factory=dict)
    error: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A weight that factors are to come near.

    Args:
        family: the kind of factorisation.
        shape: the weight's axes.
        tensor: the weight over its largest cell, `[*outs, *ins, *kernel]`, in float64 or complex128 on the CPU.
        largest: absolute value of that cell.
    """

    family: Family
    shape: WeightShape
    tensor: Tensor
    largest: float

    @classmethod
    def of(cls, family: Family, weight: Tensor, shape: WeightShape) -> "Target":
        """That of a weight `[C_out, C_in/groups, *K]`, or as torch has it, of any dtype with a fraction.

        Raises:
            SpecError: a cell is NaN or infinite.
        """
        dense = shape.split(_finite(weight.detach()))
        largest = float(dense.abs().max())
        return cls(family, shape, dense / largest if largest else dense, largest)

    def with_ranks(self, ranks: Ranks, budget: Budget) -> Approximation:
        """Factors whose product comes near the weight, with equal root mean squares.

        Factors of a weight of zeros are drawn, but the last, which is zero: with two of zeros no gradient would be
        left.

        Args:
            ranks: size of every bond.
            budget: of an alternating method.
        """
        if not self.largest:
            return Approximation(ranks, _of_zeros(self.family, self.shape, ranks, self.tensor.dtype), 0.0)
        found = _balanced(self.family.decompose(self.tensor, self.shape, ranks, budget))
        values = [found[factor.name] for factor in self.family.factors(self.shape, ranks)]
        made = self.family.product(self.shape, ranks).dense(values)
        error = float((made - self.tensor).norm() / self.tensor.norm())
        share = self.largest ** (1 / len(found))
        return Approximation(ranks, {name: factor * share for name, factor in found.items()}, error)


def check_dtype(weight: Tensor) -> None:
    """Refuse integers, which have no factors.

    Raises:
        SpecError: the dtype has no fractions.
    """
    if not weight.is_floating_point() and not weight.is_complex():
        raise SpecError(
            f"weight has dtype {weight.dtype}, which cannot be factorised; convert it to a floating dtype first"
        )


def _finite(weight: Tensor) -> Tensor:
    dense = weight.to("cpu", torch.complex128 if weight.is_complex() else torch.float64)
    bad = (~dense.isfinite()).nonzero()
    if len(bad):
        raise SpecError(
            f"weight {tuple(weight.shape)} has {len(bad)} cells that are NaN or infinite, the first at "
            f"{tuple(bad[0].tolist())}; load a sound weight, or draw new factors with decompose=False"
        )
    return dense


def _of_zeros(family: Family, shape: WeightShape, ranks: Ranks, dtype: torch.dtype) -> Factors:
    deviation, factors = family.deviation(shape, ranks), family.factors(shape, ranks)
    values = linalg.normal([[axis.size for axis in factor.axes] for factor in factors], dtype)
    found = {factor.name: deviation * value for factor, value in zip(factors, values, strict=True)}
    found[next(reversed(found))].zero_()
    return found


def _balanced(factors: Factors) -> Factors:
    """The factors with equal root mean squares and the same product, so that gradients are of one size."""
    norms = torch.stack([factor.abs().square().mean().sqrt() for factor in factors.values()])
    if not bool((norms > 0).all()):
        return factors
    common = norms.log().mean().exp()
    return {
        name: factor * (common / norm) for (name, factor), norm in zip(factors.items(), norms, strict=True)
    }
