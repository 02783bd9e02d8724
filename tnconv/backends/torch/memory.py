"""Memory for large results on Linux, in huge pages.

The allocator of the C library maps anew what is larger than 32 MiB, and the kernel hands out pages of 4 KiB one
fault at a time: writing such a result takes two to five times as long as the same again in memory that is there.
With pages of 2 MiB there are 512 times fewer faults.
"""

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

LARGEST_REUSED = 32 << 20  # bytes: what the C library may keep for the next result
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)


HOST = (
    "cpu",
    "meta",
)  # devices on which calls go as on a CPU: what is measured without cells is what happens there


def new_empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor with the dtype and the device of `x`, as `x.new_empty(shape)`.

    Args:
        x: any tensor.
        shape: of the result.

    Returns:
        The tensor. If it is large, its storage cannot be resized, as that of `torch.from_numpy`.
    """
    size = prod(shape) * x.dtype.itemsize
    plain = type(x) is not Tensor or x.device.type != "cpu" or torch._C._len_torch_dispatch_stack() > 0
    if _HUGE is None or size <= LARGEST_REUSED or plain:
        return x.new_empty(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(_HUGE)
    except OSError:  # a kernel without them
        return x.new_empty(shape)
    return torch.frombuffer(memory, dtype=x.dtype).view(*shape)
