"""Factors of a factorised weight: each is the weight of a layer in the network of the whole.

What comes before a factor makes its input, what comes behind it hands the gradient on; `tnconv.ops` finds both. Where
they can be told apart a factor has Kronecker factors; gradients it has always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import ClassVar

from torch import Tensor

from tnconv import ops
from tnconv.errors import OperationError
from tnconv.functional.visible import Factored, LayerSpec
from tnconv.ir import Expression
from tnconv.spec import LinearSpec


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of the weight of a layer.

    Args:
        of: the kind of layer.
        spec: the layer with its dense weight; a linear one without sequence axes where it is read off a call.
        name: of the factor in the network.
    """

    of: Factored
    spec: LayerSpec
    name: str

    @property
    def network(self) -> Expression:
        """The forward network of the layer."""
        return self.of.network(self.spec)

    @property
    def linear(self) -> bool:
        """Whether the layer is a linear one."""
        return isinstance(self.spec, LinearSpec)


@dataclass(frozen=True, slots=True)
class Split:
    """Which indices of a factor are groups, rows and columns of its matrices.

    Args:
        axes: number of axes of the factor.
        sizes: of the indices, in the order of its axes.
        order: the places of groups, rows and columns among them.
        groups: number of matrices.
        rows: of one of them.
        positions: of the layer that the factor is the weight of.
    """

    kind: ClassVar[str] = "factor"
    axes: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    groups: int
    rows: int
    positions: int

    def as_matrix(self, weight: Tensor, blocks: int) -> Tensor:
        """A stack of factors `[*shape, k]` as `[g, d, a, k]`, or all rows in one block."""
        extra = weight.shape[self.axes :]
        more = range(len(self.sizes), len(self.sizes) + len(extra))
        turned = weight.reshape(*self.sizes, *extra).permute(*self.order, *more)
        return turned.reshape(blocks, self.groups * self.rows // blocks, -1, *extra)

    def from_matrix(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The stack of factors that a matrix was made of."""
        extra = matrix.shape[3:]
        turned = matrix.reshape(*(self.sizes[place] for place in self.order), *extra)
        back = [self.order.index(place) for place in range(len(self.order))]
        return turned.permute(*back, *range(len(back), turned.dim())).reshape(*shape, *extra)


@lru_cache(maxsize=1024)
def split_of(factor: Factor) -> Split | str:
    """How a factor is a matrix; or why it has no Kronecker product."""
    try:
        parts = ops.get("kfac_expand").parts(factor.network, ops.Options(), factor.name)
    except OperationError as error:
        return str(error)
    layout = parts.layout
    (weight,) = (node for term in parts.network.terms for node in term.tensors if node.name == "weight")
    assert layout is not None
    indices = weight.indices
    sizes = [
        tuple(int(i.size) for i in each) for each in (indices, layout.groups, layout.outs, layout.positions)
    ]
    order = tuple(indices.index(i) for i in (*layout.groups, *layout.outs, *layout.columns))
    return Split(len(weight.axes), sizes[0], order, *map(prod, sizes[1:]))
