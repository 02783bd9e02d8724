"""Capture: which layers a forward pass calls with tracked parameters, seen from outside, without hooks.

A `TorchFunctionMode` sees every call of a function of torch. Those of layers are noted, and read when they are asked
for (`tnconv.curvature.layer_calls`): between two layers Python runs from a cold cache, which takes ten times as long.
A parameter that goes into any other function that makes something differentiable is *unread*, and is named when the
captured parameters are asked for. A layer of `tnconv.nn` that is factorised or sampled is one call
(`tnconv.functional.visible`): of the factors of its weight, and of the exact layer that is sampled.
"""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name

from tnconv.curvature.broadcasts import is_view, read_cellwise
from tnconv.curvature.layer_calls import LayerCall, Read
from tnconv.curvature.models import Names, named, tracked_of
from tnconv.curvature.readers import READERS, Reader, read_visible
from tnconv.errors import CaptureError
from tnconv.functional.visible import VisibleLayer

_ATTENTION = F.multi_head_attention_forward
Called = tuple[Callable[..., Any], Callable[..., Read | None], tuple[Any, ...], Mapping[str, Any]]
_TRAINING = "batch_norm in training mode"
_OFF = "a function where gradients are off (torch.no_grad, torch.autograd.Function, reentrant checkpointing)"


