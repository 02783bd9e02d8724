"""The node kinds of a network: Tensor, Pattern, Delta, Select, Scale. They are few, flat, final and closed.

Conventions. A network is the product of its nodes, summed over every index that is not in the output.
A pattern is the 0/1 indicator of an affine relation among its indices, within their ranges; a delta is
its simplest case, `a = b`. A selection is a relation by table, `c = rows[s]`, whose table is an argument.
A node compares equal to another only if *all* fields do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from tnconv.errors import NetworkError, meant
from tnconv.ir.index import Axis, Index, format_affine, natural_key
from tnconv.ir.monomial import as_scalar, is_expression
from tnconv.ir.size import Size, as_size, check_name, check_readable

Terms = tuple[tuple[int, Index], ...]
MODES = {"circular": "mod", "reflect": "reflect", "replicate": "replicate"}  # mode -> how the text says it


class Role(StrEnum):
    """What an argument is to the layer; in a text by its value, which may be given in its place."""

    INPUT = "input"
    PARAMETER = "parameter"
    COTANGENT = "cotangent"
    TANGENT = "tangent"


ROLES = tuple(Role)
_RANKS = dict(zip(Role, (0, 2, 3, 4), strict=True))  # relations lie at 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named argument: an input, a parameter, a cotangent or a tangent.

    Args:
        name: unique in the network; it survives rewriting.
        role: what the argument is to the layer.
        axes: one an axis of the argument, in torch's layout.
        of: the argument that this node reads, if its name is another (two nodes may read one argument).
        conj: whether it reads the complex conjugate of the argument; of a real one that is the argument itself.

    Attributes:
        indices: the indices on this node, each once, in the order of the axes.
    """

    name: str
    role: Role
    axes: tuple[Axis, ...]
    of: str | None = None
    conj: bool = False
    indices: tuple[Index, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        if self.role not in ROLES:
            raise NetworkError(
                f"node {self.name!r} has role {self.role!r}{meant(self.role, ROLES)}; the roles are {', '.join(ROLES)}"
            )
        if self.of is not None:
            check_name(self.of, "argument")
        object.__setattr__(self, "role", Role(self.role))
        object.__setattr__(self, "axes", tuple(self.axes))
        object.__setattr__(self, "of", None if self.of == self.name else self.of)
        indices = dict.fromkeys([i for axis in self.axes for i in axis.indices])
        object.__setattr__(self, "indices", tuple(indices))

    @property
    def argument(self) -> str:
        """The name of the argument that this node reads."""
        return self.of or self.name

    def map_indices(self, exchange: Callable[[Index], Index]) -> "Tensor":
        """The same node with every index exchanged."""
        mapping = {i: exchange(i) for i in self.indices}
        return replace(self, axes=tuple(axis.substitute(mapping) for axis in self.axes))


@dataclass(frozen=True, slots=True)
class Pattern:
    """The 0/1 indicator of `left = Σ coefficient·index + offset`, folded into `[0, modulus)` if there is one.

    How `t` folds into `[0, M)` is what the padding modes of a convolution say: `"circular"` is `t mod M`;
    `"reflect"` mirrors at the cells 0 and M - 1 without repeating them, so that the period is `2*(M - 1)`;
    `"replicate"` is the nearest cell. All are total: every `t` has exactly one cell.

    Args:
        name: unique in the network.
        left: the index on the left side.
        terms: (coefficient, index) pairs; equal indices are added up, zero coefficients dropped.
        offset: in cells of `left`; -p for a convolution with left padding p.
        modulus: a size, that of `left`, for relations that fold.
        mode: how they do; `"circular"` where there is no modulus.

    Attributes:
        indices: the indices of the relation, the left one first.
    """

    name: str
    left: Index
    terms: Terms
    offset: int = 0
    modulus: Size | None = None
    mode: str = "circular"
    indices: tuple[Index, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        sums: dict[Index, int] = {}
        for coefficient, index in self.terms:
            sums[index] = sums.get(index, 0) + int(coefficient)
        terms = [(a, x) for x, a in sums.items() if a]
        terms.sort(key=_term_key, reverse=True)
        object.__setattr__(self, "terms", tuple(terms))
        object.__setattr__(self, "indices", (self.left, *[index for _, index in terms]))
        if self.modulus is not None:
            object.__setattr__(self, "modulus", as_size(self.modulus))
        if self.mode not in MODES:
            raise NetworkError(
                f"pattern {self.name!r} has mode {self.mode!r}{meant(self.mode, MODES)}; "
                f"the modes are {', '.join(MODES)}"
            )
        if self.modulus is None and self.mode != "circular":
            raise NetworkError(
                f"pattern {self.name!r} has mode {self.mode!r} but no modulus; give the size of "
                f"{self.left.name!r} as modulus, or leave the mode out"
            )
        if self.left in sums:
            raise NetworkError(
                f"pattern {self.name!r} has index {self.left.name!r} on both sides; solve for it first"
            )

    @property
    def zero_form(self) -> dict[Index, int]:
        """Coefficients c with `Σ c·index + offset = 0`; the left index has -1."""
        return {self.left: -1} | {index: a for a, index in self.terms}

    def map_indices(self, exchange: Callable[[Index], Index]) -> "Relational":
        """The same relation with every index exchanged; the modulus is the size of the left one."""
        terms = tuple((a, exchange(x)) for a, x in self.terms)
        left = exchange(self.left)
        modulus = None if self.modulus is None else left.size
        return pattern(self.name, left, terms, self.offset, modulus, self.mode)

    def relation_text(self) -> str:
        """`i1 = 2*o1 + k1 - 3`, with `mod I`, `reflect I` or `replicate I` behind it where there is a modulus."""
        tail = "" if self.modulus is None else f" {MODES[self.mode]} {self.modulus}"
        return f"{self.left.name} = {format_affine(self.terms, self.offset)}{tail}"


def _term_key(term: tuple[int, Index]) -> tuple[Any, ...]:
    """Terms are written from the greatest on; names decide among terms that are alike."""
    coefficient, index = term
    size = index.size if isinstance(index.size, int) else 0
    return abs(coefficient), index.kind.rank, size, -coefficient, natural_key(index.name)


class _Pair:
    """A relation of two indices: so that it reads like a pattern."""

    __slots__ = ()
    left: Index
    right: Index
    offset: ClassVar[int] = 0

    @property
    def terms(self) -> Terms:
        return ((1, self.right),)

    @property
    def indices(self) -> tuple[Index, ...]:
        return (self.left, self.right)

    @property
    def zero_form(self) -> dict[Index, int]:
        """Coefficients c with `Σ c·index = 0`; the left index has -1."""
        return {self.left: -1, self.right: 1}


@dataclass(frozen=True, slots=True)
class Delta(_Pair):
    """The Kronecker delta of two indices of equal size: the pattern `left = right`."""

    name: str
    left: Index
    right: Index
    modulus: ClassVar[None] = None
    mode: ClassVar[str] = "circular"  # as of any pattern without a modulus

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        if self.right.sort_key < self.left.sort_key:
            left, right = self.right, self.left
            object.__setattr__(self, "left", left)
            object.__setattr__(self, "right", right)

    def map_indices(self, exchange: Callable[[Index], Index]) -> "Relational":
        """The same delta with both indices exchanged."""
        return pattern(self.name, exchange(self.left), ((1, exchange(self.right)),))

    def relation_text(self) -> str:
        """`a = b`."""
        return f"{self.left.name} = {self.right.name}"


@dataclass(frozen=True, slots=True)
class Select(_Pair):
    """The 0/1 indicator of `left = table[right]`, where the table is an argument: integers in `[0, size of left)`.

    It ties an index to a smaller one by rows that are known in the call only. Summed over `left` it reads rows;
    with `left` in the output it writes them, added up where the table names one twice. It reads like a pattern
    that folds in a way that nothing is known of.

    Args:
        name: unique in the network.
        left: the index whose values the table names.
        right: the index along the table.
        table: the argument, one axis of the size of `right`, of integers.
    """

    name: str
    left: Index
    right: Index
    table: str
    mode: ClassVar[str] = "select"  # which is no mode of a pattern

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        check_name(self.table, "argument")
        if self.left == self.right:
            raise NetworkError(
                f"selection {self.name!r} has index {self.left.name!r} on both sides; use two indices"
            )

    @property
    def modulus(self) -> Size:
        """The size of `left`, as of a pattern that folds: so that no rule takes it for an affine relation."""
        return self.left.size

    def map_indices(self, exchange: Callable[[Index], Index]) -> "Select":
        """The same selection with both indices exchanged."""
        return replace(self, left=exchange(self.left), right=exchange(self.right))

    def relation_text(self) -> str:
        """`c = rows[s]`."""
        return f"{self.left.name} = {self.table}[{self.right.name}]"


@dataclass(frozen=True, slots=True)
class Scale:
    """A scalar factor, a rational number or an expression that may hold size symbols, such as `1/(N*T)`."""

    name: str
    value: Any

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        object.__setattr__(self, "value", as_scalar(self.value))
        if not is_expression(self.value) or self.value.is_finite is False:
            raise NetworkError(
                f"scale {self.name!r} has value {self.value!r}; give an int or a finite sympy number"
            )
        check_readable(self.value, f"scale {self.name!r} has value")

    @property
    def indices(self) -> tuple[Index, ...]:
        """None: a scale has no legs."""
        return ()

    def map_indices(self, _exchange: Callable[[Index], Index]) -> "Scale":
        """The scale itself."""
        return self


Relational = Pattern | Delta | Select
Node = Tensor | Pattern | Delta | Select | Scale


def conjugate(node: Node) -> Node:
    """The complex conjugate of a node: patterns, deltas and scales are real."""
    return replace(node, conj=not node.conj) if isinstance(node, Tensor) else node


def pattern(
    name: str, left: Index, terms: Terms, offset: int = 0, modulus: Size | None = None, mode: str = "circular"
) -> Relational:
    """A Pattern, or the Delta that it is when it says `a = b` for indices of equal size."""
    made = Pattern(name, left, terms, offset, modulus, mode)
    if modulus is None and offset == 0 and len(made.terms) == 1:
        coefficient, right = made.terms[0]
        if coefficient == 1 and right.size == left.size:
            return Delta(name, left, right)
    return made


def runs(start: int, count: int, modulus: int, mode: str) -> Iterator[tuple[int, int, int]]:
    """The cells in `[0, modulus)` that the positions `start, start + 1, …` fold into, as straight runs.

    Args:
        start: the first position.
        count: how many positions.
        modulus: number of cells.
        mode: how a position outside folds, as in `Pattern`.

    Returns:
        For each run the first cell, the step to the next (1, -1, or 0 where one cell repeats) and the length.
    """
    while count > 0:
        cell, step, length = _run(start, modulus, mode)
        length = count if length is None else min(length, count)
        yield cell, step, length
        start, count = start + length, count - length


def fold(position: int, modulus: int, mode: str) -> int:
    """The cell in `[0, modulus)` that a position folds into."""
    return _run(position, modulus, mode)[0]


def _run(start: int, modulus: int, mode: str) -> tuple[int, int, int | None]:
    """The run that begins at a position; its length is None where it never ends."""
    last = modulus - 1
    if mode == "circular":
        cell = start % modulus
        return cell, 1, modulus - cell
    if mode == "replicate":
        if start < 0:
            return 0, 0, -start
        return (start, 1, modulus - start) if start < last else (last, 0, None)
    if last == 0:
        return 0, 0, None
    cell = start % (2 * last)
    return (cell, 1, modulus - cell) if cell <= last else (2 * last - cell, -1, 2 * last - cell)


def node_class(node: Node) -> tuple[int, int]:
    """Input, relations, parameters (most axes first), cotangents, tangents, scales."""
    match node:
        case Tensor():
            return _RANKS[node.role], -len(node.axes)
        case Pattern() | Delta() | Select():
            return 1, 0
        case Scale():
            return 5, 0


def node_sort_key(node: Node) -> tuple[Any, ...]:
    """The order in texts: by class, then by name."""
    return (*node_class(node), natural_key(node.name))
