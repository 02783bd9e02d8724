"""What layers with a kernel share: one value per spatial dimension, and how the sizes fit together."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, cast

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import Index, Node, Size, pattern
from tnconv.ir.guards import refuted, whole
from tnconv.ir.nodes import MODES
from tnconv.ir.quotient import quotient
from tnconv.ir.shapes import covered
from tnconv.ir.size import normal
from tnconv.spec.fields import (
    MAX_SIZE,
    Extents,
    Ints,
    Pairs,
    Symbolic,
    paddings,
    spatial_dims,
    spread,
    typed,
)
from tnconv.spec.layer_spec import Layer, positions, size_of

_PLURAL = ("kernel_size", "stride", "padding", "output_padding", "dilation")  # with a property in the plural


class WindowLayer(Layer):
    """A layer with a kernel that moves over the input, in any number of spatial dimensions."""

    def sizes_of(self, input_size: Extents) -> tuple[Size, ...]:
        """One size for each spatial dimension; one alone is the same in all."""
        return tuple(map(size_of, spread("input_size", input_size, self.spatial_dims)))

    @cached_property
    def spatial_dims(self) -> int:
        """The number of spatial dimensions."""
        layer: Any = self
        return spatial_dims(layer.kernel_size, layer.input_size)

    @cached_property
    def kernel_sizes(self) -> tuple[Size, ...]:
        """Extents of the kernel."""
        return tuple(map(size_of, self._spread("kernel_size")))

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Steps of the kernel."""
        return self._spread("stride")

    @cached_property
    def dilations(self) -> tuple[int, ...]:
        """Distances between kernel cells."""
        return self._spread("dilation")

    @cached_property
    def paddings(self) -> Pairs:
        """(left, right) padding."""
        layer: Any = self
        return paddings(layer.padding, self.strides, self.reaches)

    @cached_property
    def reaches(self) -> tuple[Size, ...]:
        """Cells that the dilated kernel covers: `dilation*(K-1) + 1`."""
        return tuple(map(cells, self.kernel_sizes, self.dilations))

    @cached_property
    def padded_sizes(self) -> tuple[Size, ...]:
        """Extents of the input with its padding."""
        return tuple(normal(i + sum(pair)) for i, pair in zip(self.input_sizes, self.paddings, strict=True))

    @cached_property
    def output_sizes(self) -> tuple[Size, ...]:
        """Extents of the output: `floor((I + left + right - dilation*(K-1) - 1) / stride) + 1`."""
        return tuple(map(windows, self.padded_sizes, self.reaches, self.strides))

    def _spread(self, name: str) -> tuple[Any, ...]:
        return spread(name, getattr(self, name), self.spatial_dims)

    def spelled_out(self) -> Self:
        """The same layer with one value for each spatial dimension, however its fields were written."""
        written: Any = self
        fields = {name: self._spread(name) for name in _PLURAL if hasattr(self, name)}
        fields["padding"] = self.paddings
        if fields.get("stride") == (None,) * self.spatial_dims:
            fields["stride"] = self.strides
        return cast(Self, replace(written, **fields))

    def position_indices(self) -> tuple[list[Index], list[Index], list[Index]]:
        """The indices `i1 …`, `k1 …` and `o1 …` of input, kernel and output, one for each spatial dimension."""
        sizes = (self.input_sizes, self.kernel_sizes, self.output_sizes)
        i, k, o = (positions(letter, each) for letter, each in zip("iko", sizes, strict=True))
        return i, k, o

    def window_patterns(self, k: Sequence[Index], o: Sequence[Index], mode: str = "zeros") -> list[Node]:
        """The patterns `i1 = stride*o1 + dilation*k1 - left`, one for each spatial dimension; padding in a mode."""
        steps = zip(
            positions("i", self.input_sizes), self.strides, self.dilations, self.paddings, strict=True
        )
        return [
            pattern(
                f"p{place + 1}",
                i,
                ((stride, o[place]), (dilation, k[place])),
                -pair[0],
                *((i.size, mode) if mode in MODES and any(pair) else ()),
            )
            for place, (i, stride, dilation, pair) in enumerate(steps)
        ]

    def check_windows(self, partial: bool = False) -> None:
        """Refuse a kernel that is larger than the padded input.

        Args:
            partial: whether a window may reach beyond it, so that only an output without cells is refused.

        Raises:
            SpecError: it is, or the padded input has too many cells.
        """
        sizes = zip(
            self.input_sizes, self.paddings, self.padded_sizes, self.reaches, self.output_sizes, strict=True
        )
        for place, (size, pair, padded, reach, outputs) in enumerate(sizes, 1):
            if isinstance(padded, int) and padded > MAX_SIZE:
                raise SpecError(
                    f"input size {size} with padding {pair} of spatial dimension {place} makes {padded} cells, "
                    "more than 2**62; give smaller sizes"
                )
            if refuted(reach, padded) and not (partial and not refuted(1, outputs)):
                raise SpecError(
                    f"the dilated kernel has {reach} cells in spatial dimension {place} but the padded input has "
                    f"{padded}; make the input or the padding larger, or the kernel or the dilation smaller"
                )


