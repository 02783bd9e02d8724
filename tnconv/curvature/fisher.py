"""Which gradients at the output of a model make a curvature matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from tnconv.curvature.losses import Loss
from tnconv.curvature.run import Run
from tnconv.errors import OperationError, meant

SEED = 2147483647
FISHERS = ("type-2", "mc", "empirical", "forward-only")


@dataclass(frozen=True, slots=True)
class Fisher:
    """Which gradients at the model's output make a curvature matrix.

    Args:
        kind: `"type-2"`, `"mc"`, `"empirical"` or `"forward-only"`.
        samples: labels drawn for each example, of `"mc"`.
        seed: of the draws.
    """

    kind: str
    samples: int = 1
    seed: int = SEED

    def __post_init__(self) -> None:
        one_of("fisher_type", self.kind, FISHERS)
        if not isinstance(self.samples, int) or self.samples < 1:
            raise OperationError(f"mc_samples is {self.samples!r}; give an int of at least 1")
        if self.kind != "mc" and self.samples != 1:
            raise OperationError(
                f"mc_samples is {self.samples} with fisher_type={self.kind!r}; leave it out, or give fisher_type='mc'"
            )

    @property
    def exact(self) -> bool:
        """Whether the loss's Hessian has to be known."""
        return self.kind in ("type-2", "mc")

    def generator(self, device: torch.device) -> Generator:
        """Of the labels that are drawn."""
        return Generator(device=device).manual_seed(self.seed)

    def cotangents(
        self, loss: Loss, passed: Run, y: Any, generator: Generator | None
    ) -> Iterator[tuple[Tensor, bool]]:
        """The gradients at the model's output, and for each whether it is the last."""
        output = passed.values
        if self.kind == "empirical":
            yield loss.empirical(output, y), True
        elif self.kind == "mc":
            assert generator is not None
            for sample in range(self.samples):
                yield loss.sample(output, y, generator), sample == self.samples - 1
        elif self.kind == "type-2":
            last = loss.columns(output) - 1
            for column in range(last + 1):
                yield loss.root(output, y, column), column == last


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse an option that has another value.

    Raises:
        OperationError: it has.
    """
    if value not in known:
        raise OperationError(
            f"{name}={value!r} is not known{meant(value, known)}; use {', '.join(map(repr, known))}"
        )
