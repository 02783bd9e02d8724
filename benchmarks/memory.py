"""Peak memory of a call, from the allocator's own events."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Most bytes that a call has allocated at once, and the bytes of its result, which are among them."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak, result.numel() * result.element_size()
