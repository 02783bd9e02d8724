"""A layer as text, `Conv2d(64, 128, 3, stride=2, padding=1)`: a call with literals, read and never evaluated."""

import ast
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from tnconv.errors import SpecError, meant
from tnconv.spec.conv_spec import ConvSpec
from tnconv.spec.conv_transpose_spec import ConvTransposeSpec
from tnconv.spec.fields import Extents, Symbolic, shown, size_names, spread, typed
from tnconv.spec.layer_spec import Layer, field_types
from tnconv.spec.load import LAYERS, LayerSpec, dims_of_module, spec_from_module

T = TypeVar("T")

_BEGINS = re.compile(r"\s*(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*\s*\(", re.ASCII)
_LONGEST = 2000
_LARGE = 2**40  # an input that every kernel fits into
_EXAMPLE = "write a call such as Conv2d(64, 128, 3, padding=1)"
_OF_TENSORS = ("device", "dtype")  # arguments of modules that are no part of a layer
_OF_INPUTS: Mapping[str, Any] = {"input_size": Extents, "batch_size": Symbolic}  # what modules do not know
CLASSES: Mapping[str, type[Any]] = {
    kind.__name__: kind for layer in LAYERS for kind in (*layer.modules, layer)
}


def is_layer_text(text: str) -> bool:
    """Whether a text begins as a call does, `Conv2d(`; what is wrong with the rest, `parse_layer` says."""
    return _BEGINS.match(text) is not None


def parse_layer(text: str, *, any_size: bool = False) -> LayerSpec:
    """Read a layer such as `Conv2d(64, 128, 3, padding=1, input_size=(56, 56))`.

    What is called is a module of torch that a spec represents, with torch's arguments and defaults and, besides,
    `input_size` and `batch_size`; or a spec, as `ConvSpec("C", "D", 3, ("H", "W"))`. Values are numbers, texts,
    `True`, `False`, `None`, and tuples or lists of these: nothing is evaluated.

    Args:
        text: the call.
        any_size: whether an input size that is left out is one symbol for each spatial dimension.

    Raises:
        SpecError: the text is no such call, or the layer cannot have a value; the message has the value and the
            character that it begins at.
    """
    made: LayerSpec = read_layer(text, CLASSES, spec_from_module, any_size)
    return made


def read_layer(
    text: str, classes: Mapping[str, type[Any]], of_module: Callable[..., T], any_size: bool = False
) -> T | LayerSpec:
    """What a call stands for; no memory is taken for the parameters of a module.

    Args:
        text: the call.
        classes: specs and modules that may be called, by name.
        of_module: what is made of a module, an input size and a batch size.
        any_size: as for `parse_layer`.

    Raises:
        SpecError: as of `parse_layer`.
    """
    call = _Call.read(text.strip())
    kind = call.class_of(classes)
    values = call.values(kind)
    if issubclass(kind, Layer):
        if any_size and "input_size" in _parameters(kind) and "kernel_size" in values:
            values.setdefault("input_size", size_names(_length(values["kernel_size"])))
        call.check_complete(kind, values)
        made: Any = call.said(lambda: kind(**values))
        return made  # type: ignore[no-any-return]
    call.check_complete(kind, values)
    size, batch = values.pop("input_size", None), values.pop("batch_size", "N")
    call.said(lambda: _check_fields(kind, values))
    module = call.said(lambda: _without_memory(kind, values))
    if any_size and size is None and not hasattr(module, "in_features"):
        size = size_names(dims_of_module(module))
    return call.said(lambda: of_module(module, size, batch))


def _check_fields(kind: type[nn.Module], values: Mapping[str, Any]) -> None:
    """Refuse fields of a convolution that do not fit together, with the words of its spec: torch's have no values."""
    layer = next((each for each in (ConvSpec, ConvTransposeSpec) if issubclass(kind, each.modules)), None)
    if layer is None:
        return
    dims = layer.modules.index(next(each for each in layer.modules if issubclass(kind, each))) + 1
    fields = {name: value for name, value in values.items() if name in field_types(layer)}
    fields["kernel_size"] = spread("kernel_size", fields["kernel_size"], dims)
    layer(**fields, input_size=(_LARGE,) * dims)


def _without_memory(kind: type[nn.Module], values: Mapping[str, Any]) -> nn.Module:
    """A module on the meta device; to draw parameters there would load seconds of torch."""
    plain: Any = type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})
    try:
        with torch.device("meta"):
            module: nn.Module = plain(**values)
            return module
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise SpecError(f"{kind.__name__} cannot be made: {error}; correct its arguments") from error


def _length(value: object) -> int:
    return len(value) if isinstance(value, tuple) else 1


