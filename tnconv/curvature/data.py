"""Batches of a user: pairs of input and target."""

from collections.abc import Iterable, Iterator
from typing import Any

from tnconv.errors import ArgumentError

Data = Iterable[tuple[Any, Any]]


def batches(data: Data) -> Iterator[tuple[Any, Any]]:
    """The pairs (input, target) of an iterable, such as a `DataLoader`.

    Raises:
        ArgumentError: it is no iterable of pairs, or empty.
    """
    if not isinstance(data, Iterable):
        raise ArgumentError(
            f"data is a {type(data).__name__}; give an iterable of batches (x, y), such as [(x, y)]"
        )
    empty = True
    for batch in data:
        empty = False
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            what = f"of {len(batch)}" if isinstance(batch, list | tuple) else f"a {type(batch).__name__}"
            raise ArgumentError(f"a batch of data is {what}; give pairs (x, y), such as data=[(x, y)]")
        yield batch[0], batch[1]
    if empty:
        raise ArgumentError("data has no batches; give at least one pair (x, y)")
