"""What else goes on around a call: compilers, transforms, dispatch modes, traces, autocast. Asked here alone.

What a call keeps for later calls, or writes in place, is right only where nothing else looks on: under a dispatch mode
tensors may have no cells, under a transform they belong to a level that ends, and a trace records what is done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

_PLAIN = (Tensor, torch.nn.Parameter)
_PROXY: Any = torch._C._TorchDispatchModeKey.PROXY
_modes: Any = torch._C._len_torch_dispatch_stack
_trace: Any = torch._C._get_tracing_state
_set_trace: Any = vars(torch._C)["_set_tracing_state"]  # which the stubs of torch leave out


def is_watched() -> bool:
    """Whether a compiler, a transform, a dispatch mode or a trace replaces or records what is done to tensors."""
    return (
        torch.compiler.is_compiling()
        or _modes() > 0
        or torch._C._are_functorch_transforms_active()
        or _trace() is not None
    )


def under_mode() -> bool:
    """Whether a dispatch mode is on, such as `FakeTensorMode`, that of `make_fx`, or one that counts."""
    return bool(_modes())


def is_traced() -> bool:
    """Whether `torch.jit.trace` records; sizes are tensors then."""
    return _trace() is not None


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph records what a device does: nothing may wait for it, or be kept for calls outside."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors have cells, and nothing is done to them but what is written: no transform, mode or tangent."""
    if is_watched() or not all(type(tensor) in _PLAIN and not tensor.is_meta for tensor in tensors):
        return False
    return not have_tangents(tensors)


def have_tangents(tensors: Sequence[Tensor]) -> bool:
    """Whether forward-mode derivatives are asked for."""
    if forward_ad._current_level < 0:
        return False
    unpack: Any = forward_ad.unpack_dual
    return any(unpack(tensor).tangent is not None for tensor in tensors)


def may_write(x: Tensor) -> bool:
    """Whether results may be written in place: nothing records or maps what happens to `x`."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    return forward_ad._current_level < 0 and not is_recorded()


def is_recorded() -> bool:
    """Whether `make_fx` or `torch.jit.trace` writes down what is done, in which constants may be folded later."""
    return _trace() is not None or (_modes() > 0 and torch._C._get_dispatch_mode(_PROXY) is not None)


@contextmanager
def untraced() -> Iterator[None]:
    """Do something that `torch.jit.trace` does not see; sizes are ints meanwhile."""
    state = _trace()
    _set_trace(None)
    try:
        yield
    finally:
        _set_trace(state)


@contextmanager
def aside() -> Iterator[None]:
    """Compute something for later calls: real tensors that belong to no mode, transform, trace or graph."""
    with (
        untraced(),
        torch._C._DisableFuncTorch(),
        torch._C.DisableTorchFunction(),
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield


def is_open(sizes: Sequence[Any]) -> bool:
    """Whether a tracer leaves some sizes of a shape open: symbols of `torch.export`, tensors of `torch.jit.trace`."""
    return any(type(size) is not int for size in sizes)


def fixed(tensor: Tensor) -> list[int]:
    """The sizes of a tensor as ints: what a tracer leaves open of them is fixed from here on."""
    with untraced():
        return [int(size) for size in tensor.shape]


def takes_over(given: Sequence[object]) -> bool:
    """Whether one of what should be tensors is none but takes calls over, such as a proxy of `torch.fx`.

    `torch.overrides.handle_torch_function` leaves the call to it.
    """
    return any(not isinstance(each, Tensor) and hasattr(type(each), "__torch_function__") for each in given)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that `torch.autocast` asks for on a device; None where it is off, or unknown there as on `meta`."""
    if not torch._C._is_any_autocast_enabled():
        return None
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
