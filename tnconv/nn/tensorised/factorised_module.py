"""The module that all factorised convolutions are: its arguments, and what torch's modules have."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnconv.errors import SpecError
from tnconv.functional.types import Ints, Padding
from tnconv.nn.conv_modules import Conv1d, Conv2d, Conv3d, ConvNd
from tnconv.nn.modules import any_input, check_dims, check_fixed, kernel, symmetric
from tnconv.nn.tensorised.factorised_call import Shape
from tnconv.nn.tensorised.factorised_layer import Source, TensorisedLayer, checked_source
from tnconv.nn.tensorised.factors import WeightShape, channel_shape
from tnconv.nn.tensorised.ranks import Rank
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.spec.layer_spec import module_fields, of_numbers


class OfWindows(TensorisedLayer):
    """A factorised layer with a kernel: what torch's convolutions have as attributes."""

    fixed: ClassVar[int | None] = None  # the number of dimensions of a class that does not take N
    _uneven: ClassVar[tuple[Any, ...]]  # dense layers, by dimensions, with padding that torch's have not

    @property
    def _spec(self) -> ConvSpec | ConvTransposeSpec:
        spec = self.description.spec
        assert not isinstance(spec, LinearSpec)
        return spec

    @property
    def out_sizes(self) -> int:
        """Number of out-channels."""
        return self.out_channels

    @classmethod
    def from_conv(cls, conv: nn.Module, rank: Rank, **options: Any) -> Self:
        """A layer with the fields of a convolution, whose factors come near its weight: `from_dense`.

        Raises:
            SpecError: as `from_dense`.
        """
        return cls.from_dense(conv, rank, **options)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(self._spec.in_channels)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return int(self._spec.out_channels)

    @property
    def kernel_size(self) -> Shape:
        """Extents of the kernel."""
        return self.description.shape.kernel

    @property
    def stride(self) -> Shape:
        """Steps of the kernel."""
        return self._spec.strides

    @property
    def padding(self) -> tuple[Any, ...]:
        """Padding, an int for each dimension, or a pair where left and right differ."""
        return symmetric(self._spec.paddings)

    @property
    def dilation(self) -> Shape:
        """Distances between kernel cells."""
        return self._spec.dilations

    @property
    def groups(self) -> int:
        """Number of channel groups."""
        return int(self._spec.groups)

    @property
    def padding_mode(self) -> str:
        """What is beyond the border."""
        return getattr(self._spec, "padding_mode", "zeros")

    def _dense_module(self, made: Mapping[str, Any]) -> nn.Module:
        uneven = any(isinstance(pad, tuple) for pad in self.padding)
        kinds: Any = self._uneven if uneven else self._spec.modules
        dense: nn.Module = kinds[len(self.kernel_size) - 1](**module_fields(type(self._spec), self), **made)
        return dense

    def _fields(self) -> list[str]:
        """What the layer is called with, as far as it is not at its defaults."""
        text = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        for name, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)):
            values = getattr(self, name, ())
            text += [f"{name}={values}"] if any(value != default for value in values) else []
        text += [f"groups={self.groups}"] if self.groups != 1 else []
        return text + ([f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else [])

    def extra_repr(self) -> str:
        """The fields that are not at their defaults, the ranks, the parameters and the compression."""
        return ", ".join([*self._fields(), *self._shown()])


class TensorisedConv(OfWindows):
    """A convolution with `N` spatial dimensions whose weight is a network of small factors.

    The layer is one network, of the input, the patterns and the factors, and tnconv plans it for each input size:
    it may contract the factors to the dense weight first, or pass the input through them one after the other. The
    value is that of the convolution with `to_dense()` as its weight.

    Args:
        N: number of spatial dimensions, 1 to 3.
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel, an int or one for each dimension, as are the next three.
        stride: step of the kernel.
        padding: also (left, right) pairs, `"same"` or `"valid"`.
        dilation: distance between kernel cells.
        groups: number of channel groups; the factors are those of the weight `[C_out, C_in/groups, *K]`.
        bias: whether the layer has a bias.
        padding_mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
        rank: an int for every bond, cut at the largest that each can use; a float for the fraction of the dense
            weight's parameters that the factors have at most; a tuple with one rank for each bond.
        in_shape: sizes whose product is `in_channels/groups`, for the reshaped variant.
        out_shape: sizes whose product is `out_channels`, as many; the first is a multiple of `groups`.
        blocks: number of terms, of block terms only.
        planner: as for `tnconv.compile`.
        autotune: as for `tnconv.compile`: time a few programs on the first input of each size.
        batch_hint: batch size for which the layer is planned; it works for any.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    _uneven = (Conv1d, Conv2d, Conv3d)

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
        *,
        rank: Rank,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        blocks: int | None = None,
        planner: str = "auto",
        autotune: bool = False,
        batch_hint: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dims = factorised_dims(N)
        fields: Any = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
            "groups": groups,
            "bias": bool(bias),
        }
        extent = kernel(kernel_size, dims)
        spec = of_numbers(ConvSpec(in_channels, out_channels, extent, any_input(dims), **fields))
        of = f"in_channels {spec.in_channels} over groups {spec.groups}" if spec.groups > 1 else ""
        outs = channel_shape("out_shape", out_shape, spec.out_channels)
        ins = channel_shape("in_shape", in_shape, spec.in_channels // spec.groups, of)
        shape = WeightShape(spec.groups, outs, ins, spec.kernel_sizes)
        made = {"device": device, "dtype": dtype}
        self._build(spec.spelled_out(), shape, rank, blocks, (planner, autotune, batch_hint), made)

    @classmethod
    def source(cls, module: nn.Module) -> Source:
        """An `nn.Conv1d` to `nn.Conv3d` or a `tnconv.nn.ConvNd`."""
        conv = checked_source(module, ConvSpec, (ConvNd,))
        dims = len(conv.kernel_size)
        check_fixed(cls, cls.fixed, module, dims)
        return Source(module, module_fields(ConvSpec, module) | ({} if cls.fixed else {"N": dims}))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve.

        Args:
            input: `[N, C_in, *I]` or `[C_in, *I]`.

        Returns:
            `[N, C_out, *O]` or `[C_out, *O]`.

        Raises:
            ArgumentError: the input has another number of axes or of channels, or another dtype or device.
            SpecError: the kernel does not fit into the input.
        """
        return self._value(input, self.description)


def factorised_dims(N: object) -> int:
    """The number of spatial dimensions.

    Raises:
        SpecError: it is no int of 1 to 3.
    """
    dims = check_dims(N)
    if dims > 3:
        raise SpecError(f"N is {dims}; factorised convolutions have 1 to 3 spatial dimensions")
    return dims
