"""Sums and products with a parameter that is broadcast, as models write them: `x + weight`, `weight * x`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tnconv.curvature.layer_calls import Read

_ADD = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}
_MULTIPLY = {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__}
_EXPAND = {Tensor.expand, Tensor.expand_as, torch.broadcast_to, Tensor.broadcast_to, Tensor.repeat}
_VIEWS = {
    Tensor.view, Tensor.reshape, torch.reshape, Tensor.unsqueeze, torch.unsqueeze, Tensor.squeeze, torch.squeeze,
    Tensor.flatten, torch.flatten, Tensor.unflatten, Tensor.view_as, Tensor.reshape_as, Tensor.__getitem__,
    Tensor.contiguous,
}  # fmt: skip


def read_cellwise(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    parameter: Tensor,
    result: Tensor,
) -> Read | None:
    """A sum or a product with a parameter that is broadcast, if a call is one.

    Args:
        func: that was called.
        args: by place.
        kwargs: by name.
        parameter: among the arguments, tracked.
        result: of the call.
    """
    if kwargs or not args:
        return None
    view = tuple(parameter.shape)
    if func in _EXPAND:
        fits = args[0] is parameter and (func is not Tensor.repeat or _repeats(view, tuple(result.shape)))
        return Read("shift", None, parameter, view=view) if fits else None
    if len(args) != 2 or (func not in _ADD and func not in _MULTIPLY):
        return None
    other = args[1] if args[0] is parameter else args[0]
    if func in _ADD:
        return None if other is parameter else Read("shift", None, parameter, view=view)
    if other is parameter:
        return None
    u = (
        other
        if isinstance(other, Tensor)
        else torch.as_tensor(other, dtype=result.dtype, device=result.device)
    )
    return Read("scale", u, parameter, view=view)


def _repeats(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether repeating makes what broadcasting does."""
    return all(size in (1, new) for size, new in zip(reversed(shape), reversed(result), strict=False))


def is_view(func: Callable[..., Any], parameter: Tensor, result: object) -> bool:
    """Whether a call gives all cells of a parameter in the same order, in another shape."""
    return (
        func in _VIEWS
        and isinstance(result, Tensor)
        and result.numel() == parameter.numel()
        and result.is_contiguous()
        and result.data_ptr() == parameter.data_ptr()
    )
