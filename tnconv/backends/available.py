"""What a device can hold, so that a call that cannot end well is refused before it starts."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from tnconv.backends.backend import Program
from tnconv.errors import ArgumentError
from tnconv.ir import evaluate
from tnconv.ir.quantities import format_memory
from tnconv.planner.memory_limit import program_peak
from tnconv.planner.plan import Plan

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, in bytes or "max"


@lru_cache(maxsize=64)
def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that a device has as a whole; None where that is not known, and on no real device."""
    if device.type == "cuda":
        if not torch.cuda.is_available():  # a fake tensor may say so where there is none
            return None
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return None
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None
    try:
        return min(physical, int(_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return physical


def check_memory(plan: Plan, program: Program, values: Mapping[str, int], like: torch.Tensor) -> None:
    """Refuse a call that needs more memory than the device has.

    Args:
        plan: what the call does.
        program: its buffers count too.
        values: of the size symbols.
        like: an argument; intermediates have its dtype and device.

    Raises:
        ArgumentError: the peak is larger.
    """
    memory = memory_of(like.device)
    if memory is None:
        return
    sizes = {**plan.hints, **values} | {each.part: each.chunk for each in plan.slices}
    budget = memory // like.element_size()
    bound = sum(step.elements_at(sizes) for step in plan.steps)
    bound += sum(max(evaluate(size, sizes), 0) for _, _, size in program.workspace)
    if bound <= budget and not plan.slices:  # multiplying out the exact peak takes a while
        return
    peak = evaluate(program_peak(program.lowered(plan), program.workspace), sizes)
    if peak > budget:
        needed = format_memory(peak * like.element_size())
        raise ArgumentError(
            f"{plan.name} needs {needed} at its peak besides its arguments ({peak} elements of {like.dtype}), but "
            f"{like.device} has {format_memory(memory)}; use smaller arguments, or compile with memory_limit=, which "
            "takes an order that fits or runs it in chunks, if the result itself fits"
        )
