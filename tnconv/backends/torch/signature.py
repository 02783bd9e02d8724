"""What a compiled function accepts: shapes, one dtype, one device. Errors name the argument and the index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor

from tnconv.errors import ArgumentError
from tnconv.ir import Axis, Expression, Size, evaluate

_FLOATING = "float32, float64, float16, bfloat16 or a complex dtype"


@dataclass(frozen=True)
class Signature:
    """The arguments of a function, in order, each with its axes.

    Args:
        axes: by argument name.
    """

    axes: Mapping[str, tuple[Axis, ...]]

    @classmethod
    def of(cls, expression: Expression) -> "Signature":
        """The arguments of a network or a sum, in the order of a call."""
        found = {t.argument: t.axes for term in expression.terms for t in reversed(term.tensors)}
        return cls({name: found[name] for name in expression.arguments})

    def __str__(self) -> str:
        shapes = (f"{name} [{', '.join(str(a.size) for a in axes)}]" for name, axes in self.axes.items())
        return ", ".join(shapes)

    def collect(self, given: Sequence[object], named: Mapping[str, object]) -> list[object]:
        """The arguments in order, from those given by place and by name.

        Raises:
            ArgumentError: too many, too few, twice, or a name that is none of the arguments.
        """
        names = list(self.axes)
        if len(given) > len(names):
            raise ArgumentError(
                f"{len(given)} arguments were given but the function takes {len(names)}: {self}"
            )
        found = dict(zip(names, given, strict=False))
        for name, value in named.items():
            if name not in self.axes:
                raise ArgumentError(f"argument {name!r} is not taken; the function takes {self}")
            if name in found:
                raise ArgumentError(f"argument {name!r} is given twice, by place and by name; give it once")
            found[name] = value
        missing = [name for name in names if name not in found]
        if missing:
            raise ArgumentError(f"argument {missing[0]!r} is missing; the function takes {self}")
        return [found[name] for name in names]

    def check(self, tensors: Sequence[object]) -> dict[str, int]:
        """Refuse what does not fit; return the values of the size symbols.

        Raises:
            ArgumentError: a wrong type, number of axes, size, dtype or device.
        """
        values: dict[str, tuple[int, str]] = {}
        first: tuple[str, Tensor] | None = None
        for (name, axes), tensor in zip(self.axes.items(), tensors, strict=True):
            if not isinstance(tensor, Tensor):
                raise ArgumentError(
                    f"argument {name!r} is a {type(tensor).__name__}, not a tensor; pass a torch.Tensor"
                )
            self._shape(name, axes, tensor, values)
            first = first or (name, tensor)
            self._kind(name, tensor, *first)
        return {symbol: value for symbol, (value, _) in values.items()}

    @staticmethod
    def _shape(name: str, axes: tuple[Axis, ...], tensor: Tensor, values: dict[str, tuple[int, str]]) -> None:
        wanted = f"[{', '.join(map(str, axes))}]"
        if tensor.dim() != len(axes):
            raise ArgumentError(
                f"argument {name!r} has {tensor.dim()} axes {tuple(tensor.shape)} but {len(axes)} are needed: {wanted}"
            )
        for place, (axis, size) in enumerate(zip(axes, tensor.shape, strict=True)):
            expected = _expected(axis.size, size, values, f"argument {name!r}, axis {place}")
            if expected != size:
                known = {n: f"{v} (from {where})" for n, (v, where) in values.items()}
                hint = f", where {axis.size} has {known}" if not isinstance(axis.size, int) else ""
                raise ArgumentError(
                    f"argument {name!r} has size {size} on axis {place} (index {axis}) but {expected} is needed{hint}; "
                    f"its axes are {wanted}"
                )

    @staticmethod
    def _kind(name: str, tensor: Tensor, other: str, like: Tensor) -> None:
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            raise ArgumentError(f"argument {name!r} has dtype {tensor.dtype}; convert it to {_FLOATING}")
        if tensor.dtype != like.dtype:
            raise ArgumentError(
                f"argument {name!r} has dtype {tensor.dtype} but {other!r} has {like.dtype}; convert one to the other"
            )
        if tensor.device != like.device:
            raise ArgumentError(
                f"argument {name!r} is on {tensor.device} but {other!r} is on {like.device}; move one to the other"
            )


def _expected(size: Size, actual: int, values: dict[str, tuple[int, str]], where: str) -> int:
    """The size that an axis must have; an open symbol takes the value that makes it fit."""
    if isinstance(size, int):
        return size
    free = [s for s in size.free_symbols if s.name not in values]
    if len(free) == 1 and (
        slope := size.subs({s: values[s.name][0] for s in size.free_symbols - set(free)}) / free[0]
    ):
        if isinstance(size, sympy.Symbol):
            values[size.name] = (actual, where)
            return actual
        if slope.is_Integer and actual % int(slope) == 0:
            values[free[0].name] = (actual // int(slope), where)
    if any(s.name not in values for s in size.free_symbols):
        raise ArgumentError(f"size {size} of {where} does not divide {actual}; pass a multiple of it")
    return evaluate(size, {n: v for n, (v, _) in values.items()})


Key = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
