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

HALF = 2  # bytes of a number in half precision
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
    found = _mapped(x, shape)
    return x.new_empty(shape) if found is None else found


def new_zeros(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of zeros, as `x.new_zeros(shape)`; those of a large one are the kernel's, and are not written.

    Args:
        x: any tensor that nothing records.
        shape: of the result.

    Returns:
        The tensor; see `new_empty`.
    """
    found = _mapped(x, shape)
    return x.new_zeros(shape) if found is None else found


def _mapped(x: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Memory of zeros in huge pages; None where the tensor is small, or not of the host's."""
    size = prod(shape) * x.dtype.itemsize
    plain = type(x) is not Tensor or x.device.type != "cpu" or torch._C._len_torch_dispatch_stack() > 0
    if _HUGE is None or size <= LARGEST_REUSED or plain:
        return None
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(_HUGE)
    except OSError:  # a kernel without them
        return None
    return torch.frombuffer(memory, dtype=x.dtype).view(*shape)
