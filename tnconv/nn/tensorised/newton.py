"""The last steps of a small fit: damped Gauss-Newton steps in all factors at once (Levenberg 1944; Marquardt 1963).

Where a tensor is exactly of a form, alternating steps may creep along a valley for thousands of sweeps; these converge
in some ten. A step takes the cube of the number of all cells of factors, which is why it is for small fits.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.product import Product, contract

_MOST = 500  # cells of all factors
_DAMPING = 1e-2  # of the mean of the diagonal
_TRIES = 6
_EXACT = 1e-10  # relative error


def is_small(product: Product, tensor: Tensor) -> bool:
    """Whether a step takes a few milliseconds."""
    return sum(map(prod, product.shapes(tensor))) <= _MOST and tensor.numel() <= 10 * _MOST


def refined(
    product: Product, tensor: Tensor, values: Sequence[Tensor], steps: int, budget: Budget
) -> tuple[list[Tensor], float]:
    """Factors with a smaller error, and that error, relative.

    Args:
        product: how they make the tensor.
        tensor: not zero.
        values: the factors to begin with.
        steps: at most; fewer where one gains little.
        budget: of time.
    """
    norm, damping = float(tensor.norm()), _DAMPING
    found, rest = list(values), tensor - product.dense(values)
    error = float(rest.norm()) / norm
    for step in range(steps):
        if budget.over or error <= _EXACT:
            break
        jacobian = _jacobian(product, tensor, found)
        squares, slope = jacobian.mH @ jacobian, jacobian.mH @ rest.reshape(-1, 1)
        before = error
        for _ in range(_TRIES):
            moved = _moved(product, found, squares, slope, damping)
            left = rest if moved is None else tensor - product.dense(moved)
            if moved is not None and float(left.norm()) / norm < error:
                found, rest, error = moved, left, float(left.norm()) / norm
                damping = max(damping / 5, 1e-14)
                break
            damping *= 4
        if error > (0.995 if step > 8 else 0.9999) * before:
            break
    return found, error


def _moved(
    product: Product, values: Sequence[Tensor], squares: Tensor, slope: Tensor, damping: float
) -> list[Tensor] | None:
    """The factors after a step, None where the equations are singular."""
    shifted = squares.clone()
    shifted.diagonal().add_(damping * float(squares.diagonal().real.mean()) + torch.finfo(torch.float64).tiny)
    triangle, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed):
        return None
    parts = torch.split(torch.cholesky_solve(slope, triangle).flatten(), [value.numel() for value in values])
    return [
        value + product.factor(part, value, place)
        for place, (value, part) in enumerate(zip(values, parts, strict=True))
    ]


def _jacobian(product: Product, tensor: Tensor, values: Sequence[Tensor]) -> Tensor:
    """`[cells of the tensor, cells of all factors]`, the latter as (bonds, sites) of each factor."""
    columns = []
    for place in range(len(values)):
        others = [other for other in range(len(values)) if other != place]
        own, bonds = product.sites(place), product.bonds(place)
        rest = "".join(letter for letter in product.output if letter not in own)
        environment = contract(
            f"{','.join(product.terms[other] for other in others)}->{rest}{bonds}",
            *(values[other] for other in others),
        )
        outer, joined = environment.shape[: len(rest)], prod(environment.shape[len(rest) :])
        sizes = [tensor.shape[product.output.index(letter)] for letter in own]
        eye = torch.eye(prod(sizes), dtype=tensor.dtype)
        block = torch.einsum("xb,st->xsbt", environment.reshape(-1, joined), eye)
        order = [(rest + own).index(letter) for letter in product.output]
        block = block.reshape(*outer, *sizes, -1).permute(*order, len(order))
        columns.append(block.reshape(tensor.numel(), -1))
    return torch.cat(columns, 1)
