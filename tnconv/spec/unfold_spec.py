"""UnfoldSpec: the windows of an input (im2col) as a validated value."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from tnconv.ir import Index, Network, Role, Sum, Tensor, group
from tnconv.spec.fields import NUMERIC_HELP, Extents, Ints, NumericPadding, Symbolic
from tnconv.spec.layer_spec import size_of
from tnconv.spec.window import AnyChannels


@dataclass(frozen=True)
class UnfoldSpec(AnyChannels):
    """The windows that a convolution sees, one a column, for any number of spatial dimensions.

    Sizes are in cells. The number of spatial dimensions is the length of `kernel_size` or `input_size`;
    two ints make one dimension. An int stands for the same value in every dimension.

    Args:
        channels: an int, or the name of a symbol that stands for any number of channels.
        kernel_size: extent of the window.
        input_size: extent of the input without padding.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        stride: step of the window.
        padding: an int, a tuple of ints or a tuple of (left, right) pairs.
        dilation: distance between kernel cells.

    Raises:
        SpecError: a field is invalid, or two fields do not fit together.
    """

    kind = "unfold"
    modules = (nn.Unfold,)
    advice = NUMERIC_HELP

    channels: Symbolic
    kernel_size: Extents
    input_size: Extents
    _: KW_ONLY
    batch_size: Symbolic = "N"
    stride: Ints = 1
    padding: NumericPadding = 0
    dilation: Ints = 1

    def _check(self) -> None:
        self.check_windows()

    def _network(self, _bias: bool) -> Network | Sum:
        n, g, c = Index("n", size_of(self.batch_size)), Index("g", 1), Index("c", size_of(self.channels))
        i, k, o = self.position_indices()
        x = Tensor("x", Role.INPUT, (group(n), group(g, c), *map(group, i)))
        output = (group(n), group(g, c, *k), group(*o))
        return Network(f"unfold{self.spatial_dims}d.forward", (x, *self.window_patterns(k, o)), output)

    @classmethod
    def _of_module(cls, module: Any) -> tuple[int, dict[str, Any]]:
        fields = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return 2, fields  # nn.Unfold has no other number of dimensions
