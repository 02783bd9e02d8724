"""Operations of a module's layer, compiled once for its hyper-parameters and the size of its input.

The other packages call with a module and tensors at every step of training. A look-up here takes microseconds: the
hyper-parameters, as they are written in the module, are the key.
"""

from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from tnconv.api import compile
from tnconv.compiler.function import CompiledFunction
from tnconv.nn import Conv1d, Conv2d, Conv3d, ConvNd
from tnconv.spec import ConvSpec, LinearSpec

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1d, Conv2d, Conv3d, ConvNd)
LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)


def compiled(module: Any, op: str, input_size: tuple[int, ...], **options: Any) -> CompiledFunction:
    """An operation of the layer of a module, with a bias whether the module has one or not.

    Args:
        module: one of `CONVOLUTIONS` or `LINEAR`.
        op: name of the operation.
        input_size: spatial extents of the input; for a linear layer the sizes between batch and features.
        options: of `tnconv.compile`.

    Raises:
        SpecError: the layer does not fit the size.
    """
    if isinstance(module, nn.Linear):
        return _linear(module.in_features, module.out_features, input_size, op, **options)
    return _convolution(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        input_size,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        module.padding_mode,
        op,
        **options,
    )


def of_output(module: Any, op: str, output_size: tuple[int, ...], **options: Any) -> CompiledFunction:
    """An operation that takes gradients of a layer's output alone, by the size of that.

    Args:
        module: one of `CONVOLUTIONS` or `LINEAR`.
        op: such as `"kfac_grad_expand"`.
        output_size: spatial extents of the output; for a linear layer the sizes between batch and features.
        options: of `tnconv.compile`; groups count as one.
    """
    if isinstance(module, nn.Linear):
        return _linear(1, module.out_features, output_size, op, **options)
    one = (1,) * len(output_size)
    zero = (0,) * len(output_size)
    return _convolution(
        1, module.out_channels, one, output_size, one, zero, one, 1, "zeros", op, **options
    )  # a kernel of one cell has that output


def flat(module: nn.Module, tensor: Tensor) -> Tensor:
    """Input or output of a layer with all axes between batch and features of a linear layer as one."""
    return tensor.flatten(1, -2) if isinstance(module, nn.Linear) and tensor.ndim > 3 else tensor


def positions(module: nn.Module, tensor: Tensor) -> tuple[int, ...]:
    """The sizes of the axes of an input or output that are neither batch nor channels."""
    return tensor.shape[1:-1] if isinstance(module, nn.Linear) else tensor.shape[2:]


@lru_cache(maxsize=1024)
def _linear(inputs: int, outputs: int, size: tuple[int, ...], op: str, /, **options: Any) -> CompiledFunction:
    return compile(LinearSpec(inputs, outputs, input_size=tuple(size), bias=True), op, **options)


@lru_cache(maxsize=1024)
def _convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    input_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
    groups: int,
    padding_mode: str,
    op: str,
    /,  # `options` has a `groups` of its own
    **options: Any,
) -> CompiledFunction:
    spec = ConvSpec(
        in_channels,
        out_channels,
        kernel_size,
        tuple(input_size),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        bias=True,
    )
    return compile(spec, op, **options)
