"""The module that all factorised transposed convolutions are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tnconv.functional.types import Ints, NumericPadding
from tnconv.nn.conv_transpose_modules import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTransposeNd,
    output_padding_of,
)
from tnconv.nn.modules import any_input, kernel
from tnconv.nn.tensorised.factorised_call import Shape
from tnconv.nn.tensorised.factorised_layer import Source, checked_source
from tnconv.nn.tensorised.factorised_module import OfWindows, factorised_dims
from tnconv.nn.tensorised.factors import WeightShape, channel_shape
from tnconv.nn.tensorised.ranks import Rank
from tnconv.spec import ConvTransposeSpec
from tnconv.spec.layer_spec import module_fields, of_numbers


class TensorisedConvTranspose(OfWindows):
    """A transposed convolution with `N` spatial dimensions whose weight is a network of small factors.

    Other than of a convolution, the factors are those of the weight `[C_in, C_out/groups, *K]`; names and bonds are
    the same. See `TensorisedConv`.

    Args:
        N: number of spatial dimensions, 1 to 3.
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel, an int or one for each dimension, as are the next four.
        stride: step of the kernel over the output.
        padding: cells cut off the output; also (left, right) pairs.
        output_padding: cells added on the right of the output.
        groups: number of channel groups.
        bias: whether the layer has a bias.
        dilation: distance between kernel cells.
        rank: as for `TensorisedConv`, as are all that follow but for two.
        in_shape: sizes whose product is `in_channels`, for the reshaped variant; the first is a multiple of `groups`.
        out_shape: sizes whose product is `out_channels/groups`, as many.
        blocks: number of terms, of block terms only.
        planner: as for `tnconv.compile`.
        autotune: as for `tnconv.compile`.
        batch_hint: batch size for which the layer is planned; it works for any.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    _uneven = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)

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
            "output_padding": output_padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bool(bias),
        }
        extent = kernel(kernel_size, dims)
        spec = of_numbers(ConvTransposeSpec(in_channels, out_channels, extent, any_input(dims), **fields))
        of = f"out_channels {spec.out_channels} over groups {spec.groups}" if spec.groups > 1 else ""
        outs = channel_shape("out_shape", out_shape, spec.out_channels // spec.groups, of)
        ins = channel_shape("in_shape", in_shape, spec.in_channels)
        shape = WeightShape(spec.groups, outs, ins, spec.kernel_sizes, transposed=True)
        made = {"device": device, "dtype": dtype}
        self._build(spec.spelled_out(), shape, rank, blocks, (planner, autotune, batch_hint), made)

    @classmethod
    def source(cls, module: nn.Module) -> Source:
        """An `nn.ConvTranspose1d` to `nn.ConvTranspose3d` or a `tnconv.nn.ConvTransposeNd`."""
        conv = checked_source(module, ConvTransposeSpec, (ConvTransposeNd,))
        return Source(module, module_fields(ConvTransposeSpec, module) | {"N": len(conv.kernel_size)})

    @property
    def output_padding(self) -> Shape:
        """Cells added on the right of the output."""
        spec = self.description.spec
        assert isinstance(spec, ConvTransposeSpec)
        return spec.output_paddings

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolve.

        Args:
            input: `[N, C_in, *I]` or `[C_in, *I]`.
            output_size: extent of the output, as for `tnconv.nn.ConvTransposeNd`.

        Returns:
            `[N, C_out, *O]` or `[C_out, *O]`.

        Raises:
            ArgumentError: the input has another number of axes or of channels, or another dtype or device; or no
                output padding gives this output size.
        """
        description: Any = self.description
        if output_size is not None:
            extra = output_padding_of(self, input, output_size)
            description = replace(description, spec=replace(description.spec, output_padding=extra))
        return self._value(input, description)
