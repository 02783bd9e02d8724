"""Peak memory of a call, from the allocator's own events."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], torch.Tensor], device: str = "cpu") -> tuple[int, int]:
    """Most bytes that a call has allocated at once, and the bytes of its result, which are among them."""
    if device != "cpu":
        return _on_cuda(call)
    peak, result = allocated(call)
    return peak, result.numel() * result.element_size()


def allocated(call: Callable[[], Any]) -> tuple[int, Any]:
    """Most bytes that a call on the CPU has allocated at once, and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak, result


def _on_cuda(call: Callable[[], torch.Tensor]) -> tuple[int, int]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, result.numel() * result.element_size()
