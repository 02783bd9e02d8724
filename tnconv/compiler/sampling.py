"""The rows of an operation that is sampled: which tables it takes, drawn at random, and what they select."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tnconv.errors import ArgumentError
from tnconv.ir import Axis, Expression, Index, Size, evaluate
from tnconv.ir.index import symbol_names
from tnconv.passes.sample import Sample, kept_of

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


def select(x: Tensor, axes: Sequence[Axis], rows: Mapping[Index, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """The rows of a tensor along each index that is selected.

    Args:
        x: with one axis for each of `axes`.
        axes: which index lies where.
        rows: by index.
        sizes: of the size symbols.
    """
    for place, axis in enumerate(axes):
        for inner, index in enumerate(axis.indices):
            if index not in rows:
                continue
            if len(axis.indices) == 1:
                x = x.index_select(place, rows[index])
                continue
            parts = [evaluate(i.size, sizes) for i in axis.indices]
            shape = (*x.shape[:place], *parts, *x.shape[place + 1 :])
            apart = x.reshape(shape).index_select(place + inner, rows[index])
            x = apart.flatten(place, place + len(parts) - 1)
    return x


def symbols_of(axes: Sequence[Axis], x: Tensor) -> dict[str, int]:
    """The size symbols that are the size of an axis of a tensor."""
    found: dict[str, int] = {}
    for axis, size in zip(axes, x.shape, strict=True):
        if _is_symbol(axis.size):
            found[str(axis.size)] = int(size)
    return found


def _is_symbol(size: Size) -> bool:
    return not isinstance(size, int) and symbol_names(size) == (str(size),)
