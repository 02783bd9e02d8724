"""What a compiled function accepts: shapes, one dtype, one device. Errors name the argument and the index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any

import torch

from tnconv.backends.arrays import Arrays
from tnconv.errors import ArgumentError
from tnconv.ir import Axis, Expression, evaluate, group
from tnconv.ir.network_printer import format_axes
from tnconv.ir.size import symbol_names
from tnconv.program import SizeOf
from tnconv.program.size_symbols import bindings

_FLOATING = "float32, float64, float16, bfloat16 or a complex dtype"
# Place of an argument, axis, its size or the place and axis that have the same; name, axis and axes in words.
EqualSize = tuple[int, int, int | tuple[int, int], str, str, str]


def check_traced(equal: Sequence[EqualSize], given: Sequence[Any]) -> None:
    """Refuse sizes that a program is not written for, while a tracer looks on: `torch.compile` reads this, too.

    Args:
        equal: `Signature.equal_sizes`.
        given: in order; of sizes that are left open it is traced what they have to be.

    Raises:
        ArgumentError: a size is another one.
    """
    for place, axis, wanted, name, where, axes in equal:
        size = given[place].shape[axis]
        needed = wanted if isinstance(wanted, int) else given[wanted[0]].shape[wanted[1]]
        if size != needed:
            size, needed = index(size), index(needed)
            raise ArgumentError(f"argument {name!r} has size {size} {where} but {needed} is needed; {axes}")


@dataclass(frozen=True)
class Signature:
    """The arguments of a function, in order, each with its axes.

    Args:
        axes: by argument name.
        real_only: what is defined for real values only, so that complex tensors are refused; empty where both are.
        tables: those that are tables of integers.

    Attributes:
        equal_sizes: what `check_traced` compares: each size that is a number, and each that is that of an axis before.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    real_only: str = ""
    tables: frozenset[str] = frozenset()
    equal_sizes: tuple[EqualSize, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Find what `torch.compile` would have to look for."""
        object.__setattr__(self, "equal_sizes", tuple(_equal_sizes(self.axes)))

    @classmethod
    def of(cls, expression: Expression, real_only: str = "") -> "Signature":
        """The arguments of a network or a sum, in the order of a call."""
        found = {t.argument: t.axes for term in expression.terms for t in reversed(term.tensors)}
        found |= {s.table: (group(s.right),) for term in expression.terms for s in term.selects}
        return cls(
            {name: found[name] for name in expression.arguments}, real_only, frozenset(expression.tables)
        )

    @classmethod
    def union(cls, signatures: Sequence["Signature"]) -> "Signature":
        """The arguments of several functions, each once, in the order in which they first occur."""
        axes = {name: axes for each in reversed(signatures) for name, axes in each.axes.items()}
        names = dict.fromkeys(name for each in signatures for name in each.axes)
        real_only = next((each.real_only for each in signatures if each.real_only), "")
        tables = frozenset(name for each in signatures for name in each.tables)
        return cls({name: axes[name] for name in names}, real_only, tables)

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

    def check(self, given: Sequence[Any], arrays: Arrays, mixed: bool = False) -> dict[str, int]:
        """Refuse what does not fit; return the values of the size symbols.

        Args:
            given: in order.
            arrays: what they should be.
            mixed: whether they may differ in dtype.

        Raises:
            ArgumentError: a wrong type, number of axes, size, dtype or device.
        """
        named: dict[str, Any] = {}
        for (name, axes), array in zip(self.axes.items(), given, strict=True):
            if not arrays.is_array(array):
                raise ArgumentError(
                    f"argument {name!r} is a {type(array).__name__}, not {arrays.kind}; pass a {arrays.noun}"
                )
            if len(array.shape) != len(axes):
                raise ArgumentError(
                    f"argument {name!r} has {len(array.shape)} axes {tuple(array.shape)} but {len(axes)} are needed: "
                    f"{format_axes(axes)}"
                )
            named[name] = array
        values = self._values(named)
        for name, array in named.items():
            self._sizes(name, array, values)
        for name, array in named.items():
            self._kind(name, array, next(iter(named)), named, arrays, mixed)
        return values

    def _values(self, given: Mapping[str, Any]) -> dict[str, int]:
        values: dict[str, int] = {}
        for found in self._bindings:
            size = given[found.argument].shape[found.axis]
            value, left = divmod(size - evaluate(found.rest, values), max(evaluate(found.factor, values), 1))
            if left or value < 0:
                axis = self.axes[found.argument][found.axis]
                raise ArgumentError(
                    f"argument {found.argument!r} has size {size} on axis {found.axis} (index {axis}) but "
                    f"{axis.size} is needed{self._known(values)}; no {found.symbol} gives that"
                )
            values[found.symbol] = value
        return values

    def _sizes(self, name: str, array: Any, values: Mapping[str, int]) -> None:
        for place, (axis, size) in enumerate(zip(self.axes[name], array.shape, strict=True)):
            wanted = evaluate(axis.size, values)
            if wanted != size:
                why = f" ({axis.size}{self._known(values)})" if symbol_names(axis.size) else ""
                raise ArgumentError(
                    f"argument {name!r} has size {size} on axis {place} (index {axis}) but {wanted} is needed{why}; "
                    f"its axes are {format_axes(self.axes[name])}"
                )

    @cached_property
    def _bindings(self) -> tuple[SizeOf, ...]:
        return bindings({name: tuple(axis.size for axis in axes) for name, axes in self.axes.items()})

    def _known(self, values: Mapping[str, int]) -> str:
        """`, where N is 2 as on axis 0 of 'x'`."""
        known = [b for b in self._bindings if b.symbol in values]
        texts = (f"{b.symbol} is {values[b.symbol]} as on axis {b.axis} of {b.argument!r}" for b in known)
        return ", where " + ", ".join(texts) if known else ""

    def _kind(
        self, name: str, array: Any, other: str, given: Mapping[str, Any], arrays: Arrays, mixed: bool
    ) -> None:
        """Refuse a dtype or a place that does not fit to the first argument's."""
        dtype, like = arrays.dtype(array), given[other]
        if name in self.tables:
            if dtype not in (torch.int64, torch.int32):
                raise ArgumentError(
                    f"argument {name!r} has dtype {array.dtype} but is a table of rows; convert it to "
                    f"{arrays.written(torch.int64)} (or int32)"
                )
        elif dtype is None or not (dtype.is_floating_point or dtype.is_complex):
            raise ArgumentError(f"argument {name!r} has dtype {array.dtype}; convert it to {_FLOATING}")
        elif array.dtype != like.dtype and not mixed:
            raise ArgumentError(
                f"argument {name!r} has dtype {array.dtype} but {other!r} has {like.dtype}; convert one to the other"
            )
        here, there = arrays.place(array), arrays.place(like)
        if here != there:
            raise ArgumentError(
                f"argument {name!r} is on {here} but {other!r} is on {there}; move one to the other"
            )
        if self.real_only and dtype.is_complex:
            raise ArgumentError(
                f"argument {name!r} has dtype {array.dtype}, but {self.real_only!r} is defined for real values "
                "only; convert the arguments, or give their real parts"
            )


def _equal_sizes(arguments: Mapping[str, tuple[Axis, ...]]) -> Iterator[EqualSize]:
    first: dict[Any, tuple[int, int]] = {}
    for place, (name, axes) in enumerate(arguments.items()):
        texts = f"its axes are {format_axes(axes)}"
        for n, axis in enumerate(axes):
            known = axis.size if isinstance(axis.size, int) else first.setdefault(axis.size, (place, n))
            if known != (place, n):
                yield place, n, known, name, f"on axis {n} (index {axis})", texts
