"""What PyTorch's convolutions take for themselves, in bytes, and give back before they return: an upper bound.

oneDNN brings image, weight and result into layouts of its own, channels padded to whole registers, once more than that
where the layouts of two calls differ, and sums weight gradients for each thread; other convolutions unfold one example.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

_LANES = 16  # channels in a register of the widest kind
_LEAST = 1 << 16  # bytes
_FORWARD: Any = torch.ops.aten.convolution.default
_BACKWARD: Any = torch.ops.aten.convolution_backward.default


def scratch_of(operator: Any, arguments: Sequence[Any], made: Any) -> int:
    """Bytes that a call of an operator takes besides its arguments and its results; 0 for other operators.

    Args:
        operator: of the dispatcher.
        arguments: as it was given them.
        made: what it returned.
    """
    if operator is _FORWARD:
        image, weight = arguments[:2]
        return _bytes(image, made, weight, transposed=arguments[6], groups=arguments[8])
    if operator is _BACKWARD:
        gradient, image, weight = arguments[:3]
        threads = torch.get_num_threads()
        return _bytes(image, gradient, weight, transposed=arguments[7], groups=arguments[9], sums=threads)
    return 0


def _bytes(
    image: Tensor, result: Tensor, weight: Tensor, *, transposed: bool, groups: int, sums: int = 0
) -> int:
    cells = sum(x.numel() * (1 + _padded(x.shape[1])) for x in (image, result))
    cells += weight.numel() * (1 + (1 + sums) * _padded(weight.shape[0] // groups) * _padded(weight.shape[1]))
    positions, channels = (image, weight.shape[1]) if transposed else (result, weight.shape[1])
    cells += torch.get_num_threads() * channels * prod(weight.shape[2:]) * prod(positions.shape[2:])
    return int(cells * image.dtype.itemsize) + _LEAST


def _padded(channels: int) -> float:
    """How many times as many channels there are once they fill registers."""
    return -(-channels // _LANES) * _LANES / max(channels, 1)
