"""A budget for a whole model, shared out among its layers so that their weights lose as little as possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch

from tnconv.errors import SpecError
from tnconv.ir import as_integer
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.fit import LARGE
from tnconv.nn.tensorised.from_dense import Target
from tnconv.nn.tensorised.rank_search import Ladder
from tnconv.spec.fields import shown

UNITS = ("parameters", "multiplications")
_UNITS = 4096  # of cost, at most
_RATIO, _RATIO_SLOW = 0.85, 0.65  # of the costs that are tried, each to the one before


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a model may have.

    Args:
        unit: `"parameters"` or `"multiplications"`.
        value: a number of them, or a fraction of those that the dense model has.
    """

    unit: str
    value: int | float

    @classmethod
    def of(cls, budget: object) -> "Allowance":
        """What `budget=` says.

        Raises:
            SpecError: it is no count, no fraction and no mapping of one unit to one of these.
        """
        unit, value = "parameters", budget
        if isinstance(budget, Mapping):
            if len(budget) != 1 or next(iter(budget)) not in UNITS:
                raise SpecError(
                    f"budget is {shown(dict(budget))}; give a number, or one of {{'parameters': …}} and "
                    "{'multiplications': …}"
                )
            ((unit, value),) = budget.items()
        count = as_integer(value)
        if count is not None and count >= 1:
            return cls(unit, count)
        fraction = isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1
        if not fraction or not isinstance(value, Real):
            raise SpecError(
                f"budget is {shown(value)} {unit}; give a fraction of those of the model, between 0 and 1, or an int"
            )
        return cls(unit, float(value))

    def limit(self, whole: int) -> int:
        """The number that is allowed where the dense model has so many."""
        return self.value if isinstance(self.value, int) else int(self.value * whole)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to have a layer.

    Args:
        cost: what it takes.
        loss: the squared relative error of the weight.
        step: of the ladder of ranks; None for the dense layer.
    """

    cost: int
    loss: float
    step: int | None


@dataclass(frozen=True, slots=True)
class Curve:
    """What a layer may cost and what it loses then.

    Args:
        ladder: ranks in order.
        cost: of ranks.
        choices: some, the dense layer last.
    """

    ladder: Ladder
    cost: Callable[[dict[str, int]], int]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, target: Target, cost: Callable[[dict[str, int]], int], dense: int, budget: Budget) -> "Curve":
        """The curve of a weight, by decompositions at costs in a geometric row.

        Args:
            target: the weight.
            cost: of ranks.
            dense: cost of the dense layer.
            budget: of all decompositions.
        """
        ladder = Ladder.of(target)
        ratio = _RATIO if ladder.lost and target.tensor.numel() < LARGE else _RATIO_SLOW
        steps, most = {0}, float(dense)
        while (step := ladder.largest(lambda ranks: cost(ranks) <= most)) > 0:  # noqa: B023 - called at once
            steps.add(step)
            most = min(most * ratio, float(cost(ladder.at(step))) - 1)
        found = []
        for step in sorted(steps):
            made = target.with_ranks(ladder.at(step), budget)
            assert made.error is not None
            found.append(Choice(cost(ladder.at(step)), made.error**2, step))
        cheaper = [choice for choice in found if choice.cost < dense]
        return cls(ladder, cost, (*cheaper, Choice(dense, 0.0, None)))

    def widened(self, choice: Choice, spare: int) -> Choice:
        """The step with the largest ranks that costs no more than a choice and what is to spare."""
        if choice.step is None:
            return choice
        step = self.ladder.largest(lambda ranks: self.cost(ranks) <= choice.cost + spare)
        if step <= choice.step:
            return choice
        return Choice(self.cost(self.ladder.at(step)), choice.loss, step)


def shared(curves: Sequence[Curve], limit: int) -> list[Choice]:
    """One choice a layer with the least loss in all, and no more cost than a limit.

    What is spare in the end goes to the layers that lose most.

    Raises:
        SpecError: the least choices cost more.
    """
    chosen = choices_within([curve.choices for curve in curves], limit)
    for place in sorted(range(len(curves)), key=lambda p: -chosen[p].loss):
        spare = limit - sum(choice.cost for choice in chosen)
        chosen[place] = curves[place].widened(chosen[place], spare)
    return chosen


def choices_within(layers: Sequence[Sequence[Choice]], limit: int) -> list[Choice]:
    """One choice a layer, with the least loss in all: a knapsack with several sizes of each thing.

    By dynamic programming over costs; beyond some thousands, costs are rounded up to multiples of a unit, and what
    that leaves to spare is spent choice by choice.

    Raises:
        SpecError: the cheapest choices cost more than the limit.
    """
    chosen = [min(choices, key=lambda c: (c.cost, c.loss)) for choices in layers]
    least = sum(choice.cost for choice in chosen)
    if least > limit:
        raise SpecError(f"{least} is the least, but {limit} is allowed; allow more")
    unit = max(1, -(-limit // _UNITS))
    loss, taken = torch.zeros(limit // unit + 1, dtype=torch.float64), []
    for choices in layers:
        rows = torch.full((len(choices), len(loss)), torch.inf, dtype=torch.float64)
        for row, choice in zip(rows, choices, strict=True):
            cost = -(-choice.cost // unit)
            if cost < len(loss):
                row[cost:] = loss[: len(loss) - cost] + choice.loss
        loss, best = rows.min(0)
        taken.append(best)
    if bool(loss[-1].isfinite()):
        left = len(loss) - 1
        for place in reversed(range(len(layers))):
            chosen[place] = layers[place][int(taken[place][left])]
            left -= -(-chosen[place].cost // unit)
    return _with_spare(layers, chosen, limit)


def _with_spare(layers: Sequence[Sequence[Choice]], chosen: list[Choice], limit: int) -> list[Choice]:
    """Better choices, one after the other, that what is left of the limit pays for."""
    while True:
        spare = limit - sum(choice.cost for choice in chosen)
        gains = [
            (choice.loss - chosen[place].loss, place, choice)
            for place, choices in enumerate(layers)
            for choice in choices
            if choice.cost - chosen[place].cost <= spare and choice.loss < chosen[place].loss
        ]
        if not gains:
            return chosen
        _, place, best = min(gains, key=lambda gain: gain[:2])
        chosen[place] = best
