"""Equations on tensors: `einsum` in tnconv's notation, `conv_einsum` in that of arXiv 2401.03384.

Both compile their network once for each equation and shapes, whatever the dtype and device, and keep it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from tnconv.api import compile
from tnconv.compiler.compile_cache import as_key
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.options import OPTIONS
from tnconv.errors import ArgumentError, meant
from tnconv.functional.equations import (
    KEPT,
    EinsumFunction,
    any_empty,
    arrays_of,
    left_to,
    new_function,
    shapes_of,
    zeros,
)
from tnconv.functional.open_equation import OpenEquation, opened
from tnconv.ir import Network
from tnconv.notation import affine_network, affine_shape, convolution_network, convolution_shape

_PORTED = {"max_zeros": "same", "max_circular": "circular"}
_OF_LAYERS = {"convention", "groups", "bias", "sample", "sampling", "preselect", "packed"}
_OPTIONS = frozenset(OPTIONS) - _OF_LAYERS


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
    arrays = arrays_of(sizes)
    shapes = shapes_of(operands, arrays)
    if shapes is None:
        return left_to(operands, einsum, equation, *operands, mode=mode, **sizes)
    key = ("einsum", equation, shapes, mode, as_key(sizes))
    found = KEPT.find(key)
    if found is None:
        if any_empty(shapes):
            return zeros(affine_shape(equation, shapes, _parted(sizes)[0], mode), operands, arrays)
        found = new_function(key, operands, partial(einsum_expression, equation, mode=mode, **sizes))
    result: Tensor = found(*operands)
    return result


def einsum_expression(
    equation: str, /, *shapes: Any, mode: str | None = None, **sizes: Any
) -> CompiledFunction:
    """Compile an equation for operands of given shapes.

    Args:
        equation: as for `einsum`.
        shapes: one an operand; a size may be a name, such as `"N"`: a symbol where the axis is a plain name; elsewhere
            the function is one for any size, as of `tnconv.compile` without `input_size`.
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
    return _expression(
        equation, lambda shapes: affine_network(equation, shapes, given, mode), shapes, options
    )


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
    own: dict[str, Any] = {"mode": mode, "stride": stride, "padding": padding, "dilation": dilation}
    given = own | options
    arrays = arrays_of(options)
    shapes = shapes_of(operands, arrays)
    if shapes is None:
        return left_to(operands, conv_einsum, equation, *operands, **given)
    key = ("conv_einsum", equation, shapes, as_key(given))
    found = KEPT.find(key)
    if found is None:
        if any_empty(shapes):
            own["mode"] = _mode_of(options, mode)
            return zeros(convolution_shape(equation, shapes, **own), operands, arrays)
        found = new_function(key, operands, partial(conv_einsum_expression, equation, **given))
    result: Tensor = found(*operands)
    return result


def conv_einsum_expression(
    equation: str,
    /,
    *shapes: Any,
    mode: str | Mapping[str, str] = "same",
    stride: int | Mapping[str, int] = 1,
    padding: int | Mapping[str, int] = 0,
    dilation: Any = 1,
    **options: Any,
) -> CompiledFunction:
    """Compile an equation in the notation of arXiv 2401.03384 for operands of given shapes.

    Args:
        equation: as for `conv_einsum`.
        shapes: one an operand; a size may be a name, such as `"N"`: a symbol where the letter is not convolved; else
            the function is one for any size.
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
    own: dict[str, Any] = {"mode": mode, "stride": stride, "padding": padding, "dilation": dilation}
    return _expression(equation, lambda shapes: convolution_network(equation, shapes, **own), shapes, options)


def _expression(
    equation: str, make: Callable[[Sequence[Any]], Network], shapes: Sequence[Any], options: dict[str, Any]
) -> CompiledFunction:
    found = opened(equation, make, shapes)
    if isinstance(found, OpenEquation):
        return compile(found, **options)
    return EinsumFunction(equation, found, compile(found, **options))


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {name: value for name, value in given.items() if name in _OPTIONS}
    return {name: value for name, value in given.items() if name not in _OPTIONS}, options


def _mode_of(options: Mapping[str, Any], mode: Any) -> Any:
    """The mode, which other code may give as `padding_mode`, once the names of all options are known."""
    for name in options:
        if name not in _OPTIONS and name != "padding_mode":
            known = ("mode", "stride", "padding", "dilation", *sorted(_OPTIONS))
            raise ArgumentError(f"option {name!r} is not known{meant(name, known)}; use {', '.join(known)}")
    return _ported(options["padding_mode"], mode) if "padding_mode" in options else mode


def _ported(padding_mode: object, mode: object) -> Any:
    """The mode for the option that the authors' implementation has in its place."""
    if not isinstance(padding_mode, str) or padding_mode not in _PORTED or mode != "same":
        raise ArgumentError(
            f"padding_mode={padding_mode!r} with mode={mode!r}: as padding_mode only 'max_zeros' ('same') and "
            "'max_circular' ('circular') are taken; give mode= alone, where 'pad' with flipped kernels is 'zeros'"
        )
    return _PORTED[padding_mode]
