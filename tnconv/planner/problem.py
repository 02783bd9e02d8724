"""The problem that the planner solves: leaves, linear relations between numbered indices, and what frames them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tnconv.ir import Axis, Index, Size


@dataclass(frozen=True, slots=True)
class Linear:
    """The relation `Σ coefficient·index + offset = 0`; indices are numbers.

    The coefficient of `left` is 1 or -1. With a modulus: `left` is what the others' sum folds into by the mode,
    as in `Pattern`. With a table: `left` is what the table, an argument, has at the other index.
    """

    coefficients: Mapping[int, int]
    offset: int
    left: int
    modulus: Size | None = None
    mode: str = "circular"
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Wrap:
    """The relation `narrow = wide + offset`, folded by the mode: `wide` counts the cells of a padded axis.

    With a table it is `narrow = table[wide]`.
    """

    narrow: int
    wide: int
    offset: int
    modulus: Size
    mode: str
    table: str | None = None

    @property
    def relation(self) -> Linear:
        """The wrap as a relation."""
        coefficients = {self.narrow: -1, self.wide: 1}
        return Linear(coefficients, self.offset, self.narrow, self.modulus, self.mode, self.table)


@dataclass(slots=True)
class Leaf:
    """A tensor node: what it reads, its indices in order, the relations that prepare it, whether it is conjugated."""

    name: str
    argument: str
    axes: tuple[Axis, ...]
    legs: list[int]
    wraps: list[Linear] = field(default_factory=list)
    conj: bool = False


@dataclass(slots=True)
class Prepared:
    """A problem. Indices are numbers: `variables[v]` is an index and `extents[v]` its size while planning.

    `legs` of a leaf and `output` are those after the preparing and before the finishing wraps. `multiplicity`
    is the number of values of the summed indices that no relation is left for. `places` are the leaves in the order of
    the network's text, in which a planner of a plug-in and left-to-right take them.
    """

    variables: list[Index]
    extents: list[int]
    leaves: list[Leaf]
    relations: list[Linear]
    output: list[int]
    finish: list[Wrap]
    axes: tuple[Axis, ...]
    places: tuple[int, ...]
    multiplicity: Size = 1
