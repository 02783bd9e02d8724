"""ConvSpec: a convolution layer as a validated value, from Python, a file or a torch module.

A spec keeps its fields as they were written; the properties in the plural (`strides`, `paddings`, …) have
one value per spatial dimension. `network` is the layer's forward network, the source of every operation.
"""

import keyword
from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from tnconv.errors import NetworkError, SpecError
from tnconv.ir import Axis, Index, Network, Node, Size, Sum, Tensor, group, pattern, symbol
from tnconv.spec.fields import (
    HELP,
    MAX_SIZE,
    Ints,
    Padding,
    Pairs,
    paddings,
    shown,
    spatial_dims,
    spread,
    typed,
)
from tnconv.spec.files import write_file

KIND = "conv"


@dataclass(frozen=True)
class ConvSpec:
    """A convolution layer with all its hyper-parameters, for any number of spatial dimensions.

    Sizes are in cells. The number of spatial dimensions is the length of `kernel_size` or `input_size`;
    two ints make one dimension. An int stands for the same value in every dimension.

    Args:
        in_channels: channels of the input, over all groups.
        out_channels: channels of the output, over all groups.
        kernel_size: extent of the kernel.
        input_size: extent of the input without padding.
        batch_size: an int, or the name of a symbol that stands for any batch size.
        stride: step of the kernel.
        padding: an int, a tuple of ints, a tuple of (left, right) pairs, `"same"` (stride 1, the odd cell on
            the right) or `"valid"` (none).
        dilation: distance between kernel cells.
        groups: number of channel groups; divides both channel counts.
        bias: whether the layer has a bias.
        padding_mode: `"zeros"` or `"circular"`.

    Raises:
        SpecError: a field is invalid, or two fields do not fit together.
    """

    in_channels: int
    out_channels: int
    kernel_size: Ints
    input_size: Ints
    _: KW_ONLY
    batch_size: int | str = "N"
    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1
    groups: int = 1
    bias: bool = False
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        for name, kind in field_types().items():
            object.__setattr__(self, name, typed(name, getattr(self, name), kind))
        _check_channels(self)
        _check_geometry(self)

    # -- one value per spatial dimension -----------------------------------------------------------

    @cached_property
    def spatial_dims(self) -> int:
        """The number of spatial dimensions."""
        return spatial_dims(self.kernel_size, self.input_size)

    @cached_property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Extents of the kernel."""
        return self._spread("kernel_size")

    @cached_property
    def input_sizes(self) -> tuple[int, ...]:
        """Extents of the input without padding."""
        return self._spread("input_size")

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
        return paddings(self.padding, self.strides, self.reaches)

    @cached_property
    def output_sizes(self) -> tuple[int, ...]:
        """Extents of the output: `floor((I + left + right - dilation*(K-1) - 1) / stride) + 1`."""
        sizes = zip(self.padded_sizes, self.reaches, self.strides, strict=True)
        return tuple((padded - reach) // stride + 1 for padded, reach, stride in sizes)

    @cached_property
    def reaches(self) -> tuple[int, ...]:
        """Cells that the dilated kernel covers: `dilation*(K-1) + 1`."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel_sizes, strict=True))

    @cached_property
    def padded_sizes(self) -> tuple[int, ...]:
        """Extents of the input with its padding."""
        return tuple(i + sum(pair) for i, pair in zip(self.input_sizes, self.paddings, strict=True))

    def _spread(self, name: str) -> tuple[int, ...]:
        return spread(name, getattr(self, name), self.spatial_dims)

    # -- other forms -------------------------------------------------------------------------------

    def network(self, bias: bool | None = None) -> Network | Sum:
        """The forward network `conv{dims}d.forward`, the same object every time.

        Args:
            bias: whether the bias is in it; as the spec says if left out.

        Returns:
            A Network with nodes `x`, `p1`, `p2`, …, `weight`; with a bias, a Sum of it and the bias.
        """
        return _forward(self, self.bias if bias is None else bool(bias))

    @classmethod
    def from_module(cls, module: nn.Module, input_size: Ints, batch_size: int | str = "N") -> "ConvSpec":
        """The spec of a torch convolution.

        Args:
            module: an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
            input_size: extent of the input, an int or one per spatial dimension.
            batch_size: an int, or the name of a symbol.

        Raises:
            SpecError: the module is of another type, or its fields are not represented.
        """
        _check_module(module)
        layer: Any = module
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            input_size,
            batch_size=batch_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
        )

    def save(self, path: str | Path) -> None:
        """Write the spec as TOML or JSON, by the suffix of the path; `load_spec` reads it back.

        Raises:
            SpecError: the suffix is another, or the file cannot be written.
        """
        write_file(Path(path), {"kind": KIND} | asdict(self))