# -- the call -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A call as it is written; messages name the characters of its text."""

    text: str
    node: ast.Call

    @classmethod
    def read(cls, text: str) -> "_Call":
        node = _parsed(text)
        if not isinstance(node, ast.Call):
            raise _error(text, 0, f"it is no call; {_EXAMPLE}")
        return cls(text, node)

    def said(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except SpecError as error:
            raise SpecError(f"layer {shown(self.text)}: {error}") from error

    def error(self, node: ast.expr | ast.keyword, message: str) -> SpecError:
        lines = self.text.split("\n")[: node.lineno]
        column = len(lines[-1].encode()[: node.col_offset].decode())  # Python counts bytes
        return _error(self.text, sum(len(line) + 1 for line in lines[:-1]) + column, message)

    def class_of(self, classes: Mapping[str, type[Any]]) -> type[Any]:
        """The class that is called."""
        written = ast.unparse(self.node.func)
        name = re.sub(r"\A(torch\.|tnconv\.)?(nn\.)?", "", written)
        kind = classes.get(name)
        if kind is None:
            near = meant(name, classes)
            raise self.error(
                self.node, f"{shown(written)} is no layer{near}; the layers are {', '.join(classes)}"
            )
        return kind

    def values(self, kind: type[Any]) -> dict[str, Any]:
        """The arguments by name, with the types that the fields of layers have."""
        known = _parameters(kind)
        ordered = [p.name for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for node in self.node.args[len(ordered) :]:
            takes = f"{kind.__name__} takes {len(ordered)} by position, {', '.join(ordered)}"
            raise self.error(
                node, f"there are {len(self.node.args)} arguments, but {takes}; write the others by name"
            )
        found: dict[str, Any] = {}
        for name, node in zip(ordered, self.node.args, strict=False):
            found[name] = self._value(kind, name, node)
        for keyword in self.node.keywords:
            name = keyword.arg or "**"
            if name not in known:
                near = meant(name, known)
                raise self.error(
                    keyword, f"{kind.__name__} has no argument {name!r}{near}; it has {', '.join(known)}"
                )
            value = self._value(kind, name, keyword.value)
            if name in found:
                raise self.error(keyword, f"{name} is {shown(found[name])} and {shown(value)}; give it once")
            found[name] = value
        return found

    def _value(self, kind: type[Any], name: str, node: ast.expr) -> Any:
        value = self._literal(node)
        layer = next((each for each in LAYERS if issubclass(kind, (each, *each.modules))), ConvSpec)
        types = {**_OF_INPUTS, **field_types(layer)}
        if name not in types:
            return value
        try:
            read = typed(name, value, types[name], layer.advice)
        except SpecError as error:
            raise self.error(node, str(error)) from error
        numbers = (
            not issubclass(kind, Layer) and name not in _OF_INPUTS and types[name] in _OF_INPUTS.values()
        )
        if numbers and any(isinstance(each, str) for each in (read if isinstance(read, tuple) else (read,))):
            of_symbols = f"write a {layer.__name__} for symbols"
            raise self.error(
                node, f"{name} is {shown(value)}, but {kind.__name__} takes numbers; {of_symbols}"
            )
        return read

    def _literal(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return tuple(self._literal(part) for part in parts)
        written = ast.get_source_segment(self.text, node) or ast.unparse(node)
        wanted = "a number, a text, True, False, None, or a tuple of these"
        raise self.error(node, f"{shown(written)} is no literal; write {wanted}")

    def check_complete(self, kind: type[Any], values: Mapping[str, Any]) -> None:
        for name, parameter in _parameters(kind).items():
            if parameter.default is parameter.empty and name not in values:
                advice = next((each.advice[name] for each in LAYERS if name in each.advice), f"write {name}=")
                raise _error(self.text, len(self.text) - 1, f"{kind.__name__} needs {name}; {advice}")


def _error(text: str, place: int, message: str) -> SpecError:
    """An error about what begins at a place of the text, counted from 0."""
    return SpecError(f"layer {shown(text)}, character {place + 1}: {message}")


def _parsed(text: str) -> ast.expr:
    """The expression that a text is."""
    if len(text) > _LONGEST:
        raise SpecError(f"a layer of {len(text)} characters is given; write one of at most {_LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about literals such as 9N, which are refused below
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        lines = text.split("\n")[: (error.lineno or 1) - 1]
        place = sum(len(line) + 1 for line in lines) + max((error.offset or 1) - 1, 0)
        raise _error(text, place, f"{error.msg}; {_EXAMPLE}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _error(text, 0, f"it cannot be read: {error or type(error).__name__}; {_EXAMPLE}") from error


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """What a class takes; of a module also how large its input is."""
    own = {n: p for n, p in inspect.signature(kind).parameters.items() if n not in _OF_TENSORS}
    if issubclass(kind, Layer):
        return own
    return own | {n: inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in _OF_INPUTS}
