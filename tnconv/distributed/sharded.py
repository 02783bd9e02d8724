"""`tnconv.distributed.shard`: a compiled function on DTensors, each rank with a range of some indices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from tnconv.backends.signature import Signature
from tnconv.compiler.choose import choose
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.choice import chosen_indices
from tnconv.distributed.index_ranges import divide
from tnconv.distributed.local_network import LocalNetworks, Use
from tnconv.distributed.placements import Fetch, Laid, coordinate, fetch, laid, redistribution
from tnconv.distributed.sharded_explanation import ShardedExplanation
from tnconv.errors import ArgumentError, OperationError
from tnconv.ir import Expression, Sum
from tnconv.planner.memory_limit import parse_memory

_MOST_KNOWN = 100  # layouts of arguments for which all is ready


def shard(
    fn: CompiledFunction,
    mesh: DeviceMesh,
    shards: Mapping[str, str],
    *,
    memory_limit: int | str | None = None,
) -> "Sharded":
    """Share out the work of a compiled function over the ranks of a mesh, by indices of its network.

    Each rank computes the same network with a range of each index. An index of the result gives shards, one that is
    summed gives partial sums; so the placement of the result along a dimension of the mesh is `Shard(axis)`,
    `Partial()`, or `Replicate()` along one that no index is given to. Where an index of the result is not the first on
    its axis, as `d` in `(g d)`, the ranks' parts do not lie side by side, and the result is `Partial()`, too.

    Arguments are redistributed to what ranks need: `explain` says which bytes that moves. Of positions that a relation
    ties to those of a rank, it needs a halo. Sizes need not be multiples of the number of ranks.

    Args:
        fn: of `tnconv.compile`. Of `ntk` and `ggn_gram` with two batches that is `fn.pairs`.
        mesh: of `torch.distributed`, with names of its dimensions.
        shards: for each index, by its name or its kind (`"batch"`, `"channel"`, `"group"`, …), the name of a dimension.
        memory_limit: that of a rank, as in `tnconv.compile`.

    Returns:
        A function on DTensors of that mesh, which takes the arguments of `fn`; gradients go through.

    Raises:
        OperationError: an index is unknown, or cannot be shared out; or the mesh has no such dimension.
    """
    return Sharded(fn, mesh, dict(shards), None if memory_limit is None else parse_memory(memory_limit))


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a call takes, for tensors that are laid out alike.

    Args:
        fetches: how each part of an argument is got.
        function: what this rank computes; None for nothing.
        order: which parts it takes, by their number.
        idle: parts that it does not take, but gradients of which others wait for.
        shape: of its part of the result.
        dtype: of the result.
        laid: how the parts make up the result.
    """

    fetches: tuple[Fetch, ...]
    function: CompiledFunction | None
    order: tuple[int, ...]
    idle: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    laid: Laid

    def __call__(self, tensors: Sequence[DTensor], mesh: DeviceMesh) -> DTensor:
        """Compute the result."""
        parts = [each(tensors[each.argument]) for each in self.fetches]
        if self.function is None:
            found = torch.zeros(self.shape, dtype=self.dtype, device=parts[0].device)
        else:
            found = self.function(*[parts[n] for n in self.order])
        for number in self.idle:
            if parts[number].requires_grad:  # a sum over nothing: no value, but a gradient of zeros
                found = found + parts[number].reshape(-1)[:0].sum()
        return self.laid(found, mesh)


