"""What a program really takes: the memory of every tensor that it makes, as PyTorch's dispatcher sees them.

    found = memory_of(f, *meta_arguments(f, {"N": 32}))
    assert found.peak <= 1.1 * f.cost.at(N=32).peak_elements * 4

On the meta device nothing is computed, so that a program for a large layer is measured in milliseconds. What a native
call takes for itself and gives back before it returns is seen by nobody here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tnconv.ir import Expression, evaluate


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a call took besides its arguments.

    Args:
        peak: most that was live at once.
        largest: of one tensor.
        where: the operator at whose end the peak was.
    """

    peak: int = 0
    largest: int = 0
    where: str = ""


class MemoryMode(TorchDispatchMode):
    """Records the memory of the tensors that operators make while it is active: each storage once, until it dies.

    Args:
        outside: tensors that do not count, and what shares their memory does not either.
    """

    def __init__(self, outside: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._outside = [StorageWeakRef(tensor.untyped_storage()) for tensor in outside]
        self._known = {ref.cdata for ref in self._outside}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.memory = Memory()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                ref = StorageWeakRef(storage)
                if ref.cdata not in self._known:
                    self._live[ref.cdata] = ref, storage.nbytes()
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        sizes = [size for _, size in self._live.values()]
        before, peak = self.memory, sum(sizes)
        largest = max(before.largest, max(sizes, default=0))
        self.memory = Memory(max(peak, before.peak), largest, str(func) if peak > before.peak else before.where)
        return made


def memory_of(function: Callable[..., Any], *tensors: Tensor) -> Memory:
    """The memory that one call takes besides its arguments.

    Args:
        function: what is called, such as a compiled function.
        tensors: its arguments, best on the meta device.
    """
    mode = MemoryMode(tensors)
    with mode:
        function(*tensors)
    return mode.memory


def meta_arguments(
    expression: Expression, sizes: Mapping[str, int] | None = None, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """A meta tensor for each argument of an expression, in order.

    Args:
        expression: a network or a sum, such as `f.network`.
        sizes: values of the size symbols.
        dtype: of the tensors.
    """
    shapes = {
        tensor.argument: [evaluate(axis.size, sizes or {}) for axis in tensor.axes]
        for term in expression.terms
        for tensor in term.tensors
    }
    return [torch.empty(shapes[name], dtype=dtype, device="meta") for name in expression.arguments]
