"""From the placements that tensors have to the parts that ranks need, and from parts of a result to its placements."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from tnconv.distributed.collectives import Exchange
from tnconv.distributed.index_ranges import Range, chunks, pieces
from tnconv.distributed.local_network import Slab

Placements = tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What goes over the wire.

    Args:
        tensor: name of the argument, or "result".
        collective: what it is done by.
        dimension: of the mesh.
        bytes: that one rank receives, at most.
        messages: that a rank waits for, one after the other: for an all-gather, a reduce-scatter and both halves of an
            all-reduce `⌈log2 R⌉` over R ranks, by recursive doubling and halving; for an all-to-all `R - 1`, pair by
            pair (Thakur, Rabenseifner & Gropp 2005); for an exchange and a ring the ranks that a rank gets cells from.
    """

    tensor: str
    collective: str
    dimension: str
    bytes: int
    messages: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """How a rank gets the part of an argument that it needs.

    Args:
        argument: its place in a call.
        target: the placements that it is redistributed to.
        gradients: those of its gradient.
        best: the placements from which nothing but halos is sent.
        moves: then, cells of other ranks, or a range of the cells that it has.
        traffic: all that this sends.
    """

    argument: int
    target: Placements
    gradients: Placements
    best: Placements
    moves: tuple["Exchange | Narrow", ...]
    traffic: tuple[Traffic, ...]

    def __call__(self, tensor: DTensor) -> Tensor:
        """The part of a tensor."""
        if tensor.placements != self.target:
            tensor = tensor.redistribute(placements=self.target)
        part: Tensor = tensor.to_local(grad_placements=self.gradients)
        for move in self.moves:
            part = move(part)
        return part


@dataclass(frozen=True, slots=True)
class Narrow:
    """Some cells of an axis, which may go around a circle."""

    axis: int
    cells: Range

    def __call__(self, tensor: Tensor) -> Tensor:
        """These cells, side by side in memory."""
        parts = pieces(self.cells, tensor.shape[self.axis]) or [(0, 0)]
        found = [tensor.narrow(self.axis, low, high - low) for low, high in parts]
        return torch.cat(found, self.axis) if len(found) > 1 else found[0].contiguous()


def fetch(
    name: str,
    argument: int,
    tensor: DTensor,
    slabs: Sequence[Slab | None],
    mesh: DeviceMesh,
    split: Sequence[int],
) -> Fetch:
    """How a rank gets what it needs of a tensor.

    Args:
        name: of the argument.
        argument: its place in a call.
        tensor: or one that is laid out like it.
        slabs: what is needed, for each dimension of the mesh.
        mesh: of the ranks.
        split: the dimensions of the mesh along which work is divided.
    """
    target: list[Placement] = []
    moves: list[Exchange | Narrow] = []
    at = coordinate(mesh)
    for dim, slab in enumerate(slabs):
        if slab is None:
            target.append(Replicate())
            continue
        has = chunks(tensor.shape[slab.axis], mesh.size(dim))
        if slab.cells == has:
            target.append(Shard(slab.axis))
        elif tensor.placements[dim].is_replicate():
            target.append(Replicate())
            moves.append(Narrow(slab.axis, slab.cells[at[dim]]))
        else:
            target.append(Shard(slab.axis))
            moves.append(Exchange(slab.axis, has, slab.cells, at[dim], mesh.get_group(dim)))
    gradients = [Partial() if dim in split and to.is_replicate() else to for dim, to in enumerate(target)]
    itemsize = tensor.dtype.itemsize
    traffic = list(redistribution(name, tensor.shape, itemsize, tensor.placements, target, mesh))
    for move in moves:
        if isinstance(move, Exchange):
            traffic += exchanged(name, tensor.shape, itemsize, target, mesh, move)
    best = tuple(Replicate() if slab is None else Shard(slab.axis) for slab in slabs)
    return Fetch(argument, tuple(target), tuple(gradients), best, tuple(moves), tuple(traffic))


