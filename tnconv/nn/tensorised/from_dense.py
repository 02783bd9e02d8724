"""From a dense weight to factors: checks, scale and dtype around a family's decomposition.

Whatever a weight is, zero, constant or of low rank, its factors are finite and can be trained.
"""

import torch
from torch import Tensor

from tnconv.errors import SpecError
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, WeightShape


def decomposed(family: Family, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
    """Factors whose product comes near a weight, with equal root mean squares.

    Factors of a weight of zeros are drawn, but the last, which is zero: with two of zeros no gradient would be left.

    Args:
        family: the kind of factorisation.
        weight: `[C_out, C_in/groups, *K]`, of any dtype with a fraction.
        shape: its axes.
        ranks: size of every bond.
        budget: of an alternating method.

    Returns:
        Factors in float64 or complex128, on the CPU.

    Raises:
        SpecError: a cell is NaN or infinite.
    """
    dense = _finite(weight.detach()).reshape(shape.sizes)
    largest = float(dense.abs().max())
    if largest == 0:
        return _of_zeros(family, shape, ranks, dense.dtype)
    found = _balanced(family.decompose(dense / largest, shape, ranks, budget))
    share = largest ** (1 / len(found))
    return {name: factor * share for name, factor in found.items()}


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
    """The weight in float64 or complex128 on the CPU."""
    dense = weight.to("cpu", torch.complex128 if weight.is_complex() else torch.float64)
    bad = (~dense.isfinite()).nonzero()
    if len(bad):
        raise SpecError(
            f"weight {tuple(weight.shape)} has {len(bad)} cells that are NaN or infinite, the first at "
            f"{tuple(bad[0].tolist())}; load a sound weight, or draw new factors with decompose=False"
        )
    return dense


def _of_zeros(family: Family, shape: WeightShape, ranks: Ranks, dtype: torch.dtype) -> Factors:
    generator = torch.Generator().manual_seed(0)
    deviation = family.deviation(shape, ranks)
    found = {
        factor.name: deviation
        * torch.randn([axis.size for axis in factor.axes], generator=generator, dtype=dtype)
        for factor in family.factors(shape, ranks)
    }
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
