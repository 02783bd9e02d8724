"""From the calls of a forward pass to the parameters: each with the calls that use it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tnconv.curvature.cellwise import Cellwise
from tnconv.curvature.matrix import Matrix
from tnconv.curvature.run import Run

Use = Matrix | Cellwise


@dataclass(frozen=True, slots=True)
class Layers:
    """The calls of a forward pass, with the examples in front.

    Args:
        uses: one for each call.
        weights: of a parameter, the places of the calls in which it is the weight.
        biases: of a parameter, those in which it is the bias.
    """

    uses: tuple[Use, ...]
    weights: dict[str, list[int]]
    biases: dict[str, list[int]]

    @classmethod
    def of(cls, run: Run) -> "Layers":
        """The layers of a forward pass."""
        uses: list[Use] = []
        weights: dict[str, list[int]] = {}
        biases: dict[str, list[int]] = {}
        for place, (call, examples) in enumerate(zip(run.calls, run.examples, strict=True)):
            uses.append(
                Cellwise(call, examples, run.n) if call.spec is None else Matrix.of(call, examples, run.n)
            )
            if call.weight is not None:
                weights.setdefault(call.weight, []).append(place)
            if call.bias is not None:
                biases.setdefault(call.bias, []).append(place)
        return cls(tuple(uses), weights, biases)

    def without_inputs(self) -> "Layers":
        """The calls, for what is of gradients alone."""
        return replace(self, uses=tuple(use.without_input() for use in self.uses))

    def gradients(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The gradients at the outputs of all calls, as the uses want them."""
        return [use.gradient(grad) for use, grad in zip(self.uses, found, strict=True)]

    def rows(self, name: str, z: Sequence[Sequence[Tensor]], shape: Sequence[int]) -> Tensor:
        """Per-example gradients of a parameter, `[v, n, *shape]`, summed over the calls that use it.

        Args:
            name: of the parameter.
            z: for each v, the gradients of all calls.
            shape: of the parameter.
        """
        parts = [self.uses[p].rows([each[p] for each in z]) for p in self.weights.get(name, ())]
        parts += [self.uses[p].bias_rows([each[p] for each in z]) for p in self.biases.get(name, ())]
        shaped = [part.reshape(*part.shape[:2], *shape) for part in parts]
        return torch.stack(shaped).sum(0) if len(shaped) > 1 else shaped[0]
