"""The layers that are measured, in sets, and the tensors of their operations.

`resnet18` and `cifar` are ResNet-18 at 224x224 and its variant for 32x32; `cases` are the layers of eight networks in
`cases.json`; nobody tunes a kernel for `heldout`.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from tnconv import ConvSpec

ROWS = 4  # v: rows of the root of the loss Hessian in ggn_diagonal and ggn_gram
_SECONDS, _MULTIPLICATIONS, _CELLS = 2e-3, 1e11, 1e9  # what a batch aims at, and rough rates of two cores
_LEAST, _MOST = 4, 32


@dataclass(frozen=True)
class Case:
    """A convolution, and how often its network has it. Sizes are tuples, one number a spatial dimension."""

    set: str
    name: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    input_size: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    groups: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilation", self.dilation or (1,) * self.dims)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel_size)

    @property
    def spec(self) -> ConvSpec:
        """The layer, with a symbolic batch size."""
        return ConvSpec(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.input_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `F.conv*` takes besides tensors."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    @property
    def output_size(self) -> tuple[int, ...]:
        """Output positions of each dimension."""
        return self.spec.output_sizes

    @property
    def positions(self) -> int:
        """T, the output positions of an example."""
        return prod(self.output_size)

    @property
    def columns(self) -> int:
        """C K, the rows of a group's unfolded input."""
        return self.in_channels // self.groups * prod(self.kernel_size)

    @property
    def category(self) -> str:
        """Which layers are alike: depthwise, grouped, dense, down-sampling or general."""
        if self.groups > 1:
            return "depthwise" if self.groups == self.in_channels else "grouped"
        if any(self.padding) or any(d > 1 for d in self.dilation):
            return "general"
        pairs = list(zip(self.kernel_size, self.stride, strict=True))
        if all(k == s for k, s in pairs):
            return "dense"
        return "down-sampling" if all(k <= s for k, s in pairs) else "general"

    @property
    def batch(self) -> int:
        """N: the power of two, 4 to 32, for which PyTorch's forward takes some milliseconds on two cores."""
        multiplications = self.out_channels * self.columns * self.positions
        cells = self.in_channels * prod(self.input_size) + self.out_channels * self.positions
        seconds = multiplications / _MULTIPLICATIONS + cells / _CELLS
        batch = _LEAST
        while batch < _MOST and batch * seconds < _SECONDS:
            batch *= 2
        return batch

    def batch_of(self, op: str) -> int:
        """N of an operation: with rows `v`, so many fewer examples that the work is about the same, but two."""
        return max(2, self.batch // ROWS) if op.startswith("ggn") else self.batch

    def unfolded(self, batch: int) -> int:
        """Elements of the unfolded input."""
        return batch * self.groups * self.columns * self.positions

    def tensors(self, batch: int, dtype: torch.dtype, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Random arguments of all operations, by name."""
        generator = torch.Generator(device).manual_seed(0)
        shapes = {
            "x": (batch, self.in_channels, *self.input_size),
            "weight": (self.out_channels, self.in_channels // self.groups, *self.kernel_size),
            "grad_output": (batch, self.out_channels, *self.output_size),
            "z": (ROWS, batch, self.out_channels, *self.output_size),
        }
        return {
            name: torch.randn(shape, dtype=dtype, device=device, generator=generator)
            for name, shape in shapes.items()
        }


def _square(
    layers: str, name: str, c: int, d: int, k: int, s: int, p: int, size: int, count: int = 1, **more: Any
) -> Case:
    return Case(layers, name, c, d, (k, k), (s, s), (p, p), (size, size), count=count, **more)


RESNET18 = (
    _square("resnet18", "conv1", 3, 64, 7, 2, 3, 224),
    _square("resnet18", "layer1 3x3", 64, 64, 3, 1, 1, 56, 4),
    _square("resnet18", "layer2 3x3 /2", 64, 128, 3, 2, 1, 56),
    _square("resnet18", "layer2 1x1 /2", 64, 128, 1, 2, 0, 56),
    _square("resnet18", "layer2 3x3", 128, 128, 3, 1, 1, 28, 3),
    _square("resnet18", "layer3 3x3 /2", 128, 256, 3, 2, 1, 28),
    _square("resnet18", "layer3 1x1 /2", 128, 256, 1, 2, 0, 28),
    _square("resnet18", "layer3 3x3", 256, 256, 3, 1, 1, 14, 3),
    _square("resnet18", "layer4 3x3 /2", 256, 512, 3, 2, 1, 14),
    _square("resnet18", "layer4 1x1 /2", 256, 512, 1, 2, 0, 14),
    _square("resnet18", "layer4 3x3", 512, 512, 3, 1, 1, 7, 3),
)
CIFAR = (
    _square("cifar", "conv1", 3, 64, 3, 1, 1, 32),
    _square("cifar", "layer1 3x3", 64, 64, 3, 1, 1, 32, 4),
    _square("cifar", "layer2 3x3 /2", 64, 128, 3, 2, 1, 32),
    _square("cifar", "layer2 1x1 /2", 64, 128, 1, 2, 0, 32),
    _square("cifar", "layer2 3x3", 128, 128, 3, 1, 1, 16, 3),
    _square("cifar", "layer3 3x3 /2", 128, 256, 3, 2, 1, 16),
    _square("cifar", "layer3 1x1 /2", 128, 256, 1, 2, 0, 16),
    _square("cifar", "layer3 3x3", 256, 256, 3, 1, 1, 8, 3),
    _square("cifar", "layer4 3x3 /2", 256, 512, 3, 2, 1, 8),
    _square("cifar", "layer4 1x1 /2", 256, 512, 1, 2, 0, 8),
    _square("cifar", "layer4 3x3", 512, 512, 3, 1, 1, 4, 3),
)
HELDOUT = (
    _square("heldout", "VGG 3x3 48", 48, 72, 3, 1, 1, 40),
    _square("heldout", "AlexNet 5x5", 64, 192, 5, 1, 2, 27),
    _square("heldout", "AlexNet 11x11 /4", 3, 64, 11, 4, 2, 224),
    _square("heldout", "LeNet 5x5", 6, 16, 5, 1, 0, 14),
    _square("heldout", "ResNeXt 3x3 groups 32", 128, 128, 3, 1, 1, 28, groups=32),
    _square("heldout", "ResNeXt 3x3 groups 32 /2", 256, 256, 3, 2, 1, 28, groups=32),
    _square("heldout", "EfficientNet depthwise 5x5", 240, 240, 5, 1, 2, 14, groups=240),
    _square("heldout", "EfficientNet depthwise 5x5 /2", 144, 144, 5, 2, 2, 56, groups=144),
    _square("heldout", "ConvNeXt-tiny depthwise 7x7", 96, 96, 7, 1, 3, 56, groups=96),
    _square("heldout", "DeepLab 3x3 dilated 2", 160, 96, 3, 1, 2, 28, dilation=(2, 2)),
    _square("heldout", "DeepLab 3x3 dilated 12", 320, 64, 3, 1, 12, 28, dilation=(12, 12)),
    Case("heldout", "Inception 1x3", 96, 96, (1, 3), (1, 1), (0, 1), (8, 8)),
    Case("heldout", "Inception 3x1", 96, 96, (3, 1), (1, 1), (1, 0), (8, 8)),
    Case("heldout", "Inception 1x7", 128, 192, (1, 7), (1, 1), (0, 3), (17, 17)),
    _square("heldout", "ViT patchify 16x16", 3, 192, 16, 16, 0, 224),
    _square("heldout", "ConvNeXt-tiny 2x2 /2", 96, 192, 2, 2, 0, 56),
    _square("heldout", "DenseNet 1x1", 224, 128, 1, 1, 0, 28),
    _square("heldout", "RegNet 1x1 /2", 152, 368, 1, 2, 0, 28),
    Case("heldout", "WaveNet conv1d 2 dilated 8", 64, 128, (2,), (1,), (8,), (1000,), (8,)),
    Case("heldout", "speech conv1d 10 /5", 1, 80, (10,), (5,), (0,), (8000,)),
    Case("heldout", "conv1d 3", 80, 96, (3,), (1,), (1,), (300,)),
    Case("heldout", "C3D conv3d 3x3x3", 16, 24, (3, 3, 3), (1, 1, 1), (1, 1, 1), (8, 14, 14)),
    Case("heldout", "R2+1D conv3d 3x1x1", 48, 40, (3, 1, 1), (1, 1, 1), (1, 0, 0), (8, 14, 14)),
)


def _from_json() -> tuple[Case, ...]:
    records = json.loads(Path(__file__).with_name("cases.json").read_text())
    return tuple(
        Case(
            "cases",
            f"{r['network']} {r['name']}",
            r["C_in"],
            r["C_out"],
            *(tuple(r[name]) for name in ("kernel", "stride", "padding", "input_size", "dilation")),
            groups=r["groups"],
            count=r["count"],
        )
        for r in records
    )


SETS = {"resnet18": RESNET18, "cifar": CIFAR, "cases": _from_json(), "heldout": HELDOUT}
DEMO_OPERATIONS = (
    "forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce",
)  # fmt: skip
OPERATIONS = (*DEMO_OPERATIONS, "per_example_weight_vjp", "gradient_norm", "ggn_diagonal", "ggn_gram")
ALIASES = {"ntk": "ggn_gram", "kfc": "kfac_expand"}
