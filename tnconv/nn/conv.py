"""Convolutions as modules: drop-ins for `nn.Conv1d` to `nn.Conv3d`, and any number of spatial dimensions."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tnconv import functional
from tnconv.functional.types import Ints, Padding
from tnconv.nn.modules import (
    any_input,
    check_copied,
    check_dims,
    check_fixed,
    copy_parameters,
    kernel,
    symmetric,
)
from tnconv.spec import ConvSpec
from tnconv.spec.fields import Symbolic
from tnconv.spec.layer import KnowsSpec


class ConvNd(_ConvNd, KnowsSpec):
    """A convolution with `N` spatial dimensions; the other arguments are those of `nn.Conv2d`.

    Parameters, their initialisation, `state_dict` and `extra_repr` are torch's, which is the base class.

    Args:
        N: number of spatial dimensions.
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel, an int or one for each dimension, as are the next three.
        stride: step of the kernel.
        padding: also (left, right) pairs, `"same"` or `"valid"`.
        dilation: distance between kernel cells.
        groups: number of channel groups.
        bias: whether the layer has a bias.
        padding_mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    fixed: ClassVar[int | None] = None  # the number of dimensions of a class that does not take N
    padding: Any  # torch's has no pairs

    def __init__(
        self,
        N: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dims = check_dims(N)
        fields: Any = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        extent = kernel(kernel_size, dims)
        # Without input channels there is no network, but torch's own function, as torch has it.
        none = type(in_channels) is int and in_channels == 0
        inside = groups if none else in_channels
        spec = ConvSpec(
            inside, out_channels, extent, any_input(dims), groups=groups, bias=bool(bias), **fields
        )
        named = isinstance(spec.padding, str)
        super().__init__(
            0 if none else spec.in_channels,
            spec.out_channels,
            extent,
            spec.strides,
            spec.padding if named else symmetric(spec.paddings),  # type: ignore[arg-type]
            spec.dilations,
            False,
            (0,) * dims,
            spec.groups,
            spec.bias,
            spec.padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self._reversed_padding_repeated_twice = [side for pair in reversed(spec.paddings) for side in pair]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve.

        Args:
            input: `[N, C_in, *I]` or `[C_in, *I]`.

        Returns:
            `[N, C_out, *O]` or `[C_out, *O]`.
        """
        return functional.convNd(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
        )

    def spec(self, input_size: int | tuple[int, ...], batch_size: Symbolic = "N") -> ConvSpec:
        """The layer for inputs of a size, as `tnconv.compile` takes it.

        Raises:
            SpecError: the kernel does not fit into the input.
        """
        return ConvSpec(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            input_size,
            batch_size=batch_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
        )

    @classmethod
    def from_torch(cls, module: nn.Module) -> Self:
        """A copy of a torch convolution, with copies of its parameters.

        Args:
            module: an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.

        Raises:
            SpecError: the module is of another type, computes something else than its type says, or has what cannot
                be copied: hooks or parametrizations.
        """
        ConvSpec.check_module(module)
        check_copied(module, ConvSpec.rewritable, ("weight", "bias"))
        layer: Any = module
        dims = len(layer.kernel_size)
        check_fixed(cls, cls.fixed, module, dims)
        build: Any = cls
        made: Self = build(
            *(() if cls.fixed else (dims,)),
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",  # the parameters follow
        )
        copy_parameters(module, made, ("weight", "bias"))
        return made


class Conv1d(ConvNd):
    """A drop-in for `nn.Conv1d`; see `ConvNd`."""

    fixed = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = (kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(1, in_channels, out_channels, *fields)


class Conv2d(ConvNd):
    """A drop-in for `nn.Conv2d`; see `ConvNd`."""

    fixed = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = (kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(2, in_channels, out_channels, *fields)


class Conv3d(ConvNd):
    """A drop-in for `nn.Conv3d`; see `ConvNd`."""

    fixed = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = (kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(3, in_channels, out_channels, *fields)
