"""What counts as an integer, wherever tnconv takes one: sizes, strides, ranks, limits."""

import operator
from typing import Any


def as_integer(value: object) -> int | None:
    """The value as a plain int; None where it is no integer.

    Integers are those of Python and NumPy, and arrays and tensors without axes that hold one, such as
    `torch.tensor(3)`. A truth value is none, whoever made it, and neither is `2.0`.
    """
    if type(value) is int:
        return value
    if (
        isinstance(value, bool)
        or getattr(value, "ndim", None) not in (None, 0)
        or "bool" in str(getattr(value, "dtype", ""))
    ):
        return None
    number: Any = value
    try:
        return operator.index(number)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor on the meta device has no value
        return None
