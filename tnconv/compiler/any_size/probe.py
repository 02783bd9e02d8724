"""How a network depends on sizes that are left open, and the network with symbols in place of these.

A size is opened by looking, not by a formula: the forward network is made for a size and for a few others, and what
changes between them is a symbol from then on. Whether the symbols say what a size means is checked for every size, by
comparing networks, so that nothing rests on the guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tnconv.compiler.any_size.bind_sizes import Binding
from tnconv.compiler.any_size.open_source import OpenSource, Sizes
from tnconv.compiler.source import Source
from tnconv.ir import Expression, Index, Size, fresh, symbol
from tnconv.ir.size import normal, symbol_names


@dataclass(frozen=True)
class Opened:
    """A forward network with symbols in place of sizes.

    Args:
        network: the network.
        symbols: of each symbol, the name of an index of that size.
    """

    network: Expression
    symbols: Mapping[str, str]

    def binding(self, forward: Expression) -> Binding | None:
        """What the symbols are in a forward network; None where it is another network with these values, too."""
        sizes = sizes_of(forward)
        values = {name: sizes.get(index) for name, index in self.symbols.items()}
        known: dict[str, int] = {name: size for name, size in values.items() if isinstance(size, int)}
        binding = Binding(known)
        return binding if len(known) == len(values) and binding.gives(self.network, forward) else None


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
        taken = {name for size in before.values() for name in symbol_names(size)}
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

        return Opened(self.forward.map_terms(lambda term: term.map_indices(exchanged)), symbols)
