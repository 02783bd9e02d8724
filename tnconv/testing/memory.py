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
    shapes = {
        tensor.argument: [evaluate(axis.size, sizes or {}) for axis in tensor.axes]
        for term in expression.terms
        for tensor in term.tensors
    }
    return [torch.empty(shapes[name], dtype=dtype, device="meta") for name in expression.arguments]
