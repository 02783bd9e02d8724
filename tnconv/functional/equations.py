"""Equations on tensors: `einsum` in tnconv's notation, `conv_einsum` in that of arXiv 2401.03384.

Both compile their network once for each equation and shapes, whatever the dtype and device, and keep it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tnconv.api import compile
from tnconv.backends.arrays import Arrays
from tnconv.backends.backend import backend_of
from tnconv.backends.signature import Signature
from tnconv.backends.torch.context import fixed, is_open, is_traced, takes_over
from tnconv.backends.torch.tensors import TENSORS
from tnconv.compiler.candidate import Executable
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.options import OPTIONS
from tnconv.errors import ArgumentError, TnconvError
from tnconv.ir import Network, as_integer
from tnconv.notation import affine_network, affine_shape, convolution_network, convolution_shape
from tnconv.notation.equation_text import operand_name

_PORTED = {"max_zeros": "same", "max_circular": "circular"}
_MOST_KEPT = 1024
_kept: "dict[tuple[Any, ...], EinsumFunction]" = {}  # compiled equations, by all that they depend on
_OF_LAYERS = {"convention", "groups", "bias", "sample", "sampling", "preselect"}
_OPTIONS = frozenset(OPTIONS) - _OF_LAYERS


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


def einsum(equation: str, /, *operands: Tensor, mode: str | None = None, **sizes: Any) -> Tensor:
    """Sum a product of tensors whose axes may be affine expressions of indices.

    `tnconv.einsum("n c 2*h+r-3 2*w+s-3, k c r s -> n k h w", x, w)` is a strided convolution with padding 3.
    Axes are separated by spaces. An axis is a name, a sum such as `2*h+r-3`, a group such as `(g c)` in row-major
    order, `()` of size 1, or `...`. Indices that the result does not name are summed. Cells outside an operand
    count as zero. docs/einsum.md has the rules for sizes.

    Args:
        equation: terms of the operands, `->`, the axes of the result.
        operands: floating-point or complex tensors of one dtype and device.
        mode: for expressions without an offset: `"full"`, `"same"`, `"valid"`, `"circular"`; None for offset 0.
        sizes: sizes of indices by name; options of `tnconv.compile` such as `memory_limit` are passed on.

    Returns:
        A tensor with the axes of the result. Gradients flow through.

    Raises:
        ParseError: the equation does not parse; the message points at the character.
        ArgumentError: an operand or a size does not fit.
    """
    arrays = _arrays(sizes)
    shapes = _shapes(operands, arrays)
    if shapes is None:
        return _left_to(operands, einsum, equation, *operands, mode=mode, **sizes)
    key = ("einsum", equation, shapes, mode, _frozen(sizes))
    found = _find(key)
    if found is None:
        if _any_empty(shapes):
            return _zeros(affine_shape(equation, shapes, _parted(sizes)[0], mode), operands, arrays)
        found = _new(key, operands, partial(einsum_expression, equation, mode=mode, **sizes))
    return found(*operands)


def einsum_expression(
    equation: str, /, *shapes: Any, mode: str | None = None, **sizes: Any
) -> EinsumFunction:
    """Compile an equation for operands of given shapes.

    Args:
        equation: as for `einsum`.
        shapes: one an operand; an axis that is a plain name may have a symbol as size, such as `"N"`.
        mode: as for `einsum`.
        sizes: as for `einsum`.

    Returns:
        A callable that takes the operands in order, with `network`, `plan`, `source` and `explain()`.

    Raises:
        ParseError: the equation does not parse; the message points at the character.
        ArgumentError: a shape or a size does not fit.
        PlanError: no plan was found, or a hint is for no symbol.
    """
    given, options = _parted(sizes)
    network = affine_network(equation, shapes, given, mode)
    return EinsumFunction(equation, network, compile(network, **options))


def conv_einsum(
    equation: str,
    /,
    *operands: Tensor,
    mode: str | Mapping[str, str] = "same",
    stride: int | Mapping[str, int] = 1,
    padding: int | Mapping[str, int] = 0,
    dilation: Any = 1,
    **options: Any,
) -> Tensor:
    """Convolve and contract tensors in the notation of arXiv 2401.03384.

    `tnconv.conv_einsum("bshw,tshw->bthw|hw", x, w)`: letters behind `|` are convolved over all operands that hold
    them, the others contracted. It is a true convolution, kernels flipped, but in mode "pad". No intermediate is
    cut, so the value does not depend on the order.

    Args:
        equation: single letters, or names separated by spaces.
        operands: floating-point or complex tensors of one dtype and device.
        mode: `"full"`, `"same"`, `"valid"`, `"circular"` or `"pad"`; this and the following are one value, or a dict
            by letter.
        stride: every `stride`-th cell of the result is kept.
        padding: zero cells on both sides of the first operand that holds the letter, in mode "pad" only.
        dilation: distance of kernel cells, one int or one for each other operand, in mode "pad" only.
        options: those of `tnconv.compile`, such as `memory_limit`; `padding_mode="max_zeros"` and `"max_circular"`
            stand for the modes "same" and "circular".

    Returns:
        A tensor with the axes of the result. Gradients flow through.

    Raises:
        ParseError: the equation does not parse; the message points at the character.
        ArgumentError: an operand or an option does not fit.
    """
    given = {"mode": mode, "stride": stride, "padding": padding, "dilation": dilation, **options}
    arrays = _arrays(options)
    shapes = _shapes(operands, arrays)
    if shapes is None:
        return _left_to(operands, conv_einsum, equation, *operands, **given)
    key = ("conv_einsum", equation, shapes, _frozen(given))
    found = _find(key)
    if found is None:
        if _any_empty(shapes):
            own = {
                "mode": _mode_of(options, mode),
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
            }
            return _zeros(convolution_shape(equation, shapes, **own), operands, arrays)
        found = _new(key, operands, partial(conv_einsum_expression, equation, **given))
    return found(*operands)


def conv_einsum_expression(
    equation: str,
    /,
    *shapes: Any,
    mode: str | Mapping[str, str] = "same",
    stride: int | Mapping[str, int] = 1,
    padding: int | Mapping[str, int] = 0,
    dilation: Any = 1,
    **options: Any,
) -> EinsumFunction:
    """Compile an equation in the notation of arXiv 2401.03384 for operands of given shapes.

    Args:
        equation: as for `conv_einsum`.
        shapes: one an operand; the size of a letter that is not convolved may be a symbol, such as `"N"`.
        mode: as for `conv_einsum`.
        stride: as for `conv_einsum`.
        padding: as for `conv_einsum`.
        dilation: as for `conv_einsum`.
        options: those of `tnconv.compile`.

    Returns:
        A callable that takes the operands in order, with `network`, `plan`, `source` and `explain()`.

    Raises:
        ParseError: the equation does not parse; the message points at the character.
        ArgumentError: a shape or an option does not fit.
        PlanError: no plan was found, or a hint is for no symbol.
    """
    mode = _mode_of(options, mode)
    options.pop("padding_mode", None)
    network = convolution_network(
        equation, shapes, mode=mode, stride=stride, padding=padding, dilation=dilation
    )
    return EinsumFunction(equation, network, compile(network, **options))


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes by name, and options of `tnconv.compile`."""
    options = {name: value for name, value in given.items() if name in _OPTIONS}
    return {name: value for name, value in given.items() if name not in _OPTIONS}, options


