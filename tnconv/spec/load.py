"""Where specs come from: a file, or whatever a user hands over as a layer."""

import re
from pathlib import Path
from typing import Any, cast

from torch import nn

from tnconv.errors import SpecError, closest, meant
from tnconv.spec.conv_spec import ConvSpec
from tnconv.spec.conv_transpose_spec import ConvTransposeSpec
from tnconv.spec.fields import Extents, Symbolic, shown, size_names, typed
from tnconv.spec.files import read_file
from tnconv.spec.layer_spec import KnowsSpec, Layer, field_types, module_names, required_fields
from tnconv.spec.linear_spec import LinearSpec
from tnconv.spec.pool_spec import PoolSpec
from tnconv.spec.unfold_spec import UnfoldSpec

LayerSpec = ConvSpec | ConvTransposeSpec | LinearSpec | PoolSpec | UnfoldSpec
LAYERS: tuple[type[LayerSpec], ...] = (ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec)
_BY_KIND = {layer.kind: layer for layer in LAYERS}
_KNOWN = [module for layer in LAYERS for module in layer.modules]
_MODULES = module_names(_KNOWN)


def load_spec(path: str | Path, *, any_size: bool = False) -> LayerSpec:
    """Read a spec from a TOML or JSON file.

    Its top-level keys are the fields of the spec, and `kind`, one of `"conv"` (the default),
    `"conv_transpose"`, `"linear"`, `"avg_pool"` and `"unfold"`.

    Args:
        path: of the file.
        any_size: whether an input size that the file leaves out is one symbol for each value of `kernel_size`.

    Raises:
        SpecError: the file cannot be read, is not TOML or JSON, or its content is not a valid spec.
    """
    file = Path(path)
    content = read_file(file)
    if any_size and isinstance(content, dict) and "kernel_size" in content and "input_size" not in content:
        kernel = content["kernel_size"]
        content = content | {"input_size": size_names(len(kernel) if isinstance(kernel, list) else 1)}
    try:
        return _from_dict(content)
    except SpecError as error:
        raise SpecError(f"spec file {str(file)!r}: {error}") from error


def spec_from_module(
    module: nn.Module, input_size: Extents | None = None, batch_size: Symbolic = "N"
) -> LayerSpec:
    """The spec of a module of torch or of `tnconv.nn`.

    Pooling and unfolding do not know their channels, which become the symbol `C`; `PoolSpec.from_module`
    and `UnfoldSpec.from_module` take a number of them.

    Args:
        module: of a type that one of the specs represents.
        input_size: extent of the input, an int or one per spatial dimension; for an `nn.Linear` the sizes of
            the sequence axes, none if left out.
        batch_size: an int, or the name of a symbol.

    Raises:
        SpecError: the module or one of its fields is not represented, or the input size is missing.
    """
    name = type(module).__name__
    own = isinstance(module, KnowsSpec)
    layer = next((layer for layer in LAYERS if isinstance(module, layer.modules)), None)
    if layer is None and not own:
        raise SpecError(f"a module of type {name} is not represented; give {_MODULES}{_of_model(module)}")
    if input_size is None:
        if layer is not LinearSpec:
            raise SpecError(
                f"{name} does not know its input's size; give input_size, such as {an_input(module)}"
            )
        input_size = ()
    if isinstance(module, KnowsSpec):
        _check_forward(module)
        made: Any = module.spec(input_size, batch_size)
        return cast(LayerSpec, made)
    assert layer is not None
    return layer.from_module(module, input_size, batch_size)


def dims_of_module(module: object) -> int:
    """The number of spatial dimensions of a module: as its name says, else that of its kernel."""
    if isinstance(module, nn.Unfold):
        return 2
    named = re.search(r"(\d)d\Z", type(module).__name__)
    if named is not None:
        return int(named[1])
    kernel = getattr(module, "kernel_size", 1)
    return len(kernel) if isinstance(kernel, tuple) else 1


def an_input(module: object) -> str:
    """An input size that a module may have, as it is written: `input_size=(56, 56)`."""
    return f"input_size={(56,) * dims_of_module(module)}"


def _of_model(module: nn.Module) -> str:
    """Where to go with a model: it is no layer."""
    inside = next((name for name, each in module.named_modules() if name and type(each) in _KNOWN), None)
    return "" if inside is None else f", such as {inside!r} of this one; tnconv.curvature is for whole models"


def _check_forward(module: KnowsSpec) -> None:
    """Refuse a subclass of a module of our own that computes something else."""
    kind: Any = type(module)
    bases: Any = kind.__mro__
    place = next(number for number, base in enumerate(bases) if "spec" in vars(base))
    # Where a class without a forward of its own has the method, the first that took it from there.
    owner = next(b for b in bases[place::-1] if issubclass(b, bases[place]) and hasattr(b, "forward"))
    if kind.forward is not owner.forward or "forward" in vars(module):
        raise SpecError(
            f"{kind.__name__} computes something else than {owner.__name__}; give a spec of what it computes"
        )


def as_spec(source: object, input_size: Extents | None = None) -> Layer:
    """The spec that a user means by a spec or a module.

    Args:
        source: a spec, or a torch module that a spec represents.
        input_size: extent of the input; a module needs it (an `nn.Linear` only where the input has sequence
            axes), a spec has it.

    Raises:
        SpecError: the source is neither, or the input size is missing or contradicts the spec.
    """
    if isinstance(source, nn.Module):
        return spec_from_module(source, input_size)
    if not isinstance(source, Layer):
        specs = ", ".join(layer.__name__ for layer in LAYERS)
        also = "; tnconv.spec.parse_layer reads a text" if isinstance(source, str) else ""
        what = f"class {source.__name__!r}" if isinstance(source, type) else repr(type(source).__name__)
        raise SpecError(f"{what} is not a layer; give a {specs}, or {_MODULES}{also}")
    if input_size is not None:
        sizes = source.sizes_of(typed("input_size", input_size, Extents, source.advice))
        if sizes != source.input_sizes:
            raise SpecError(
                f"input_size is {sizes} but the spec has {source.input_sizes}; give it in the spec alone"
            )
    return source


def _from_dict(content: object) -> LayerSpec:
    if not isinstance(content, dict):
        raise SpecError(
            f"the content is {shown(content)}, not a table of fields; write in_channels, out_channels, …"
        )
    given = dict(content)
    kind = given.pop("kind", ConvSpec.kind)
    layer = _BY_KIND.get(kind) if isinstance(kind, str) else None
    if layer is None:
        known = ", ".join(map(repr, _BY_KIND))
        raise SpecError(
            f"kind is {shown(kind)} but only {known} are known; write one of these{meant(kind, _BY_KIND)}"
        )
    _check_fields(layer, given)
    return layer(**given)


def _check_fields(layer: type[Layer], given: dict[str, object]) -> None:
    known = field_types(layer)
    for name in given:
        if name not in known:
            near = closest(name, known)
            hint = f"did you mean {near!r}?" if near else f"the fields are {', '.join(known)}"
            raise SpecError(f"unknown field {shown(name)}; {hint}")
    missing = [name for name in required_fields(layer) if name not in given]
    if missing:
        raise SpecError(f"field {missing[0]!r} is missing; {layer.advice[missing[0]]}")
