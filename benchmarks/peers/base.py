"""What a peer is: a call without arguments that computes the same numbers as tnconv."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case

TOLERANCES = {"float64": 1e-9, "float32": 5e-4, "bfloat16": 1e-1}
_LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Problem:
    """An operation of a layer on given tensors.

    Args:
        case: the layer.
        op: name of the operation.
        tensors: every argument of all operations, by name.
    """

    case: Case
    op: str
    tensors: dict[str, Tensor]

    def make_layer(self, bias: bool = False) -> Any:
        """The module of the layer, with the weight of the problem and a bias of zeros or none."""
        case, weight = self.case, self.weight
        layer = _LAYERS[case.dims](
            case.in_channels, case.out_channels, case.kernel_size, bias=bias, **case.options
        ).to(weight.device, weight.dtype)
        layer.weight = nn.Parameter(weight)
        return layer

    @property
    def x(self) -> Tensor:
        return self.tensors["x"]

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]

    @property
    def grad(self) -> Tensor:
        return self.tensors["grad_output"]

    @property
    def z(self) -> Tensor:
        return self.tensors["z"]

    @property
    def batch(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Peer:
    """An implementation of one problem.

    Args:
        name: as the tables say it.
        call: computes it.
        scale: what its result is to be multiplied by to be tnconv's: packages scale factors differently, and a
            scalar on a result is not what is compared.
        compiled: whether it comes from `torch.compile`.
        seconds: what making it took, planning and compilation.
    """

    name: str
    call: Callable[[], Tensor]
    scale: float = 1.0
    compiled: bool = False
    seconds: float = 0.0

    def check(self, want: Tensor, limit: float, arguments: Iterable[Tensor] = ()) -> str | None:
        """Run once, and say what is wrong, if anything is: other numbers, or a view where tnconv made a tensor."""
        got = self.call().detach()
        if got.numel() != want.numel():
            return f"shape {tuple(got.shape)} for {tuple(want.shape)}"
        storages = {t.untyped_storage().data_ptr() for t in arguments}
        if got.untyped_storage().data_ptr() in storages and want.untyped_storage().data_ptr() not in storages:
            return "its result is a view of an argument"
        error = (got.reshape(want.shape) * self.scale - want).abs_().max().item()
        largest = error / max(want.abs().max().item(), 1e-300)
        return None if largest <= limit else f"differs by {largest:.0e}"


def tolerance(dtype: torch.dtype) -> float:
    """Largest error over the largest value that is still called the same numbers."""
    rounded = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return 1e-2 if rounded else TOLERANCES[str(dtype).removeprefix("torch.")]
