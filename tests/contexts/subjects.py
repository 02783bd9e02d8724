"""What the table of contexts runs: one of each way to compute with tnconv, small, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec

SPEC = ConvSpec(4, 6, (3, 2), (7, 6), stride=(2, 1), padding=1, groups=2, bias=True)
TRANSPOSED = ConvTransposeSpec(3, 4, 3, (4, 5), stride=2, padding=1, output_padding=1, bias=True)
POINTS = "n c 2*h+r-1 w+s, d c r s -> n d h w"


@dataclass(frozen=True)
class Subject:
    """Something to call.

    Args:
        name: of the column.
        call: takes the tensors; a module where there is one.
        tensors: arguments, the first with the batch as its first axis.
        batched: (place of an argument, its axis) of the batch.
        free: whether height and width may be any, the last two axes of the first argument.
    """

    name: str
    call: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    batched: tuple[tuple[int, int], ...] = ((0, 0),)
    free: bool = False

    def value(self) -> Tensor:
        """Eagerly."""
        return self.call(*self.tensors)

    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors once more, each asking for a gradient."""
        return tuple(t.detach().clone().requires_grad_() for t in self.tensors)

    def larger(self, batch: bool = False, image: bool = False) -> tuple[Tensor, ...]:
        """Arguments with a batch twice as large, or with an image twice as high and wide."""
        axes = dict(self.batched)
        made = [torch.cat([t, t], axes[p]) if batch and p in axes else t for p, t in enumerate(self.tensors)]
        return (made[0].repeat(1, 1, 2, 2), *made[1:]) if image else tuple(made)

    def parameters(self, call: object = None) -> list[Tensor]:
        """Of a module, this one or another."""
        module = self.call if call is None else call
        return list(module.parameters()) if isinstance(module, nn.Module) else []

    def gradients(self, call: Callable[..., Tensor] | None = None, of: object = None) -> list[Tensor]:
        """Of the sum of squares, by the arguments and the parameters, also of another module."""
        leaves = self.leaves()
        value = (self.call if call is None else call)(*leaves)
        return list(torch.autograd.grad(value.square().sum(), (*leaves, *self.parameters(of))))


def normal(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _operation(name: str, op: str, spec: Any = SPEC, **options: Any) -> Subject:
    function = tnconv.compile(spec, op, **options)
    sizes = {
        n: [a.size if isinstance(a.size, int) else 3 for a in axes]
        for n, axes in function._signature.axes.items()
    }
    axes = {"x": 0, "grad_output": 0, "z": 1}
    batched = tuple((p, axes[n]) for p, n in enumerate(function.arguments) if n in axes)
    tensors = tuple(normal(*sizes[n], seed=p) for p, n in enumerate(function.arguments))
    return Subject(name, function, tensors, batched)


def _module(name: str, module: nn.Module, *sizes: int) -> Subject:
    torch.manual_seed(0)
    module = module.double()
    for number, parameter in enumerate(module.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=number))
    return Subject(name, module, (normal(*sizes),), free=True)


@cache
def subjects() -> tuple[Subject, ...]:
    """All of them; compiled once."""
    x, w = normal(3, 4, 7, 6), normal(6, 4, 3, 2, seed=1)
    F, tnn = tnconv.functional, tnconv.nn
    return (
        _operation("forward", "forward"),
        _operation("training", "forward", training=True),
        _operation("constant", "forward", constant=["weight", "bias"]),
        _operation("within a limit", "weight_vjp", TRANSPOSED, memory_limit="8KiB"),
        _operation("kfac_reduce", "kfac_reduce", training=True),
        _operation("kfac_expand", "kfac_expand"),
        _operation("ggn_diagonal", "ggn_diagonal"),
        _operation("factor transposed", "kfac_reduce", TRANSPOSED),
        Subject("conv2d", lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 2)), (x, w), free=True),
        Subject("unfoldNd", lambda x: F.unfoldNd(x, (3, 2), padding=1, stride=2), (x,), free=True),
        Subject("avg_poolNd", lambda x: F.avg_poolNd(x, (3, 2)), (x,), free=True),
        _module("Conv2d", tnn.Conv2d(4, 6, 3, padding=2, groups=2, padding_mode="reflect"), 3, 4, 7, 6),
        _module("ConvTranspose2d", tnn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1), 3, 4, 5, 4),
        _module("CPConv2d", tnn.CPConv2d(4, 6, 3, rank=3, padding=1), 3, 4, 7, 6),
        _module("TuckerConv2d", tnn.TuckerConv2d(4, 6, 3, rank=2, stride=2), 3, 4, 7, 6),
        Subject("einsum", lambda x, w: tnconv.einsum(POINTS, x, w, h=3), (x, w)),
        Subject("conv_einsum", lambda x, w: tnconv.conv_einsum("bshw,tshw->bthw|hw", x, w), (x, w)),
    )


def named(*names: str) -> list[Subject]:
    """Some of them."""
    found = {each.name: each for each in subjects()}
    return [found[name] for name in names]
