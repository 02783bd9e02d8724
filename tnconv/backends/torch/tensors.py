"""Tensors of torch, and what may go on around a call with them: compilers, traces, autocast, proxies."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnconv.backends.arrays import Arrays
from tnconv.backends.available import check_memory
from tnconv.backends.torch.context import autocast_dtype, is_open, is_watched, takes_over, untraced
from tnconv.planner.plan import Plan

_read = attrgetter("shape", "dtype", "device")


class TorchArrays(Arrays):
    """Tensors of torch."""

    kind, noun = "a tensor", "torch.Tensor"

    def is_array(self, value: object) -> bool:
        """Whether something is a tensor."""
        return isinstance(value, Tensor)

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Tensor:
        """A tensor that shares the memory of an array."""
        return torch.from_numpy(array)

    def from_torch(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def to_numpy(self, array: Tensor) -> np.ndarray[Any, Any]:
        """The values of a tensor."""
        return array.numpy()

    def dtype(self, array: Tensor) -> torch.dtype:
        """Its dtype."""
        return array.dtype

    def written(self, dtype: torch.dtype) -> str:
        """As `torch.float32`."""
        return str(dtype)

    def cast(self, array: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor in another dtype."""
        return array.to(dtype)

    def place(self, array: Tensor) -> Hashable:
        """Its device."""
        return array.device

    def key(self, given: Sequence[Tensor]) -> Hashable:
        """Shapes, dtypes and devices."""
        return tuple(map(_read, given))

    def with_axis(self, array: Tensor, axis: int) -> Tensor:
        """A view with one more axis, of size 1."""
        return array.unsqueeze(axis)

    def select(self, array: Tensor, axis: int, rows: Tensor) -> Tensor:
        """The cells along an axis that a table names."""
        return array.index_select(axis, rows)

    def zeros(self, shape: tuple[int, ...], like: Sequence[Tensor]) -> Tensor:
        """A tensor of zeros; every other has a gradient by it, of zeros."""
        nothing: Any = sum(tensor.flatten()[:0].sum() for tensor in like)
        found: Tensor = like[0].new_zeros(shape) + nothing
        return found

    def autocast(self, arrays: Sequence[Tensor]) -> torch.dtype | None:
        """What `torch.autocast` asks for where the first tensor is."""
        return autocast_dtype(arrays[0].device) if arrays else None

    def as_given(self, function: Callable[..., Tensor], arrays: Sequence[Tensor]) -> Callable[..., Tensor]:
        """The function without autocast."""
        device = arrays[0].device.type

        def plain(*given: Tensor) -> Tensor:
            with torch.autocast(device, enabled=False):
                return function(*given)

        return plain

    def taken_over(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What calls `__torch_function__` of a proxy, such as that of `torch.fx`."""
        if all(isinstance(each, Tensor) for each in given) or not takes_over(given):
            return None
        return partial(torch.overrides.handle_torch_function, function, given)

    def is_open(
        self, arrays: Sequence[Any], check: Callable[[], object], check_open: Callable[[], object]
    ) -> bool:
        """Whether `torch.export` or `torch.jit.trace` leaves sizes open."""
        if not all(isinstance(each, Tensor) for each in arrays) or not _any_open(arrays):
            return False
        with untraced():
            (check_open if _any_open(arrays) else check)()
        return True

    def check_memory(self, plan: Plan, program: Any, values: Mapping[str, int], array: Tensor) -> None:
        """Refuse a call that its device cannot hold, where it is one that computes."""
        if not is_watched():
            check_memory(plan, program, values, array)


def _any_open(arrays: Sequence[Tensor]) -> bool:
    return any(is_open(array.shape) for array in arrays)


TENSORS = TorchArrays()
