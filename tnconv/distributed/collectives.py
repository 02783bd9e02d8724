"""Cells of a sharded axis that other ranks have: one all-to-all, of which gradients are the opposite one.

A halo is the case where a rank needs a few cells of its neighbours. Ranks that need nothing of each other exchange
nothing: their pieces are empty.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tnconv.backends.torch.context import may_write
from tnconv.distributed.index_ranges import Range, pieces


@dataclass(frozen=True)
class Exchange:
    """From the cells that each rank has to those that it needs.

    Args:
        axis: of the tensor.
        has: the cells of each rank of the group, all of them from 0 on; none is had twice, and they are in order.
        needs: the cells that each rank is to have, which may go around a circle.
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
        axis, lengths = self.axis, self._lengths
        counts = self._known.get(part.shape)
        if counts is None:
            counts = self._known[part.shape] = self.counts(prod(_with(part.shape, axis, 1)))
        pieces_sent = [part.narrow(axis, low, length).reshape(-1) for low, length in self._cut]
        flat = pieces_sent[0] if len(pieces_sent) == 1 else torch.cat(pieces_sent or [part.reshape(-1)[:0]])
        arrived = all_to_all(flat, *counts, self.group)
        if len(lengths) == 1:
            return arrived.view(_with(part.shape, axis, lengths[0]))
        if not lengths:
            return arrived.view(_with(part.shape, axis, 0))
        cells = sum(counts[0]) // sum(lengths)
        parts = torch.split(arrived, [length * cells for length in lengths])
        return torch.cat([parts[n].view(_with(part.shape, axis, lengths[n])) for n in self._order], axis)

    def counts(self, cells: int) -> tuple[list[int], list[int]]:
        """What this rank gets from each, and sends to each, where one cell of the axis is so many of the tensor."""
        got, sent = (
            [cells * sum(map(_length, each)) for each in ranges] for ranges in (self._got, self._sent)
        )
        return got, sent

    @cached_property
    def _known(self) -> dict[torch.Size, tuple[list[int], list[int]]]:
        """What is got and sent, by the shape of the part."""
        return {}

    @cached_property
    def _cut(self) -> list[tuple[int, int]]:
        """The first cell and the length of each piece that this rank sends, of its part."""
        here = self.has[self.rank][0]
        return [(low - here, high - low) for each in self._sent for low, high in each]

    @cached_property
    def _lengths(self) -> list[int]:
        """Those of the pieces, as they arrive."""
        return [high - low for each in self._got for low, high in each]

    @cached_property
    def _size(self) -> int:
        return max(high for _, high in self.has)

    @cached_property
    def _sent(self) -> list[list[Range]]:
        """Of the cells of this rank, those that go to each."""
        return [self._both(self.has[self.rank], need) for need in self.needs]

    @cached_property
    def _got(self) -> list[list[Range]]:
        """Of the cells that this rank needs, those of each."""
        return [self._both(had, self.needs[self.rank]) for had in self.has]

    @cached_property
    def _order(self) -> list[int]:
        """The number of each piece as it arrives, in the order in which it is needed."""
        wanted = pieces(self.needs[self.rank], self._size)
        every = [(n, _common(had, piece)) for had in self.has for n, piece in enumerate(wanted)]
        arriving = [(n, cells) for n, cells in every if _length(cells)]
        return sorted(range(len(arriving)), key=arriving.__getitem__)

    def _both(self, had: Range, need: Range) -> list[Range]:
        """The cells of a rank that are needed, in the order of the need."""
        found = (_common(had, piece) for piece in pieces(need, self._size))
        return [cells for cells in found if _length(cells)]

    def most_received(self, others: int) -> int:
        """Cells that one rank gets from others, at most; `others` for one cell of the axis."""
        pairs = zip(self.has, self.needs, strict=True)
        return others * max(_length(need) - sum(map(_length, self._both(had, need))) for had, need in pairs)

    def most_senders(self) -> int:
        """Other ranks that one rank gets cells from, at most."""
        owners = [cells for cells in self.has if cells[0] < cells[1]]  # in order
        starts, ends = [low for low, _ in owners], [high for _, high in owners]

        def senders(had: Range, need: Range) -> int:
            found, last = -bool(self._both(had, need)), 0
            for low, high in sorted(pieces(need, self._size)):
                first = max(last, bisect_right(ends, low))
                last = max(last, bisect_left(starts, high))
                found += last - first if last > first else 0
            return found

        return max(senders(had, need) for had, need in zip(self.has, self.needs, strict=True))


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
        pairs = all_to_all(twice, [2 * n for n in got], [2 * n for n in sent], group)
        return torch.view_as_complex(pairs.view(-1, 2))
    if may_write(flat):  # nothing records it: a third of the time
        return _exchanged(flat, got, sent, group)
    found: Tensor = _AllToAll.apply(flat, tuple(got), tuple(sent), group)  # type: ignore[no-untyped-call]
    return found


def _exchanged(flat: Tensor, got: Sequence[int], sent: Sequence[int], group: Any) -> Tensor:
    arrived = flat.new_empty(sum(got))
    dist.all_to_all_single(arrived, flat.contiguous(), list(got), list(sent), group=group)
    return arrived


class _AllToAll(torch.autograd.Function):
    """The collective itself; that of `torch.distributed._functional_collectives` takes 0.15 ms more."""

    @staticmethod
    def forward(
        context: Any, flat: Tensor, got: tuple[int, ...], sent: tuple[int, ...], group: Any
    ) -> Tensor:
        context.back = sent, got, group
        return _exchanged(flat, got, sent, group)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sent, got, group = context.back
        return all_to_all(gradient, sent, got, group), None, None, None


def _common(one: Range, other: Range) -> Range:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low < high else (one[0], one[0])


def _length(cells: Range) -> int:
    return cells[1] - cells[0]


def _with(shape: Sequence[int], axis: int, size: int) -> torch.Size:
    return torch.Size((*shape[:axis], size, *shape[axis + 1 :]))
