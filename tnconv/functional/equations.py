"""Compiled equations, and how calls look them up: once for each equation and shapes, whatever the dtype and device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tnconv.backends.arrays import Arrays
from tnconv.backends.backend import backend_of
from tnconv.backends.signature import Signature
from tnconv.backends.torch.context import fixed, is_open, is_traced, takes_over
from tnconv.backends.torch.tensors import TENSORS
from tnconv.compiler.candidate import Executable
from tnconv.compiler.compile_cache import CompileCache
from tnconv.compiler.function import CompiledFunction
from tnconv.errors import ArgumentError, TnconvError
from tnconv.ir import Network
from tnconv.notation.equation_text import operand_name

KEPT = CompileCache(1024)


class EinsumFunction(CompiledFunction):
    """A compiled equation: call it with the operands in the order of its terms.

    Attributes:
        equation: the text.
        arguments: names of the operands, `x1`, `x2`, …
    """

    def __init__(self, equation: str, network: Network, compiled: CompiledFunction) -> None:
        self.equation = equation
        made = compiled.stages, compiled.built
        super().__init__(compiled.op, compiled.network, *made, arithmetic=compiled.arithmetic)
        self.arguments = tuple(operand_name(number) for number in range(len(self.arguments)))
        axes = Signature.of(network).axes  # before passes: with the names of the equation
        self._signature = Signature({name: axes[name] for name in self.arguments})

    def _take(self, built: Executable) -> None:
        super()._take(built)
        names = [operand_name(number) for number in range(len(self.network.arguments))]
        places = [names.index(name) for name in self.network.arguments]
        if places != sorted(places):
            program = self._function
            self._function = lambda *tensors: program(*[tensors[place] for place in places])

    def __repr__(self) -> str:
        return f"<tnconv {self.op} {self.equation!r} ({', '.join(self.arguments)}): {self.cost}>"


def any_empty(shapes: tuple[torch.Size, ...]) -> bool:
    """Whether an operand is known to have no cell."""
    return not any(map(is_open, shapes)) and any(0 in shape for shape in shapes)


def zeros(shape: tuple[int, ...], operands: tuple[Tensor, ...], arrays: Arrays) -> Tensor:
    """The value where an operand is empty; every operand has a gradient, of zeros.

    Raises:
        ArgumentError: the operands are of several dtypes or devices.
    """
    first = operands[0]
    for number, operand in enumerate(operands):
        if (operand.dtype, arrays.place(operand)) != (first.dtype, arrays.place(first)):
            raise ArgumentError(
                f"operand {operand_name(number)} is {operand.dtype} on {operand.device} but {operand_name(0)} is "
                f"{first.dtype} on {first.device}; convert one to the other"
            )
    found: Tensor = arrays.zeros(shape, operands)
    return found


def new_function(
    key: tuple[Any, ...], operands: tuple[Tensor, ...], expression: Callable[..., CompiledFunction]
) -> CompiledFunction:
    """Compile an equation for the shapes of operands, and keep it where none is open.

    Args:
        key: by which it is kept; the shapes are its third part.
        operands: of the call.
        expression: compiles it for shapes.
    """
    if not any(is_open(operand.shape) for operand in operands):
        return KEPT.keep(key, expression(*[operand.shape for operand in operands]))
    if is_traced():
        shapes = tuple(torch.Size(fixed(operand)) for operand in operands)
        key = (*key[:2], shapes, *key[3:])
        return KEPT.get(key, lambda: expression(*shapes))
    try:  # another tracer has symbols for some sizes: they stay where a name stands alone on its axis
        found = expression(*[[_named(size) for size in operand.shape] for operand in operands])
        if not found.sizes:
            return found
    except TnconvError:
        pass
    return expression(*map(fixed, operands))


def _named(size: Any) -> int | str:
    text = str(size)
    return text if text.isidentifier() else int(size)


def left_to(operands: tuple[Any, ...], function: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
    """The call as operands that are no tensors take it, such as proxies of `torch.fx`."""
    result: Tensor = torch.overrides.handle_torch_function(function, operands, *given, **named)
    return result


def arrays_of(options: Mapping[str, Any]) -> Arrays:
    """The library that operands are of: that of the backend."""
    name = options.get("backend")
    return backend_of(name).arrays if isinstance(name, str) else TENSORS


def shapes_of(operands: tuple[Tensor, ...], arrays: Arrays) -> tuple[torch.Size, ...] | None:
    """The shapes; None where an operand is no array but takes calls over."""
    for number, operand in enumerate(operands):
        if not arrays.is_array(operand):
            if arrays is TENSORS and takes_over(operands):
                return None
            raise ArgumentError(
                f"operand {operand_name(number)} is a {type(operand).__name__}, not {arrays.kind}; pass a {arrays.noun}"
            )
    return tuple([operand.shape for operand in operands])
