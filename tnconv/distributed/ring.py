"""Pairs of an index and its copy without a gathered argument: chunks of the copy go round in a ring.

A Gram matrix, an NTK or a factor reads an argument twice, with an index and with its copy. With the index shared out,
each rank needs its part once and the whole once. The whole is either gathered, or it comes by, one part at a time: in
`R` steps, each rank computes with the part that it holds and hands it on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tnconv.distributed.collectives import all_to_all
from tnconv.distributed.index_ranges import divide
from tnconv.distributed.local_network import LocalNetworks, Slab, Use, outermost
from tnconv.ir import Index, Network


@dataclass(frozen=True)
class Ring:
    """The copy of an index, whose values come by in turns.

    Args:
        networks: those of ranks; the last division, behind the dimensions of the mesh, is of the copy.
        dim: the dimension of the mesh along which parts go round.
    """

    networks: LocalNetworks
    dim: int

    def slabs(self, use: Use) -> tuple[Slab | None, ...]:
        """What a rank begins with: its own part of what goes round."""
        *own, turn = use.slabs
        if turn is not None:
            own[self.dim] = turn
        return tuple(own)

    def moving(self, uses: Mapping[Use, str]) -> dict[int, Slab]:
        """The uses, by number, that go round."""
        turns = {number: use.slabs[-1] for number, use in enumerate(uses)}
        return {number: slab for number, slab in turns.items() if slab is not None}


def ring_of(networks: LocalNetworks, ranks: Sequence[int]) -> Ring | None:
    """The ring that spares the gathering of an argument; None where there is none.

    Args:
        networks: of ranks, with arguments gathered.
        ranks: the sizes of the mesh.
    """
    for division in networks.divisions:
        copy = _copy(networks, division.dim)
        if copy is None:
            continue
        turns = divide(networks.whole, copy, networks.dims, ranks[division.dim], around=False)
        ring = Ring(
            replace(networks, divisions=(*networks.divisions, turns), dims=networks.dims + 1), division.dim
        )
        if _is_whole(ring, turns.index):
            return ring
    return None


def _copy(networks: LocalNetworks, dim: int) -> str | None:
    """The index that an argument has, read as a whole, where it has the one that is shared out, read in parts."""
    for number, term in enumerate(networks.whole.terms):
        uses = [(node, networks.use(number, node)) for node in term.tensors]
        for _, use in uses:
            slab = use.slabs[dim]
            for node, other in uses:
                if slab is not None and other.argument == use.argument and other.slabs[dim] is None:
                    found = outermost(node.axes[slab.axis])
                    if found is not None and node.axes[slab.axis].is_group and not _is_folded(term, found):
                        return found.name
    return None


def _is_folded(term: Network, index: Index) -> bool:
    return any(p.modulus is not None and p.left == index for p in term.patterns)


def _is_whole(ring: Ring, copy: str) -> bool:
    """Whether all that has the copy goes round, and nothing of it is shared out along the same dimension."""
    found = False
    for number, term in enumerate(ring.networks.whole.terms):
        for node in term.tensors:
            slabs = ring.networks.use(number, node).slabs
            if any(copy == index.name for index in node.indices):
                found = slabs[-1] is not None
                if not found or slabs[ring.dim] is not None:
                    return False
            elif slabs[-1] is not None and slabs[ring.dim] is not None:
                return False
    return found


@dataclass(frozen=True)
class Rotation:
    """Parts are handed on to the next rank.

    Args:
        slabs: of each part, the axis and the cells that each rank begins with.
        rank: of this process in the group.
        group: a process group.
    """

    slabs: tuple[Slab, ...]
    rank: int
    group: Any

    def __call__(self, parts: Sequence[Tensor], turn: int) -> list[Tensor]:
        """The parts of the rank before.

        Args:
            parts: that this rank holds, all of one dtype.
            turn: how often parts were handed on.
        """
        hop = self._known.get(turn)
        if hop is None:
            hop = self._known[turn] = self._hop(parts, turn)
        shapes, counts, got, sent = hop
        if len(parts) == 1:
            return [all_to_all(parts[0].reshape(-1), got, sent, self.group).view(shapes[0])]
        arrived = all_to_all(torch.cat([part.reshape(-1) for part in parts]), got, sent, self.group)
        return [
            each.view(shape) for each, shape in zip(arrived.split_with_sizes(counts), shapes, strict=True)
        ]

    @cached_property
    def _known(self) -> dict[int, tuple[list[torch.Size], list[int], list[int], list[int]]]:
        """Shapes and sizes of the parts that come, and cells got from each rank and sent to each, by the turn."""
        return {}

    def _hop(
        self, parts: Sequence[Tensor], turn: int
    ) -> tuple[list[torch.Size], list[int], list[int], list[int]]:
        ranks = len(self.slabs[0].cells)
        coming = (self.rank - turn - 1) % ranks
        shapes = [_shape(part, slab, coming) for part, slab in zip(parts, self.slabs, strict=True)]
        counts = [shape.numel() for shape in shapes]
        sent, got = [0] * ranks, [0] * ranks
        sent[(self.rank + 1) % ranks] = sum(part.numel() for part in parts)
        got[(self.rank - 1) % ranks] = sum(counts)
        return shapes, counts, got, sent


def _shape(part: Tensor, slab: Slab, owner: int) -> torch.Size:
    low, high = slab.cells[owner]
    return torch.Size((*part.shape[: slab.axis], high - low, *part.shape[slab.axis + 1 :]))


def joined(blocks: Mapping[int, Tensor], slab: Slab | None, empty: Callable[[], Tensor]) -> Tensor:
    """The result of a rank, of what it computed in its turns.

    Args:
        blocks: by the number of the part; none where there was nothing to compute.
        slab: where the blocks lie in the result; None where they are added.
        empty: makes zeros, like the result.
    """
    if slab is None:
        return sum(blocks.values(), start=empty()) if len(blocks) != 1 else next(iter(blocks.values()))
    if len(blocks) < len(slab.cells):
        zeros = empty()
        nothing = {n: zeros.narrow(slab.axis, low, high - low) for n, (low, high) in enumerate(slab.cells)}
        blocks = nothing | dict(blocks)
    return torch.cat([blocks[n] for n in range(len(slab.cells))], slab.axis)
