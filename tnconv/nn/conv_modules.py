"""Convolutions as modules: drop-ins for `nn.Conv1d` to `nn.Conv3d`, and any number of spatial dimensions."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from tnconv import functional
from tnconv.functional.types import Ints, Padding
from tnconv.nn.modules import CopiedConv, OfConv, any_input, check_dims, kernel, symmetric
from tnconv.spec import ConvSpec
from tnconv.spec.layer_spec import of_numbers


class ConvNd(_ConvNd, OfConv, CopiedConv):
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

    represented = ConvSpec
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
        spec = of_numbers(
            ConvSpec(inside, out_channels, extent, any_input(dims), groups=groups, bias=bool(bias), **fields)
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


class _Fixed(ConvNd):
    """The constructor of a class with a fixed number of dimensions: without `N`."""

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
        assert self.fixed is not None
        super().__init__(self.fixed, in_channels, out_channels, *fields)


class Conv1d(_Fixed):
    """A drop-in for `nn.Conv1d`; see `ConvNd`."""

    fixed = 1


class Conv2d(_Fixed):
    """A drop-in for `nn.Conv2d`; see `ConvNd`."""

    fixed = 2


class Conv3d(_Fixed):
    """A drop-in for `nn.Conv3d`; see `ConvNd`."""

    fixed = 3