@dataclass(frozen=True, slots=True)
class Laid:
    """How the parts that ranks compute make up the result.

    Args:
        placements: of the result.
        moves: cells that are exchanged before, where the parts are not cut as DTensor cuts.
        shape: of the whole.
        stride: in memory, of a tensor of that shape.
    """

    placements: Placements
    moves: tuple[Exchange, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __call__(self, part: Tensor, mesh: DeviceMesh) -> DTensor:
        """The result, of the part of this rank."""
        for move in self.moves:
            part = move(part)
        return DTensor.from_local(
            part, mesh, self.placements, run_check=False, shape=torch.Size(self.shape), stride=self.stride
        )

    def traffic(self, itemsize: int, mesh: DeviceMesh) -> tuple[Traffic, ...]:
        """What the exchanges send."""
        found = (
            exchanged("result", self.shape, itemsize, self.placements, mesh, move) for move in self.moves
        )
        return tuple(each for traffic in found for each in traffic)


def laid(shape: Sequence[int], slabs: Sequence[Slab | None], mesh: DeviceMesh, split: Sequence[int]) -> Laid:
    """How the parts that ranks compute make up the result.

    Args:
        shape: of the whole.
        slabs: what each rank computes, for each dimension of the mesh.
        mesh: of the ranks.
        split: the dimensions of the mesh along which work is divided: without a slab, results are added up.
    """
    placements: list[Placement] = []
    moves = []
    at = coordinate(mesh)
    for dim, slab in enumerate(slabs):
        if slab is None:
            placements.append(Partial() if dim in split else Replicate())
            continue
        placements.append(Shard(slab.axis))
        cut = chunks(shape[slab.axis], mesh.size(dim))
        if cut != slab.cells:
            moves.append(Exchange(slab.axis, slab.cells, cut, at[dim], mesh.get_group(dim)))
    stride = tuple(prod(max(size, 1) for size in shape[n + 1 :]) for n in range(len(shape)))
    return Laid(tuple(placements), tuple(moves), tuple(shape), stride)


def redistribution(
    name: str,
    shape: Sequence[int],
    itemsize: int,
    here: Sequence[Placement],
    there: Sequence[Placement],
    mesh: DeviceMesh,
) -> Iterator[Traffic]:
    """What DTensor sends to change placements: parts that are padded to the longest of them.

    Args:
        name: of the tensor.
        shape: of the whole.
        itemsize: bytes of an element.
        here: the placements that it has.
        there: those that it is to have.
        mesh: of the ranks; on CPUs, DTensor gathers a tensor that is to be sharded along another axis.
    """
    for dim, (old, new) in enumerate(zip(here, there, strict=True)):
        if old == new or old.is_replicate():
            continue
        ranks, local = mesh.size(dim), list(shape)
        for n, kept in enumerate(here):
            if n != dim and isinstance(kept, Shard) and kept == there[n]:
                local[kept.dim] = -(-local[kept.dim] // mesh.size(n))
        if old.is_partial() and new.is_replicate():
            yield from all_reduce(name, itemsize * prod(local), ranks, _name(mesh, dim))
            continue
        moved = [p.dim for p in (old, new) if isinstance(p, Shard)]
        gathers = len(moved) == 2 and mesh.device_type == "cpu"
        for place, axis in enumerate(moved):
            length = -(-local[axis] // ranks)
            local[axis] = length * ranks if gathers and place else length
        several = "all-to-all" if len(moved) == 2 and not gathers else "all-gather"
        what = "reduce-scatter" if old.is_partial() else several
        messages = ranks - 1 if what == "all-to-all" else (ranks - 1).bit_length()
        received = (ranks - 1) * itemsize * prod(local)
        if received:
            yield Traffic(name, what, _name(mesh, dim), received, messages)


def all_reduce(name: str, size: int, ranks: int, dimension: str = "") -> tuple[Traffic, ...]:
    """What it sends to add up a tensor of so many bytes: a reduce-scatter and an all-gather."""
    received = 2 * (size * (ranks - 1) // ranks)
    return (
        (Traffic(name, "all-reduce", dimension, received, 2 * (ranks - 1).bit_length()),) if received else ()
    )


def exchanged(
    name: str,
    shape: Sequence[int],
    itemsize: int,
    lies: Sequence[Placement],
    mesh: DeviceMesh,
    move: Exchange,
) -> Iterator[Traffic]:
    """What an exchange sends of a tensor that lies in a mesh in some way."""
    dim = next(n for n, p in enumerate(lies) if isinstance(p, Shard) and p.dim == move.axis)
    rest = itemsize * prod(size for axis, size in enumerate(shape) if axis != move.axis)
    for n, placement in enumerate(lies):
        if isinstance(placement, Shard) and n != dim:
            rest = -(-rest // mesh.size(n))
    received = move.most_received(rest)
    if received:
        yield Traffic(name, "exchange", _name(mesh, dim), received, move.most_senders())


def round_trip(name: str, tensor: DTensor, slab: Slab, fetched: Fetch, mesh: DeviceMesh) -> Traffic:
    """What a rank receives of an argument that goes round in a ring, part by part.

    Args:
        name: of the argument.
        tensor: or one that is laid out like it.
        slab: the parts.
        fetched: how a rank gets the part that it begins with.
        mesh: of the ranks.
    """
    dim = next(n for n, p in enumerate(fetched.best) if isinstance(p, Shard) and p.dim == slab.axis)
    rest = tensor.dtype.itemsize * prod(size for axis, size in enumerate(tensor.shape) if axis != slab.axis)
    for n, placement in enumerate(fetched.best):
        if isinstance(placement, Shard) and n != dim:
            rest = -(-rest // mesh.size(n))
    lengths = [high - low for low, high in slab.cells]
    return Traffic(name, "ring", _name(mesh, dim), rest * (sum(lengths) - min(lengths)), len(lengths) - 1)


def coordinate(mesh: DeviceMesh) -> list[int]:
    """Where this process is in a mesh."""
    found = mesh.get_coordinate()
    return [0] * mesh.ndim if found is None else list(found)


def _name(mesh: DeviceMesh, dim: int) -> str:
    names: Any = mesh.mesh_dim_names
    return str(names[dim])
