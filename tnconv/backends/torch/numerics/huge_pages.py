"""Memory for large results on Linux, in huge pages.

The allocator of the C library maps anew what is larger than 32 MiB, and the kernel hands out pages of 4 KiB one
fault at a time: writing such a result takes two to five times as long as the same again in memory that is there.
With pages of 2 MiB there are 512 times fewer faults; but where memory is in pieces, the kernel may have to move some to
find such a page. So the memory of results that are gone is kept for later ones, up to `KEPT` bytes: `empty` gives it
back.
"""

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

HALF = 2  # bytes of a number in half precision
LARGEST_REUSED = 32 << 20  # bytes: what the C library may keep for the next result
KEPT = 256 << 20  # bytes of results that are gone, at most, for those to come
_FITS = 1.25  # times a result, at most, is memory that is taken for it
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
_free: deque[mmap.mmap] = deque()  # the longest unused first; a deque needs no lock

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
    found = _mapped(x, shape, zeros=True)
    return x.new_zeros(shape) if found is None else found


def empty() -> None:
    """Give back the memory of results that are gone; that of results stays."""
    _free.clear()


# Memory that a process shares with the one that it comes from is copied where it is written to.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=empty)


def _mapped(x: Tensor, shape: Sequence[int], *, zeros: bool = False) -> Tensor | None:
    """Memory in huge pages; None where the tensor is small, or not of the host's."""
    size = prod(shape) * x.dtype.itemsize
    plain = type(x) is not Tensor or x.device.type != "cpu" or torch._C._len_torch_dispatch_stack() > 0
    if _HUGE is None or size <= LARGEST_REUSED or plain:
        return None
    memory = _taken(size)
    used = memory is not None
    if memory is None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            memory.madvise(_HUGE)
        except OSError:  # a kernel without them
            return None
    lent = memoryview(memory)  # the storage holds it, and nothing else does
    weakref.finalize(lent, _kept, memory).atexit = False
    made = torch.frombuffer(lent, dtype=x.dtype, count=prod(shape)).view(*shape)
    return made.zero_() if used and zeros else made


def _taken(size: int) -> mmap.mmap | None:
    """Memory of a result that is gone, which fits."""
    for _ in range(len(_free)):
        try:
            memory = _free.popleft()
        except IndexError:  # another thread has taken the last
            return None
        if size <= len(memory) <= _FITS * size:
            return memory
        _free.append(memory)
    return None


def _kept(memory: mmap.mmap) -> None:
    """Keep the memory of a result that is gone, and give back what is too much by it; called by any thread."""
    _free.append(memory)
    while sum(map(len, list(_free))) > KEPT:
        try:
            _free.popleft()
        except IndexError:
            return
