"""Which input size a call has, read off the shapes of its tensors."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from tnconv.backends.arrays import Arrays
from tnconv.backends.signature import Signature
from tnconv.compiler.any_size.open_source import OpenSource, Sizes
from tnconv.compiler.any_size.probe import Opened, Probe, sizes_of
from tnconv.compiler.driver import Derived, Job
from tnconv.errors import ArgumentError, TnconvError
from tnconv.program import SizeOf
from tnconv.program.size_symbols import bindings


class SizeReader:
    """Reads the open sizes of a source off tensors.

    A size that no argument has, but the size of an output, is found by trying: at most a period of sizes has one
    output size. Where several could be meant and the value depends on which, a call is refused.

    Args:
        source: what has open sizes.
        job: what is asked of it.
    """

    def __init__(self, source: OpenSource, job: Job) -> None:
        self.op, self.source, self.job = job.operation.name, source, job
        self._candidates = lru_cache(maxsize=1024)(self._search)

    @cached_property
    def probe(self) -> Probe:
        """How the forward network depends on the sizes."""
        return Probe.of(self.source, self.source.any_size, self.job.forward)

    @cached_property
    def opened(self) -> Opened:
        """The forward network with symbols."""
        found = self.probe.independent()
        assert found is not None
        return found

    @cached_property
    def _derived(self) -> Derived:
        """The operation, with these symbols."""
        return self.job.derived(self.opened.network, self.source.at(self.source.any_size))

    @cached_property
    def signature(self) -> Signature:
        """The arguments, with these symbols."""
        return self.source.signature(self._derived.network)

    @cached_property
    def _bindings(self) -> dict[str, SizeOf]:
        """How the symbols are read that shapes give away."""
        sizes = {name: tuple(axis.size for axis in axes) for name, axes in self.signature.axes.items()}
        return {each.symbol: each for each in bindings(sizes)}

    def binding(self, symbol: str) -> SizeOf | None:
        """How a symbol is read; None where no shape gives it away."""
        return self._bindings.get(symbol)

    def places(self, ranks: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """For each open size, the argument and the axis that it is read off.

        Args:
            ranks: numbers of axes of the arguments.

        Raises:
            ArgumentError: a size cannot be read off any.
        """
        self._check_readable()
        order, batch = list(self.signature.axes), self._derived.axes
        gone = {
            place: axis for place, rank, axis in (batch.arguments if batch else ()) if ranks[place] < rank
        }
        found = []
        for own, other, _ in self._meant:
            each = self._bindings[own or other or ""]
            argument = order.index(each.argument)
            found.append((argument, each.axis - (each.axis > gone.get(argument, each.axis))))
        return tuple(found)

    def of_places(self, sizes: Sequence[int]) -> Sizes:
        """The open sizes, from what `places` names.

        Raises:
            ArgumentError: no size or several fit.
        """
        values = {}
        for (own, other, _), size in zip(self._meant, sizes, strict=True):
            each = self._bindings[own or other or ""]
            values[each.symbol] = (size - int(each.rest)) // int(each.factor)
        return tuple([self._size(place, values) for place in range(len(values))])

    @cached_property
    def _meant(self) -> tuple[tuple[str | None, str | None, bool], ...]:
        """For each size: its symbol if shapes give it away, another that they do, whether the value depends on it."""
        found = []
        for changes, first in zip(self.probe.changes, self.probe.inputs, strict=True):
            mine = [s for s, index in self.opened.symbols.items() if index in changes]
            own = next((s for s in mine if self.opened.symbols[s] == first), None)
            other = next((s for s in mine if s in self._bindings), None)
            needed = any(s in self._derived.network.symbols for s in mine if s != other)
            found.append((own if own in self._bindings else None, other, needed))
        return tuple(found)

    def read(self, tensors: Sequence[Any], arrays: Arrays) -> Sizes:
        """The open sizes of a call.

        Args:
            tensors: all arguments, in order.
            arrays: what they should be.

        Raises:
            ArgumentError: an argument has another number of axes or of channels, or no size or several fit.
        """
        batch = self._derived.axes
        whole = batch.added(tensors, arrays) if batch is not None and batch.missing(tensors) else tensors
        self._check_readable()
        values = self.signature.check(whole, arrays, mixed=True)
        return tuple([self._size(place, values) for place in range(len(self.source.names))])

    def _check_readable(self) -> None:
        """Refuse to read what no argument has."""
        unread = [
            n
            for n, (own, other, needed) in zip(self.source.names, self._meant, strict=True)
            if not (own or other)
        ]
        if unread:
            raise ArgumentError(
                f"size {unread[0]} of {self.op!r} cannot be read off its arguments ({self.signature}); call "
                f"{self.example} for the function of a size"
            )

    @property
    def example(self) -> str:
        """How to ask for the function of a size."""
        return f"at({', '.join(f'{name}=56' for name in self.source.names)})"

    def _size(self, place: int, values: dict[str, int]) -> int:
        own, other, needed = self._meant[place]
        if own is not None:
            return values[own]
        assert other is not None
        found = self._candidates(place, other, values[other])
        name = self.source.names[place]
        if not found:
            raise ArgumentError(
                f"no {name} gives {self.op!r} the size {other}={values[other]} that its arguments have; give others"
            )
        if needed and len(found) > 1:
            raise ArgumentError(
                f"{name} of {self.op!r} may be {' or '.join(map(str, found))}: the arguments have "
                f"{other}={values[other]} for each; call {self.example} for the function of a size"
            )
        return found[0]

    def _search(self, place: int, symbol: str, value: int) -> tuple[int, ...]:
        """The sizes at a place for which an index of a symbol has a value."""
        probe, index = self.probe, self.opened.symbols[symbol]
        period = probe.periods[place]
        base, change = sizes_of(probe.forward)[index], probe.changes[place][index]
        near = probe.sizes[place] + (value - base) * period // change
        tried = range(max(1, near - 2 * period), near + 2 * period + 1)
        return tuple([size for size in tried if self.size_of(place, size, index) == value])

    def least(self, place: int, symbol: str) -> int:
        """The least size at a place for which an index of a symbol is as it is for the probe's."""
        index = self.opened.symbols[symbol]
        base = sizes_of(self.probe.forward)[index]
        return self._candidates(place, symbol, base)[0]

    def size_of(self, place: int, size: int, index: str) -> int | None:
        """The size of an index where one open size is another."""
        sizes = (*self.probe.sizes[:place], size, *self.probe.sizes[place + 1 :])
        try:
            found = sizes_of(self.job.forward(self.source.at(sizes)))[index]
        except TnconvError:
            return None
        return found if isinstance(found, int) else None
