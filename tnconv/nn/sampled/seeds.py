"""The seeds of the rows that sampled layers draw, one for each call, the same where a checkpoint computes a call again.

Each call takes one random number of PyTorch's own generator on the CPU, the *tick*, whose state
`torch.utils.checkpoint` restores for a recomputation: so the number is the same there, and later dropout is, too. It is
the seed of the call; with a generator of one's own it only names the call, whose seed is that generator's.
"""

from collections import OrderedDict

import torch
from torch import distributed

_KEPT = 4096  # calls that a recomputation may come back to
_MIX = 0x9E3779B97F4A7C15  # as in splitmix64: ranks draw apart
_TOP = 2**63


class Seeds:
    """Where the layers of a model have their seeds from; copies and pickles keep the state.

    Args:
        generator: of one's own; None takes PyTorch's, which `torch.manual_seed` seeds.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator
        self._calls: OrderedDict[int, int] = OrderedDict()

    def next(self) -> int:
        """The seed of a call, another one for each process of a distributed group."""
        return (self._own(_number(None)) + _rank() * _MIX) % _TOP

    def _own(self, tick: int) -> int:
        if self.generator is None:
            return tick
        again = torch._C._current_graph_task_id() != -1  # within a backward pass: a recomputation
        if again and tick in self._calls:
            return self._calls[tick]
        seed = self._calls[tick] = _number(self.generator)
        if len(self._calls) > _KEPT:
            self._calls.popitem(last=False)
        return seed


def _number(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
