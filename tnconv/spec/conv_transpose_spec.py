"""ConvTransposeSpec: a transposed convolution layer as a validated value."""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import Network, Node, Role, Size, Sum, Tensor, group, pattern
from tnconv.ir.guards import refuted
from tnconv.ir.size import normal
from tnconv.spec.fields import MAX_SIZE, NUMERIC_HELP, Extent, Extents, Ints, NumericPadding, Symbolic
from tnconv.spec.layer_spec import with_bias
from tnconv.spec.window import WindowLayer, cells, check_groups, grouped_indices


@dataclass(frozen=True)
class ConvTransposeSpec(WindowLayer):
    """A transposed convolution layer with all its hyper-parameters, for any number of spatial dimensions.

    Sizes are in cells. The number of spatial dimensions is the length of `kernel_size` or `input_size`;
    two ints make one dimension. An int stands for the same value in every dimension. A size may be the name of a
    symbol.

    Args:
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel.
        input_size: extent of the input.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        stride: step of the kernel over the output.
        padding: cells cut off the output: an int, a tuple of ints or a tuple of (left, right) pairs.
        output_padding: cells added on the right of the output, below the larger of stride and dilation.
        dilation: distance between kernel cells.
        groups: number of channel groups, an int or a symbol; divides both channel counts.
        bias: whether the layer has a bias.

    Raises:
        SpecError: a field is invalid, or two fields do not fit together.
    """

    kind = "conv_transpose"
    modules = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    rewritable = ("forward", "_output_padding")
    advice = NUMERIC_HELP

    in_channels: Extent
    out_channels: Extent
    kernel_size: Extents
    input_size: Extents
    _: KW_ONLY
    batch_size: Symbolic = "N"
    stride: Ints = 1
    padding: NumericPadding = 0
    output_padding: Ints = 0
    dilation: Ints = 1
    groups: Extent = 1
    bias: bool = False

    @cached_property
    def output_paddings(self) -> tuple[int, ...]:
        """Cells added on the right of the output."""
        return self._spread("output_padding")

    @cached_property
    def full_sizes(self) -> tuple[Size, ...]:
        """Extents of the output before the padding is cut off: `stride*(I-1) + reach + output_padding`."""
        sizes = map(cells, self.kernel_sizes, self.dilations, self.input_sizes, self.strides)
        return tuple(normal(size + extra) for size, extra in zip(sizes, self.output_paddings, strict=True))

    @cached_property
    def output_sizes(self) -> tuple[Size, ...]:
        """Extents of the output: `stride*(I-1) + dilation*(K-1) + 1 + output_padding - left - right`."""
        return tuple(
            normal(full - sum(pair)) for full, pair in zip(self.full_sizes, self.paddings, strict=True)
        )

    def _check(self) -> None:
        check_groups(self)
        steps = zip(self.output_paddings, self.strides, self.dilations, strict=True)
        for place, (extra, stride, dilation) in enumerate(steps, 1):
            if extra >= max(stride, dilation):
                raise SpecError(
                    f"output_padding {extra} of spatial dimension {place} is not below its stride {stride} or its "
                    f"dilation {dilation}; give less, or make one of these larger"
                )
        sizes = zip(self.full_sizes, self.paddings, self.output_sizes, strict=True)
        for place, (full, pair, size) in enumerate(sizes, 1):
            large = isinstance(size, int) and size > MAX_SIZE
            if large or refuted(1, size):
                need = "at most 2**62" if large else "at least 1"
                raise SpecError(
                    f"the output has {full} cells in spatial dimension {place} and padding {pair} leaves {size}, "
                    f"not {need}; give another padding, or another input_size, kernel_size or stride"
                )

    def _network(self, bias: bool) -> Network | Sum:
        n, g, c, d = grouped_indices(self)
        i, k, o = self.position_indices()
        nodes: list[Node] = [
            Tensor("x", Role.INPUT, (group(n), group(g, c), *map(group, i))),
            Tensor("weight", Role.PARAMETER, (group(g, c), group(d), *map(group, k))),
        ]
        steps = zip(self.strides, self.dilations, self.paddings, strict=True)
        for place, (stride, dilation, (left, _)) in enumerate(steps):
            terms = ((stride, i[place]), (dilation, k[place]))
            nodes.append(pattern(f"p{place + 1}", o[place], terms, -left))
        output = (group(n), group(g, d), *map(group, o))
        product = Network(f"conv_transpose{self.spatial_dims}d.forward", tuple(nodes), output)
        return with_bias(product, group(g, d)) if bias else product
