"""The module that all factorised convolutions are: its arguments, its parameters, and what torch's modules have."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import KnowsNetwork
from tnconv.errors import SpecError
from tnconv.functional.compiled_calls import no_tensors
from tnconv.functional.types import Ints, Padding
from tnconv.functional.visible import seen
from tnconv.ir import Expression
from tnconv.nn.conv_modules import ConvNd
from tnconv.nn.modules import (
    any_input,
    check_copied,
    check_dims,
    check_fixed,
    kernel,
    symmetric,
)  # fmt: skip
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_call import (
    Description,
    FactoredLayer,
    SampledBy,
    Shape,
    convolved,
    layer_function,
    weight_of,
)
from tnconv.nn.tensorised.factors import Family, WeightShape, channel_shape
from tnconv.nn.tensorised.from_dense import check_dtype, decomposed
from tnconv.nn.tensorised.ranks import Rank, resolve_ranks
from tnconv.spec import ConvSpec
from tnconv.spec.fields import Ints as SpecInts
from tnconv.spec.fields import Symbolic, typed
from tnconv.spec.layer_spec import module_fields, of_numbers


class TensorisedConv(nn.Module, KnowsNetwork):
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

    Attributes:
        ranks: of every bond, by name.

    Raises:
        SpecError: an argument is invalid, or two do not fit together.
    """

    family: ClassVar[Family]
    fixed: ClassVar[int | None] = None  # the number of dimensions of a class that does not take N
    bias: nn.Parameter | None
    sampler: SampledBy = None  # of a call in training; see `tnconv.nn.sample`

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
        super().__init__()
        dims = _check_dims(N)
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
        family = _with_blocks(self.family, blocks)
        outs = channel_shape("out_shape", out_shape, spec.out_channels)
        ins = channel_shape("in_shape", in_shape, spec.in_channels // spec.groups, spec.groups)
        shape = WeightShape(spec.groups, outs, ins, spec.kernel_sizes)
        self.ranks = resolve_ranks(rank, family, shape)
        self.description = Description(
            spec.spelled_out(),
            family,
            shape,
            tuple(self.ranks.items()),
            planner,
            bool(autotune),
            batch_hint,
        )
        self._factors = {f.name: tuple(a.size for a in f.axes) for f in family.factors(shape, self.ranks)}
        made: Any = {"device": device, "dtype": dtype}
        for name, sizes in self._factors.items():
            self.register_parameter(name, nn.Parameter(torch.empty(sizes, **made)))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(spec.out_channels, **made)) if bias else None
        )
        self.reset_parameters()

    # -- parameters ----------------------------------------------------------------------------------

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """The factors by name; their product is the weight."""
        return {name: getattr(self, name) for name in self._factors}

    def reset_parameters(self) -> None:
        """Draw factors for which the dense weight has mean 0 and the variance that `nn.Conv2d` begins with.

        That is `1/(3*fan_in)`. Every factor has the same standard deviation; the bias is drawn as torch does.
        """
        shape = self.description.shape
        deviation = self.description.family.deviation(shape, self.ranks)
        for factor in self.factors.values():
            nn.init.normal_(factor, std=deviation)
        if self.bias is not None:
            bound = (prod(shape.ins) * prod(shape.kernel)) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def to_dense(self) -> Tensor:
        """The dense weight `[C_out, C_in/groups, *K]`, the product of the factors; gradients flow through."""
        function = weight_of(self.description)
        return function(*[getattr(self, name) for name in function.arguments])

    @classmethod
    def from_conv(
        cls,
        conv: nn.Module,
        rank: Rank,
        *,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        blocks: int | None = None,
        iterations: int = 50,
        seconds: float | None = None,
        planner: str = "auto",
        autotune: bool = False,
        batch_hint: int = 32,
        decompose: bool = True,
    ) -> Self:
        """A layer with the fields of a convolution, whose factors come near its weight.

        Args:
            conv: an `nn.Conv1d` to `nn.Conv3d` or a `tnconv.nn.ConvNd`.
            rank: as for the layer, as are the following but for three.
            in_shape: as for the layer.
            out_shape: as for the layer.
            blocks: as for the layer.
            iterations: sweeps of an alternating method from each of its starts, at most.
            seconds: time after which no further sweep begins; the factors depend on it. None is no bound.
            planner: as for the layer.
            autotune: as for the layer.
            batch_hint: as for the layer.
            decompose: False draws the factors anew and copies the bias only.

        Returns:
            A layer with the dtype, device and training mode of the convolution. One on the meta device has factors
            without values, as the convolution has.

        Raises:
            SpecError: the module is of another type or has what cannot be copied, the rank does not fit, or a cell of
                the weight is NaN or infinite.
        """
        budget = Budget.of(iterations, seconds)
        layer: Any = conv
        if not isinstance(conv, ConvNd):
            ConvSpec.check_module(conv)
        check_copied(conv, ConvSpec.rewritable, ("weight", "bias"))
        dims = len(layer.kernel_size)
        check_fixed(cls, cls.fixed, conv, dims)
        weight: Tensor = layer.weight
        check_dtype(weight)
        build: Any = cls
        made: Self = build(
            **module_fields(ConvSpec, conv),
            **({} if cls.fixed else {"N": dims}),
            rank=rank,
            in_shape=in_shape,
            out_shape=out_shape,
            blocks=blocks,
            planner=planner,
            autotune=autotune,
            batch_hint=batch_hint,
            device=weight.device,
            dtype=weight.dtype,
        )
        made._take(weight, layer.bias, budget if decompose else None)
        return made.train(conv.training)

    @torch.no_grad()
    def _take(self, weight: Tensor, bias: Tensor | None, budget: Budget | None) -> None:
        """Take over a weight, decomposed within a budget, not at all if None, and a bias."""
        if budget is not None and not weight.is_meta:
            family, shape = self.description.family, self.description.shape
            for name, factor in decomposed(family, weight, shape, self.ranks, budget).items():
                getattr(self, name).copy_(factor)
        for parameter in self.factors.values():
            parameter.requires_grad_(weight.requires_grad)
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias).requires_grad_(bias.requires_grad)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch's, but factors keep their memory format: they are no images, whatever their number of axes."""

        def flat(tensor: Tensor) -> Tensor:
            return fn(tensor.reshape(-1)).reshape(tensor.shape) if tensor.ndim > 3 else fn(tensor)

        made: Self = super()._apply(flat, recurse)  # type: ignore[no-untyped-call]
        return made

    # -- the value -----------------------------------------------------------------------------------

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
        # Read as attributes: a parametrised factor (weight_norm, prune, parametrize) is no entry of the registry.
        given: dict[str, Tensor] = dict(self.factors)
        if self.bias is not None:
            given["bias"] = self.bias
        sampler = self.sampler if self.training else None
        if isinstance(input, Tensor) and not seen():
            return convolved(self.description, input, given, sampler)
        layer = FactoredLayer(self.description, tuple(given), sampler)
        if isinstance(input, Tensor):
            return layer(input, *given.values())
        return no_tensors(layer, {"input": input}, input, *given.values())

    def compiled(self, input_size: Ints, training: bool = False) -> CompiledFunction:
        """What computes inputs of a size, for its texts: network, plan, source.

        Args:
            input_size: spatial size, an int or one for each dimension.
            training: what is run where input and factors need gradients; else where none does.

        Raises:
            SpecError: the kernel does not fit.
        """
        sizes = self.description.spec.sizes_of(typed("input_size", input_size, SpecInts))
        device = next(iter(self.factors.values())).device.type
        still: frozenset[str] | None = frozenset() if training else None
        return layer_function(self.description, sizes, "cuda" if device == "cuda" else "cpu", still)

    def network(self, input_size: Ints, batch_size: Symbolic = "N") -> Expression:
        """The forward network for inputs of a size, with the factors as parameters, as `tnconv.compile` takes it.

        Raises:
            SpecError: the kernel does not fit.
        """
        sizes = self.description.spec.sizes_of(typed("input_size", input_size, SpecInts))
        return self.description.network(
            replace(self.description.spec, input_size=sizes, batch_size=batch_size)
        )

    # -- what torch's module has -----------------------------------------------------------------------

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(self.description.spec.in_channels)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return int(self.description.spec.out_channels)

    @property
    def kernel_size(self) -> Shape:
        """Extents of the kernel."""
        return self.description.shape.kernel

    @property
    def stride(self) -> Shape:
        """Steps of the kernel."""
        return self.description.spec.strides

    @property
    def padding(self) -> tuple[Any, ...]:
        """Padding, an int for each dimension, or a pair where left and right differ."""
        return symmetric(self.description.spec.paddings)

    @property
    def dilation(self) -> Shape:
        """Distances between kernel cells."""
        return self.description.spec.dilations

    @property
    def groups(self) -> int:
        """Number of channel groups."""
        return int(self.description.spec.groups)

    @property
    def padding_mode(self) -> str:
        """What is beyond the border."""
        return self.description.spec.padding_mode

    @property
    def compression(self) -> float:
        """Parameters of the factors over those of the dense weight."""
        family, shape = self.description.family, self.description.shape
        return family.parameters(shape, self.ranks) / shape.parameters

    def extra_repr(self) -> str:
        """The fields that are not at their defaults, the ranks, the parameters and the compression."""
        shape = self.description.shape
        text = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
            values = getattr(self, name)
            text += [f"{name}={values}"] if any(value != default for value in values) else []
        text += [f"groups={self.groups}"] if self.groups != 1 else []
        text += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        text += ["bias=False"] if self.bias is None else []
        text += [f"in_shape={shape.ins}, out_shape={shape.outs}"] if shape.reshaped else []
        text.append(f"rank={_shown_ranks(self.ranks)}")
        count = self.description.family.parameters(shape, self.ranks)
        text.append(f"parameters={count} ({100 * self.compression:.3g}% of dense)")
        return ", ".join(text)


def _check_dims(N: object) -> int:
    dims = check_dims(N)
    if dims > 3:
        raise SpecError(f"N is {dims}; factorised convolutions have 1 to 3 spatial dimensions")
    return dims


def _with_blocks(family: Family, blocks: int | None) -> Family:
    if blocks is None:
        return family
    if not hasattr(family, "blocks"):
        raise SpecError(f"blocks={blocks!r} is for block terms, but this is {family.name!r}; leave it out")
    changed: Any = family
    made: Family = replace(changed, blocks=blocks)
    return made


def _shown_ranks(ranks: Mapping[str, int]) -> str:
    values = tuple(ranks.values())
    return str(values[0]) if len(set(values)) == 1 else str(values)
