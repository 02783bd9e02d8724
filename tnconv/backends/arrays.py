"""What a compiled function does with arrays of a library before and behind its program: checks, dtypes, axes.

A dtype is told as the one of torch of the same name, so that what is computed in is decided in one place for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tnconv.planner.plan import Plan


class Arrays(ABC):
    """A library of arrays that are as those of NumPy are, unless a method says otherwise.

    Attributes:
        kind: what one is called, with its article.
        noun: its type, as a user writes it.
    """

    kind: ClassVar[str] = "an array"
    noun: ClassVar[str]

    @abstractmethod
    def is_array(self, value: object) -> bool:
        """Whether something is an array of the library."""

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        """An array with the values and the dtype of one of NumPy."""
        return array

    def from_torch(self, tensor: torch.Tensor) -> Any:
        """An array with the values and the dtype of a tensor, which has no gradient."""
        return self.from_numpy(tensor.cpu().numpy())

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """The values of an array."""
        return np.asarray(array)

    def dtype(self, array: Any) -> torch.dtype | None:
        """The dtype by its name in torch; None where torch has none of that name."""
        found = getattr(torch, str(array.dtype), None)
        return found if isinstance(found, torch.dtype) else None

    def written(self, dtype: torch.dtype) -> str:
        """A dtype as a user of the library writes it."""
        return name_of(dtype)

    def cast(self, array: Any, dtype: torch.dtype) -> Any:
        """The array in another dtype."""
        return array.astype(name_of(dtype))

    def place(self, array: Any) -> Hashable:
        """Where it lies: two arrays can be multiplied only where these are equal."""
        return None

    def key(self, given: Sequence[Any]) -> Hashable:
        """What tells whether arrays were checked before: asked in every call, so it is to be quick.

        Raises:
            AttributeError: one is no array.
        """
        return tuple([(type(each), each.shape, each.dtype) for each in given])

    def with_axis(self, array: Any, axis: int) -> Any:
        """The array with one more axis, of size 1."""
        return array[(*[slice(None)] * axis, None)]

    def without_axes(self, array: Any, axes: tuple[int, ...]) -> Any:
        """The array without some axes of size 1."""
        return array.squeeze(axes)

    def select(self, array: Any, axis: int, rows: Any) -> Any:
        """The cells along an axis that a table names."""
        return array.take(rows, axis)

    def exactly(self) -> AbstractContextManager[Any]:
        """A context in which float64 is float64, for checks by integers."""
        return nullcontext()

    def zeros(self, shape: tuple[int, ...], like: Sequence[Any]) -> Any:
        """An array of zeros with the dtype of others, all of which have gradients of zeros by it."""
        return self.from_numpy(np.zeros(shape, like[0].dtype))

    # -- what goes on around a call: for most libraries nothing ---------------------------------------

    def autocast(self, arrays: Sequence[Any]) -> torch.dtype | None:
        """The dtype that products are computed in whatever the arguments are; None for that of the arguments."""
        return None

    def as_given(self, function: Callable[..., Tensor], arrays: Sequence[Any]) -> Callable[..., Tensor]:
        """A function that computes in the dtypes that it is given, whatever `autocast` says."""
        return function

    def taken_over(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What takes the call over where an argument is none of the library but stands for one; None elsewhere."""
        return None

    def is_open(
        self, arrays: Sequence[Any], check: Callable[[], object], check_open: Callable[[], object]
    ) -> bool:
        """Whether somebody leaves sizes open, so that nothing of a call is kept; one of the checks is called then.

        Args:
            arrays: of the call.
            check: of sizes that are numbers.
            check_open: of sizes that may be symbols.
        """
        return False

    def check_memory(self, plan: Plan, program: Any, values: Mapping[str, int], array: Any) -> None:
        """Refuse a call that needs more memory than there is where an argument lies.

        Raises:
            ArgumentError: it does.
        """
        return


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype, as all libraries say it."""
    return str(dtype).removeprefix("torch.")
