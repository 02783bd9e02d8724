"""The memory of programs, for tests of kernels and layers.

tensors = meta_arguments(f.network, {"N": 32})
assert memory_of(f, *tensors).peak <= 1.1 * 4 * f.cost.at(N=32).peak_elements
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tnconv.backends.meter import Memory, MemoryMode, memory_of
from tnconv.ir import Expression, evaluate

__all__ = ["Memory", "MemoryMode", "memory_of", "meta_arguments"]


def meta_arguments(
    expression: Expression, sizes: Mapping[str, int] | None = None, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """A meta tensor for each argument of an expression, in order.

    Args:
        expression: a network or a sum, such as `f.network`.
        sizes: values of the size symbols.
        dtype: of the tensors.
    """
    return [
        torch.empty(
            [evaluate(size, sizes or {}) for size in shape],
            dtype=torch.int64 if name in expression.tables else dtype,
            device="meta",
        )
        for name, shape in expression.shapes.items()
    ]
