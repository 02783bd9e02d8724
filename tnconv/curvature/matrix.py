"""Layers with a matrix: what tnconv compiles of them, on tensors as a model has them.

`spec` of a call has no sequence axes; here the examples come first, and the axes between them and the features of a
linear layer become one sequence axis. A convolution with several images for each example goes by the images where a
quantity is a sum over examples, else by per-example gradients, which are summed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from tnconv.api import compile
from tnconv.compiler.function import CompiledFunction
from tnconv.curvature.example_axes import Examples, split
from tnconv.curvature.factor import Factor, Split, split_of
from tnconv.curvature.layer_calls import LayerCall, MatrixSpec
from tnconv.ir import evaluate
from tnconv.spec import ConvTransposeSpec, LinearSpec


@lru_cache(maxsize=4096)
def compiled(spec: MatrixSpec | Factor, op: str, size: int, **options: Any) -> CompiledFunction:
    """The function of a layer or of a factor; to look it up here takes 1 us, in `tnconv.compile` 70.

    Args:
        spec: of the layer.
        op: what it computes.
        size: of the batch, for choices by cost; see `rounded`.
        options: of `tnconv.compile`.
    """
    options["hints"] = {"N": size}
    if isinstance(spec, Factor):
        return compile(spec.network, op, wrt=spec.name, **options)
    return compile(spec, op, **options)


def rounded(n: int) -> int:
    """2, 8, 32, 128 or 512, the nearest to the size of a batch, so that few functions serve batches of all sizes."""
    return 2 << (min(max(n, 1), 256).bit_length() - 1) // 2 * 2


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A call of a layer with a matrix, with the examples in front.

    Args:
        spec: with the sequence axis of a linear layer; or the factor that the weight is.
        x: the input `[(n m), *]`, with m = 1 but for convolutions of several images an example.
        n: number of examples.
        images: m.
        call: as it was seen.
        examples: where the examples are in the tensors of the call.
    """

    spec: MatrixSpec | Factor
    x: Tensor
    n: int
    images: int
    call: LayerCall
    examples: Examples

    @classmethod
    def of(cls, call: LayerCall, examples: Examples, n: int) -> "Matrix":
        """The call with examples in front."""
        spec = call.spec
        assert spec is not None
        x = call.input()
        if _is_linear(spec):
            x = _sequence(examples.first(x, n, 1), n)
            return cls(_of_sequence(spec, x.shape[1:-1]), x, n, 1, call, examples)
        return cls(spec, _images(examples, x, n), n, len(x) // max(n, 1), call, examples)

    @property
    def positions(self) -> int:
        """Positions of an example, over all its images."""
        if isinstance(self.spec, Factor):
            return self._split.positions * self.images
        sizes = self.spec.input_sizes if isinstance(self.spec, LinearSpec) else self.spec.output_sizes
        return prod(sizes) * self.images

    @property
    def groups(self) -> int:
        """The number of channel groups."""
        return self._split.groups if isinstance(self.spec, Factor) else getattr(self.spec, "groups", 1)

    @property
    def outs(self) -> int:
        """Out-channels, over all groups."""
        if isinstance(self.spec, Factor):
            return self._split.rows * self.groups
        return self.call.shape[-1 if isinstance(self.spec, LinearSpec) else -self.spec.spatial_dims - 1]

    @property
    def place(self) -> MatrixSpec | Split:
        """What tells how the weight is a matrix."""
        spec = self.call.spec
        assert spec is not None
        return self._split if isinstance(spec, Factor) else spec

    @property
    def refusal(self) -> str | None:
        """Why there is no Kronecker product, if there is none."""
        found = split_of(self.spec) if isinstance(self.spec, Factor) else None
        return found if isinstance(found, str) else None

    @property
    def _split(self) -> Split:
        assert isinstance(self.spec, Factor)
        found = split_of(self.spec)
        assert isinstance(found, Split)
        return found

    def function(self, op: str, **options: Any) -> Callable[..., Tensor]:
        """An operation of the layer, of its input and gradients alone."""
        found = compiled(self.spec, op, rounded(len(self.x)), **options)
        others = self.call.read.others
        if not others:
            return found

        def filled(*given: Tensor, **options: Any) -> Tensor:
            rest = iter(given)
            return found(*(others[a] if a in others else next(rest) for a in found.arguments), **options)

        return filled

    def multiplications(self, op: str) -> int:
        """What an operation without columns takes for the batch; nothing is known of a factor."""
        if isinstance(self.spec, Factor):
            return 0
        n = len(self.x)
        return evaluate(compiled(self.spec, op, rounded(n)).plan.multiplications, {"N": n})

    def gradient(self, grad: Tensor) -> Tensor:
        """A gradient at the output of the call, with the examples in front: `[(n m), *]`."""
        if _is_linear(self.spec):
            return _sequence(self.examples.first(grad, self.n, 1), self.n)
        if grad.dim() < self.x.dim():
            grad = grad.unsqueeze(0)
        return _images(self.examples, grad, self.n)

    def without_input(self) -> "Matrix":
        """The call, for what is of gradients alone: only the shape of the input is left."""
        return replace(self, x=torch.empty_like(self.x, device="meta"), call=self.call.without_input())

    # -- rows: per-example gradients ---------------------------------------------------------------------

    def rows(self, z: Sequence[Tensor]) -> Tensor:
        """Per-example gradients of the weight, `[v, n, *weight]`, of gradients `z` with the examples in front."""
        function = self.function("per_example_weight_vjp")
        found = torch.stack([function(self.x, each) for each in z])
        return split(found, 1, (self.n, self.images)).sum(2) if self.images > 1 else found

    def bias_rows(self, z: Sequence[Tensor]) -> Tensor:
        """Per-example gradients of the bias, `[v, n, features]`."""
        axis = -1 if isinstance(self.spec, LinearSpec) else 1
        found = torch.stack([_sums(each, axis) for each in z])
        return split(found, 1, (self.n, self.images)).sum(2) if self.images > 1 else found

    def input_sums(self, average: bool) -> Tensor:
        """Patches summed over positions, `[n, g, (c k)]`: the weight's gradient of one output channel a group.

        That of a factor is not known.

        Args:
            average: whether they are averaged over groups, which makes `g` one.
        """
        assert not isinstance(self.spec, Factor)
        single = _single(self.spec)
        if isinstance(self.spec, LinearSpec):
            shape = (*self.x.shape[:-1], 1)
        else:
            shape = (len(self.x), self.groups, *self.spec.output_sizes)
        found = compiled(single, "per_example_weight_vjp", rounded(len(self.x)))(
            self.x, self.x.new_ones(shape)
        )
        rows = torch.stack([as_matrix(single, each, self.groups)[:, 0] for each in found])
        rows = split(rows, 0, (self.n, self.images)).sum(1) if self.images > 1 else rows
        return rows.mean(1, keepdim=True) if average else rows

    def weight_gradient(self, z: Tensor) -> Tensor:
        """The gradient of the weight, summed over examples."""
        return self.function("weight_vjp")(self.x, z)


def _sums(grad: Tensor, axis: int) -> Tensor:
    """A gradient `[n, *]` summed over all but examples and an axis."""
    others = [place for place in range(1, grad.dim()) if place != axis % grad.dim()]
    return grad.sum(others) if others else grad


def _is_linear(spec: MatrixSpec | Factor) -> bool:
    return isinstance(spec, LinearSpec) or (isinstance(spec, Factor) and spec.linear)


@lru_cache(maxsize=1024)
def _of_sequence(spec: Any, sizes: torch.Size) -> Any:
    if isinstance(spec, Factor):
        return replace(spec, spec=_of_sequence(spec.spec, sizes))
    return replace(spec, input_size=tuple(sizes))


def _sequence(tensor: Tensor, n: int) -> Tensor:
    """`[n, t, features]`, or `[n, features]` where an example has one position."""
    if tensor.dim() == 2:
        return tensor
    t = prod(tensor.shape[1:-1])
    return tensor.reshape(n, t, tensor.shape[-1]) if t != 1 else tensor.reshape(n, tensor.shape[-1])


def _images(examples: Examples, tensor: Tensor, n: int) -> Tensor:
    """Images of one example behind each other."""
    return tensor if examples.outer else examples.first(tensor, n).flatten(0, 1)


def _single(spec: MatrixSpec) -> MatrixSpec:
    if isinstance(spec, LinearSpec):
        return replace(spec, out_features=1)
    return replace(spec, out_channels=spec.groups)


# -- weights as matrices -------------------------------------------------------------------------------


def as_matrix(spec: MatrixSpec | Split, weight: Tensor, blocks: int) -> Tensor:
    """A weight, or a stack of them `[*weight, k]`, as `[g, d, (c k), k]`; `blocks` is g, or 1 for all rows in one."""
    if isinstance(spec, Split):
        return spec.as_matrix(weight, blocks)
    extra = weight.shape[len(weight_shape(spec)) :]
    if isinstance(spec, ConvTransposeSpec):
        weight = split(weight, 0, (spec.groups, len(weight) // spec.groups)).transpose(1, 2).flatten(0, 1)
    rows = weight.shape[0]
    return weight.reshape(blocks, rows // blocks, -1, *extra)


def from_matrix(spec: MatrixSpec | Split, matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight, or stack of weights, that `as_matrix` made `[g, d, (c k), *k]` of.

    Args:
        spec: of the layer.
        matrix: to turn back.
        shape: of one weight.
    """
    if isinstance(spec, Split):
        return spec.from_matrix(matrix, shape)
    extra = matrix.shape[3:]
    if not isinstance(spec, ConvTransposeSpec):
        return matrix.reshape(*shape, *extra)
    g, (gc, d), kernel = spec.groups, shape[:2], shape[2:]
    return matrix.reshape(g, d, gc // g, *kernel, *extra).transpose(1, 2).reshape(*shape, *extra)


def weight_shape(spec: MatrixSpec) -> tuple[int, ...]:
    """The shape of the weight."""
    if isinstance(spec, LinearSpec):
        return (spec.out_features, spec.in_features)
    g = spec.groups
    if isinstance(spec, ConvTransposeSpec):
        return (spec.in_channels, spec.out_channels // g, *spec.kernel_sizes)
    return (spec.out_channels, spec.in_channels // g, *spec.kernel_sizes)
