"""LayerCall: one call of a layer's function in a forward pass, and what it computes.

Two kinds of layers have parameters. Those with a *spec* (convolutions, transposed convolutions, linear layers) multiply
patches of their input with a matrix. Those with a *view* work cell by cell: `y = u * weight + bias`, where both
parameters are broadcast from the shape `view` (norms, embeddings of positions, scales of layers). An embedding looks
rows up. Any other function that takes a parameter is not read: see `tnconv.curvature.capture`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from tnconv.curvature.factor import Factor
from tnconv.errors import CaptureError
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

MatrixSpec = ConvSpec | ConvTransposeSpec | LinearSpec


# Both are made once for each call of a layer, which takes a named tuple a fifth of the time of a frozen dataclass.


class Read(NamedTuple):
    """What a call computes, before it is known which of its parameters are tracked.

    Args:
        op: `"conv"`, `"conv_transpose"`, `"linear"`, `"factor"` (one of the weight of a factorised convolution; of a
            factorised linear layer it is `"linear"`),
            `"embedding"`, `"scale"` (`y = u * weight + bias`) or `"shift"` (`y = … + weight`).
        x: the input; None for a shift.
        weight: the first parameter, whatever it is.
        bias: the second.
        spec: of a convolution, a transposed convolution or a linear layer, the latter without sequence axes; or which
            factor of a layer the weight is.
        view: the shape from which the parameters of a scale or a shift are broadcast.
        normalise: of a norm, what makes `u` of the input; None where it is `u`.
        skip: of an embedding, the row that gets no gradient.
        others: of a factor, the other parameters of the network by name.
    """

    op: str
    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None = None
    spec: MatrixSpec | Factor | None = None
    view: tuple[int, ...] = ()
    normalise: Callable[[Tensor], Tensor] | None = None
    skip: int | None = None
    others: Mapping[str, Tensor] = MappingProxyType({})


class LayerCall(NamedTuple):
    """One call of a layer with tracked parameters.

    Args:
        weight: name of the weight, if it is tracked.
        bias: name of the bias, if it is tracked.
        x: the input, without its history; None for a shift.
        edge: of the output, for `torch.autograd.grad`.
        shape: of the output.
        read: what else is known of the call.
        version: how often the input had been written to.
    """

    weight: str | None
    bias: str | None
    x: Tensor | None
    edge: GradientEdge
    shape: torch.Size
    read: Read
    version: int

    @property
    def op(self) -> str:
        """See `Read`."""
        return self.read.op

    @property
    def spec(self) -> MatrixSpec | Factor | None:
        """Of a layer with a matrix, or the factor that the weight is; None for others."""
        return self.read.spec

    @property
    def names(self) -> tuple[str, ...]:
        """The tracked parameters of the call."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def without_input(self) -> "LayerCall":
        """The call without its input."""
        return self._replace(x=None, read=self.read._replace(x=None))

    def input(self) -> Tensor:
        """The input, as it was when the layer was called.

        Raises:
            CaptureError: it was written to since.
        """
        assert self.x is not None
        if self.x._version != self.version:
            raise CaptureError(
                f"the input of the {self.op} layer of {self.names[0]!r} was changed in place after the call; use an "
                "operation that makes a new tensor"
            )
        return self.x