def _any_empty(shapes: tuple[torch.Size, ...]) -> bool:
    return not any(map(is_open, shapes)) and any(0 in shape for shape in shapes)


def _zeros(shape: tuple[int, ...], operands: tuple[Tensor, ...], arrays: Arrays) -> Tensor:
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


def _mode_of(options: Mapping[str, Any], mode: Any) -> Any:
    """The mode, which other code may give as `padding_mode`, once the names of all options are known.

    Raises:
        ArgumentError: one is not, or the padding mode has no mode in its place.
    """
    for name in options:
        if name not in _OPTIONS and name != "padding_mode":
            raise ArgumentError(
                f"option {name!r} is not known; use mode, stride, padding, dilation, {', '.join(sorted(_OPTIONS))}"
            )
    return _ported(options["padding_mode"], mode) if "padding_mode" in options else mode


def _ported(padding_mode: object, mode: object) -> Any:
    """The mode for the option that the authors' implementation has in its place."""
    if not isinstance(padding_mode, str) or padding_mode not in _PORTED or mode != "same":
        raise ArgumentError(
            f"padding_mode={padding_mode!r} with mode={mode!r}: as padding_mode only 'max_zeros' ('same') and "
            "'max_circular' ('circular') are taken; give mode= alone, where 'pad' with flipped kernels is 'zeros'"
        )
    return _PORTED[padding_mode]


