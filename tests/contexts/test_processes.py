"""Two processes at once: training by DistributedDataParallel, with a function that came through a pickle."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import tnconv
from tests.contexts.subjects import normal
from tests.processes import in_two
from tnconv import ConvSpec

SPEC = ConvSpec(3, 4, 3, 6, padding=1, bias=True)
STEPS = 2


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = tnconv.nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), tnconv.nn.CPConv2d(3, 2, 3, rank=2)
    return nn.Sequential(*layers).double()


def trained(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The parameters after some steps."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimiser.zero_grad()
        net(x).square().mean().backward()
        optimiser.step()
    return [p.detach().clone() for p in net.parameters()]


def work(rank: int, functions: list[Any], arguments: list[tuple[Tensor, ...]]) -> Any:
    """What a process does: train on its half, and call what it was given."""
    half = normal(4, 2, 6, 6)[2 * rank : 2 * rank + 2]
    parameters = trained(DistributedDataParallel(model()), half)
    values = [f(*given) for f, given in zip(functions, arguments, strict=True)]
    return parameters, values, [f.source for f in functions]


def test_two_processes(tmp_path: Path) -> None:
    """Halves of a batch give the gradients of the whole; functions are the same functions there."""
    functions = [tnconv.compile(SPEC, training=True), tnconv.compile(SPEC, "kfac_reduce")]
    x = normal(2, 3, 6)
    arguments = [(x, normal(4, 3, 3), normal(4)), (x,)]
    results = in_two(tmp_path, work, functions, arguments)
    want = trained(model(), normal(4, 2, 6, 6))
    for parameters, values, sources in results:
        for got, expected in zip(parameters, want, strict=True):
            torch.testing.assert_close(got, expected)
        assert sources == [f.source for f in functions]
        for got, function, given in zip(values, functions, arguments, strict=True):
            torch.testing.assert_close(got, function(*given))