class Capture(TorchFunctionMode):
    """Records the calls of layers with tracked parameters, while it is entered.

    Args:
        parameters: what is tracked, by name.
        current: parameters of the model as they are now, for modules that replace them (FSDP); None for none.
        seen: called with the place of each call among `calls`, and its output.

    Attributes:
        opaque: nodes of the history, each of which counts as one use of a parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        current: Callable[[], Mapping[str, Tensor]] | None = None,
        seen: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.parameters = dict(parameters)
        self._calls: list[LayerCall] = []
        self._unread: dict[str, str] = {}
        self._mixing: list[str] = []
        self._noted: list[tuple[Any, ...]] = []  # not read yet
        self._told = 0
        self.opaque: set[Any] = set()
        self._current, self._seen = current, seen
        self._name = {id(tensor): name for name, tensor in self.parameters.items()}
        self._alive: list[Tensor] = list(self.parameters.values())  # ids are of tensors that live
        self._others: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a call, and record it if it is of a layer."""
        kwargs = kwargs or {}
        if isinstance(func, VisibleLayer):
            return self._visible(func, *args)
        reader = READERS.get(func)
        if reader is not None:
            return self._layer(func, reader, args, kwargs)
        found = self._tracked(args) if args else []
        if kwargs:
            found += self._tracked(tuple(kwargs.values()))
        if not found:
            return func(*args, **kwargs)
        if func is _ATTENTION:
            with self:
                return _attention(*args, **kwargs)
        return self._other(func, args, kwargs, found)

    @property
    def calls(self) -> list[LayerCall]:
        """In the order of the forward pass."""
        self._read()
        return self._calls

    @property
    def unread(self) -> dict[str, str]:
        """Of a parameter, the function that took it and is not read."""
        self._read()
        return self._unread

    @property
    def mixing(self) -> list[str]:
        """Functions through which examples depend on each other."""
        self._read()
        return self._mixing

    def missing(self) -> dict[str, str]:
        """What is tracked but not captured: the reason, by name."""
        captured = {name for call in self.calls for name in call.names}
        found = {}
        for name in self.parameters:
            if name in self.unread:
                found[name] = f"it is used by {self.unread[name]}, which is not read"
            elif name not in captured:
                found[name] = "no function of the forward pass uses it"
        return found

    def leaves(self) -> list[tuple[str, Tensor]]:
        """The tracked tensors that nothing is behind, with their names."""
        leaves = [t for t in self._alive if t.is_leaf and t.requires_grad]
        return [(self._name[id(t)], t) for t in leaves if id(t) in self._name]

    # -- one call ----------------------------------------------------------------------------------------

    def _layer(
        self, func: Callable[..., Any], reader: Reader, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """A call of a function that is read."""
        result = func(*args, **kwargs)
        read, at_x, at_weight, at_bias = reader
        count = len(args)
        x = args[at_x] if at_x < count else kwargs.get("input", kwargs.get("indices"))
        weight = self._named(args[at_weight] if at_weight < count else kwargs.get("weight"))
        bias = self._named(args[at_bias] if at_bias < count else kwargs.get("bias"))
        if weight is not None or bias is not None or id(x) in self._name:
            self._note((func, read, args, kwargs), weight, bias, x, result)
        elif func is F.batch_norm and read(*args, **kwargs) is None:
            self._mixing.append(_TRAINING)
        return result

    def _visible(self, layer: VisibleLayer, input: Tensor, *parameters: Tensor | None) -> Any:
        """A call of a layer of tnconv, which is one use of each of its parameters, whatever its program does."""
        given = [p if p is None or self._named(p) is None else p.view_as(p) for p in parameters]
        self.opaque.update(p.grad_fn for p in given if p is not None)
        result = layer(input, *given)
        for read in read_visible(layer, input, parameters):
            weight, bias = self._named(read.weight), self._named(read.bias)
            if weight is not None or bias is not None:
                self._note(read, weight, bias, read.x, result)
        if result.requires_grad:
            self._leave(layer, self._tracked((input,)))
        return result

    def _other(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], found: list[Tensor]
    ) -> Any:
        """A call of another function with tracked parameters among its arguments."""
        result = func(*args, **kwargs)
        if not _differentiable(result):
            return result
        if len(found) == 1:
            parameter = found[0]
            name = self._name[id(parameter)]
            if is_view(func, parameter, result):
                self._name[id(result)] = name
                self._alive.append(result)
                return result
            read = (
                read_cellwise(func, args, kwargs, parameter, result) if isinstance(result, Tensor) else None
            )
            if read is not None:
                self._note(read, name, None, read.x, result)
                return result
        self._leave(func, found)
        return result

    def _leave(self, func: Callable[..., Any], found: list[Tensor]) -> None:
        """Note that parameters are used by a function that is not read."""
        for tensor in found:
            self._unread.setdefault(self._name[id(tensor)], _called(func))

    # -- noted in the pass, read behind it ---------------------------------------------------------------

    def _note(
        self, call: Called | Read, weight: str | None, bias: str | None, x: Tensor | None, result: Tensor
    ) -> None:
        """Keep a call with what later ones may change: the edge of the result, how often the input was written to."""
        edge: Any = result.grad_fn
        if edge is None:
            edge = get_gradient_edge(result) if result.requires_grad else None
        elif isinstance(edge, torch._C._FunctionBase):  # an edge has to own the history of these
            edge = get_gradient_edge(result)
        version = 0 if x is None or edge is None else x._version
        of_result = edge, result.output_nr, result.shape, result.is_complex()
        self._noted.append((call, weight, bias, x, version, of_result))
        if self._seen is not None and len(self.calls) > self._told:
            self._seen(self._told, result)
            self._told += 1

    def _read(self) -> None:
        noted, self._noted = self._noted, []
        for call, weight, bias, x, version, of_result in noted:
            if isinstance(call, Read):
                self._record(call, weight, bias, version, *of_result)
                continue
            func, reader, args, kwargs = call
            read = reader(*args, **kwargs)
            if read is None and func is F.batch_norm:
                self._mixing.append(_TRAINING)
            if of_result[0] is not None:
                self._leave(func, self._tracked((*args, *kwargs.values()) if read is None else (x,)))
            if read is not None:
                self._record(read, weight, bias, version, *of_result)

    def _record(
        self,
        read: Read,
        weight: str | None,
        bias: str | None,
        version: int,
        edge: Any,
        number: int,
        shape: torch.Size,
        is_complex: bool,
    ) -> None:
        names = [name for name in (weight, bias) if name is not None]
        if edge is None:
            for name in names:
                self._unread.setdefault(name, _OFF)
        elif names:
            if is_complex:
                raise CaptureError(
                    f"what the layer of parameter {names[0]!r} computes is complex, but curvature of models is of real "
                    "values; compile the operations of the layer with tnconv.compile"
                )
            x = None if read.x is None else read.x.detach()
            made = edge if isinstance(edge, GradientEdge) else GradientEdge(edge, number)
            self._calls.append(LayerCall(weight, bias, x, made, shape, read, version))

    # -- names -------------------------------------------------------------------------------------------

    def _named(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter of a layer, if it is tracked."""
        if tensor is None:
            return None
        name = self._name.get(id(tensor))
        if name is not None or self._current is None or id(tensor) in self._others:
            return name
        for new, parameter in self._current().items():  # a wrapper may have exchanged them (FSDP)
            if id(parameter) in self._name or id(parameter) in self._others:
                continue
            self._alive.append(parameter)
            if new in self.parameters:
                self._name[id(parameter)] = new
            else:
                self._others.add(id(parameter))
        if id(tensor) not in self._name:
            self._others.add(id(tensor))
            self._alive.append(tensor)
        return self._name.get(id(tensor))

    def _tracked(self, values: tuple[Any, ...]) -> list[Tensor]:
        """Tracked tensors among values, and in lists among them."""
        found = []
        for value in values:
            if id(value) in self._name:
                found.append(value)
            elif type(value) in (list, tuple):
                found += self._tracked(tuple(value))
        return found


def capture(model: nn.Module | Callable[..., Any], params: Names | None = None) -> Capture:
    """Record the layers that are called with some parameters, in a `with` block.

        with tnconv.curvature.capture(model) as captured:
            output = model(x)
        captured.calls  # a LayerCall for each, with the layer's spec, input, and the edge of its output

    Args:
        model: a module; or any callable, if `params` has tensors by name.
        params: names, tensors, or tensors by name; the parameters of the module that require gradients if left out.

    Raises:
        CaptureError: there is no such parameter, or none at all.
    """
    tracked = tracked_of(model, params)
    return Capture(tracked, (lambda: named(model)) if isinstance(model, nn.Module) else None)


def _differentiable(result: object) -> bool:
    if isinstance(result, Tensor):
        return result.requires_grad
    return isinstance(result, list | tuple) and any(map(_differentiable, result))


def _called(func: Callable[..., Any]) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", func))


def _blind(function: Any) -> Callable[..., Any]:
    """A function of torch that calls others as ever, but does not ask whether a mode takes it over itself.

    Multi-head attention is a function of Python whose layers a mode sees only from within.
    """
    names = function.__globals__ | {
        "has_torch_function": lambda *_: False,
        "has_torch_function_variadic": lambda *_: False,
    }
    return types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )


_attention = _blind(_ATTENTION)
_attention.__kwdefaults__ = _ATTENTION.__kwdefaults__
