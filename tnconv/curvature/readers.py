"""How calls of torch's functions and of tnconv's layers are read: a reader has torch's parameters, in torch's order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tnconv.curvature.factor import Factor
from tnconv.curvature.layer_calls import Read
from tnconv.functional.visible import VisibleLayer
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec


def _conv(dims: int) -> Callable[..., Read | None]:
    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Read | None:
        if not weight.numel():  # no channels
            return None
        x = input if input.dim() == dims + 2 else input.unsqueeze(0)
        try:
            spec = _spec(ConvSpec, dims, x.shape, weight.shape, groups, stride, padding, dilation)
        except TypeError:  # a list
            values = (_hashable(value) for value in (stride, padding, dilation))
            spec = _spec(ConvSpec, dims, x.shape, weight.shape, groups, *values)
        return Read("conv", x, weight, bias, spec)

    return read


def _conv_transpose(dims: int) -> Callable[..., Read | None]:
    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Read | None:
        if not weight.numel():
            return None
        x = input if input.dim() == dims + 2 else input.unsqueeze(0)
        steps = [_hashable(value) for value in (stride, padding, dilation, output_padding)]
        spec = _spec(ConvTransposeSpec, dims, x.shape, weight.shape, groups, *steps)
        return Read("conv_transpose", x, weight, bias, spec)

    return read


# A spec is checked field by field, which takes longer than looking it up.


@lru_cache(maxsize=2048)
def _spec(kind: Any, dims: int, x: torch.Size, weight: torch.Size, groups: int, *steps: Any) -> Any:
    """The spec of a kind; steps are stride, padding, dilation and, of a transposed convolution, output padding."""
    names = ("stride", "padding", "dilation", "output_padding")
    fields = {
        name: step if isinstance(step, str) else _plain(step, dims)
        for name, step in zip(names, steps, strict=False)
    }
    outside = weight[0] if kind is ConvSpec else weight[1] * groups
    return kind(x[1], outside, tuple(weight[2:]), tuple(x[2:]), groups=groups, **fields)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=1024)
def _linear_spec(weight: torch.Size) -> LinearSpec:
    return LinearSpec(weight[1], weight[0])


def _plain(value: Any, dims: int) -> tuple[int, ...]:
    """One int for each spatial dimension, as torch reads an int or a sequence of one."""
    values = (int(value),) if isinstance(value, int) else tuple(map(int, value))
    return values * dims if len(values) == 1 else values


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Read | None:
    if weight.dim() != 2 or not weight.numel():  # torch takes a vector too
        return None
    x = input if input.dim() > 1 else input.unsqueeze(0)
    return Read("linear", x, weight, bias, _linear_spec(weight.shape))


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Read | None:
    if max_norm is not None or scale_grad_by_freq:  # writes the weight; divides by counts over the batch
        return None
    row = padding_idx if padding_idx is None or padding_idx >= 0 else weight.shape[0] + padding_idx
    return Read("embedding", input, weight, skip=row)


def _embedding_native(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Read | None:
    return _embedding(
        indices, weight, None if padding_idx < 0 else padding_idx, scale_grad_by_freq=scale_grad_by_freq
    )


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Read:
    shape = tuple(normalized_shape)
    return Read(
        "scale", input, weight, bias, view=shape, normalise=lambda x: F.layer_norm(x, shape, None, None, eps)
    )


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Read:
    shape = tuple(normalized_shape)
    return Read("scale", input, weight, view=shape, normalise=lambda x: F.rms_norm(x, shape, None, eps))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Read:
    return _norm(input, weight, bias, lambda x: F.group_norm(x, num_groups, None, None, eps))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Read | None:
    if training or running_mean is None or running_var is None:  # examples depend on each other
        return None
    statistics = (running_mean, running_var)
    return _norm(input, weight, bias, lambda x: F.batch_norm(x, *statistics, None, None, False, 0.0, eps))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Read:
    # The statistics of the input are of each example alone.
    mean, var = (None, None) if use_input_stats else (running_mean, running_var)
    options = (use_input_stats, 0.0, eps)
    return _norm(input, weight, bias, lambda x: F.instance_norm(x, mean, var, None, None, *options))


def _norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, normalise: Callable[[Tensor], Tensor]
) -> Read:
    return Read("scale", input, weight, bias, view=_channels(input), normalise=normalise)


def _prelu(input: Tensor, weight: Tensor) -> Read:
    view = _channels(input) if weight.numel() > 1 else (1,)
    return Read("scale", input, weight, view=view, normalise=lambda x: x.clamp_max(0))


def _channels(x: Tensor) -> tuple[int, ...]:
    """The shape from which values of channels are broadcast."""
    return (x.shape[1], *[1] * (x.dim() - 2))


def read_visible(layer: VisibleLayer, input: Tensor, parameters: Sequence[Tensor | None]) -> list[Read]:
    """What a call of a layer of tnconv computes: the layer, or each factor of its weight and the bias.

    Args:
        layer: that was called.
        input: of the call.
        parameters: of the call, by place.
    """
    spec = layer.spec(input)
    given = {name: tensor for name, tensor in zip(layer.names, parameters, strict=True) if tensor is not None}
    bias = given.pop("bias", None)
    linear = isinstance(spec, LinearSpec)
    plain: Any = replace(spec, bias=False) if spec.bias else spec
    plain = replace(plain, input_size=()) if linear else plain
    x = input if isinstance(spec, LinearSpec) or input.dim() > spec.spatial_dims + 1 else input.unsqueeze(0)
    if layer.factored is None:
        return [Read(spec.kind, x, given["weight"], bias, plain)]
    # Copies, as a wrapper may take the memory of its parameters back (FSDP); factors are small.
    factors = {name: tensor.detach().clone() for name, tensor in given.items()}
    reads = []
    for name, tensor in given.items():
        others = {other: factor for other, factor in factors.items() if other != name}
        op = "linear" if linear else "factor"
        reads.append(Read(op, x, tensor, None, Factor(layer.factored, plain, name), others=others))
    return reads if bias is None else [*reads, Read(spec.kind, x, None, bias, plain)]


_NONE = 99


class Reader(NamedTuple):
    """A function of a layer.

    Args:
        read: what a call computes, of its arguments; None where that is not known.
        x: the place of the input among the arguments.
        weight: that of the weight, or its keyword.
        bias: that of the bias, or its keyword; beyond the last where there is none.
    """

    read: Callable[..., Read | None]
    x: int
    weight: int
    bias: int


READERS: Mapping[Callable[..., Any], Reader] = {
    F.conv1d: Reader(_conv(1), 0, 1, 2),
    F.conv2d: Reader(_conv(2), 0, 1, 2),
    F.conv3d: Reader(_conv(3), 0, 1, 2),
    F.conv_transpose1d: Reader(_conv_transpose(1), 0, 1, 2),
    F.conv_transpose2d: Reader(_conv_transpose(2), 0, 1, 2),
    F.conv_transpose3d: Reader(_conv_transpose(3), 0, 1, 2),
    F.linear: Reader(_linear, 0, 1, 2),
    F.embedding: Reader(_embedding, 0, 1, _NONE),
    torch.embedding: Reader(_embedding_native, 1, 0, _NONE),
    F.layer_norm: Reader(_layer_norm, 0, 2, 3),
    torch.layer_norm: Reader(_layer_norm, 0, 2, 3),
    F.rms_norm: Reader(_rms_norm, 0, 2, _NONE),
    torch.rms_norm: Reader(_rms_norm, 0, 2, _NONE),
    F.group_norm: Reader(_group_norm, 0, 2, 3),
    torch.group_norm: Reader(_group_norm, 0, 2, 3),
    F.batch_norm: Reader(_batch_norm, 0, 3, 4),
    F.instance_norm: Reader(_instance_norm, 0, 3, 4),
    F.prelu: Reader(_prelu, 0, 1, _NONE),
}
