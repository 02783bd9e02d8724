"""In which dtype a function computes: as torch promotes, as `torch.autocast` casts, or as was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tnconv import ops
from tnconv.backends.arrays import Arrays
from tnconv.ir import Expression

_HALF, _SINGLE = 2, 4  # bytes of a number


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """In which dtype a function computes, and returns its result.

    Args:
        asked: the dtype that was asked for; None for that of the arguments, promoted as torch does.
        exact: whether half precision is too coarse, whoever asks: a Kronecker factor sums over a whole batch.
        product: whether tensors are multiplied, which `torch.autocast` does in half precision.
        square: whether one is multiplied by itself, which `torch.autocast` does in single precision at least.
        mixed: whether arguments may differ in dtype.
    """

    asked: torch.dtype | None = None
    exact: bool = False
    product: bool = True
    square: bool = False
    mixed: bool = True

    @classmethod
    def of(
        cls, network: Expression, op: ops.Operation | None = None, asked: torch.dtype | None = None
    ) -> "Arithmetic":
        """That of an operation's network. Values of a layer need one dtype, as torch's layers do."""
        names = [[tensor.argument for tensor in term.tensors] for term in network.terms]
        product = any(len(each) > 1 for each in names)
        square = any(len(set(each)) < len(each) for each in names)
        exact, mixed = bool(op and op.factor), bool(op and op.name != "forward")
        return cls(asked, exact, product, square, mixed)

    def takes_mixed(self, given: Sequence[object], arrays: Arrays) -> bool:
        """Whether arguments may differ in dtype: where they are converted to one, which autocast does too."""
        known = [each for each in given if arrays.is_array(each)]
        return self.mixed or self.asked is not None or arrays.autocast(known) is not None

    def dtype_of(
        self, dtypes: Sequence[torch.dtype], autocast: torch.dtype | None = None
    ) -> torch.dtype | None:
        """The dtype that arguments are converted to; None where they stay as they are.

        Args:
            dtypes: of the arguments.
            autocast: what somebody asks for around the call; see `Arrays.autocast`.
        """
        given = list(dict.fromkeys([dtype for dtype in dtypes if not _is_of_tables(dtype)]))
        if self.asked is None and len(given) < 2 and autocast is None and not (self.exact and _coarse(given)):
            return None
        wanted = self.asked or reduce(torch.promote_types, given)
        if any(dtype.is_complex for dtype in given):
            wanted = wanted.to_complex()
        if self.asked is None:
            single = self.exact or (self.square and autocast is not None)
            if single and _coarse([wanted]):
                wanted = torch.float32
            elif autocast is not None and self.product and not single and _cast_by_torch(wanted):
                wanted = autocast
        return None if given == [wanted] else wanted

    def result_dtype(self, given: Sequence[Any], arrays: Arrays) -> torch.dtype:
        """The dtype in which arguments are computed, and of their result if that is not real by construction."""
        if not given:
            return self.asked or torch.get_default_dtype()
        dtypes = _dtypes(given, arrays)
        found = self.dtype_of(dtypes, arrays.autocast(given))
        return dtypes[0] if found is None else found


def _dtypes(given: Sequence[Any], arrays: Arrays) -> list[torch.dtype]:
    """The dtypes of arguments that were checked."""
    return [dtype for dtype in map(arrays.dtype, given) if dtype is not None]


def _is_of_tables(dtype: torch.dtype) -> bool:
    """Whether a dtype is one of integers, which stay as they are."""
    return not (dtype.is_floating_point or dtype.is_complex)


def _coarse(dtypes: Sequence[torch.dtype]) -> bool:
    return any(dtype.itemsize <= (2 * _HALF if dtype.is_complex else _HALF) for dtype in dtypes)


def _cast_by_torch(dtype: torch.dtype) -> bool:
    """Whether autocast changes a dtype: torch leaves double precision and complex numbers as they are."""
    return dtype.is_floating_point and dtype.itemsize <= _SINGLE


def chosen(
    function: Callable[..., Tensor], arithmetic: Arithmetic, given: Sequence[Any], arrays: Arrays
) -> Callable[..., Tensor]:
    """A function, or what calls it with converted arguments where arguments like these need that."""
    autocast = arrays.autocast(given)
    dtype = arithmetic.dtype_of(_dtypes(given, arrays), autocast)
    if autocast is not None:
        function = arrays.as_given(function, given)
    if dtype is None:
        return function
    stay = [_is_of_tables(each) for each in _dtypes(given, arrays)]

    def converted(*given: Any) -> Tensor:
        cast = [each if stays else arrays.cast(each, dtype) for each, stays in zip(given, stay, strict=True)]
        return function(*cast)

    return converted
