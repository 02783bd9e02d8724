"""Layers that work cell by cell, and embeddings: per-example gradients of their parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tnconv.curvature.example_axes import Examples
from tnconv.curvature.layer_calls import LayerCall


@dataclass(frozen=True, slots=True, eq=False)
class Cellwise:
    """A call of `y = u * weight + bias`, with the parameters broadcast, or of an embedding.

    Args:
        call: as it was seen.
        examples: where the examples are in its tensors.
        n: number of examples.
        shapes: of the parameters, by name.
    """

    call: LayerCall
    examples: Examples
    n: int

    def without_input(self) -> "Cellwise":
        """The call, for what is of gradients alone."""
        return replace(self, call=self.call.without_input())

    def gradient(self, grad: Tensor) -> Tensor:
        """A gradient at the output of the call, as it is."""
        return grad

    def rows(self, z: Sequence[Tensor]) -> Tensor:
        """Per-example gradients of the weight, `[v, n, *view]`, or `[v, n, rows, features]` of an embedding."""
        if self.call.op == "embedding":
            return torch.stack([self._looked_up(each) for each in z])
        if self.call.op == "shift":
            return self.bias_rows(z)
        x = self.call.input()
        u = x if self.call.read.normalise is None else self.call.read.normalise(x)
        return torch.stack([self._reduced(u * each) for each in z])

    def bias_rows(self, z: Sequence[Tensor]) -> Tensor:
        """Per-example gradients of the bias, `[v, n, *view]`."""
        return torch.stack([self._reduced(each) for each in z])

    def _reduced(self, cells: Tensor) -> Tensor:
        """The sum over all that a parameter is broadcast over, of each example: `[n, *view]`."""
        view = self.call.read.view
        rows = self.examples.first(cells, self.n, len(view))
        front = rows.dim() - 1 - len(view)
        if front:
            rows = rows.flatten(1, front).sum(1)
        wide = [place for place, size in enumerate(view, 1) if size == 1 and rows.shape[place] != 1]
        return rows.sum(wide, keepdim=True) if wide else rows

    def _looked_up(self, z: Tensor) -> Tensor:
        """The gradient of an embedding for each example."""
        weight = self.call.read.weight
        assert weight is not None
        index = self.examples.first(self.call.input(), self.n, 0).reshape(self.n, -1)
        rows = self.examples.first(z, self.n, 1).reshape(self.n, index.shape[1], -1)
        if self.call.read.skip is not None:
            rows = rows * (index != self.call.read.skip).unsqueeze(2)
        found = rows.new_zeros(self.n, *weight.shape)
        return found.scatter_add_(1, index.unsqueeze(2).expand_as(rows), rows)