class Sharded:
    """A function on DTensors; see `shard`.

    Attributes:
        fn: what is computed.
        mesh: by which ranks.
        shards: the name of the index along each dimension of the mesh.
    """

    def __init__(
        self, fn: CompiledFunction, mesh: DeviceMesh, shards: Mapping[str, str], memory_limit: int | None
    ) -> None:
        names = mesh.mesh_dim_names or ()
        for name, dimension in shards.items():
            if dimension not in names:
                raise OperationError(
                    f"index {name!r} is to be sharded along {dimension!r}, but the mesh has {list(names)}; "
                    "take one of them, named by mesh_dim_names= of init_device_mesh"
                )
        backend = fn.built.candidate.task.backend
        if backend != "torch":
            raise OperationError(f"backend {backend!r} has no DTensors; compile with backend='torch'")
        self.fn, self.mesh, self._limit = fn, mesh, memory_limit
        self._network = derived_network(fn)
        found = chosen_indices(self._network, shards)
        self.shards = {name: found[name] for name in names if name in found}
        self._dims = {dim: found[name] for dim, name in enumerate(names) if name in found}
        self._signature = Signature.of(self._network)
        self._known: dict[Any, Ready] = {}
        self._functions: dict[Any, CompiledFunction] = {}

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments, in order."""
        return self.fn.arguments

    def __call__(self, *tensors: DTensor, **named: DTensor) -> DTensor:
        """Compute the operation.

        Args:
            tensors: the arguments in order; others by name.
            named: arguments by name.

        Raises:
            ArgumentError: one is no DTensor of the mesh, or does not fit.
        """
        if named or len(tensors) != len(self.arguments):
            tensors = tuple(self.fn._signature.collect(tensors, named))  # type: ignore[arg-type]
        return self._ready(tensors)(tensors, self.mesh)

    def distribute(self, *tensors: Tensor) -> tuple[DTensor, ...]:
        """Tensors that every rank has, as DTensors that lie as the function takes them best; no rank sends anything.

        Args:
            tensors: the arguments in order, the same on every rank.
        """
        whole = [Replicate()] * self.mesh.ndim
        given = [DTensor.from_local(each, self.mesh, whole, run_check=False) for each in tensors]
        fetches = self._ready(tuple(given)).fetches
        first: dict[int, Fetch] = {}
        for each in sorted(fetches, key=lambda f: all(p.is_replicate() for p in f.best)):
            first.setdefault(each.argument, each)
        return tuple(
            distribute_tensor(each, self.mesh, first[n].best, src_data_rank=None)
            for n, each in enumerate(tensors)
        )

    def explain(self, *tensors: DTensor) -> "ShardedExplanation":
        """What each rank computes, and the bytes that each collective moves; print it.

        Args:
            tensors: the arguments in order, or others that are laid out like them.
        """
        ready = self._ready(tensors)
        whole = (Replicate(),) * self.mesh.ndim
        size = ready.dtype.itemsize * prod(ready.laid.shape)
        return ShardedExplanation(
            self.fn.network.name,
            dict(self.shards),
            tuple((self.arguments[f.argument], f.target, f.traffic) for f in ready.fetches),
            ready.laid.placements,
            ready.laid.traffic(ready.dtype.itemsize, self.mesh),
            tuple(redistribution("result", size, ready.laid.placements, whole, self.mesh)),
            ready.function,
        )

    def _ready(self, tensors: tuple[Any, ...]) -> Ready:
        key: Any = None
        try:
            key = tuple([(t.shape, t.placements, t.dtype) for t in tensors])
            found = self._known.get(key)
        except AttributeError:
            found = None
        if found is None:
            found = self._made(tensors)
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _made(self, tensors: tuple[Any, ...]) -> Ready:
        self._check(tensors)
        arrays, arithmetic = self.fn._arrays, self.fn.arithmetic
        values = self._signature.check(tensors, arrays, arithmetic.takes_mixed(tensors, arrays))
        networks = self._networks(values)
        uses = networks.uses()
        places = {name: place for place, name in enumerate(self.arguments)}
        split = tuple(self._dims)
        fetches = tuple(
            fetch(
                use.argument, places[use.argument], tensors[places[use.argument]], use.slabs, self.mesh, split
            )
            for use in uses
        )
        at = coordinate(self.mesh)
        local = networks.at(at, uses)
        numbers = {name: number for number, name in enumerate(uses.values())}
        order = () if local is None else tuple(numbers[name] for name in local.arguments)
        dtype = arithmetic.result_dtype(tensors, arrays)
        whole = networks.whole
        return Ready(
            fetches,
            None if local is None else self._function(local, uses),
            order,
            tuple(n for n in range(len(fetches)) if n not in order),
            networks.shape(at),
            dtype.to_real() if whole.real else dtype,
            laid(tuple(axis.size for axis in whole.output), networks.result(), self.mesh, split),
        )

    def _check(self, tensors: Sequence[Any]) -> None:
        for name, tensor in zip(self.arguments, tensors, strict=True):
            if not isinstance(tensor, DTensor):
                raise ArgumentError(
                    f"argument {name!r} is a {type(tensor).__name__}, not a DTensor; make it one, as by "
                    "torch.distributed.tensor.distribute_tensor, or by distribute() of this function"
                )
            if tensor.device_mesh != self.mesh:
                raise ArgumentError(
                    f"argument {name!r} lies on {tensor.device_mesh} but the function is sharded over {self.mesh}; "
                    "use one mesh"
                )

    def _networks(self, values: Mapping[str, int]) -> LocalNetworks:
        """The networks of all ranks, for values of the size symbols."""
        empty = [name for name, value in values.items() if value == 0]
        if empty:
            raise ArgumentError(
                f"size {empty[0]!r} of {self.fn.network.name!r} is 0, of which no rank gets a part; call it with "
                "one example at least"
            )
        network = self._network
        whole = bound(network, values)
        divisions = tuple(divide(whole, index, dim, self.mesh.size(dim)) for dim, index in self._dims.items())
        return LocalNetworks(whole, divisions, self.mesh.ndim)

    def _function(self, local: Expression, uses: Mapping[Use, str]) -> CompiledFunction:
        """What computes a part of the result."""
        if local not in self._functions:
            names: dict[str, list[str]] = {}
            for use, name in uses.items():
                names.setdefault(use.argument, []).append(name)
            self._functions[local] = compiled_like(self.fn, local, names, self._limit)
        return self._functions[local]


def bound(network: Expression, values: Mapping[str, int]) -> Expression:
    """A network, or a sum, with integers in place of its size symbols."""
    own = {name: values[name] for name in network.symbols}
    return network.map_terms(lambda term: term.bind(own)) if isinstance(network, Sum) else network.bind(own)


def derived_network(fn: CompiledFunction) -> Expression:
    """The network of an operation as it was derived, before it was rewritten: indices have the names of a layer."""
    count = len(fn.built.candidate.task.passes.passes)
    return fn.stages[-count].before if count else fn.network


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
    rewritten, stages = task.passes.run(network)
    chosen = choose(replace(task, network=rewritten, hints={}, objective=objective), limit)
    return CompiledFunction(fn.op, rewritten, stages, chosen.executable, None, None, fn.arithmetic)
