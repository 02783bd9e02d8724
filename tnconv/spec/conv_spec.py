"""ConvSpec: a convolution layer as a validated value, from Python, a file or a torch module.

A spec keeps its fields as they were written; the properties in the plural (`strides`, `paddings`, …) have
one value per spatial dimension. `network` is the layer's forward network, the source of every operation.
"""

from dataclasses import KW_ONLY, dataclass

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import Network, Role, Sum, Tensor, group
from tnconv.ir.guards import refuted
from tnconv.ir.nodes import MODES
from tnconv.spec.fields import HELP, Extent, Extents, Ints, Padding, Symbolic, shown
from tnconv.spec.layer_spec import with_bias
from tnconv.spec.window import WindowLayer, check_groups, grouped_indices


@dataclass(frozen=True)
class ConvSpec(WindowLayer):
    """A convolution layer with all its hyper-parameters, for any number of spatial dimensions.

    Sizes are in cells. The number of spatial dimensions is the length of `kernel_size` or `input_size`;
    two ints make one dimension. An int stands for the same value in every dimension. A size may be the name of a
    symbol, which stands for any size: `ConvSpec("C", "D", 3, ("H", "W"), padding=1)`; `at` puts integers there.

    Args:
        in_channels: channels of the input, over all groups, an int or a symbol.
        out_channels: channels of the output, over all groups, an int or a symbol.
        kernel_size: extent of the kernel, ints or symbols.
        input_size: extent of the input without padding, ints or symbols.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        stride: step of the kernel.
        padding: an int, a tuple of ints, a tuple of (left, right) pairs, `"same"` (stride 1, the odd cell on
            the right) or `"valid"` (none).
        dilation: distance between kernel cells.
        groups: number of channel groups, an int or a symbol; divides both channel counts.
        bias: whether the layer has a bias.
        padding_mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.

    Raises:
        SpecError: a field is invalid, or two fields do not fit together.
    """

    kind = "conv"
    modules = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    rewritable = ("forward", "_conv_forward")

    in_channels: Extent
    out_channels: Extent
    kernel_size: Extents
    input_size: Extents
    _: KW_ONLY
    batch_size: Symbolic = "N"
    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1
    groups: Extent = 1
    bias: bool = False
    padding_mode: str = "zeros"

    def _check(self) -> None:
        check_groups(self)
        _check_geometry(self)

    def _network(self, bias: bool) -> Network | Sum:
        n, g, c, d = grouped_indices(self)
        i, k, o = self.position_indices()
        x = Tensor("x", Role.INPUT, (group(n), group(g, c), *map(group, i)))
        weight = Tensor("weight", Role.PARAMETER, (group(g, d), group(c), *map(group, k)))
        output = (group(n), group(g, d), *map(group, o))
        nodes = (x, weight, *self.window_patterns(k, o, self.padding_mode))
        product = Network(f"conv{self.spatial_dims}d.forward", nodes, output)
        return with_bias(product, group(g, d)) if bias else product


# -- how the fields fit together ---------------------------------------------------------------------


def _check_geometry(spec: ConvSpec) -> None:
    if spec.padding_mode not in ("zeros", *MODES):
        raise SpecError(f"padding_mode {shown(spec.padding_mode)} is not known; {HELP['padding_mode']}")
    for place, (size, pair) in enumerate(zip(spec.input_sizes, spec.paddings, strict=True), 1):
        if spec.padding_mode == "circular" and refuted(max(pair), size):
            raise SpecError(
                f"circular padding {pair} of dimension {place} wraps around more than once: input size is "
                f"{size}; give at most the input size"
            )
        if spec.padding_mode == "reflect" and refuted(max(pair) + 1, size):
            raise SpecError(
                f"reflecting padding {pair} of dimension {place} reaches beyond the input: input size is "
                f"{size}; give less than the input size"
            )
    spec.check_windows()
