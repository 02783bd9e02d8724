"""Sources whose input size is open, and their networks with symbols in place of sizes.

A size is opened by looking, not by a formula: the forward network is made for a size and for a few others, and what
changes between them is a symbol from then on. Whether the symbols say what a size means is checked for every size, by
comparing networks, so that nothing rests on the guess.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tnconv.backends.signature import Signature
from tnconv.compiler.bind_sizes import Binding
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import LETTER, KnowsNetwork, Source, source_of
from tnconv.errors import TnconvError
from tnconv.ir import Expression, Index, Role, Size, fresh, symbol
from tnconv.ir.size import normal
from tnconv.spec import Layer, LinearSpec
from tnconv.spec.fields import size_names, spread

Sizes = tuple[int, ...]

_LARGE = 2**40  # a size that every kernel fits into
_TRIED = 64  # sizes from there on: some layers refuse some


class OpenSource(ABC):
    """What is compiled, for any sizes.

    Attributes:
        names: of the sizes that are open, in order.
        any_size: sizes that it can have, for a first look.
        periods: of each size, the step after which all follows in proportion: the stride.
        any_rank: whether any number of sizes may be open, at least as many as here.
    """

    names: tuple[str, ...]
    any_size: Sizes
    periods: Sizes
    any_rank: bool = False

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
        fits: an input size that it can have.
    """

    def __init__(self, spec: Layer, fits: Sizes | None = None) -> None:
        layer: Any = spec
        written = layer.input_size
        each = written if isinstance(written, tuple) else (written,) * len(spec.input_sizes)
        named = tuple(dict.fromkeys(size for size in each if isinstance(size, str)))
        if not named:
            named = size_names(len(spec.input_sizes))
            layer, fits = replace(layer, input_size=named), fits or spec.input_sizes
            each = named
        self.spec: Any = layer
        self.names, self.any_rank = named, isinstance(spec, LinearSpec)
        strides = getattr(layer, "strides", (1,) * len(each))
        self.periods = tuple(
            [math.lcm(*(step for size, step in zip(each, strides, strict=True) if size == n)) for n in named]
        )
        self.any_size = fits or first_that_fits(
            lambda size: self.at((size,) * len(named)) and (size,) * len(named)
        )

    def at(self, sizes: Sizes) -> Source:
        """The layer with an input size."""
        given = dict(zip(self.names, sizes, strict=True))
        return Source(self.spec.at(**given) if given else self.spec, None, True)

    def symbolic(self) -> Source:
        """The layer with symbols."""
        return Source(self.spec, None, True)

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


# -- networks with symbols -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """A forward network with symbols in place of sizes.

    Args:
        network: the network.
        symbols: of each symbol, the name of an index of that size.
    """

    network: Expression
    symbols: Mapping[str, str]

    def values(self, forward: Expression) -> dict[str, int] | None:
        """What the symbols are in a forward network; None where it is another network with these values, too."""
        sizes = sizes_of(forward)
        values = {name: sizes.get(index) for name, index in self.symbols.items()}
        known: dict[str, int] = {name: size for name, size in values.items() if isinstance(size, int)}
        if len(known) < len(values) or not Binding(known).gives(self.network, forward):
            return None
        return known


def sizes_of(network: Expression) -> dict[str, Size]:
    """The size of each index, by name."""
    return {index.name: index.size for term in network.terms for index in term.indices}


@dataclass(frozen=True)
class Probe:
    """How the indices of a forward network depend on the open sizes.

    Args:
        forward: the network for some sizes.
        sizes: these.
        names: of the open sizes.
        changes: for each of them, by how much each index that depends on it grows within a period.
        periods: of the sizes.
    """

    forward: Expression
    sizes: Sizes
    names: tuple[str, ...]
    changes: tuple[Mapping[str, int], ...]
    periods: Sizes

    @classmethod
    def of(cls, source: OpenSource, sizes: Sizes, forward_of: Callable[[Source], Expression]) -> "Probe":
        """Look at the networks for some sizes and one more period of each.

        Raises:
            TnconvError: the source has none of these sizes.
        """
        forward = forward_of(source.at(sizes))
        before = sizes_of(forward)
        changes = []
        for place, period in enumerate(source.periods):
            other = (*sizes[:place], sizes[place] + period, *sizes[place + 1 :])
            after = sizes_of(forward_of(source.at(other)))
            found = {name: after[name] - size for name, size in before.items() if after[name] != size}
            changes.append(found)
        return cls(forward, sizes, source.names, tuple(changes), source.periods)

    @property
    def varying(self) -> tuple[str, ...]:
        """The indices that depend on an open size."""
        return tuple(dict.fromkeys(name for found in self.changes for name in found))

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """For each open size, the first index that has it."""
        before = sizes_of(self.forward)
        return tuple(
            next((n for n, d in found.items() if d == period and before[n] == size), None)
            for found, period, size in zip(self.changes, self.periods, self.sizes, strict=True)
        )

    def independent(self) -> Opened | None:
        """With a symbol for each size that differs; two indices that are always equal have one."""
        return self._opened(affine=False)

    def affine(self) -> Opened | None:
        """With one symbol for each open size, and sizes that follow from it; None where they do not."""
        return self._opened(affine=True)

    def _opened(self, *, affine: bool) -> Opened | None:
        before = sizes_of(self.forward)
        taken = {name for size in before.values() for name in _symbols(size)}
        made: dict[str, Size] = {}
        symbols: dict[str, str] = {}
        for name, found, source in zip(self.names, self.changes, self.inputs, strict=True):
            if made.keys() & found.keys():
                return None
            order = sorted(found, key=lambda n: (found[n], n != source)) if affine else [*found]
            bases: dict[tuple[int, int], Size] = {}
            for index in order:
                size, change = before[index], found[index]
                if affine and bases:
                    (first, step), base = next(iter(bases.items()))
                    if change % step:
                        return None
                    made[index] = normal(base * (change // step) + (size - first * (change // step)))
                    continue
                if (size, change) not in bases:
                    letter = (
                        name
                        if source and (size, change) == (before[source], found[source])
                        else index.upper()
                    )
                    letter = fresh(letter, taken)
                    taken.add(letter)
                    symbols[letter] = index
                    bases[size, change] = symbol(letter)
                made[index] = bases[size, change]

        def exchanged(index: Index) -> Index:
            return index.sized(made[index.name]) if index.name in made else index

        return Opened(_mapped(self.forward, exchanged), symbols)


def _symbols(size: Size) -> Sequence[str]:
    return () if isinstance(size, int) else [each.name for each in size.free_symbols]


def _mapped(expression: Expression, exchange: Any) -> Expression:
    """An expression with every index exchanged."""
    if len(expression.terms) == 1 and not hasattr(expression, "map_terms"):
        return expression.terms[0].map_indices(exchange)
    whole: Any = expression
    made: Expression = whole.map_terms(lambda term: term.map_indices(exchange))
    return made
