"""Transposed convolutions as modules: drop-ins for `nn.ConvTranspose1d` to `3d`, and any number of dimensions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from tnconv import functional
from tnconv.errors import ArgumentError, SpecError
from tnconv.functional.types import Ints, NumericPadding
from tnconv.ir.shapes import covered
from tnconv.nn.modules import CopiedConv, any_input, check_dims, kernel, symmetric
from tnconv.spec import ConvTransposeSpec
from tnconv.spec.fields import Symbolic, shown, typed
from tnconv.spec.layer_spec import KnowsSpec, module_fields, of_numbers


class ConvTransposeNd(_ConvTransposeNd, KnowsSpec, CopiedConv):
    """A transposed convolution with `N` spatial dimensions; the other arguments are those of `nn.ConvTranspose2d`.

    Parameters, their initialisation, `state_dict` and `extra_repr` are torch's, which is the base class.

    Args:
        N: number of spatial dimensions.
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel, an int or one for each dimension.
        stride: step of the kernel over the output.
        padding: cells cut off the output; also (left, right) pairs.
        output_padding: cells added on the right of the output.
        groups: number of channel groups.
        bias: whether the layer has a bias.
        dilation: distance between kernel cells.
        padding_mode: only `"zeros"`, as in torch.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    represented = ConvTransposeSpec
    padding: Any  # torch's has no pairs

    def __init__(
        self,
        N: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: NumericPadding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dims = check_dims(N)
        if padding_mode != "zeros":
            raise SpecError(
                f"padding_mode is {shown(padding_mode)} but {type(self).__name__} has only 'zeros'; leave it out"
            )
        fields: Any = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
        }
        extent = kernel(kernel_size, dims)
        size = any_input(dims)
        spec = of_numbers(
            ConvTransposeSpec(
                in_channels, out_channels, extent, size, groups=groups, bias=bool(bias), **fields
            )
        )
        super().__init__(
            spec.in_channels,
            spec.out_channels,
            extent,
            spec.strides,
            symmetric(spec.paddings),
            spec.dilations,
            True,
            spec.output_paddings,
            spec.groups,
            spec.bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolve.

        Args:
            input: `[N, C_in, *I]` or `[C_in, *I]`.
            output_size: extent of the output, with or without batch and channels; a stride leaves some choice, which
                `output_padding` makes if it is left out.

        Returns:
            `[N, C_out, *O]` or `[C_out, *O]`.

        Raises:
            SpecError: the output size is no sequence of integers.
            ArgumentError: no output padding gives this output size.
        """
        extra = self.output_padding if output_size is None else output_padding_of(self, input, output_size)
        return functional.conv_transposeNd(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def spec(self, input_size: int | tuple[int, ...], batch_size: Symbolic = "N") -> ConvTransposeSpec:
        """The layer for inputs of a size, as `tnconv.compile` takes it.

        Raises:
            SpecError: the padding leaves no output.
        """
        fields = module_fields(ConvTransposeSpec, self)
        return ConvTransposeSpec(input_size=input_size, batch_size=batch_size, **fields)


def output_padding_of(module: Any, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
    """The output padding that gives an output size.

    Args:
        module: a transposed convolution, with torch's attributes.
        input: of the call.
        output_size: extent of the output, with or without batch and channels.

    Raises:
        SpecError: the output size is no sequence of integers.
        ArgumentError: no output padding gives this output size.
    """
    dims = len(module.kernel_size)
    sizes = typed("output_size", output_size, tuple[int, ...])
    wanted = sizes[-dims:]
    if len(sizes) not in (dims, input.dim()):
        raise ArgumentError(
            f"output_size {sizes} has length {len(sizes)} but the layer has {dims} spatial "
            f"dimension(s) and the input {input.dim()} axes; give one value for each of either"
        )
    least = _least(module, tuple(input.shape[-dims:]))
    most = tuple(size + stride - 1 for size, stride in zip(least, module.stride, strict=True))
    if not all(low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
        raise ArgumentError(
            f"output_size is {wanted} but an input of size {tuple(input.shape[-dims:])} gives {least} to {most}; "
            "give one in this range"
        )
    return tuple(size - low for size, low in zip(wanted, least, strict=True))


def _least(module: Any, input_size: tuple[int, ...]) -> tuple[int, ...]:
    """The output size without output padding."""
    pairs = [pad if isinstance(pad, tuple) else (pad, pad) for pad in module.padding]
    sizes = map(covered, module.kernel_size, module.dilation, input_size, module.stride)
    return tuple(size - sum(pair) for size, pair in zip(sizes, pairs, strict=True))


class _Fixed(ConvTransposeNd):
    """The constructor of a class with a fixed number of dimensions: without `N`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: NumericPadding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = (stride, padding, output_padding, groups, bias, dilation, padding_mode, device, dtype)
        assert self.fixed is not None
        super().__init__(self.fixed, in_channels, out_channels, kernel_size, *fields)


class ConvTranspose1d(_Fixed):
    """A drop-in for `nn.ConvTranspose1d`; see `ConvTransposeNd`."""

    fixed = 1


class ConvTranspose2d(_Fixed):
    """A drop-in for `nn.ConvTranspose2d`; see `ConvTransposeNd`."""

    fixed = 2


class ConvTranspose3d(_Fixed):
    """A drop-in for `nn.ConvTranspose3d`; see `ConvTransposeNd`."""

    fixed = 3
