"""Convolutions that store a random part of their input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from tnconv.api import compile
from tnconv.backends.torch.numerics.depthwise import NATIVE, TRANSPOSED
from tnconv.errors import SpecError
from tnconv.functional.types import Ints
from tnconv.ir.shapes import covered
from tnconv.nn.modules import OfConv, check_fixed
from tnconv.nn.sampled.copied import FromTorch
from tnconv.nn.sampled.fractions import CHANNELS, Indices, Kept
from tnconv.nn.sampled.sampled_autograd import Gradient, Parameters, Sampler, apply
from tnconv.nn.sampled.seeds import Seeds
from tnconv.spec import ConvSpec

_BACKWARD = torch.ops.aten.convolution_backward


@dataclass(frozen=True)
class ConvCalculus:
    """A convolution with inputs of one size.

    Args:
        spec: the layer.
        kept: what is kept of its input.
        device: type of the device.
    """

    spec: ConvSpec
    kept: Kept
    device: str

    @property
    def name(self) -> str:
        """For messages."""
        spec = self.spec
        return f"SampledConv{spec.spatial_dims}d({spec.in_channels}, {spec.out_channels})"

    @property
    def padded(self) -> bool:
        """Whether the input is padded before the native call, which adds as many zeros on both sides only."""
        return self.spec.padding_mode != "zeros" or any(left != right for left, right in self.spec.paddings)

    @property
    def pads(self) -> tuple[int, ...]:
        """As `F.pad` takes them."""
        return tuple(side for pair in reversed(self.spec.paddings) for side in pair)

    @property
    def padding(self) -> tuple[int, ...]:
        """That of the native call."""
        return tuple(0 if self.padded else left for left, _ in self.spec.paddings)

    @property
    def steps(self) -> tuple[int, ...]:
        """Every how many cells the input is read, where a kernel of one cell steps over the others."""
        spec = self.spec
        return tuple(
            s if k == 1 and pair == (0, 0) else 1
            for s, k, pair in zip(spec.strides, spec.kernel_sizes, spec.paddings, strict=True)
        )

    @cached_property
    def gradient(self) -> Gradient:
        """The sampled weight gradient."""
        return _gradient(self)

    def prepared(self, x: Tensor) -> Tensor:
        """The input, padded where the native call does not."""
        mode = "constant" if self.spec.padding_mode == "zeros" else self.spec.padding_mode
        return F.pad(x, self.pads, mode) if self.padded else x

    def read(self, x: Tensor, prepared: Tensor) -> Tensor:
        """The cells that the kernel reads, of the input where only zeros are added to it."""
        source = x if self.spec.padding_mode == "zeros" else prepared
        if max(self.steps) == 1:
            return source
        cells: Any = (..., *(slice(None, None, step) for step in self.steps))
        return source[cells].contiguous()

    def value(self, prepared: Tensor, parameters: Parameters) -> Tensor:
        """The exact value."""
        weight, bias = parameters
        spec = self.spec
        conv = NATIVE[spec.spatial_dims]
        return conv(prepared, weight, bias, spec.strides, self.padding, spec.dilations, spec.groups)

    def input_gradient(self, gradient: Tensor, parameters: Parameters, shape: torch.Size) -> Tensor:
        """The transposed convolution, and the adjoint of the padding."""
        weight = parameters[0]
        assert weight is not None
        sizes = self.spec.padded_sizes if self.padded else shape[2:]
        found = self._transposed(gradient, weight, (*shape[:2], *sizes))
        if not self.padded:
            return found
        if self.spec.padding_mode == "zeros":
            return F.pad(found, tuple(-side for side in self.pads))
        with torch.enable_grad():
            x = found.new_zeros(shape, requires_grad=True)
            (result,) = torch.autograd.grad(self.prepared(x), x, found)
        return result

    def _transposed(self, gradient: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        spec, dims = self.spec, self.spec.spatial_dims
        if not gradient.is_complex():
            options = (spec.strides, self.padding, spec.dilations, False, (0,) * dims, spec.groups)
            x = gradient.new_empty(1).expand(shape)  # wanted for its shape
            result: Tensor = _BACKWARD(gradient, x, weight, None, *options, (True, False, False))[0]
            return result
        rest = [
            (i + 2 * p - covered(k, d)) % s
            for i, p, d, k, s in zip(
                shape[2:], self.padding, spec.dilations, spec.kernel_sizes, spec.strides, strict=True
            )
        ]
        back = TRANSPOSED[dims]
        return back(
            gradient, weight.conj(), None, spec.strides, self.padding, rest, spec.groups, spec.dilations
        )

    def parameter_gradients(
        self, weight: Tensor | None, gradient: Tensor, parameters: Parameters, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the weight and of the bias; None where one is not needed."""
        return weight, gradient.flatten(2).sum((0, 2)) if needed[1] else None


