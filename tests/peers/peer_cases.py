"""Layers, tensors and torch's own answers for the comparison with independent packages."""

from dataclasses import dataclass
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tnconv
from tnconv import ConvSpec

LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Case:
    """One layer for both sides: tnconv pads by the spec, the peer gets the padded input and a layer without padding.

    Symmetric zero padding is left to the peer, so that its own is tested.
    """

    spec: ConvSpec
    layer: Any
    x: Tensor
    padded: Tensor
    grad_output: Tensor
    z: Tensor

    @property
    def positions(self) -> int:
        return prod(self.spec.output_sizes)


def case(spec: ConvSpec, n: int = 2, v: int = 2) -> Case:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(n, spec.in_channels, *spec.input_sizes)
    own = spec.padding_mode == "zeros" and all(left == right for left, right in spec.paddings)
    layer = LAYERS[spec.spatial_dims](
        spec.in_channels,
        spec.out_channels,
        spec.kernel_sizes,
        spec.strides,
        tuple(left for left, _ in spec.paddings) if own else 0,
        spec.dilations,
        spec.groups,
        bias=True,
        dtype=torch.float64,
    )
    padded = x if own else pad(spec, x)
    outputs = (spec.out_channels, *spec.output_sizes)
    return Case(spec, layer, x, padded, draw(n, *outputs), draw(v, n, *outputs))


def pad(spec: ConvSpec, x: Tensor) -> Tensor:
    pairs = [side for pair in reversed(spec.paddings) for side in pair]
    return F.pad(x, pairs, mode="constant" if spec.padding_mode == "zeros" else spec.padding_mode)


def compiled(spec: ConvSpec, op: str, **options: Any) -> tnconv.CompiledFunction:
    """The operation, or a skip where this version does not have it."""
    if op not in tnconv.ops.available():
        pytest.skip(f"operation {op!r} is not in the table")
    return tnconv.compile(spec, op, **options)


def patches(spec: ConvSpec, x: Tensor) -> Tensor:
    """`[n, g, (c k), t]`, from torch's gradient of the convolution: no unfold has a part in it."""
    identity = torch.eye(spec.in_channels * prod(spec.kernel_sizes), dtype=x.dtype)
    weight = identity.view(-1, spec.in_channels, *spec.kernel_sizes)
    convolve = CONVOLUTIONS[spec.spatial_dims]
    y = convolve(pad(spec, x), weight, stride=spec.strides, dilation=spec.dilations)
    return y.flatten(2).unflatten(1, (spec.groups, -1))


def true_rows(spec: ConvSpec, x: Tensor, z: Tensor) -> Tensor:
    """`[v, n, *weight.shape]`: autograd, one example and one row at a time."""
    weight = x.new_zeros(
        spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_sizes, requires_grad=True
    )
    options = {"stride": spec.strides, "dilation": spec.dilations, "groups": spec.groups}
    convolve, padded = CONVOLUTIONS[spec.spatial_dims], pad(spec, x)
    outputs = [convolve(padded[n : n + 1], weight, **options) for n in range(len(x))]
    rows = [
        torch.autograd.grad(y, weight, row[n : n + 1], retain_graph=True)[0]
        for row in z
        for n, y in enumerate(outputs)
    ]
    return torch.stack(rows).unflatten(0, (len(z), len(x)))


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-11) -> None:
    assert tuple(got.shape) == tuple(want.shape)
    error = (got - want).abs().max().item()
    assert error <= tolerance * max(want.abs().max().item(), 1e-300), error


def differs(got: Tensor, want: Tensor) -> bool:
    return got.shape != want.shape or not torch.allclose(got, want, rtol=1e-3)
