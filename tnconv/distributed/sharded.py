"""`tnconv.distributed.shard`: a compiled function on DTensors, each rank with a range of some indices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from tnconv.backends.backend import Capability, backend_of
from tnconv.backends.signature import Signature
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.choice import chosen_indices
from tnconv.distributed.local_function import (
    Ready,
    Turn,
    bound,
    compiled_like,
    derived_network,
    refuse_several,
)
from tnconv.distributed.local_network import LocalNetworks, Slab, Use
from tnconv.distributed.placements import Fetch, coordinate, fetch, laid, redistribution, round_trip
from tnconv.distributed.ring import Ring, Rotation, ring_of
from tnconv.distributed.sharded_explanation import ShardedExplanation
from tnconv.errors import ArgumentError, OperationError, PlanError, meant
from tnconv.ir import Expression
from tnconv.ir.symmetry import packed_sizes
from tnconv.planner.memory_limit import parse_memory

_GATHER = ("auto", "all", "ring")
_MOST_KNOWN = 100  # layouts of arguments for which all is ready, and functions of parts


def shard(
    fn: CompiledFunction,
    mesh: DeviceMesh,
    shards: Mapping[str, str],
    *,
    memory_limit: int | str | None = None,
    gather: str = "auto",
) -> "Sharded":
    """Share out the work of a compiled function over the ranks of a mesh, by indices of its network.

    Each rank computes the same network with a range of each index. An index of the result gives shards, one that is
    summed gives partial sums; so the placement of the result along a dimension of the mesh is `Shard(axis)`,
    `Partial()`, or `Replicate()` along one that no index is given to. Where an index of the result is not the first on
    its axis, as `d` in `(g d)`, the ranks' parts do not lie side by side, and the result is `Partial()`, too. Of a
    function with `packed=True` ranks have, and send, lower triangles; an index of rows or columns is not shared out.

    Arguments are redistributed to what ranks need: `explain` says which bytes that moves. Of positions that a relation
    ties to those of a rank, it needs a halo. Sizes need not be multiples of the number of ranks.

    Args:
        fn: of `tnconv.compile`. Of `ntk` and `ggn_gram` with two batches that is `fn.pairs`.
        mesh: of `torch.distributed`, with names of its dimensions.
        shards: for each index, by its name or its kind (`"batch"`, `"channel"`, `"group"`, …), the name of a dimension.
        memory_limit: that of a rank, as in `tnconv.compile`.
        gather: how a rank gets an argument that is read with an index and with its copy, as in a Gram matrix: `"all"`
            by an all-gather; `"ring"` part by part, so that it never has the whole; `"auto"` by a ring where what is
            gathered does not fit into the memory limit. Where gradients are asked for, autograd keeps all parts.

    Returns:
        A function on DTensors of that mesh, which takes the arguments of `fn`; gradients go through.

    Raises:
        OperationError: an index is unknown, or cannot be shared out; the mesh has no such dimension; or sizes of the
            function are open, or it is of several operations.
    """
    if gather not in _GATHER:
        raise OperationError(
            f"gather={gather!r} is not known{meant(gather, _GATHER)}; use {', '.join(map(repr, _GATHER))}"
        )
    if not isinstance(shards, Mapping):
        raise OperationError(
            f"shards={shards!r} is no mapping; give dimensions of the mesh by names of indices, as {{'batch': 'data'}}"
        )
    limit = None if memory_limit is None else parse_memory(memory_limit)
    return Sharded(fn, mesh, dict(shards), limit, gather)


class Sharded:
    """A function on DTensors; see `shard`.

    Attributes:
        fn: what is computed.
        mesh: by which ranks.
        shards: the name of the index along each dimension of the mesh.
    """

    def __init__(
        self,
        fn: CompiledFunction,
        mesh: DeviceMesh,
        shards: Mapping[str, str],
        memory_limit: int | None = None,
        gather: str = "auto",
    ) -> None:
        refuse_several(fn)
        if not hasattr(mesh, "mesh_dim_names"):
            raise OperationError(
                f"mesh is a {type(mesh).__name__}; give one of torch.distributed.device_mesh.init_device_mesh"
            )
        names = mesh.mesh_dim_names or ()
        for name, dimension in shards.items():
            if dimension not in names:
                raise OperationError(
                    f"index {name!r} is to be sharded along {dimension!r}, but the mesh has {list(names)}; "
                    "take one of them, named by mesh_dim_names= of init_device_mesh"
                )
        if mesh.get_coordinate() is None:
            raise OperationError(
                f"this process is not in the mesh {mesh}; shard a function in the processes that are, or over all"
            )
        if fn.sizes:
            raise OperationError(
                f"sizes {', '.join(fn.sizes)} of {fn.op!r} are open; shard the function of a size, "
                f"at({', '.join(f'{name}=56' for name in fn.sizes)})"
            )
        backend = fn.built.candidate.task.backend
        if Capability.DTENSORS not in backend_of(backend).capabilities:
            raise OperationError(Capability.DTENSORS.refused(backend))
        self.fn, self.mesh, self._limit, self._gather = fn, mesh, memory_limit, gather
        self._network = derived_network(fn)
        found = chosen_indices(self._network, shards)
        _check_packed(fn, self._network, found)
        self.shards = {name: found[name] for name in names if name in found}
        self._dims = {dim: found[name] for dim, name in enumerate(names) if name in found}
        self._signature = Signature.of(self._network)
        self._known, self._functions = CompileCache(_MOST_KNOWN), CompileCache(_MOST_KNOWN)

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
        shape, size, placements = ready.laid.shape, ready.dtype.itemsize, ready.laid.placements
        return ShardedExplanation(
            self.fn.network.name,
            dict(self.shards),
            tuple((self.arguments[f.argument], f.target, f.traffic) for f in ready.fetches),
            placements,
            (*ready.ring, *ready.laid.traffic(size, self.mesh)),
            tuple(redistribution("result", shape, size, placements, whole, self.mesh)),
            tuple(turn.function for turn in ready.turns if turn.function is not None),
        )

    def _ready(self, tensors: tuple[Any, ...]) -> Ready:
        try:
            key = tuple([(t.shape, t.placements, t.dtype) for t in tensors])
        except AttributeError:  # no DTensor: `_made` says which
            return self._made(tensors)
        return self._known.get(key, lambda: self._made(tensors))

    def _made(self, tensors: tuple[Any, ...]) -> Ready:
        self._check(tensors)
        arrays, arithmetic = self.fn._arrays, self.fn.arithmetic
        values = self._signature.check(tensors, arrays, arithmetic.takes_mixed(tensors, arrays))
        networks = self._networks(values)
        ring = None if self._gather == "all" else self._ring(networks, tensors)
        return self._gathered(networks, tensors) if ring is None else self._in_turns(ring, tensors)

    def _ring(self, networks: LocalNetworks, tensors: Sequence[DTensor]) -> Ring | None:
        """The ring to take, if any: where it was asked for, or where what is gathered does not fit."""
        ring = ring_of(networks, self.mesh.shape) if len({t.dtype for t in tensors}) == 1 else None
        if ring is None:
            if self._gather == "ring":
                raise OperationError(
                    f"gather='ring' is given, but no argument of {self.fn.network.name!r} is read with an index of "
                    f"{list(self.shards.values())} and with its copy; leave it out"
                )
            return None
        if self._gather == "auto" and (self._limit is None or self._fits(networks, ring, tensors)):
            return None
        return ring

    def _fits(self, networks: LocalNetworks, ring: Ring, tensors: Sequence[DTensor]) -> bool:
        """Whether gathered arguments and what is computed of them keep to the limit."""
        assert self._limit is not None
        whole = {use.argument for use in ring.networks.uses() if use.slabs[-1] is not None}
        held = sum(
            t.dtype.itemsize * prod(t.shape)
            for n, t in zip(self.arguments, tensors, strict=True)
            if n in whole
        )
        budget = self._limit - held
        uses = networks.uses()
        try:  # the first rank has most, and all ranks decide alike
            return budget > 0 and self._turn(networks, uses, [0] * self.mesh.ndim, budget) is not None
        except PlanError:
            return False

    def _gathered(self, networks: LocalNetworks, tensors: Sequence[DTensor]) -> Ready:
        uses = networks.uses()
        fetches = self._fetches({use: use.slabs for use in uses}, tensors)
        turn = self._turn(networks, uses, coordinate(self.mesh), self._limit)
        idle = tuple(n for n in range(len(fetches)) if n not in turn.order)
        return self._laid(networks, tensors, fetches, (turn,), idle)

    def _in_turns(self, ring: Ring, tensors: Sequence[DTensor]) -> Ready:
        networks, at = ring.networks, coordinate(self.mesh)
        uses = networks.uses()
        fetches = self._fetches({use: ring.slabs(use) for use in uses}, tensors)
        moving = ring.moving(uses)
        ranks = self.mesh.size(ring.dim)
        turns = tuple(self._turn(networks, uses, [*at, turn], self._limit) for turn in range(ranks))
        used = {number for turn in turns for number in turn.order}
        idle = tuple(n for n in range(len(fetches)) if n not in used or n in moving)
        made = self._laid(networks, tensors, fetches, turns, idle)
        rotation = Rotation(tuple(moving.values()), at[ring.dim], self.mesh.get_group(ring.dim))
        traffic = tuple(
            round_trip(
                self.arguments[fetches[n].argument], tensors[fetches[n].argument], slab, fetches[n], self.mesh
            )
            for n, slab in moving.items()
        )
        return replace(
            made, moving=tuple(moving), rotation=rotation, blocks=networks.result()[-1], ring=traffic
        )

    def _fetches(
        self, slabs: Mapping[Use, tuple[Slab | None, ...]], tensors: Sequence[DTensor]
    ) -> tuple[Fetch, ...]:
        places = {name: place for place, name in enumerate(self.arguments)}
        split = tuple(self._dims)
        return tuple(
            fetch(use.argument, places[use.argument], tensors[places[use.argument]], parts, self.mesh, split)
            for use, parts in slabs.items()
        )

    def _turn(
        self, networks: LocalNetworks, uses: Mapping[Use, str], at: Sequence[int], limit: int | None
    ) -> Turn:
        local = networks.at(at, uses)
        if local is None:
            return Turn(None, ())
        numbers = {name: number for number, name in enumerate(uses.values())}
        order = tuple(numbers[name] for name in local.arguments)
        return Turn(self._function(local, uses, limit), order)

    def _laid(
        self,
        networks: LocalNetworks,
        tensors: Sequence[DTensor],
        fetches: tuple[Fetch, ...],
        turns: tuple[Turn, ...],
        idle: tuple[int, ...],
    ) -> Ready:
        dtype = self.fn.arithmetic.result_dtype(tensors, self.fn._arrays)
        whole, dims = networks.whole, self.mesh.ndim
        parts = networks.result()[:dims]
        packed = self.fn.plan.packed
        shape = packed_sizes([axis.size for axis in whole.output], packed)
        part = replace(networks, divisions=tuple(d for d in networks.divisions if d.dim < dims), dims=dims)
        return Ready(
            fetches,
            turns,
            idle,
            packed_sizes(part.shape(coordinate(self.mesh)), packed),
            dtype.to_real() if whole.real else dtype,
            laid(shape, parts, self.mesh, tuple(self._dims)),
        )

    def _check(self, tensors: Sequence[Any]) -> None:
        if len(tensors) != len(self.arguments):
            raise ArgumentError(
                f"{len(tensors)} arguments are given but {self.fn.op!r} takes {len(self.arguments)}: "
                f"{', '.join(self.arguments)}"
            )
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
        empty = [name for name, value in values.items() if value == 0]
        if empty:
            raise ArgumentError(
                f"size {empty[0]!r} of {self.fn.network.name!r} is 0, of which no rank gets a part; call it with "
                "one example at least"
            )
        whole = bound(self._network, values)
        return LocalNetworks.of(whole, self._dims, self.mesh.shape)

    def _function(self, local: Expression, uses: Mapping[Use, str], limit: int | None) -> CompiledFunction:
        names: dict[str, list[str]] = {}
        for use, name in uses.items():
            names.setdefault(use.argument, []).append(name)
        return self._functions.get((local, limit), lambda: compiled_like(self.fn, local, names, limit))


def _check_packed(fn: CompiledFunction, network: Expression, shards: Mapping[str, str]) -> None:
    """Refuse to share out rows or columns of a triangle: a range of them alone has no lower triangle."""
    if fn.plan.packed is None:
        return
    for term in network.terms:
        for axis in term.output[fn.plan.packed :]:
            for index in axis.indices:
                if index.name in shards.values():
                    raise OperationError(
                        f"index {index.name!r} is to be sharded, but {fn.op!r} was compiled with packed=True and it is "
                        f"on axis {axis} of the rows or columns, of which a range has no lower triangle; shard another "
                        "index, or compile it without packed=True"
                    )
