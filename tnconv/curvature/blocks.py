"""The blocks of a curvature matrix: a Kronecker product, one in its eigenbasis, and a diagonal.

A block is about the parameters of one layer, which its `Place` lays out as matrices `[g, d, a]`: `g` channel groups,
`d` out-channels of a group, and `a` the columns `(c k)` of a weight, a last one for a joint bias, or one for a bias
alone. Vectors come as stacks: a last axis `k` counts them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod, sqrt
from typing import Any, Self, cast

import torch
from torch import Tensor

from tnconv.curvature.factor import Split
from tnconv.curvature.layer_calls import MatrixSpec
from tnconv.curvature.matrix import as_matrix, from_matrix
from tnconv.errors import ArgumentError

Damping = float | tuple[float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Which parameters a block is about, and where they are in its matrix.

    Args:
        names: of the parameters: a weight, a bias, or both.
        shapes: of the parameters.
        spec: of the layer, or how a factor is a matrix; None for a diagonal, and where there is only a bias.
        groups: how many matrices there are.
        weight: of a bias alone, the weight of its layer, if that is tracked.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    spec: MatrixSpec | Split | None = None
    groups: int = 1
    weight: str | None = None

    def is_of(self, other: "Place") -> bool:
        """Whether both are about the same parameters of the same layer, for images of whatever size."""
        return replace(self, spec=None) == replace(other, spec=None) and _of_any_size(
            self.spec
        ) == _of_any_size(other.spec)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """The parameters, each a stack `[*shape, k]`, as `[g, d, a, k]`."""
        found = []
        for place, part in enumerate(parts):
            if place == 0 and self.spec is not None:
                found.append(as_matrix(self.spec, part, self.groups))
            else:
                found.append(part.reshape(self.groups, -1, 1, part.shape[-1]))
        return torch.cat(found, 2) if len(found) > 1 else found[0]

    def unpack(self, matrix: Tensor) -> list[Tensor]:
        """The parameters, each a stack, of `[g, d, a, k]`."""
        if self.spec is None:
            return [matrix.reshape(*self.shapes[0], matrix.shape[-1])]
        if len(self.shapes) == 1:
            return [from_matrix(self.spec, matrix, self.shapes[0])]
        weight, bias = matrix[:, :, :-1], matrix[:, :, -1]
        return [
            from_matrix(self.spec, weight, self.shapes[0]),
            bias.reshape(*self.shapes[1], matrix.shape[-1]),
        ]


def _of_any_size(spec: MatrixSpec | Split | None) -> tuple[object, ...]:
    """A layer without its input size, which says nothing of where its parameters are."""
    written = () if spec is None else (each.name for each in fields(spec) if each.name != "input_size")
    return (type(spec), *(getattr(spec, name) for name in written))


class AnyBlock(ABC):
    """A symmetric block of a curvature matrix."""

    place: Place

    def __repr__(self) -> str:
        """The parameters and the shapes of the tensors: these may have millions of cells."""
        tensors = ((each.name, getattr(self, each.name)) for each in fields(cast(Any, self)))
        shapes = [f"{name}={list(value.shape)}" for name, value in tensors if isinstance(value, Tensor)]
        return f"{type(self).__name__}({', '.join((*self.place.names, *shapes))})"

    @abstractmethod
    def apply(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The product with stacks of vectors, `[*shape, k]` for each parameter."""

    @abstractmethod
    def inverse(
        self, damping: Damping, heuristic: bool = False, least: float = 1e-8, exact: bool = False
    ) -> "AnyBlock":
        """The inverse of the damped block; see `KroneckerFactors.inverse`."""

    @abstractmethod
    def eigh(self) -> "AnyBlock":
        """The block in its eigenbasis."""

    @abstractmethod
    def power(self, exponent: float) -> "AnyBlock":
        """The block to a power, of eigenvalues that are not negative."""

    @abstractmethod
    def trace(self) -> Tensor:
        """The sum of the diagonal."""

    @abstractmethod
    def logdet(self) -> Tensor:
        """The logarithm of the determinant."""

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """The sum of squares of all cells."""

    @abstractmethod
    def diagonal(self) -> list[Tensor]:
        """The diagonal, in the shapes of the parameters."""

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What the block is made of, by name."""

    @abstractmethod
    def of(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same block of other tensors."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Block(AnyBlock):
    """`G ⊗ A` for each group.

    Args:
        place: of the parameters.
        A: `[g, a, a]`, of the input; None for a bias alone, where it is 1.
        G: `[g, d, d]`, of the gradient at the output; a weight and a bias with a block of its own have one tensor.
    """

    place: Place
    A: Tensor | None
    G: Tensor

    def apply(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The product with stacks of vectors."""
        matrix = self.place.pack(parts)
        product = torch.einsum("gde,geak->gdak", self.G, matrix)
        if self.A is not None:
            product = torch.einsum("gdak,gab->gdbk", product, self.A)
        return self.place.unpack(product)

    def inverse(
        self, damping: Damping, heuristic: bool = False, least: float = 1e-8, exact: bool = False
    ) -> AnyBlock:
        """The inverse of the damped block."""
        if exact:
            return self.eigh().inverse(damping, exact=True)
        by_input, by_output = self.dampings(damping, heuristic, least)
        inverted = None if self.A is None else _inverse(self.A, by_input)
        return Block(self.place, inverted, _inverse(self.G, by_output))

    def dampings(self, damping: Damping, heuristic: bool, least: float) -> tuple[Any, Any]:
        """What is added to the diagonals of A and G: `[g, 1, 1]` or a number each.

        Args:
            damping: see `KroneckerFactors.inverse`.
            heuristic: whether it is split by mean eigenvalues.
            least: that the heuristic adds.
        """
        if isinstance(damping, tuple):
            return damping
        if not heuristic or self.A is None:
            return damping, damping
        by_input, by_output = (
            t.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).unsqueeze(2) for t in (self.A, self.G)
        )
        ratio = (by_input / by_output).sqrt()
        first, second = ((sqrt(damping) * r).clamp_min(least) for r in (ratio, 1 / ratio))
        defined = (by_input >= 0) & (by_output > 0)
        return torch.where(defined, first, damping), torch.where(defined, second, damping)

    def eigh(self) -> "EigenBlock":
        """The block in its eigenbasis."""
        values, by_output = torch.linalg.eigh(self.G)
        values = values.clamp_min(0)
        if self.A is None:
            return EigenBlock(self.place, None, by_output, values.unsqueeze(2))
        others, by_input = torch.linalg.eigh(self.A)
        return EigenBlock(
            self.place, by_input, by_output, values.unsqueeze(2) * others.clamp_min(0).unsqueeze(1)
        )

    def power(self, exponent: float) -> "Block":
        """The block to a power."""
        return Block(
            self.place, None if self.A is None else _power(self.A, exponent), _power(self.G, exponent)
        )

    def trace(self) -> Tensor:
        """The sum of the diagonal."""
        by_output = self.G.diagonal(dim1=1, dim2=2).sum(1)
        return (by_output if self.A is None else by_output * self.A.diagonal(dim1=1, dim2=2).sum(1)).sum()

    def logdet(self) -> Tensor:
        """The logarithm of the determinant."""
        found = self.G.logdet() * (1 if self.A is None else self.A.shape[1])
        return (found if self.A is None else found + self.A.logdet() * self.G.shape[1]).sum()

    def squared_norm(self) -> Tensor:
        """The sum of squares of all cells."""
        found = self.G.square().sum((1, 2))
        return (found if self.A is None else found * self.A.square().sum((1, 2))).sum()

    def diagonal(self) -> list[Tensor]:
        """The diagonal, in the shapes of the parameters."""
        found = self.G.diagonal(dim1=1, dim2=2).unsqueeze(2)
        if self.A is not None:
            found = found * self.A.diagonal(dim1=1, dim2=2).unsqueeze(1)
        return [part.squeeze(-1) for part in self.place.unpack(found.unsqueeze(3))]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What the block is made of, by name."""
        return {"G": self.G} if self.A is None else {"A": self.A, "G": self.G}

    def of(self, tensors: Mapping[str, Tensor]) -> "Block":
        """The same block of other tensors."""
        return Block(self.place, tensors.get("A"), tensors["G"])


class DiagonalisedBlock(AnyBlock):
    """A block in its eigenbasis, with its eigenvalues as `values`."""

    values: Tensor

    def _with(self, values: Tensor) -> Self:
        return self.of({**self.tensors, "values": values})

    def eigh(self) -> Self:
        """The block in its eigenbasis."""
        return self

    def power(self, exponent: float) -> Self:
        """The block to a power."""
        return self._with(self.values.pow(exponent))

    def trace(self) -> Tensor:
        """The sum of the diagonal."""
        return self.values.sum()

    def logdet(self) -> Tensor:
        """The logarithm of the determinant."""
        return self.values.log().sum()

    def squared_norm(self) -> Tensor:
        """The sum of squares of all cells."""
        return self.values.square().sum()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EigenBlock(DiagonalisedBlock):
    """`(Q_G ⊗ Q_A) diag(values) (Q_G ⊗ Q_A)ᵀ` for each group.

    Args:
        place: of the parameters.
        Q_A: `[g, a, a]`, eigenvectors as columns; None for a bias alone.
        Q_G: `[g, d, d]`.
        values: `[g, d, a]`.
    """

    place: Place
    Q_A: Tensor | None
    Q_G: Tensor
    values: Tensor

    def apply(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The product with stacks of vectors."""
        turned = self.turned(self.place.pack(parts)) * self.values.unsqueeze(3)
        back = torch.einsum("gde,geak->gdak", self.Q_G, turned)
        if self.Q_A is not None:
            back = torch.einsum("gdbk,gab->gdak", back, self.Q_A)
        return self.place.unpack(back)

    def turned(self, matrix: Tensor) -> Tensor:
        """Vectors `[g, d, a, k]` in the eigenbasis."""
        found = torch.einsum("ged,geak->gdak", self.Q_G, matrix)
        return found if self.Q_A is None else torch.einsum("gdak,gab->gdbk", found, self.Q_A)

    def inverse(
        self, damping: Damping, heuristic: bool = False, least: float = 1e-8, exact: bool = False
    ) -> AnyBlock:
        """The inverse of the damped block."""
        if isinstance(damping, tuple) or heuristic:
            raise ArgumentError(
                f"a block of eigenvalues has damping={damping!r} and use_heuristic_damping={heuristic}, but no factors "
                "to share it; give one number, which is added to the eigenvalues"
            )
        return self._with(1 / (self.values + damping))

    def diagonal(self) -> list[Tensor]:
        """The diagonal, in the shapes of the parameters."""
        found = torch.einsum("gde,gea->gda", self.Q_G.square(), self.values)
        if self.Q_A is not None:
            found = torch.einsum("gdb,gab->gda", found, self.Q_A.square())
        return [part.squeeze(-1) for part in self.place.unpack(found.unsqueeze(3))]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What the block is made of, by name."""
        own = {"Q_G": self.Q_G, "values": self.values}
        return own if self.Q_A is None else {"Q_A": self.Q_A, **own}

    def of(self, tensors: Mapping[str, Tensor]) -> "EigenBlock":
        """The same block of other tensors."""
        return EigenBlock(self.place, tensors.get("Q_A"), tensors["Q_G"], tensors["values"])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiagonalBlock(DiagonalisedBlock):
    """A diagonal, for a parameter that no Kronecker product is made for.

    Args:
        place: of the parameter.
        values: of its shape.
    """

    place: Place
    values: Tensor

    def apply(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The product with stacks of vectors."""
        return [parts[0] * self.values.unsqueeze(-1)]

    def inverse(
        self, damping: Damping, heuristic: bool = False, least: float = 1e-8, exact: bool = False
    ) -> AnyBlock:
        """The inverse of the damped block."""
        number = prod(damping) if isinstance(damping, tuple) else damping
        return self._with(1 / (self.values + number))

    def diagonal(self) -> list[Tensor]:
        """The diagonal, in the shapes of the parameters."""
        return [self.values]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What the block is made of, by name."""
        return {"values": self.values}

    def of(self, tensors: Mapping[str, Tensor]) -> "DiagonalBlock":
        """The same block of other tensors."""
        return DiagonalBlock(self.place, tensors["values"])


def _inverse(matrix: Tensor, damping: Any) -> Tensor:
    """The inverse of `matrix + damping I` by Cholesky, in double precision where single does not suffice."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    damped = matrix + damping * eye
    root, failed = torch.linalg.cholesky_ex(damped)
    if not failed.any() and root.diagonal(dim1=1, dim2=2).isfinite().all():  # of nan and inf none need fail
        return torch.cholesky_inverse(root)
    rows = matrix.shape[-1]
    if not damped.isfinite().all():
        raise ArgumentError(
            f"a factor with {rows} rows has values that are not finite, as where a training diverges; give finite "
            "inputs and parameters, or train with a smaller lr, more damping or a kl_clip"
        )
    root, failed = torch.linalg.cholesky_ex(damped.double())
    if failed.any():
        most = torch.as_tensor(damping).max().item()
        raise ArgumentError(
            f"a factor with {rows} rows is not positive definite with damping {most}; give more damping, or "
            "use_exact_damping=True"
        )
    return torch.cholesky_inverse(root).to(matrix.dtype)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    found: Tensor = (vectors * values.clamp_min(0).pow(exponent).unsqueeze(1)) @ vectors.mT
    return found
