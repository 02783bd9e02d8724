"""KroneckerFactors: the curvature of a model, block by block, as a symmetric matrix that is never built."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from tnconv.curvature.blocks import AnyBlock, Block, Damping, DiagonalBlock, EigenBlock, Place
from tnconv.curvature.factor import Split
from tnconv.curvature.layer_calls import MatrixSpec
from tnconv.errors import ArgumentError
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

Names = tuple[str, ...]
Vector = TypeVar("Vector", Tensor, dict[str, Tensor], list[Tensor])
_SPECS: dict[str, type[Any]] = {s.kind: s for s in (ConvSpec, ConvTransposeSpec, LinearSpec, Split)}
_KINDS: dict[str, type[Any]] = {"kronecker": Block, "eigen": EigenBlock, "diagonal": DiagonalBlock}


@dataclass(frozen=True, eq=False, repr=False)
class KroneckerFactors:
    """A symmetric block-diagonal matrix over the parameters of a model.

    It approximates the GGN or Fisher of the loss over the data, in the order of `names`, each parameter flattened
    row-major. `factors @ v` takes a dict of tensors by name, a list in the order of `names`, a flat vector `[p]` or a
    matrix `[p, k]`, and returns the same kind.

    Args:
        blocks: by the names of their parameters: `("conv.weight",)`, or `("conv.weight", "conv.bias")` if joint.
        names: all parameters, in order.
        num_data: examples that the factors are of.
        loss_terms: loss terms, or the sum of their weights, that the factors are of.
        reduction: of the loss, `"mean"` or `"sum"`.
        left: parameters that are in no block, with the reason.
    """

    blocks: Mapping[Names, AnyBlock]
    names: Names
    num_data: float = 0.0
    loss_terms: float = 0.0
    reduction: str = "mean"
    left: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The blocks, one a line."""
        lines = "".join(f"\n  {block!r}," for block in self.blocks.values())
        left = f"\n  left out: {', '.join(self.left)}" if self.left else ""
        return (
            f"KroneckerFactors of {self.shape[0]} parameters and {self.num_data:g} examples({lines}{left}\n)"
        )

    # -- as a matrix -------------------------------------------------------------------------------------

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters, in order."""
        found = {
            n: s for b in self.blocks.values() for n, s in zip(b.place.names, b.place.shapes, strict=True)
        }
        return {name: found[name] for name in self.names}

    @property
    def shape(self) -> tuple[int, int]:
        """`(p, p)`, with p numbers in all parameters."""
        p = sum(map(prod, self.shapes.values()))
        return (p, p)

    def __matmul__(self, other: Vector) -> Vector:
        if isinstance(other, Tensor):
            return self._flat(other)
        if isinstance(other, Mapping):
            return self._named(other)  # type: ignore[return-value]
        found = self._named(dict(zip(self.names, self._counted(tuple(other)), strict=True)))
        return [found[name] for name in self.names]

    def _counted(self, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(vectors) != len(self.names):
            raise ArgumentError(
                f"{len(vectors)} tensors were given but there are {len(self.names)} parameters; give one for each of "
                f"{', '.join(map(repr, self.names))}"
            )
        return vectors

    def _named(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The product with vectors of the shapes of the parameters, or stacks of them with a last axis."""
        shapes = self.shapes
        missing = [name for name in shapes if name not in vectors]
        unknown = [name for name in vectors if name not in shapes]
        if missing or unknown:
            what = (
                f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is no parameter of the factors"
            )
            raise ArgumentError(f"{what}; give tensors for {', '.join(map(repr, shapes))}")
        found: dict[str, Tensor] = {}
        for block in self.blocks.values():
            names = block.place.names
            given = [vectors[name] for name in names]
            single = [t.dim() == len(shapes[n]) for t, n in zip(given, names, strict=True)]
            for name, tensor in zip(names, given, strict=True):
                if (
                    tuple(tensor.shape[: len(shapes[name])]) != shapes[name]
                    or tensor.dim() > len(shapes[name]) + 1
                ):
                    raise ArgumentError(
                        f"the vector of {name!r} has shape {tuple(tensor.shape)} but the parameter has {shapes[name]}; "
                        "give a tensor of that shape, or with one more axis at the end"
                    )
            stacks = [t.unsqueeze(-1) if one else t for t, one in zip(given, single, strict=True)]
            made = block.apply(stacks)
            for name, result, one in zip(names, made, single, strict=True):
                found[name] = result.squeeze(-1) if one else result
        return {name: found[name] for name in vectors}

    def _flat(self, vector: Tensor) -> Tensor:
        sizes = {name: prod(shape) for name, shape in self.shapes.items()}
        if vector.dim() not in (1, 2) or len(vector) != sum(sizes.values()):
            raise ArgumentError(
                f"the vector has shape {tuple(vector.shape)} but {sum(sizes.values())} rows are needed; flatten and "
                "join the parameters in the order of names"
            )
        parts = torch.split(vector, list(sizes.values()))
        shaped = {
            name: part.reshape(*shape, *vector.shape[1:])
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        found = self._named(shaped)
        return torch.cat([found[name].reshape(sizes[name], *vector.shape[1:]) for name in self.names])

    def dense(self) -> Tensor:
        """The matrix `[p, p]`; for small models."""
        return self @ torch.eye(self.shape[0], dtype=self._like.dtype, device=self._like.device)

    @property
    def _like(self) -> Tensor:
        return next(iter(next(iter(self.blocks.values())).tensors.values()))

    # -- functions of the matrix -------------------------------------------------------------------------

    def inverse(
        self,
        damping: Damping = 0.0,
        use_heuristic_damping: bool = False,
        min_damping: float = 1e-8,
        use_exact_damping: bool = False,
    ) -> "KroneckerFactors":
        """The inverse, block by block.

        Args:
            damping: added to the diagonal of both factors; a pair is that of the input factor and that of the gradient
                factor. A block that is a diagonal has it added once (a pair multiplied).
            use_heuristic_damping: `π √damping` for the input factor and `√damping / π` for the gradient factor, with
                `π²` the ratio of their mean eigenvalues (Martens & Grosse 2015, sec. 6.3); a bias alone has that of its
                layer's gradient factor, or `damping` where the weight is left out.
            min_damping: the least that the heuristic adds.
            use_exact_damping: `(G ⊗ A + damping I)⁻¹`, by eigenvalues; factors in eigenbases, as those of `ekfac`,
                have no other.

        Raises:
            ArgumentError: two ways of damping are asked for, or a factor is not positive definite.
        """
        if use_heuristic_damping and use_exact_damping:
            raise ArgumentError("use_heuristic_damping and use_exact_damping are both True; take one of them")
        if isinstance(damping, tuple) and (use_heuristic_damping or use_exact_damping):
            raise ArgumentError(
                f"damping is a pair {damping}, but heuristic and exact damping take one number; give one"
            )

        def inverted(block: AnyBlock) -> AnyBlock:
            weight = self.blocks.get((block.place.weight or "",))
            if use_heuristic_damping and isinstance(weight, Block):  # a bias has the damping of its layer
                return block.inverse(weight.dampings(damping, True, min_damping))
            return block.inverse(damping, use_heuristic_damping, min_damping, use_exact_damping)

        return self._map(inverted)

    def eigh(self) -> "KroneckerFactors":
        """The same matrix in the eigenbases of its factors, negative eigenvalues of rounding set to zero."""
        return self._map(lambda block: block.eigh())

    def power(self, p: float) -> "KroneckerFactors":
        """The matrix to a power: 0.5 for its root, -1 for its inverse."""
        return self._map(lambda block: block.power(p))

    def sample(self, generator: Generator | None = None) -> dict[str, Tensor]:
        """A draw from the normal distribution of mean zero with this covariance, by name.

        Args:
            generator: of random numbers; the global one if left out. That of `factors.inverse(damping).sample()` is a
                draw from a Laplace posterior.
        """
        found: dict[str, Tensor] = {}
        for block in self.blocks.values():
            like = next(iter(block.tensors.values()))
            noise = [
                torch.randn(*shape, 1, dtype=like.dtype, device=like.device, generator=generator)
                for shape in block.place.shapes
            ]
            drawn = block.power(0.5).apply(noise)
            found |= {n: t.squeeze(-1) for n, t in zip(block.place.names, drawn, strict=True)}
        return {name: found[name] for name in self.names}

    def trace(self) -> Tensor:
        """The sum of the diagonal."""
        return torch.stack([block.trace() for block in self.blocks.values()]).sum()

    def logdet(self) -> Tensor:
        """The logarithm of the determinant."""
        return torch.stack([block.logdet() for block in self.blocks.values()]).sum()

    def frobenius_norm(self) -> Tensor:
        """The root of the sum of squares of all cells."""
        return torch.stack([block.squared_norm() for block in self.blocks.values()]).sum().sqrt()

    def diagonal(self) -> dict[str, Tensor]:
        """The diagonal, by parameter, in its shape."""
        found = {
            name: part
            for block in self.blocks.values()
            for name, part in zip(block.place.names, block.diagonal(), strict=True)
        }
        return {name: found[name] for name in self.names}

    def to(self, *args: Any, **kwargs: Any) -> "KroneckerFactors":
        """On another device or in another dtype; arguments as for `torch.Tensor.to`."""
        return self._map(
            lambda block: block.of({name: t.to(*args, **kwargs) for name, t in block.tensors.items()})
        )

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` on NumPy arrays; scipy has to be installed."""
        like = self._like

        def product(array: Any) -> Any:
            flat = torch.as_tensor(array, dtype=like.dtype, device=like.device)
            return (self @ flat).cpu().numpy()

        empty = torch.empty(0, dtype=like.dtype).numpy()
        return scipy_operator()(
            self.shape, matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=empty.dtype
        )

    def _map(self, function: Any) -> "KroneckerFactors":
        return replace(self, blocks={key: function(block) for key, block in self.blocks.items()})

    # -- between processes and files ---------------------------------------------------------------------

    def all_reduce(self, group: Any = None) -> "KroneckerFactors":
        """The factors of the data of all processes, in place: as if one process had seen it all.

        Args:
            group: a process group of `torch.distributed`; the default one if left out.

        Raises:
            ArgumentError: blocks are in eigenbases.
        """
        if any(isinstance(block, EigenBlock) for block in self.blocks.values()):
            raise ArgumentError("factors in eigenbases have no sum over processes; reduce before eigh()")
        counts = torch.tensor([self.num_data, self.loss_terms], dtype=torch.float64, device=self._like.device)
        total = counts.clone()
        dist.all_reduce(total, group=group)
        shares = (counts / total).tolist()
        done: set[int] = set()  # a weight and its bias share G
        for block in self.blocks.values():
            for name, tensor in block.tensors.items():
                if id(tensor) in done:
                    continue
                done.add(id(tensor))
                share = shares[0] if name == "A" else shares[1] if self.reduction == "mean" else 1.0
                tensor.mul_(share)
                dist.all_reduce(tensor, group=group)
        data, terms = total.tolist()
        return replace(self, num_data=data, loss_terms=terms)

    def state_dict(self) -> dict[str, Any]:
        """All of it, in tensors and plain values, for `torch.save`; see `from_state_dict`."""
        kinds = {kind: name for name, kind in _KINDS.items()}
        blocks = [
            {
                "kind": kinds[type(block)],
                "names": block.place.names,
                "shapes": block.place.shapes,
                "layer": _saved(block.place.spec),
                "groups": block.place.groups,
                "weight": block.place.weight,
                "tensors": dict(block.tensors),
            }
            for block in self.blocks.values()
        ]
        return {
            "blocks": blocks,
            "names": self.names,
            "num_data": self.num_data,
            "loss_terms": self.loss_terms,
            "reduction": self.reduction,
            "left": dict(self.left),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "KroneckerFactors":
        """The factors that a `state_dict` was made of."""
        blocks: dict[Names, AnyBlock] = {}
        for each in state["blocks"]:
            shapes = tuple(map(tuple, each["shapes"]))
            place = Place(
                tuple(each["names"]), shapes, _loaded(each["layer"]), each["groups"], each["weight"]
            )
            kind = _KINDS[each["kind"]]
            blocks[place.names] = kind(place, *_ordered(kind, each["tensors"]))
        return cls(
            blocks,
            tuple(state["names"]),
            state["num_data"],
            state["loss_terms"],
            state["reduction"],
            dict(state["left"]),
        )


def _saved(spec: MatrixSpec | Split | None) -> dict[str, Any] | None:
    return None if spec is None else {"kind": spec.kind, "fields": asdict(spec)}


def _loaded(state: Mapping[str, Any] | None) -> MatrixSpec | Split | None:
    found: MatrixSpec | Split | None = None if state is None else _SPECS[state["kind"]](**state["fields"])
    return found


def scipy_operator() -> Any:
    """The class of linear operators of scipy, which is no dependency.

    Raises:
        ArgumentError: it is not installed.
    """
    try:
        return importlib.import_module("scipy.sparse.linalg").LinearOperator
    except ImportError as error:
        raise ArgumentError("scipy is not installed; install it with pip install scipy") from error


def _ordered(kind: type[Any], tensors: Mapping[str, Tensor]) -> list[Tensor | None]:
    """The tensors of a block in the order of its fields; None for one that it has not."""
    fields = [name for name in kind.__dataclass_fields__ if name != "place"]
    return [tensors.get(name) for name in fields]
