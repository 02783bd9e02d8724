"""In which dtype a function computes: as torch promotes, as `torch.autocast` casts, or as was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from tnconv import ops
from tnconv.backends.torch.context import autocast_dtype
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

    def takes_mixed(self, tensors: Sequence[object]) -> bool:
        """Whether tensors may differ in dtype: where they are converted to one, which autocast does too."""
        first = next((tensor for tensor in tensors if isinstance(tensor, Tensor)), None)
        converted = first is not None and autocast_dtype(first.device) is not None
        return self.mixed or self.asked is not None or converted

    def dtype_of(self, tensors: Sequence[Tensor], autocast: torch.dtype | None = None) -> torch.dtype | None:
        """The dtype that tensors are converted to; None where they stay as they are.

        Args:
            tensors: the arguments.
            autocast: what `torch.autocast` asks for, if it is on.
        """
        given = list(dict.fromkeys([tensor.dtype for tensor in tensors if not _is_table(tensor)]))
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

    def result_dtype(self, tensors: Sequence[Tensor]) -> torch.dtype:
        """The dtype in which tensors are computed, and of their result if that is not real by construction."""
        if not tensors:
            return self.asked or torch.get_default_dtype()
        found = self.dtype_of(tensors, autocast_dtype(tensors[0].device))
        return tensors[0].dtype if found is None else found


def _is_table(tensor: Tensor) -> bool:
    """Whether a tensor is a table of integers, which stay as they are."""
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)


def _coarse(dtypes: Sequence[torch.dtype]) -> bool:
    return any(dtype.itemsize <= (2 * _HALF if dtype.is_complex else _HALF) for dtype in dtypes)


def _cast_by_torch(dtype: torch.dtype) -> bool:
    """Whether autocast changes a dtype: torch leaves double precision and complex numbers as they are."""
    return dtype.is_floating_point and dtype.itemsize <= _SINGLE


def chosen(
    function: Callable[..., Tensor], arithmetic: Arithmetic, tensors: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """A function, or what calls it with converted arguments where tensors like these need that."""
    autocast = autocast_dtype(tensors[0].device) if tensors else None
    dtype = arithmetic.dtype_of(tensors, autocast)
    if dtype is None and autocast is None:
        return function
    device = tensors[0].device.type

    def converted(*given: Tensor) -> Tensor:
        cast = given if dtype is None else [t if _is_table(t) else t.to(dtype) for t in given]
        if autocast is None:
            return function(*cast)
        with torch.autocast(device, enabled=False):
            return function(*cast)

    return converted
