"""What a rank computes: a network compiled as a function was, and the calls around it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tnconv.compiler.choose import choose
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.joint import JointFunction
from tnconv.distributed.local_network import Slab
from tnconv.distributed.placements import Fetch, Laid, Traffic
from tnconv.distributed.ring import Rotation, joined
from tnconv.errors import OperationError
from tnconv.ir import Expression, Sum, evaluate
from tnconv.passes import Pipeline


@dataclass(frozen=True, slots=True)
class Turn:
    """What a rank computes at once.

    Args:
        function: None for nothing.
        order: which parts of arguments it takes, by their number.
    """

    function: CompiledFunction | None
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a call takes, for tensors that are laid out alike.

    Args:
        fetches: how each part of an argument is got.
        turns: what is computed; several where parts go round in a ring, by the rank that a part begins at.
        idle: parts that no turn takes, or that go round: others wait for their gradients.
        shape: of the rank's part of the result.
        dtype: of the result.
        laid: how the parts make up the result.
        moving: the parts that go round.
        rotation: how.
        blocks: where what the turns compute lies in the part of the result; None where it is added.
        ring: what going round sends.
    """

    fetches: tuple[Fetch, ...]
    turns: tuple[Turn, ...]
    idle: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    laid: Laid
    moving: tuple[int, ...] = ()
    rotation: Rotation | None = None
    blocks: Slab | None = None
    ring: tuple[Traffic, ...] = ()

    def __call__(self, tensors: Sequence[DTensor], mesh: DeviceMesh) -> DTensor:
        """Compute the result."""
        parts = [each(tensors[each.argument]) for each in self.fetches]
        turn = self.turns[0]
        if self.rotation is not None:
            found = self._in_turns(parts, self.rotation)
        elif turn.function is not None:
            found = turn.function(*[parts[n] for n in turn.order])
        else:
            found = self._nothing(parts)
        for number in self.idle:
            if parts[number].requires_grad:  # a sum over nothing: no value, but a gradient of zeros
                found = found + parts[number].reshape(-1)[:0].sum()
        return self.laid(found, mesh)

    def _in_turns(self, parts: list[Tensor], rotation: Rotation) -> Tensor:
        found: dict[int, Tensor] = {}
        for count in range(len(self.turns)):
            place = (rotation.rank - count) % len(self.turns)
            turn = self.turns[place]
            if turn.function is not None:
                found[place] = turn.function(*[parts[n] for n in turn.order])
            if count + 1 < len(self.turns):
                moved = rotation([parts[n] for n in self.moving], count)
                for number, part in zip(self.moving, moved, strict=True):
                    parts[number] = part
        return joined(found, self.blocks, lambda: self._nothing(parts))

    def _nothing(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=parts[0].device)


def bound(network: Expression, values: Mapping[str, int]) -> Expression:
    """A network, or a sum, with integers in place of its size symbols."""
    own = {name: values[name] for name in network.symbols}
    return network.map_terms(lambda term: term.bind(own)) if isinstance(network, Sum) else network.bind(own)


def predicted_seconds(fn: CompiledFunction) -> float:
    """Seconds that a call is predicted to take, by the rates that its kernels were chosen by; at its hints."""
    return 1e-6 * fn.program.predicted * prod(evaluate(each.runs, fn.plan.hints) for each in fn.plan.slices)


def refuse_several(fn: CompiledFunction) -> None:
    """Refuse a function of several operations, and what is no compiled function.

    Raises:
        OperationError: it is one.
    """
    if not isinstance(fn, CompiledFunction | JointFunction):
        raise OperationError(
            f"{type(fn).__name__} is no compiled function; give one of tnconv.compile(layer, …), or "
            "layer.compiled(56, 56) of a factorised layer"
        )
    if isinstance(fn, JointFunction):
        raise OperationError(
            f"operations {fn.op} are compiled together, with a network each; give one of them, as in functions[0]"
        )


def derived_network(fn: CompiledFunction) -> Expression:
    """The network of an operation as it was derived, before it was rewritten: indices have the names of a layer."""
    count = len(_passes(fn).passes)
    return fn.stages[-count].before if count else fn.network


def _passes(fn: CompiledFunction) -> Pipeline:
    """The passes that rewrote the network; a pickle has lost them, but texts of stages tell the usual ones."""
    passes, usual = fn.built.candidate.task.passes, Pipeline.parse("default")
    texts = [str(each) for each in usual.passes]
    same = not passes.passes and [stage.text for stage in fn.stages[-len(texts) :]] == texts
    return usual if same else passes


def compiled_like(
    fn: CompiledFunction, network: Expression, names: Mapping[str, Sequence[str]], limit: int | None
) -> CompiledFunction:
    """Compile a network in the way that a function was compiled.

    Args:
        fn: the function.
        network: without size symbols.
        names: the arguments that take the place of each of the function's.
        limit: bytes besides the arguments.
    """

    def renamed(arguments: Collection[str]) -> frozenset[str]:
        found = (name for argument in arguments for name in names.get(argument, ()))
        return frozenset(name for name in found if name in network.arguments)

    task = fn.built.candidate.task
    judged = task.objective
    objective = replace(judged, frozen=renamed(judged.frozen), constant=renamed(judged.constant))
    rewritten, stages = _passes(fn).run(network)
    chosen = choose(replace(task, network=rewritten, hints={}, objective=objective), limit)
    return CompiledFunction(fn.op, rewritten, stages, chosen.executable, None, None, fn.arithmetic)
