"""What all factorised layers are: parameters by name, the dense weight, the way from a dense layer and back."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import KnowsNetwork
from tnconv.errors import SpecError
from tnconv.functional.compiled_calls import no_tensors
from tnconv.functional.types import Ints
from tnconv.functional.visible import LayerSpec, seen
from tnconv.ir import Expression
from tnconv.nn.modules import check_copied
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_call import (
    Description,
    FactoredLayer,
    SampledBy,
    Shape,
    convolved,
    layer_function,
    weight_of,
)
from tnconv.nn.tensorised.factors import Family, WeightShape
from tnconv.nn.tensorised.from_dense import Approximation, check_dtype
from tnconv.nn.tensorised.rank_search import approximation
from tnconv.nn.tensorised.ranks import Rank, resolve_ranks
from tnconv.spec.fields import Ints as SpecInts
from tnconv.spec.fields import Symbolic, typed


@dataclass(frozen=True, slots=True)
class Source:
    """What a factorised layer is made from.

    Args:
        module: a dense layer.
        fields: arguments of the factorised layer's constructor that it gives.
    """

    module: Any
    fields: Mapping[str, Any]


class TensorisedLayer(nn.Module, KnowsNetwork):
    """A layer whose weight is a network of small factors; the base class of all of them.

    Attributes:
        ranks: of every bond, by name.
        error: of the weight when the layer was made from a dense one, `|made - dense| / |dense|` in Frobenius norms;
            None for factors that were drawn.
    """

    family: ClassVar[Family]
    bias: nn.Parameter | None
    sampler: SampledBy = None  # of a call in training; see `tnconv.nn.sample`
    error: float | None = None

    def _build(
        self,
        spec: LayerSpec,
        shape: WeightShape,
        rank: Rank,
        blocks: int | None,
        plan: tuple[str, bool, int],
        made: Mapping[str, Any],
    ) -> None:
        """Make the parameters.

        Args:
            spec: the layer, with an input size that stands for any.
            shape: of its weight.
            rank: as the user gave it.
            blocks: of block terms, or None.
            plan: planner, autotune and batch hint.
            made: device and dtype.
        """
        super().__init__()
        family = _with_blocks(self.family, blocks)
        self.ranks = resolve_ranks(rank, family, shape)
        planner, autotune, batch_hint = plan
        self.description = Description(
            spec, family, shape, tuple(self.ranks.items()), planner, bool(autotune), batch_hint
        )
        self._factors = {f.name: tuple(a.size for a in f.axes) for f in family.factors(shape, self.ranks)}
        for name, sizes in self._factors.items():
            self.register_parameter(name, nn.Parameter(torch.empty(sizes, **made)))
        outs: Any = self.out_sizes
        bias = nn.Parameter(torch.empty(outs, **made)) if spec.bias else None
        self.register_parameter("bias", bias)
        self.reset_parameters()

    # -- parameters ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def out_sizes(self) -> int:
        """Number of out-channels or out-features."""

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """The factors by name; their product is the weight."""
        return {name: getattr(self, name) for name in self._factors}

    def reset_parameters(self) -> None:
        """Draw factors for which the dense weight has mean 0 and the variance that torch's layer begins with.

        That is `1/(3*fan_in)`. Every factor has the same standard deviation; the bias is drawn as torch does.
        """
        self.error = None
        if next(iter(self.factors.values())).is_meta:  # no values; torch would load its compiler to draw them
            return
        shape = self.description.shape
        deviation = self.description.family.deviation(shape, self.ranks)
        for factor in self.factors.values():
            nn.init.normal_(factor, std=deviation)
        if self.bias is not None:
            bound = shape.fan_in**-0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def to_dense(self) -> Tensor:
        """The dense weight as torch's layer has it, the product of the factors; gradients flow through."""
        function = weight_of(self.description)
        return function(*[getattr(self, name) for name in function.arguments])

    @torch.no_grad()
    def to_torch(self) -> nn.Module:
        """The layer with a dense weight, as torch has it: an `nn.Conv2d`, an `nn.ConvTranspose2d`, an `nn.Linear`.

        Padding that differs on the left and on the right torch's layers do not have: then it is `tnconv.nn.Conv2d` or
        `tnconv.nn.ConvTranspose2d`. Dtype, device, mode and what needs a gradient are kept; the parameters are new.
        """
        weight = self.to_dense()
        made: Any = self._dense_module({"device": "meta", "dtype": weight.dtype})
        needed = any(parameter.requires_grad for parameter in self.factors.values())
        made.weight = nn.Parameter(weight.clone(), needed)
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        trained: nn.Module = made.train(self.training)
        return trained

    @abstractmethod
    def _dense_module(self, made: Mapping[str, Any]) -> nn.Module:
        """Torch's layer with the same fields, its parameters to be replaced."""

    # -- from dense layers ------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def source(cls, module: nn.Module) -> Source:
        """What a dense layer gives.

        Raises:
            SpecError: it is of another type or computes something else.
        """

    @classmethod
    def from_dense(
        cls,
        module: nn.Module,
        rank: Rank,
        *,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        blocks: int | None = None,
        iterations: int = 50,
        seconds: float | None = None,
        planner: str = "auto",
        autotune: bool = False,
        batch_hint: int = 32,
        decompose: bool = True,
    ) -> Self:
        """A layer with the fields of a dense one, whose factors come near its weight.

        Args:
            module: an `nn.Conv1d` to `nn.Conv3d` or `tnconv.nn.ConvNd`; of transposed convolutions and linear layers
                those of torch and `tnconv.nn.ConvTransposeNd`.
            rank: as for the layer; or what the weight is to be approximated to: `{"error": 0.05}` is the relative
                error in the Frobenius norm that is not exceeded, `{"energy": 0.95}` the share of the squared norm
                that is kept, `1 - error²`, both with few parameters; `"vbmf"` has each bond cut where variational
                Bayes sees noise, of Tucker, tensor train and hierarchical Tucker.
            in_shape: as for the layer.
            out_shape: as for the layer.
            blocks: as for the layer.
            iterations: sweeps of an alternating method from each of its starts, at most.
            seconds: time after which no further sweep begins; the factors depend on it. None is no bound.
            planner: as for the layer.
            autotune: as for the layer.
            batch_hint: as for the layer.
            decompose: False draws the factors anew and copies the bias only.

        Returns:
            A layer with the dtype, device and training mode of the module. One on the meta device has factors
            without values, as the module has.

        Raises:
            SpecError: the module is of another type or has what cannot be copied, the rank does not fit, no rank
                comes as near as wanted, or a cell of the weight is NaN or infinite.
        """
        budget = Budget.of(iterations, seconds)
        found = cls.source(module)
        weight: Tensor = found.module.weight
        check_dtype(weight)
        shapes = {"in_shape": in_shape, "out_shape": out_shape, "blocks": blocks}
        made = approximation(cls.form(found, shapes), weight, rank, budget, decompose)
        plan = {"planner": planner, "autotune": autotune, "batch_hint": batch_hint}
        return cls.with_factors(found, made, shapes | plan)

    @classmethod
    def form(cls, found: Source, shapes: Mapping[str, Any]) -> tuple[Family, WeightShape]:
        """The kind of factorisation and the shape of the weight of a layer that is to be made.

        Raises:
            SpecError: the shapes do not fit.
        """
        blank = cls._made(found, rank=1, device="meta", **shapes)
        return blank.description.family, blank.description.shape

    @classmethod
    def with_factors(cls, found: Source, made: Approximation, options: Mapping[str, Any]) -> Self:
        """A layer with factors that are there.

        Args:
            found: the dense layer.
            made: factors for its weight; without values they are drawn.
            options: of the constructor.
        """
        weight, bias = found.module.weight, found.module.bias
        rank = tuple(made.ranks.values())
        layer = cls._made(found, rank=rank, device=weight.device, dtype=weight.dtype, **options)
        layer._take(weight, bias, made)
        return layer.train(found.module.training)

    @classmethod
    def _made(cls, found: Source, **options: Any) -> Self:
        build: Any = cls
        layer: Self = build(**found.fields, **options)
        return layer

    @torch.no_grad()
    def _take(self, weight: Tensor, bias: Tensor | None, made: Approximation) -> None:
        for name, factor in made.factors.items():
            getattr(self, name).copy_(factor)
        self.error = made.error
        for parameter in self.factors.values():
            parameter.requires_grad_(weight.requires_grad)
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias).requires_grad_(bias.requires_grad)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch's, but factors keep their memory format: they are no images, whatever their number of axes."""

        def flat(tensor: Tensor) -> Tensor:
            return fn(tensor.reshape(-1)).reshape(tensor.shape) if tensor.ndim > 3 else fn(tensor)

        made: Self = super()._apply(flat, recurse)  # type: ignore[no-untyped-call]
        return made

    # -- the value -----------------------------------------------------------------------------------

    def _value(self, input: Tensor, description: Description) -> Tensor:
        # Read as attributes: a parametrised factor (weight_norm, prune, parametrize) is no entry of the registry.
        given: dict[str, Tensor] = dict(self.factors)
        if self.bias is not None:
            given["bias"] = self.bias
        sampler = self.sampler if self.training else None
        if isinstance(input, Tensor) and not seen():
            return convolved(description, input, given, sampler)
        layer = FactoredLayer(description, tuple(given), sampler)
        if isinstance(input, Tensor):
            return layer(input, *given.values())
        return no_tensors(layer, {"input": input}, input, *given.values())

    def compiled(self, input_size: Ints = (), training: bool = False) -> CompiledFunction:
        """What computes inputs of a size, for its texts: network, plan, source.

        Args:
            input_size: spatial size, an int or one for each dimension; nothing for a linear layer.
            training: what is run where input and factors need gradients; else where none does.

        Raises:
            SpecError: the kernel does not fit.
        """
        sizes = self.description.spec.sizes_of(typed("input_size", input_size, SpecInts))
        device = next(iter(self.factors.values())).device.type
        still: frozenset[str] | None = frozenset() if training else None
        return layer_function(self.description, sizes, "cuda" if device == "cuda" else "cpu", still)

    def network(self, input_size: Ints = (), batch_size: Symbolic = "N") -> Expression:
        """The forward network for inputs of a size, with the factors as parameters, as `tnconv.compile` takes it.

        Raises:
            SpecError: the kernel does not fit.
        """
        sizes = self.description.spec.sizes_of(typed("input_size", input_size, SpecInts))
        return self.description.network(
            replace(self.description.spec, input_size=sizes, batch_size=batch_size)
        )

    # -- what is shown ---------------------------------------------------------------------------------

    @property
    def compression(self) -> float:
        """Parameters of the factors over those of the dense weight."""
        family, shape = self.description.family, self.description.shape
        return family.parameters(shape, self.ranks) / shape.parameters

    def _shown(self) -> list[str]:
        """The bias, the shapes, the ranks, the parameters and the compression."""
        shape = self.description.shape
        text = ["bias=False"] if self.bias is None else []
        text += [f"in_shape={shape.ins}, out_shape={shape.outs}"] if shape.reshaped else []
        text.append(f"rank={shown_ranks(self.ranks)}")
        count = self.description.family.parameters(shape, self.ranks)
        return [*text, f"parameters={count} ({100 * self.compression:.3g}% of dense)"]


def checked_source(module: nn.Module, spec: Any, own: tuple[type[nn.Module], ...]) -> Any:
    """A dense layer, once it is one of torch's or of ours.

    Args:
        module: any.
        spec: the class that represents it.
        own: classes of tnconv that it may be of.

    Raises:
        SpecError: it is none, or has hooks or parametrizations.
    """
    if not isinstance(module, own):
        spec.check_module(module)
    check_copied(module, spec.rewritable, ("weight", "bias"))
    return module


def shown_ranks(ranks: Mapping[str, int]) -> str:
    """One number where all ranks are equal, else a tuple."""
    values = tuple(ranks.values())
    return str(values[0]) if len(set(values)) == 1 else str(values)


def _with_blocks(family: Family, blocks: int | None) -> Family:
    if blocks is None:
        return family
    if not hasattr(family, "blocks"):
        raise SpecError(f"blocks={blocks!r} is for block terms, but this is {family.name!r}; leave it out")
    changed: Any = family
    made: Family = replace(changed, blocks=blocks)
    return made
