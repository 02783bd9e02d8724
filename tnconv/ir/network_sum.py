"""Sum: an immutable sum of networks with the same output, and what is either."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from tnconv.errors import NetworkError
from tnconv.ir.drawn import Drawn
from tnconv.ir.index import Axis
from tnconv.ir.monomial import expanded
from tnconv.ir.network import Network, check_symbols
from tnconv.ir.network_printer import format_axes, format_sum
from tnconv.ir.nodes import node_sort_key
from tnconv.ir.size import NETWORK_NAME, Size, check_name


@dataclass(frozen=True)
class Sum(Drawn):
    """A sum of networks with the same output, such as a convolution plus its bias, or a product rule.

    Args:
        name: letters, digits, `_` and `.`.
        terms: at least one network; the one with most nodes comes first. The sum is real where they say so; then
            each counts with its real part, and what the terms have besides cancels.

    Raises:
        NetworkError: there is no term, or two terms differ in their output, in whether it is real, or in the shape of
            an argument.
    """

    name: str
    terms: tuple[Network, ...]

    def __post_init__(self) -> None:
        check_name(self.name, "sum", NETWORK_NAME)
        ordered = sorted(self.terms, key=lambda t: (-len(t.nodes), t.name, str(t)))
        object.__setattr__(self, "terms", tuple(ordered))
        if not self.terms:
            raise NetworkError(f"sum {self.name!r} has no terms; give at least one network")
        for term in self.terms[1:]:
            mine, other = ([expanded(a.size) for a in t.output] for t in (self, term))
            if mine != other:
                raise NetworkError(
                    f"sum {self.name!r}: term {self.terms[0].name!r} has output {format_axes(self.output)} of sizes "
                    f"{mine} but term {term.name!r} has {format_axes(term.output)} of sizes {other}; "
                    "give both the same axes"
                )
            if term.real != self.real:
                raise NetworkError(
                    f"sum {self.name!r}: term {self.terms[0].name!r} has real={self.real} but term {term.name!r} has "
                    f"real={term.real}; declare both outputs real, or none"
                )
        self._check_arguments()

    def _check_arguments(self) -> None:
        known: dict[str, tuple[str, tuple[object, ...]]] = {}
        for term in self.terms:
            layouts = [(t.argument, (t.role, *(axis.size for axis in t.axes))) for t in term.tensors]
            layouts += [(s.table, (f"table of {s.left.size}", s.right.size)) for s in term.selects]
            for argument, layout in layouts:
                owner, first = known.setdefault(argument, (term.name, layout))
                if layout != first:
                    raise NetworkError(
                        f"sum {self.name!r}: terms {owner!r} and {term.name!r} read argument "
                        f"{argument!r} as {first[0]} {list(first[1:])} and {layout[0]} "
                        f"{list(layout[1:])}; give both one role and shape"
                    )

    def __str__(self) -> str:
        return format_sum(self)

    @property
    def output(self) -> tuple[Axis, ...]:
        """The axes of the result: those of the first term."""
        return self.terms[0].output

    @property
    def real(self) -> bool:
        """Whether the value is real by construction."""
        return self.terms[0].real

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of all terms, each once, in canonical order."""
        return tuple(self.shapes)

    @cached_property
    def shapes(self) -> dict[str, tuple[Size, ...]]:
        """The shape of every argument, sizes by axis, in the order of `arguments`."""
        tensors = sorted((t for term in self.terms for t in term.tensors), key=node_sort_key)
        found = {name: sizes for term in reversed(self.terms) for name, sizes in term.shapes.items()}
        return {t.argument: found[t.argument] for t in tensors} | {name: found[name] for name in self.tables}

    @cached_property
    def tables(self) -> dict[str, Size]:
        """The arguments that are tables of integers, each with the size of what it selects from."""
        return {name: size for term in self.terms for name, size in term.tables.items()}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols of all terms, sorted."""
        return tuple(sorted({n for term in self.terms for n in term.symbols}))

    def at(self, **sizes: int) -> "Sum":
        """The sum with integers in place of some symbols; those not named stay.

        Raises:
            NetworkError: there is no such symbol, a value is no integer, or a size is not one at these values.
        """
        check_symbols(self, sizes)
        return self.map_terms(
            lambda term: term.at(**{name: size for name, size in sizes.items() if name in term.symbols})
        )

    def rename(self, name: str) -> "Sum":
        """The same sum under another name."""
        return replace(self, name=name)

    def map_terms(self, change: Callable[[Network], Network]) -> "Sum":
        """The sum of the changed terms."""
        return replace(self, terms=tuple(change(t) for t in self.terms))


Expression = Network | Sum


def make_sum(name: str, terms: Iterable[Network]) -> Expression:
    """A Sum, or the network itself where there is one term."""
    found = tuple(terms)
    return found[0].rename(name) if len(found) == 1 else Sum(name, found)