# -- what is kept ------------------------------------------------------------------------------------


def _find(key: tuple[Any, ...]) -> EinsumFunction | None:
    """What was compiled for a key; None where it is new, or cannot be a key (compiling says what is wrong)."""
    try:
        return _kept.get(key)
    except TypeError:
        return None


def _new(
    key: tuple[Any, ...], operands: tuple[Tensor, ...], expression: Callable[..., EinsumFunction]
) -> EinsumFunction:
    """Compile an equation for the shapes of operands, and keep it."""
    if not any(is_open(operand.shape) for operand in operands):
        return _keep(key, expression(*[operand.shape for operand in operands]))
    if is_traced():
        shapes = tuple(torch.Size(fixed(operand)) for operand in operands)
        key = (*key[:2], shapes, *key[3:])
        return _find(key) or _keep(key, expression(*shapes))
    try:  # another tracer has symbols for some sizes: they stay where a name stands alone on its axis
        return expression(*[[_named(size) for size in operand.shape] for operand in operands])
    except TnconvError:
        return expression(*map(fixed, operands))


def _named(size: Any) -> int | str:
    """A size, or the name of its symbol."""
    text = str(size)
    return text if text.isidentifier() else int(size)


def _left_to(operands: tuple[Any, ...], function: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
    """The call as operands that are no tensors take it, such as proxies of `torch.fx`."""
    result: Tensor = torch.overrides.handle_torch_function(function, operands, *given, **named)
    return result


def _keep(key: tuple[Any, ...], function: EinsumFunction) -> EinsumFunction:
    """Keep a compiled equation, in place of the oldest where there are too many; not one whose key is none."""
    while len(_kept) >= _MOST_KEPT:
        _kept.pop(next(iter(_kept)), None)
    with suppress(TypeError):
        _kept[key] = function
    return function


def _arrays(options: Mapping[str, Any]) -> Arrays:
    """The library that operands are of: that of the backend."""
    name = options.get("backend")
    return backend_of(name).arrays if isinstance(name, str) else TENSORS


def _shapes(operands: tuple[Tensor, ...], arrays: Arrays) -> tuple[torch.Size, ...] | None:
    """The shapes; None where an operand is no array but takes calls over."""
    for number, operand in enumerate(operands):
        if not arrays.is_array(operand):
            if arrays is TENSORS and takes_over(operands):
                return None
            raise ArgumentError(
                f"operand {operand_name(number)} is a {type(operand).__name__}, not {arrays.kind}; pass a {arrays.noun}"
            )
    return tuple([operand.shape for operand in operands])


def _frozen(value: Any) -> Any:
    """The value with tuples for dicts and lists, as a part of a key."""
    if isinstance(value, Mapping):
        return ("dict", *((name, _frozen(each)) for name, each in value.items()))
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    number = None if isinstance(value, str) else as_integer(value)
    return (type(value), value) if number is None else number  # True == 1 == 1.0
