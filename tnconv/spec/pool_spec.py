"""PoolSpec: average pooling as a validated value."""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import Index, Network, Role, Scale, Size, Sum, Tensor, group, product
from tnconv.ir.guards import at_most, refuted
from tnconv.ir.monomial import ONE
from tnconv.spec.fields import MAX_SIZE, NUMERIC_HELP, Extents, Ints, NumericPadding, Symbolic, shown
from tnconv.spec.layer_spec import size_of
from tnconv.spec.window import AnyChannels, cells, windows


@dataclass(frozen=True)
class PoolSpec(AnyChannels):
    """Average pooling with all its hyper-parameters, for any number of spatial dimensions.

    Sizes are in cells. The number of spatial dimensions is the length of `kernel_size` or `input_size`;
    two ints make one dimension. An int stands for the same value in every dimension. Padding cells are
    zeros and count: the sum over a window is divided by the number of kernel cells, or by `divisor`.

    Args:
        channels: an int, or the name of a symbol that stands for any number of channels.
        kernel_size: extent of the window.
        input_size: extent of the input without padding.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        stride: step of the window; the kernel size if left out.
        padding: an int, a tuple of ints or a tuple of (left, right) pairs; at most half of the kernel size.
        divisor: of the sum over a window; the number of kernel cells if left out.
        ceil_mode: whether a last window counts that reaches beyond the padded input, but begins within the input or
            the left padding. Torch divides its sum by fewer cells, so that a divisor has to be given if there is one.

    Raises:
        SpecError: a field is invalid, or two fields do not fit together.
    """

    kind = "avg_pool"
    modules = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    advice = NUMERIC_HELP

    channels: Symbolic
    kernel_size: Extents
    input_size: Extents
    _: KW_ONLY
    batch_size: Symbolic = "N"
    stride: Ints | None = None
    padding: NumericPadding = 0
    divisor: int | None = None
    ceil_mode: bool = False

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Steps of the window.

        Raises:
            SpecError: they are those of the kernel, which is a symbol.
        """
        if self.stride is not None:
            return self._spread("stride")
        for size in self.kernel_sizes:
            if not isinstance(size, int):
                raise SpecError(
                    f"the stride is that of the kernel, {size}, which is a symbol; give stride an int"
                )
        return self.kernel_sizes

    @cached_property
    def dilations(self) -> tuple[int, ...]:
        """Distances between kernel cells: always 1."""
        return (1,) * self.spatial_dims

    @cached_property
    def output_sizes(self) -> tuple[Size, ...]:
        """Extents of the output."""
        full = super().output_sizes
        return _ceil_sizes(self) if self.ceil_mode else full

    @property
    def reaches_over(self) -> bool:
        """Whether a window reaches beyond the padded input, under `ceil_mode=True`."""
        sizes = zip(self.output_sizes, self.strides, self.reaches, self.padded_sizes, strict=True)
        return not all(at_most(cells(r, 1, outputs, s), padded) for outputs, s, r, padded in sizes)

    def _check(self) -> None:
        for place, (pair, size) in enumerate(zip(self.paddings, self.kernel_sizes, strict=True), 1):
            if refuted(2 * max(pair), size):
                raise SpecError(
                    f"padding {max(pair)} of spatial dimension {place} is more than half of kernel size {size}; "
                    "give less padding, or a larger kernel_size"
                )
        self.check_windows(partial=self.ceil_mode)
        if self.ceil_mode and self.divisor is None and self.reaches_over:
            raise SpecError(
                f"ceil_mode=True adds windows that reach beyond the padded input {self.padded_sizes} to make the "
                f"output {self.output_sizes}; they have fewer cells, so give a divisor, or ceil_mode=False"
            )
        count = product(self.kernel_sizes)
        if self.divisor is None and isinstance(count, int) and count > MAX_SIZE:
            raise SpecError(
                f"the kernel has {shown(count)} cells, more than 2**62; give a smaller kernel_size"
            )

    def _network(self, _bias: bool) -> Network | Sum:
        n, g = Index("n", size_of(self.batch_size)), Index("g", size_of(self.channels))
        c, d = Index("c", 1), Index("d", 1)
        i, k, o = self.position_indices()
        x = Tensor("x", Role.INPUT, (group(n), group(g, c), *map(group, i)))
        divisor = product(self.kernel_sizes) if self.divisor is None else self.divisor
        scale = Scale("scale", ONE / divisor)
        output = (group(n), group(g, d), *map(group, o))
        name = f"avg_pool{self.spatial_dims}d.forward"
        return Network(name, (x, *self.window_patterns(k, o), scale), output)

    @classmethod
    def _of_module(cls, module: Any) -> tuple[int, dict[str, Any]]:
        dims = next(dims for dims, kind in enumerate(cls.modules, 1) if isinstance(module, kind))
        divisor = getattr(module, "divisor_override", None)  # AvgPool1d has none
        fields = {"stride": module.stride, "padding": module.padding, "ceil_mode": module.ceil_mode}
        return dims, fields | {"divisor": divisor}

    def _check_represented(self, module: Any) -> None:
        """Refuse a mode of a module in which windows have different divisors."""
        if not module.count_include_pad and self.divisor is None and any(map(any, self.paddings)):
            raise SpecError(
                f"{type(module).__name__} with count_include_pad=False and padding {shown(module.padding)} is not "
                "represented; give count_include_pad=True or padding=0"
            )


def _ceil_sizes(spec: PoolSpec) -> tuple[Size, ...]:
    """Output sizes under `ceil_mode=True`: a last window that starts within the input or the left padding counts."""
    sizes = zip(spec.input_sizes, spec.paddings, spec.padded_sizes, spec.reaches, spec.strides, strict=True)
    found = []
    for size, (left, _), padded, reach, stride in sizes:
        outputs = windows(padded + stride - 1, reach, stride)
        started = windows(size + left + stride - 1, stride, stride)  # within the input or the left padding
        if not (at_most(outputs, started) or at_most(started, outputs)):
            raise SpecError(
                f"ceil_mode=True makes {outputs} or {started} windows of input size {size}, whichever is less; give "
                "the input size as a number, or ceil_mode=False"
            )
        found.append(outputs if at_most(outputs, started) else started)
    return tuple(found)
