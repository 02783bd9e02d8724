"""Arithmetic whose form depends on the dtype, or on what records it: sums, scales, zeros, complex values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.torch.context import is_recorded, may_write
from tnconv.backends.torch.numerics.huge_pages import HALF, new_empty, new_zeros
from tnconv.backends.torch.numerics.inner import inner_products


def add(total: Tensor, value: Tensor) -> Tensor:
    """`total + value` in the memory of `total`, but where `vmap` maps over `value` alone, or the call is recorded."""
    if (
        torch.compiler.is_compiling()
        or is_recorded()
        or (torch._C._functorch.is_batchedtensor(value) and not torch._C._functorch.is_batchedtensor(total))
    ):
        return total + value
    return total.add_(value)


def batched_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """`a @ b + bias`, which is rounded once in half precision.

    Args:
        a: `[n, l, t]`.
        b: `[n, t, r]`.
        bias: what broadcasts to `[n, l, r]`.
    """
    if a.dtype.itemsize <= HALF:
        return torch.baddbmm(bias, a, b)
    return add(inner_products(a, b), bias)


def stacked_product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of batches of matrices of which one is stacked: batch by batch, so that the other is not copied for each.

    Args:
        a: `[n, l, t]`, or `[v, n, l, t]` if b has no stacks.
        b: `[n, t, r]` or `[v, n, t, r]`.

    Returns:
        `[v, n, l, r]`.
    """
    if not (may_write(a) and may_write(b)):
        return torch.matmul(a, b)
    stacked = a.dim() > b.dim()
    made = new_empty(a, (*(a if stacked else b).shape[:2], a.shape[-2], b.shape[-1]))
    for out, part in zip(made, a if stacked else b, strict=True):
        inner_products(part if stacked else a, b if stacked else part, out)
    return made


def transposed(
    call: Callable[..., Tensor], image: Tensor, weight: Tensor, bias: Tensor, **options: Any
) -> Tensor:
    """A transposed convolution with a bias, which is rounded once in half precision; else torch is slow at it."""
    if image.dtype.itemsize <= HALF:
        return call(image, weight, bias, **options)
    return add(call(image, weight, **options), bias.view(-1, *(1,) * (weight.dim() - 2)))


def unfilled(shape: Sequence[int], *like: Tensor) -> Tensor:
    """A tensor to be filled in place with what is made of others, all of which `vmap` may map over."""
    first, *others = like
    if not any(torch._C._functorch.is_functorch_wrapped_tensor(each) for each in like):
        return first.new_empty(shape)
    zero = first.new_zeros(())
    for each in others:
        zero = zero + each.new_zeros(())
    return zero.expand(shape).clone()


def real(x: Tensor) -> Tensor:
    """The real part of a value that is real by construction: a real one as it is."""
    return x.real.contiguous() if x.is_complex() else x


def plain(form: Callable[..., Tensor], x: Tensor, *options: Any, **more: Any) -> Tensor:
    """`Σ x xᵀ` where `form` computes `Σ x xᴴ`: of complex values by three forms of real ones.

    Args:
        form: `gram` or `correlate`.
        x: as `form` takes it.
        options: of `form`.
        more: further options of `form`.
    """
    if not x.is_complex():
        return form(x, *options, **more)
    one, two = form(x.real, *options, **more), form(x.imag, *options, **more)
    return torch.complex(one - two, form(x.real + x.imag, *options, **more) - one - two)


def ratio(numerator: float, denominator: float) -> float:
    """A scale such as 1/N; not a number where the batch is empty, as torch's mean says."""
    if isinstance(denominator, Tensor):  # a size that torch.jit.trace leaves open
        quotient: Any = numerator / denominator.double()
        return quotient
    return numerator / denominator if denominator else float("nan")


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros with the dtype and the device of a tensor, in huge pages where they are many."""
    return new_zeros(like, shape) if may_write(like) else like.new_zeros(shape)


def undefined(result: Tensor) -> Tensor:
    """A mean over an empty batch: not a number in every cell, and gradients flow through."""
    return result * float("nan")
