"""Types of hyper-parameters, as torch's users write them."""

from collections.abc import Sequence

Ints = int | Sequence[int]  # one for all spatial dimensions, or one for each
NumericPadding = int | Sequence[int] | Sequence[tuple[int, int]]  # pairs are (left, right)
Padding = str | NumericPadding
