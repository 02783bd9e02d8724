"""The rows of an operation that is sampled: its tables, drawn at random, and what of the input they select."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.arrays import Arrays
from tnconv.errors import ArgumentError
from tnconv.ir import Expression, Index, evaluate
from tnconv.ir.size import symbol_names
from tnconv.passes import Stage
from tnconv.passes.sample import Preselect, Sample, kept_of

Rows = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Draw:
    """One table of an operation.

    Args:
        sample: the pass that it comes from.
        index: the index that it selects from.
    """

    sample: Sample
    index: Index

    def rows(
        self,
        size: int,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        weights: Tensor | None,
    ) -> Rows:
        """Rows in ascending order, and with weights their factors.

        Args:
            size: of the index.
            generator: of random numbers.
            device: where the rows are to be.
            weights: probabilities of the values, up to a factor, for method `weights`.

        Raises:
            ArgumentError: the weights do not fit.
            PassError: nothing would be left.
        """
        sample, keep = self.sample, Fraction(self.sample.keep)
        origin = generator.device if generator is not None else device
        if sample.method == "bernoulli":
            kept = torch.rand(size, generator=generator, device=origin) < float(keep)
            return {sample.table: kept.nonzero().flatten().to(device)}
        count = kept_of(size, keep, f"index {self.index.name!r}")
        assert count is not None
        if sample.factors is None:
            order = torch.randperm(size, generator=generator, device=origin)
            return {sample.table: order[:count].sort().values.to(device)}
        p = self._probabilities(size, weights)
        rows = torch.multinomial(p.to(origin), count, replacement=True, generator=generator).sort().values
        factors = 1 / (count * p.to(rows.device)[rows])
        return {sample.table: rows.to(device), sample.factors: factors.to(device)}

    def _probabilities(self, size: int, weights: Tensor | None) -> Tensor:
        if weights is None or weights.shape != (size,) or not bool((weights > 0).all()):
            given = (
                "none were given"
                if weights is None
                else f"weights of shape {tuple(weights.shape)} were given"
            )
            raise ArgumentError(
                f"index {self.index.name!r} is drawn by weights, but {given}, some maybe not positive; give "
                f"weights={{{self.index.name!r}: p}} with p of shape ({size},), positive"
            )
        return weights / weights.sum()


def draws_of(network: Expression, samples: Sequence[Sample]) -> tuple[Draw, ...]:
    """The tables that a network reads still, in the order of its arguments."""
    made = {sample.table: sample for sample in samples}
    lefts = {s.table: s.left for term in network.terms for s in term.selects}
    return tuple(Draw(made[name], lefts[name]) for name in network.tables if name in made)


def sizes_of(draws: Sequence[Draw], sizes: Mapping[str, int]) -> list[int]:
    """The size of the index of each draw.

    Raises:
        ArgumentError: a size symbol is not named.
    """
    missing = [s for draw in draws for s in symbol_names(draw.index.size) if s not in sizes]
    if missing:
        raise ArgumentError(
            f"rows of {missing[0]} values are drawn, but {missing[0]} is not given; call draw_rows({missing[0]}=32)"
        )
    return [evaluate(draw.index.size, sizes) for draw in draws]


@dataclass(frozen=True, slots=True)
class Cut:
    """A selection along one axis of an argument.

    Args:
        place: of the axis.
        inner: which of the indices of the axis.
        parts: the sizes of these indices; more than one only where all are ints.
        table: the argument with the rows.
    """

    place: int
    inner: int
    parts: tuple[Any, ...]
    table: str

    def of(self, x: Any, rows: Any, arrays: Arrays) -> Any:
        """The rows of an array."""
        before, behind = x.shape[: self.place], x.shape[self.place + 1 :]
        if len(self.parts) == 1:
            return arrays.select(x, self.place, rows)
        found = arrays.select(x.reshape(*before, *self.parts, *behind), self.place + self.inner, rows)
        merged = prod(found.shape[self.place : self.place + len(self.parts)])
        return found.reshape(*before, merged, *behind)


def cuts_of(stages: Sequence[Stage]) -> tuple[Cut, ...] | None:
    """What `preselect` selects along the axes of the input; None without that pass.

    Args:
        stages: of a pipeline.
    """
    for stage in stages:
        if isinstance(stage.pass_, Preselect):
            argument = stage.pass_.argument
            term, node = next((t, n) for t in stage.before.terms for n in t.reading(argument))
            tables = {s.left: s.table for s in term.selects if s.left in node.indices}
            return tuple(
                Cut(place, inner, tuple(i.size for i in axis.indices), tables[index])
                for place, axis in enumerate(node.axes)
                for inner, index in enumerate(axis.indices)
                if index in tables
            )
    return None
