"""Sources whose input size is open: layers, modules that are networks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from tnconv.backends.signature import Signature
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import LETTER, KnowsNetwork, Source, source_of
from tnconv.errors import TnconvError
from tnconv.ir import Expression, Role
from tnconv.spec import Layer, LinearSpec
from tnconv.spec.fields import size_names, spread

Sizes = tuple[int, ...]

MOST_PROGRAMS = 128
_LARGE = 2**40  # a size that every kernel fits into
_TRIED = 64  # sizes from there on: some layers refuse some


class OpenSource(ABC):
    """What is compiled, for any sizes.

    Attributes:
        names: of the sizes that are open, in order.
        any_size: sizes that it can have, for a first look.
        periods: of each size, the step after which all follows in proportion: the stride.
        any_rank: whether any number of sizes may be open, at least as many as here.
        most: how many functions are kept, those of the sizes used last.
    """

    names: tuple[str, ...]
    any_size: Sizes
    periods: Sizes
    any_rank: bool = False
    most: int = MOST_PROGRAMS

    @abstractmethod
    def at(self, sizes: Sizes) -> Source:
        """The source for some sizes.

        Raises:
            TnconvError: it has none for them, such as a kernel that does not fit.
        """

    @abstractmethod
    def symbolic(self) -> Source:
        """The source with the names as symbols.

        Raises:
            TnconvError: it has no symbolic sizes.
        """

    def finished(self, function: CompiledFunction, _sizes: Sizes) -> CompiledFunction:
        """What a user gets of a compiled function."""
        return function

    def signature(self, network: Expression) -> Signature:
        """The arguments in the order of a call."""
        return Signature.of(network)

    def of_rank(self, _rank: int) -> "OpenSource":
        """The same with another number of open sizes, of a source that has any number."""
        return self


class OpenLayer(OpenSource):
    """A layer for any input size.

    Args:
        spec: with symbols for the open sizes, or with numbers that stand for any.
    """

    def __init__(self, spec: Layer) -> None:
        layer: Any = spec
        written, count = layer.input_size, len(spec.input_sizes)
        self.spec = layer
        self._each = written if isinstance(written, tuple) else (written,) * count
        if not any(isinstance(size, str) for size in self._each):
            self._each = size_names(count)
            self.any_size = spec.input_sizes
        self.names = tuple(dict.fromkeys(size for size in self._each if isinstance(size, str)))
        self.any_rank = isinstance(spec, LinearSpec)
        steps = tuple(zip(self._each, getattr(spec, "strides", (1,) * count), strict=True))
        self.periods = tuple([math.lcm(*(step for size, step in steps if size == n)) for n in self.names])

    @cached_property
    def any_size(self) -> Sizes:  # type: ignore[override]
        """A size that it can have."""
        count = len(self.names)
        return first_that_fits(lambda size: self.at((size,) * count) and (size,) * count)  # type: ignore[no-any-return]

    def at(self, sizes: Sizes) -> Source:
        """The layer with an input size."""
        given = dict(zip(self.names, sizes, strict=True))
        return Source(replace(self.spec, input_size=tuple([given.get(s, s) for s in self._each])), None, True)

    def symbolic(self) -> Source:
        """The layer with symbols."""
        return Source(replace(self.spec, input_size=self._each), None, True)

    def of_rank(self, rank: int) -> OpenSource:
        """A linear layer with so many sequence axes."""
        if not self.any_rank:
            return self
        return OpenLayer(replace(self.spec, input_size=(_LARGE,) * rank))


@dataclass(frozen=True)
class OpenModule(OpenSource):
    """A module that is a network of several parameters, for any input size.

    Args:
        module: the module.
        batch_size: a number, or the symbol for it.
        any_size: sizes that it can have.
    """

    module: KnowsNetwork
    batch_size: int | str
    any_size: Sizes

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of as many sizes as are open."""
        return size_names(len(self.any_size))

    @property
    def periods(self) -> Sizes:  # type: ignore[override]
        """The strides, where the module has them."""
        return spread("stride", getattr(self.module, "stride", 1), len(self.any_size))

    def symbolic(self) -> Source:
        """The module's network with symbols."""
        return Source(None, self.module.network(self.names, self.batch_size), True)

    def at(self, sizes: Sizes) -> Source:
        """The module's network for an input size."""
        return Source(None, self.module.network(sizes, self.batch_size), True)


def open_of(source: object, batch_size: int | None = None) -> OpenSource | None:
    """A module without an input size, or a layer with symbols there, as what has open sizes; None for all else.

    Raises:
        SpecError: the module is not represented.
    """
    if isinstance(source, OpenSource):
        return source
    if isinstance(source, KnowsNetwork):
        letter = LETTER if batch_size is None else batch_size
        network = first_that_fits(lambda size: source.network(size, letter))
        x = next(t for term in network.terms for t in term.tensors if t.role is Role.INPUT)
        return OpenModule(source, letter, (_LARGE,) * (len(x.axes) - 2))
    if isinstance(source, Layer):
        layer: Any = source
        sizes = layer.input_size
        if not any(isinstance(size, str) for size in (sizes if isinstance(sizes, tuple) else (sizes,))):
            return None
        found = source_of(source, None, batch_size).spec
        assert found is not None
        return OpenLayer(found)
    if not isinstance(source, nn.Module):
        return None
    if isinstance(source, nn.Linear):
        return OpenLayer(_spec_of(source, (), batch_size))
    return OpenLayer(first_that_fits(lambda size: _spec_of(source, size, batch_size)))


def _spec_of(module: nn.Module, size: Any, batch_size: int | None) -> Layer:
    found = source_of(module, size, batch_size).spec
    assert found is not None
    return found


def first_that_fits(make: Callable[[int], Any]) -> Any:
    """What is made for the first large size that is not refused.

    Raises:
        TnconvError: all are refused.
    """
    refused: TnconvError | None = None
    for size in range(_LARGE, _LARGE + _TRIED):
        try:
            return make(size)
        except TnconvError as error:
            refused = refused or error
    assert refused is not None
    raise refused