@lru_cache(maxsize=512)
def _gradient(layer: ConvCalculus) -> Gradient:
    spec, zeros = layer.spec, layer.spec.padding_mode == "zeros"
    sizes = spec.input_sizes if zeros else spec.padded_sizes
    read = ConvSpec(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_sizes,
        tuple(-(-size // step) for size, step in zip(sizes, layer.steps, strict=True)),
        stride=tuple(s // step for s, step in zip(spec.strides, layer.steps, strict=True)),
        padding=spec.paddings if zeros else 0,
        dilation=spec.dilations,
        groups=spec.groups,
    )
    return Gradient(
        compile(read, "weight_vjp", sample=layer.kept.sample, preselect=True, device=layer.device)
    )


@lru_cache(maxsize=512)
def _calculus(kept: Kept, device: str, channels: tuple[int, int], *fields: Any) -> ConvCalculus:
    kernel, sizes, stride, padding, dilation, groups, mode = fields
    spec = ConvSpec(
        *channels,
        kernel,
        sizes,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    return ConvCalculus(spec, kept, device)


class SampledConv(_ConvNd, FromTorch, OfConv):
    """What the sampled convolutions share."""

    represented = ConvSpec
    fixed: ClassVar[int]
    sampler: Sampler

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        keep: float = 0.5,
        indices: Indices = (CHANNELS,),
        generator: torch.Generator | None = None,
    ) -> None:
        fields = (kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        build: Any = super().__init__  # torch's, of so many dimensions
        build(in_channels, out_channels, *fields)
        kept = Kept.read(keep, indices)
        kept.check(self.in_channels // self.groups, len(self.kernel_size))
        name = f"{type(self).__name__}({self.in_channels}, {self.out_channels})"
        self.sampler = Sampler(name, kept, Seeds(generator))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve.

        Args:
            input: `[N, C_in, *I]` or `[C_in, *I]`.

        Returns:
            `[N, C_out, *O]` or `[C_out, *O]`.
        """
        if not self.training:
            return self._exact(input)
        return self._apart(input) if torch.compiler.is_dynamo_compiling() else self._in_training(input)

    def _exact(self, input: Tensor) -> Tensor:
        result: Tensor = super().forward(input)
        return result

    def _in_training(self, input: Tensor) -> Tensor:
        seed = self.sampler.seed(input, self.weight)
        dims = len(self.kernel_size)
        single = input.ndim == dims + 1
        x = input.unsqueeze(0) if single else input
        if seed is None or x.ndim != dims + 2 or x.shape[1] != self.in_channels:
            return self._exact(input)
        sampler, device = self.sampler, "cuda" if x.is_cuda else "cpu"
        fields = (
            (self.in_channels, self.out_channels),
            self.kernel_size,
            tuple(x.shape[2:]),
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
        )
        layer = sampler.layer((device, fields), lambda: _calculus(sampler.kept, device, *fields))
        result = apply(layer, seed, x, (self.weight, self.bias))
        return result.squeeze(0) if single else result

    # torch.compile leaves it to Python
    _apart = _disable_dynamo(_in_training)

    def extra_repr(self) -> str:
        """The fields of torch's, and what is kept."""
        return f"{super().extra_repr()}, keep=({self.sampler.kept})"  # type: ignore[no-untyped-call]

    @classmethod
    def like(
        cls, module: nn.Module, keep: float, indices: Indices, generator: torch.Generator | None = None
    ) -> Self:
        """As of every sampled layer, for a convolution with the same padding left and right."""
        layer: Any = module
        check_fixed(cls, cls.fixed, module, len(layer.kernel_size))
        if not all(isinstance(side, int | str) for side in layer.padding):
            raise SpecError(
                f"padding={layer.padding} differs left and right, which {cls.__name__} does not have; pad before it"
            )
        return super().like(module, keep, indices, generator)


class SampledConv1d(SampledConv, nn.Conv1d):
    """A drop-in for `nn.Conv1d`, as `SampledConv2d` is for `nn.Conv2d`."""

    fixed = 1


class SampledConv2d(SampledConv, nn.Conv2d):
    """A convolution whose weight gradient is computed from a random part of the input, which alone is stored.

    In training its value, the gradient of its input and that of its bias are exact; that of its weight is so on the
    average over all draws. In `eval()` and without gradients it is `nn.Conv2d`. Parameters, their initialisation and
    `state_dict` are those of `nn.Conv2d`, and so are the arguments that are not listed.

    Padding other than zeros is added first, and is a part of the input here. Cells that a kernel of one cell
    steps over are not.

    Args:
        keep: the fraction of each index that is kept, in (0, 1]; the number is rounded, halves up.
        indices: what is sampled: `"in_channels"`, in all groups alike; `"space"`, the positions along each spatial
            axis; `"batch"`, the examples; or fractions by these names, as in
            `{"in_channels": 0.5, "space": (0.5, 1)}`. Several multiply.
        generator: of random numbers; PyTorch's own if left out.

    Raises:
        SpecError: a fraction leaves nothing, is none, or has no index.
    """

    fixed = 2


class SampledConv3d(SampledConv, nn.Conv3d):
    """A drop-in for `nn.Conv3d`, as `SampledConv2d` is for `nn.Conv2d`."""

    fixed = 3
