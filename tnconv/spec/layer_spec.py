"""What all layer specs share: typed fields, the network, the file, the module they come from.

A spec keeps its fields as they were written; the properties in the plural (`strides`, `paddings`, …) have
one value per spatial dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from tnconv.errors import SpecError, meant
from tnconv.ir import Axis, Index, Network, Role, Size, Sum, Tensor, symbol
from tnconv.ir.guards import Guards, assuming
from tnconv.spec.fields import HELP, Extents, Symbolic, shown, typed
from tnconv.spec.files import write_file

LayerType = TypeVar("LayerType", bound="Layer")


class Layer(ABC):
    """A layer as a validated value; its subclasses are frozen dataclasses.

    Attributes:
        kind: what a file calls the layer.
        modules: the torch modules that it represents.
        rewritable: methods of these modules that decide what is computed.
        advice: what to give for each field, for messages.
    """

    kind: ClassVar[str]
    modules: ClassVar[tuple[type[nn.Module], ...]]
    rewritable: ClassVar[tuple[str, ...]] = ("forward",)
    advice: ClassVar[Mapping[str, str]] = HELP

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            object.__setattr__(self, name, typed(name, getattr(self, name), kind, self.advice))
        self._check_batch()
        self._check()

    def _check_batch(self) -> None:
        """Refuse a symbol that is the batch, by default `N`, and something else: nobody means that they are equal."""
        batch = getattr(self, "batch_size", None)
        for name, kind in field_types(type(self)).items() if isinstance(batch, str) else ():
            if kind in _SIZES and name != "batch_size" and batch in _texts(getattr(self, name)):
                raise SpecError(
                    f"{name} is {shown(getattr(self, name))} but batch_size is {batch!r}, too, so that both would be "
                    'equal in every call; name one otherwise, as by batch_size="B"'
                )

    @abstractmethod
    def _check(self) -> None:
        """Refuse fields that do not fit together."""

    @abstractmethod
    def _network(self, bias: bool) -> Network | Sum:
        """Build the forward network."""

    @cached_property
    def input_sizes(self) -> tuple[Size, ...]:
        """Extents of the input, without channels and without padding."""
        layer: Any = self  # a field of every subclass
        return self.sizes_of(layer.input_size)

    @abstractmethod
    def sizes_of(self, input_size: Extents) -> tuple[Size, ...]:
        """An input size as the layer reads it: one size an axis."""

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the size symbols in the fields, sorted."""
        found = (getattr(self, name) for name, kind in field_types(type(self)).items() if kind in _SIZES)
        return tuple(sorted({text for value in found for text in _texts(value)}))

    @cached_property
    def guards(self) -> Guards:
        """What has to hold for the sizes that symbols stand for, such as `K <= H + 2` and `C % G == 0`."""
        with assuming() as found:
            self._check()
        return found.guards

    def at(self, **sizes: int) -> Self:
        """The same layer with integers in place of symbols: `spec.at(H=56, W=56)`; those not named stay.

        Raises:
            SpecError: the layer has no such symbol, or the sizes do not fit together.
        """
        unknown = sorted(sizes.keys() - set(self.symbols))
        if unknown:
            raise SpecError(
                f"{unknown[0]}={shown(sizes[unknown[0]])} is given, but the layer has no such symbol"
                f"{meant(unknown[0], self.symbols)}; it has "
                f"{', '.join(self.symbols) or 'none'}"
            )
        layer: Any = self
        kinds = field_types(type(self))
        changed = {name: _with(getattr(self, name), sizes) for name, kind in kinds.items() if kind in _SIZES}
        made: Self = replace(layer, **changed)
        return made

    def network(self, bias: bool | None = None) -> Network | Sum:
        """The forward network, the same object every time.

        Args:
            bias: whether the bias is in it; as the spec says if left out.

        Returns:
            A Network with the nodes `x`, `p1`, `p2`, …, `weight` that the layer has; with a bias, a Sum of
            it and the bias.

        Raises:
            SpecError: a bias is asked for but the layer cannot have one.
        """
        own = getattr(self, "bias", None)
        if own is None and bias:
            raise SpecError(
                f"bias=True is asked for but {type(self).__name__} has no bias; leave it out, or take another "
                "operation"
            )
        return _built(self, bool(own if bias is None else bias))

    def save(self, path: str | Path) -> None:
        """Write the spec as TOML or JSON, by the suffix of the path; `load_spec` reads it back.

        Raises:
            SpecError: the suffix is another, or the file cannot be written.
        """
        layer: Any = self
        given = {name: value for name, value in asdict(layer).items() if value is not None}
        write_file(Path(path), {"kind": self.kind} | given)  # TOML has no null; None is always the default

    @classmethod
    def from_module(cls, module: nn.Module, input_size: Extents, batch_size: Symbolic = "N") -> Self:
        """The spec of a torch module of one of the types in `modules`.

        Args:
            module: whose attributes have the names of the fields.
            input_size: extent of the input, ints or names of symbols, one or one per spatial dimension.
            batch_size: an int, or the name of a symbol.

        Raises:
            SpecError: the module is of another type, or its fields are not represented.
        """
        cls.check_module(module)
        build: Any = cls
        made: Self = build(input_size=input_size, batch_size=batch_size, **module_fields(cls, module))
        return made

    @classmethod
    def check_module(cls, module: nn.Module) -> None:
        """Refuse a module that computes something else than the layer.

        Raises:
            SpecError: the module is of another type, overrides what it computes, or has no shape yet.
        """
        name, spec = type(module).__name__, cls.__name__
        if isinstance(module, LazyModuleMixin):
            raise SpecError(
                f"{name} does not know its weight's shape yet; run it once on an input, or give a {spec}"
            )
        base = next((t for t in cls.modules if isinstance(module, t)), None)
        if base is None:
            raise SpecError(f"a module of type {name} is not represented; give {module_names(cls.modules)}")
        if any(getattr(type(module), method) is not getattr(base, method) for method in cls.rewritable):
            raise SpecError(
                f"{name} computes something else than {base.__name__}; give a {spec} of what it computes"
            )


