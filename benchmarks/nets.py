"""Whole models of the benchmarks, with a batch: ResNet-18, one like ConvNeXt, a small vision transformer."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
LOSS = nn.CrossEntropyLoss()
# Image size and examples.
SETTINGS = {"32x32": (32, 32), "96x8": (96, 8), "64x4": (64, 4), "32x8": (32, 8), "16x2": (16, 2)}


class Residual(nn.Module):
    """Two 3×3 convolutions and a skip, as in ResNet-18."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def resnet18(_: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(channels, out, stride), Residual(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


class ConvNext(nn.Module):
    """A depthwise 7×7 convolution, a norm over channels, two linear layers, a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.down(F.gelu(self.up(h))) * self.scale).permute(0, 3, 1, 2)


def convnext(_: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), ConvNext(64), ConvNext(64), nn.Conv2d(64, 128, 2, 2), ConvNext(128), ConvNext(128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES),
    )  # fmt: skip


class Block(nn.Module):
    """Attention and two linear layers."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.first(x)).chunk(3, 2)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Vit(nn.Module):
    """Patches of 8×8, positions, four blocks."""

    def __init__(self, size: int, width: int = 128) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.positions = nn.Parameter(0.02 * torch.randn((size // 8) ** 2, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(4)], nn.LayerNorm(width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(h).mean(1))


MODELS: dict[str, Callable[[int], nn.Module]] = {"resnet18": resnet18, "convnext": convnext, "vit": Vit}


@dataclass(frozen=True)
class Case:
    """A model with a batch.

    Args:
        name: of the model.
        setting: of the batch.
        model: in evaluation mode.
        x: `[n, 3, size, size]`.
        y: labels `[n]`.
    """

    name: str
    setting: str
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def matrices(self) -> list[str]:
        """The parameters of linear layers and convolutions."""
        kinds = nn.Linear, nn.Conv2d
        return [
            f"{prefix}.{name}"
            for prefix, part in self.model.named_modules()
            if isinstance(part, kinds)
            for name, _ in part.named_parameters()
        ]

    @property
    def private(self) -> "Case":
        """With GroupNorm in place of BatchNorm, in training mode, as Opacus asks for."""
        model = copy.deepcopy(self.model).train()
        for part in list(model.modules()):
            for name, child in part.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(part, name, nn.GroupNorm(32, child.num_features))
        return replace(self, model=model)

    def step(self) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        LOSS(self.model(self.x), self.y).backward()


def cases(models: list[str], settings: list[str]) -> Iterator[Case]:
    for name in models:
        for setting in settings:
            size, n = SETTINGS[setting]
            torch.manual_seed(0)
            model = MODELS[name](size).eval()
            yield Case(name, setting, model, torch.randn(n, 3, size, size), torch.randint(CLASSES, (n,)))
