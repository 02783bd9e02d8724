"""Products of float32 matrices by oneDNN, on CPUs whose registers it fills and the BLAS does not.

PyTorch multiplies matrices by the BLAS that it was built with. MKL uses half of the width of the registers of other
vendors' processors than its own; oneDNN, which PyTorch convolves with, uses all of it: its inner products are twice as
fast there. PyTorch calls them for linear layers that it has compiled (`torch.ops.mkldnn._linear_pointwise`), so here
they are called by that. Where that is not faster, the tensors are other ones, or somebody looks on, products are those
of `torch.mm` and `torch.bmm`.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.torch.context import are_plain, aside
from tnconv.backends.torch.numerics.huge_pages import new_empty
from tnconv.backends.torch.numerics.into import add_into

LEAST_WORK = 1 << 21  # multiplications that are worth a call, for each thread
PROFILE = "TNCONV_PROFILE"  # names one of the profiles that are shipped, whatever the machine
WIDE = "cpu-wide"  # that of a CPU on which these are faster
_SIDE, _TURNS = 256, 7  # of the product that is timed, and how often
_STRIP, _STRIP_ROWS = 1 << 17, 64  # cells and least rows of a strip of a result that is there already
_LEAST_SUM = 64  # products that a cell sums, from which on writing it once more is worth it
_FASTER = 1.4  # times, from which on a machine is one of these


@cache
def is_wide() -> bool:
    """Whether oneDNN multiplies matrices much faster than the BLAS here: measured once in a process, in some ms."""
    if named := os.environ.get(PROFILE):
        return named == WIDE
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or _linear() is None:
        return False
    with aside():
        a = torch.ones(_SIDE, _SIDE)
        ways = (lambda: torch.mm(a, a)), (lambda: _inner(a, a))
        try:
            blas, onednn = (min(_seconds(way) for _ in range(_TURNS)) for way in ways)
        except (RuntimeError, TypeError):  # no call that PyTorch promises: a version may take other arguments
            return False
    return blas > _FASTER * onednn


def inner_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`a @ b`.

    Args:
        a: `[l, t]`.
        b: `[t, r]`.
        out: `[l, r]`, where nothing records what happens: memory that the result may have.

    Returns:
        `[l, r]`, row after row.
    """
    return _inner(a, b) if is_worth(a, b) else torch.mm(a, b, out=out)


def inner_products(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`a @ b` for each cell of the first dimension, one after another where they are large.

    Args:
        a: `[n, l, t]`.
        b: `[n, t, r]`.
        out: `[n, l, r]`, where nothing records what happens: memory for the result.

    Returns:
        `[n, l, r]`.
    """
    worth = is_worth(a, b)
    if worth and len(a) == 1 and out is None:
        return _inner(a[0], b[0])[None]
    if not worth or a.shape[-1] < _LEAST_SUM:
        return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)
    made = new_empty(a, (a.shape[0], a.shape[1], b.shape[2])) if out is None else out
    for part, one, other in zip(made.unbind(), a.unbind(), b.unbind(), strict=True):
        _add(part, one, other, 0.0, 1.0)
    return made


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale · a @ b`, where nothing records what happens.

    Args:
        a: `[l, t]`.
        b: `[t, r]`.
        scale: of the product.
    """
    if not is_worth(a, b):
        return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=scale)
    return _scaled(a, b, scale)


def add_product(out: Tensor, a: Tensor, b: Tensor, *, beta: float, alpha: float) -> None:
    """`out = beta · out + alpha · a @ b`, where nothing records what happens.

    Args:
        out: `[l, r]`; with `beta=0` what was there does not matter.
        a: `[l, t]`.
        b: `[t, r]`.
        beta: of what is there.
        alpha: of the product.
    """
    if a.shape[-1] < _LEAST_SUM or not is_worth(a, b):
        torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
        return
    _add(out, a, b, beta, alpha)


def _add(out: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    """The same by oneDNN, which writes no memory that is there: a strip of the result at once, while it is cached."""
    rows = max(_STRIP_ROWS, _STRIP // out.shape[1])
    for low in range(0, len(out), rows):
        add_into(out[low : low + rows], _scaled(a[low : low + rows], b, alpha), beta)


def is_worth(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is to multiply two matrices, or those of two batches: they are large, and nobody looks on."""
    # A tracer that leaves sizes open is not to see them compared.
    if torch.compiler.is_compiling() or not is_wide() or not are_plain((a, b)):
        return False
    least = LEAST_WORK * torch.get_num_threads()  # what is less is shared out in smaller pieces by the BLAS
    least *= 1 if a.stride(-1) == 1 else 2  # what lies otherwise is brought into order
    return (
        a.dtype is torch.float32
        and a.device.type == "cpu"
        and a.shape[-2] * a.shape[-1] * b.shape[-1] >= least
        and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
        and bool(torch.backends.mkldnn.enabled)
    )


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    made = _inner(a, b)
    return made if scale == 1 else made.mul_(scale)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices of at least one cell."""
    linear = _linear()
    assert linear is not None
    # Of what has gaps or overlaps it is a thousand times slower.
    if not b.is_contiguous() and not b.t().is_contiguous():
        b = b.t().contiguous().t() if b.stride(0) == 1 else b.contiguous()
    made: Tensor = linear(a, b.t(), None, "none", [], "")
    return made


@cache
def _linear() -> Callable[..., Tensor] | None:
    """`_linear_pointwise`, where this build of PyTorch has it."""
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if found is None else found.default


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