@lru_cache(maxsize=1)
def field_types() -> dict[str, Any]:
    """The fields of ConvSpec with their types, in order."""
    hints = get_type_hints(ConvSpec)
    return {field.name: hints[field.name] for field in fields(ConvSpec)}


# -- how the fields fit together ---------------------------------------------------------------------


def _check_channels(spec: ConvSpec) -> None:
    for name in ("in_channels", "out_channels"):
        channels = getattr(spec, name)
        if channels % spec.groups:
            raise SpecError(
                f"groups {spec.groups} does not divide {name} {channels}; choose a divisor of both channels"
            )
    if isinstance(spec.batch_size, str):
        try:
            symbol(spec.batch_size)
        except NetworkError as error:
            raise SpecError(
                f"batch_size is {shown(spec.batch_size)}: {error}; {HELP['batch_size']}"
            ) from error
        if keyword.iskeyword(spec.batch_size):
            raise SpecError(
                f"batch_size is {spec.batch_size!r}, a word that Python reserves; {HELP['batch_size']}"
            )


def _check_geometry(spec: ConvSpec) -> None:
    if spec.padding_mode in ("reflect", "replicate"):
        if any(cells for pair in spec.paddings for cells in pair):  # else every mode is the same
            raise SpecError(
                f"padding_mode {spec.padding_mode!r} with padding {shown(spec.padding)} is not represented yet; "
                "pad the input first, and give padding=0"
            )
    elif spec.padding_mode not in ("zeros", "circular"):
        raise SpecError(f"padding_mode {shown(spec.padding_mode)} is not known; {HELP['padding_mode']}")
    sizes = zip(spec.input_sizes, spec.paddings, spec.padded_sizes, spec.reaches, strict=True)
    for place, (size, pair, padded, reach) in enumerate(sizes, 1):
        if spec.padding_mode == "circular" and max(pair) > size:
            raise SpecError(
                f"circular padding {pair} of dimension {place} wraps around more than once: input size is "
                f"{size}; give at most the input size"
            )
        if padded > MAX_SIZE:
            raise SpecError(
                f"input size {size} with padding {pair} of spatial dimension {place} makes {padded} cells, "
                "more than 2**62; give smaller sizes"
            )
        if reach > padded:
            raise SpecError(
                f"the dilated kernel has {reach} cells in spatial dimension {place} but the padded input has "
                f"{padded}; make the input or the padding larger, or the kernel or the dilation smaller"
            )


# -- the network -------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _forward(spec: ConvSpec, bias: bool) -> Network | Sum:
    name = f"conv{spec.spatial_dims}d.forward"
    batch: Size = symbol(spec.batch_size) if isinstance(spec.batch_size, str) else spec.batch_size
    n, g = Index("n", batch), Index("g", spec.groups)
    c, d = Index("c", spec.in_channels // spec.groups), Index("d", spec.out_channels // spec.groups)
    i, k, o = (
        [Index(f"{letter}{place}", size) for place, size in enumerate(sizes, 1)]
        for letter, sizes in (("i", spec.input_sizes), ("k", spec.kernel_sizes), ("o", spec.output_sizes))
    )
    output = (group(n), group(g, d), *map(group, o))
    nodes: list[Node] = [
        Tensor("x", "input", (group(n), group(g, c), *map(group, i))),
        Tensor("weight", "parameter", (group(g, d), group(c), *map(group, k))),
    ]
    for place, (s, dilation, pair) in enumerate(
        zip(spec.strides, spec.dilations, spec.paddings, strict=True)
    ):
        wraps = spec.padding_mode == "circular" and any(pair)
        terms = ((s, o[place]), (dilation, k[place]))
        modulus = i[place].size if wraps else None
        nodes.append(pattern(f"p{place + 1}", i[place], terms, -pair[0], modulus))
    product = Network(name, tuple(nodes), output)
    return Sum(name, (product, _bias(f"{name}.bias", group(g, d), output))) if bias else product


def _bias(name: str, channels: Axis, output: tuple[Axis, ...]) -> Network:
    return Network(name, (Tensor("bias", "parameter", (channels,)),), output)


# -- modules -----------------------------------------------------------------------------------------


def _check_module(module: nn.Module) -> None:
    kind = type(module).__name__
    if isinstance(module, LazyModuleMixin):
        raise SpecError(f"{kind} does not know its channels yet; run it once on an input, or give a ConvSpec")
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise SpecError(f"a module of type {kind} is not represented; give an nn.Conv1d, Conv2d or Conv3d")
    base = next(t for t in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, t))
    if type(module).forward is not base.forward or type(module)._conv_forward is not base._conv_forward:
        raise SpecError(
            f"{kind} computes something else than {base.__name__}; give a ConvSpec of what it computes"
        )