class AnyChannels(WindowLayer):
    """A layer with a kernel and no weight, which is the same for any number of channels."""

    @classmethod
    def from_module(
        cls, module: nn.Module, input_size: Extents, batch_size: Symbolic = "N", channels: Symbolic = "C"
    ) -> Self:
        """The spec of a torch module, which does not know its channels.

        Args:
            module: an `nn.AvgPool1d`, `nn.AvgPool2d` or `nn.AvgPool3d`; or an `nn.Unfold`, which has two spatial
                dimensions.
            input_size: extent of the input, an int or one per spatial dimension.
            batch_size: an int, or the name of a symbol.
            channels: an int, or the name of a symbol.

        Raises:
            SpecError: the module is of another type, or its fields are not represented.
        """
        cls.check_module(module)
        dims, fields = cls._of_module(module)
        kernel = typed("kernel_size", module.kernel_size, Ints)  # which may be an int still, as it was given
        build: Any = cls
        made: Self = build(
            channels, spread("kernel_size", kernel, dims), input_size, batch_size=batch_size, **fields
        )
        made._check_represented(module)
        return made

    @classmethod
    @abstractmethod
    def _of_module(cls, module: Any) -> tuple[int, dict[str, Any]]:
        """The number of spatial dimensions of a module, and the fields that it has besides its kernel size."""

    def _check_represented(self, module: Any) -> None:
        """Refuse a module with what the spec made of it does not have."""


def cells(kernel: Size, dilation: int, positions: Size = 1, stride: int = 1) -> Size:
    """`covered` of sizes that may be symbols."""
    return normal(covered(kernel, dilation, positions, stride))


def windows(padded: Size, reach: Size, stride: int) -> Size:
    """How many windows of `reach` cells lie within `padded` cells."""
    return normal(quotient(normal(padded - reach), stride) + 1)


def per_group(channels: int | str, groups: int | str) -> Size:
    """Channels of one group."""
    if isinstance(channels, int) and isinstance(groups, int):
        return channels // groups
    return normal(size_of(channels) / size_of(groups))


def grouped_indices(layer: Any) -> tuple[Index, Index, Index, Index]:
    """The indices `n`, `g`, `c` and `d` of a layer: batch, groups, in- and out-channels of a group."""
    c, d = (per_group(channels, layer.groups) for channels in (layer.in_channels, layer.out_channels))
    return (
        Index("n", size_of(layer.batch_size)),
        Index("g", size_of(layer.groups)),
        Index("c", c),
        Index("d", d),
    )


def check_groups(layer: Any) -> None:
    """Refuse a number of groups that does not divide both channel counts.

    Raises:
        SpecError: one is no multiple.
    """
    for name in ("in_channels", "out_channels"):
        channels = getattr(layer, name)
        if isinstance(channels, str) or isinstance(layer.groups, str):
            whole(per_group(channels, layer.groups))
        elif channels % layer.groups:
            raise SpecError(
                f"groups {layer.groups} does not divide {name} {channels}; choose a divisor of both channels"
            )
