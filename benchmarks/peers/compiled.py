"""`torch.compile` of the PyTorch implementation: shapes are constants, and the first call compiles for seconds."""

import time

import torch

from benchmarks.peers.base import Peer, Problem
from benchmarks.peers.pytorch import arguments, implementation


def peers(p: Problem) -> list[Peer]:
    """`compiled`."""
    function, tensors = implementation(p), arguments(p)
    if function is None:
        return []
    torch.compiler.reset()  # what was compiled for other layers would make this one dynamic
    compiled = torch.compile(function, dynamic=False)
    start = time.perf_counter()
    compiled(*tensors)
    return [Peer("compiled", lambda: compiled(*tensors), compiled=True, seconds=time.perf_counter() - start)]
