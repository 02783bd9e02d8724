"""The layers that are measured: every distinct convolution of ResNet-18 at 224x224."""

from dataclasses import dataclass

import torch

from tnconv import ConvSpec

OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")


@dataclass(frozen=True)
class Case:
    """A square 2d convolution, and how often the network has it."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    input_size: int
    count: int = 1

    @property
    def spec(self) -> ConvSpec:
        """The layer, with a symbolic batch size."""
        return ConvSpec(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            (self.input_size, self.input_size),
            stride=self.stride,
            padding=self.padding,
        )

    @property
    def output_size(self) -> int:
        """Height and width of the output."""
        return self.spec.output_sizes[0]

    def tensors(self, batch: int, dtype: torch.dtype, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Random arguments of all operations."""
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "x": (batch, self.in_channels, self.input_size, self.input_size),
            "weight": (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size),
            "grad_output": (batch, self.out_channels, self.output_size, self.output_size),
        }
        return {
            name: torch.randn(shape, dtype=torch.float64, generator=generator).to(device, dtype)
            for name, shape in shapes.items()
        }


RESNET18 = (
    Case("conv1", 3, 64, 7, 2, 3, 224),
    Case("layer1 3x3", 64, 64, 3, 1, 1, 56, 4),
    Case("layer2 3x3 /2", 64, 128, 3, 2, 1, 56),
    Case("layer2 1x1 /2", 64, 128, 1, 2, 0, 56),
    Case("layer2 3x3", 128, 128, 3, 1, 1, 28, 3),
    Case("layer3 3x3 /2", 128, 256, 3, 2, 1, 28),
    Case("layer3 1x1 /2", 128, 256, 1, 2, 0, 28),
    Case("layer3 3x3", 256, 256, 3, 1, 1, 14, 3),
    Case("layer4 3x3 /2", 256, 512, 3, 2, 1, 14),
    Case("layer4 1x1 /2", 256, 512, 1, 2, 0, 14),
    Case("layer4 3x3", 512, 512, 3, 1, 1, 7, 3),
)