_SIZES = (Symbolic, Extents)  # the types of fields that may hold symbols


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, str))


def _with(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_with(v, sizes) for v in value)
    return sizes.get(value, value) if isinstance(value, str) else value


def of_numbers(layer: LayerType) -> LayerType:
    """A layer whose sizes, but for that of the batch, are numbers, as those of tensors and modules are.

    Raises:
        SpecError: one is a symbol.
    """
    for name, kind in field_types(type(layer)).items():
        texts = _texts(getattr(layer, name)) if kind in _SIZES and name != "batch_size" else ()
        if texts:
            raise SpecError(f"{name} is {shown(getattr(layer, name))}, which has a symbol; give ints here")
    return layer


class KnowsSpec:
    """A module that knows its spec, beside those of torch: a mixin."""

    def spec(self, input_size: Any, batch_size: Any = "N") -> Layer:
        """The layer for inputs of a size.

        Raises:
            SpecError: the kernel does not fit into the input.
        """
        raise NotImplementedError(f"{type(self).__name__} has no spec")


@lru_cache(maxsize=64)
def field_types(layer: type[Any]) -> dict[str, Any]:
    """The fields of a spec with their types, in order."""
    hints = get_type_hints(layer)
    return {field.name: hints[field.name] for field in fields(layer)}


def module_field_names(layer: type[Layer]) -> list[str]:
    """The fields of a spec that torch's modules have."""
    return [name for name in field_types(layer) if name not in ("input_size", "batch_size")]


def module_fields(layer: type[Layer], module: nn.Module) -> dict[str, Any]:
    """The fields of a spec that a module has as attributes of the same names; of its bias, whether there is one."""
    found = {name: getattr(module, name) for name in module_field_names(layer)}
    return found | ({"bias": found["bias"] is not None} if "bias" in found else {})


def required_fields(layer: type[Any]) -> tuple[str, ...]:
    """The fields of a spec that have no default."""
    return tuple(field.name for field in fields(layer) if field.default is MISSING)


@lru_cache(maxsize=1024)
def _built(layer: Layer, bias: bool) -> Network | Sum:
    return layer._network(bias)


def module_names(modules: Sequence[type[nn.Module]]) -> str:
    """The modules as text: `an nn.Conv1d, nn.Conv2d or nn.Conv3d`."""
    *most, last = [f"nn.{module.__name__}" for module in modules]
    return f"an {', '.join(most)} or {last}" if most else f"an {last}"


# -- parts of networks --------------------------------------------------------------------------------


def size_of(value: int | str) -> Size:
    """The size that a field means: an int, or a symbol by its name."""
    return symbol(value) if isinstance(value, str) else value


def positions(letter: str, sizes: Sequence[Size]) -> list[Index]:
    """The indices `i1 i2 …` of a letter, one for each spatial dimension."""
    return [Index(f"{letter}{place}", size) for place, size in enumerate(sizes, 1)]


def with_bias(product: Network, channels: Axis) -> Sum:
    """The network and, as a second term, a bias with an axis of channels that is the same at all positions."""
    name = f"{product.name}.bias"
    term = Network(name, (Tensor("bias", Role.PARAMETER, (channels,)),), product.output)
    return Sum(product.name, (product, term))
