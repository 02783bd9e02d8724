"""Cells of a sharded axis that other ranks have: one all-to-all, of which gradients are the opposite one.

A halo is the case where a rank needs a few cells of its neighbours. Ranks that need nothing of each other exchange
nothing: their pieces are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import _functional_collectives as collectives

from tnconv.distributed.index_ranges import Range


@dataclass(frozen=True, slots=True)
class Exchange:
    """From the cells that each rank has to those that it needs.

    Args:
        axis: of the tensor.
        has: the cells of each rank of the group; none is had twice, and they are in order.
        needs: the cells that each rank is to have.
        rank: of this process in the group.
        group: a process group.
    """

    axis: int
    has: tuple[Range, ...]
    needs: tuple[Range, ...]
    rank: int
    group: Any

    def __call__(self, part: Tensor) -> Tensor:
        """The cells that this rank needs.

        Args:
            part: those that it has.
        """
        begin = self.has[self.rank][0]
        sent = [_common(self.has[self.rank], need) for need in self.needs]
        pieces = [part.narrow(self.axis, max(low - begin, 0), high - low) for low, high in sent]
        sizes = [piece.numel() for piece in pieces]
        got = [_common(had, self.needs[self.rank]) for had in self.has]
        shapes = [_with(part.shape, self.axis, high - low) for low, high in got]
        counts = [shape.numel() for shape in shapes]
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        arrived = all_to_all(flat, counts, sizes, self.group)
        parts = [each.view(shape) for each, shape in zip(torch.split(arrived, counts), shapes, strict=True)]
        return torch.cat(parts, self.axis)

    def most_received(self, others: int) -> int:
        """Cells that one rank gets from others, at most; `others` for one cell of the axis."""
        return (
            max(
                sum(_length(_common(had, need)) for place, had in enumerate(self.has) if place != rank)
                for rank, need in enumerate(self.needs)
            )
            * others
        )


def all_to_all(flat: Tensor, got: Sequence[int], sent: Sequence[int], group: Any) -> Tensor:
    """Cells of this rank to all others, and theirs to it; gradients go the other way.

    Args:
        flat: what this rank sends, in the order of the ranks.
        got: the number of cells that it gets from each.
        sent: that it sends to each.
        group: a process group.
    """
    if flat.is_complex():  # not every backend has complex numbers
        twice = torch.view_as_real(flat).reshape(-1)
        found = all_to_all(twice, [2 * n for n in got], [2 * n for n in sent], group)
        return torch.view_as_complex(found.view(-1, 2))
    moved = collectives.all_to_all_single(flat, list(got), list(sent), group)
    arrived: Tensor = collectives.wait_tensor(moved)  # type: ignore[no-untyped-call]
    return arrived


def _common(one: Range, other: Range) -> Range:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low < high else (one[0], one[0])


def _length(cells: Range) -> int:
    return cells[1] - cells[0]


def _with(shape: Sequence[int], axis: int, size: int) -> torch.Size:
    return torch.Size((*shape[:axis], size, *shape[axis + 1 :]))
