"""Two processes at once: training by DistributedDataParallel, with a function that came through a pickle."""

import os
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import tnconv
from tests.contexts.subjects import normal
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


def work(_: int, rank: int, folder: str, functions: list[Any], arguments: list[tuple[Tensor, ...]]) -> None:
    """What a worker does: train on its half, call what it was given, and write down the results."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = normal(4, 2, 6, 6)[2 * rank : 2 * rank + 2]
    parameters = trained(DistributedDataParallel(model()), half)
    values = [f(*given) for f, given in zip(functions, arguments, strict=True)]
    torch.save((parameters, values, [f.source for f in functions]), os.path.join(folder, str(rank)))
    dist.destroy_process_group()


def test_two_processes() -> None:
    """Halves of a batch give the gradients of the whole; functions are the same functions there."""
    functions = [tnconv.compile(SPEC, training=True), tnconv.compile(SPEC, "kfac_reduce")]
    x = normal(2, 3, 6)
    arguments = [(x, normal(4, 3, 3), normal(4)), (x,)]
    with tempfile.TemporaryDirectory() as folder:
        worker = mp.spawn(work, (1, folder, functions, arguments), nprocs=1, join=False)
        work(0, 0, folder, functions, arguments)  # the other is this process: starting one takes seconds
        worker.join()
        results = [torch.load(os.path.join(folder, str(rank))) for rank in range(2)]
    want = trained(model(), normal(4, 2, 6, 6))
    for parameters, values, sources in results:
        for got, expected in zip(parameters, want, strict=True):
            torch.testing.assert_close(got, expected)
        assert sources == [f.source for f in functions]
        for got, function, given in zip(values, functions, arguments, strict=True):
            torch.testing.assert_close(got, function(*given))
