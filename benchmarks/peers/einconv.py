"""einconv's simplified networks: by `torch.einsum`, built at each call as its users do, and planned once by cotengra.

The cached form keeps the operands, patterns included, so that a call is the contraction alone.
"""

import time
from importlib import import_module
from typing import Any

import opt_einsum
import torch
from torch import Tensor

from benchmarks.peers.base import Peer, Problem

_MOST_MULTIPLICATIONS = 2e11
_MOST_ELEMENTS = 3e8
_EXPRESSIONS = {
    "forward": "convNd_forward",
    "input_vjp": "convNd_input_vjp",
    "weight_vjp": "convNd_weight_vjp",
    "unfold": "convNd_unfold",
    "kfac_expand": "convNd_kfc",
    "kfac_reduce": "convNd_kfac_reduce",
}


def peers(p: Problem) -> list[Peer]:
    """`einconv` and `einconv+cotengra`.

    Raises:
        ValueError: the contraction is out of reach.
    """
    if p.op not in _EXPRESSIONS:
        return []
    scale = 1 / p.case.positions if p.op == "kfac_expand" else 1.0
    equation, operands, shape = _expression(p)
    _, path = opt_einsum.contract_path(equation, *operands)
    if path.opt_cost > _MOST_MULTIPLICATIONS or path.largest_intermediate > _MOST_ELEMENTS:
        raise ValueError(
            f"{float(path.opt_cost):.0e} operations, {float(path.largest_intermediate):.0e} elements"
        )

    def direct() -> Tensor:
        equation, operands, shape = _expression(p)
        return torch.einsum(equation, *operands).reshape(shape)

    return [Peer("einconv", direct, scale), _cached(equation, operands, shape, scale)]


def _cached(equation: str, operands: list[Tensor], shape: tuple[int, ...], scale: float) -> Peer:
    import cotengra  # noqa: PLC0415 - takes half a second

    start = time.perf_counter()
    if len(operands) == 1:
        contract: Any = lambda x: torch.einsum(equation, x)  # noqa: E731
    else:
        contract = cotengra.einsum_expression(equation, *(tuple(o.shape) for o in operands))
    seconds = time.perf_counter() - start
    return Peer("einconv+cotengra", lambda: contract(*operands).reshape(shape), scale, seconds=seconds)


def _expression(p: Problem) -> tuple[str, list[Tensor], tuple[int, ...]]:
    module: Any = import_module(f"einconv.expressions.{_EXPRESSIONS[p.op]}")
    case, options = p.case, dict(p.case.options)
    if p.op == "unfold":
        del options["groups"]
    tensors: dict[str, tuple[Any, ...]] = {
        "forward": (p.x, p.weight),
        "input_vjp": (p.weight, p.grad, case.input_size),
        "weight_vjp": (p.x, p.grad, case.kernel_size),
    }
    found = tensors.get(p.op, (p.x, case.kernel_size))
    expression: tuple[str, list[Tensor], tuple[int, ...]] = module.einsum_expression(
        *found, **options, simplify=True
    )
    return expression
