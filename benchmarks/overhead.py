"""What a call adds over the calls of torch that its program makes, on a layer that takes no time."""

import statistics

import torch

import tnconv
from benchmarks.cases import OPERATIONS, Case
from benchmarks.peers import Problem, pytorch
from benchmarks.timing import race

TINY = Case("overhead", "tiny", 2, 2, (3, 3), (1, 1), (1, 1), (4, 4))
_BATCH, _NATIVE = 1, ("forward", "input_vjp", "weight_vjp", "bias_vjp")


def overheads(rounds: int = 21) -> dict[str, dict[str, float]]:
    """Microseconds by operation.

    Returns:
        `checks`: a call over its program, which is what the checks of the arguments take. `over_torch`, where
        PyTorch has one native call for the operation: a call over that call.
    """
    tensors = TINY.tensors(_BATCH, torch.float32)
    return {op: _overhead(op, tensors, rounds) for op in OPERATIONS}


def _overhead(op: str, tensors: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    function = tnconv.compile(TINY.spec, op)
    arguments = [tensors[name] for name in function.arguments]
    other = pytorch.peers(Problem(TINY, op, tensors))[0].call
    bare = function.program.function
    calls = {
        "call": lambda: function(*arguments),
        "program": lambda: bare(*arguments),
        "torch": other,
    }
    for each in calls.values():
        each()
    found = race(calls, rounds, least=2e-3, seconds=0.3)
    whole, program, native = (statistics.median(found.seconds(name)) * 1e6 for name in calls)
    result = {"checks": whole - program}
    return result | {"over_torch": whole - native} if op in _NATIVE else result
