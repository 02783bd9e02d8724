"""Indices and axes: what the edges of a network are made of.

An *index* is a named summation variable with a size and a kind: what it is to a layer. An *axis* says how the
indices of a node lie on one axis of the tensor that a torch user passes: `i`, the group `(g c)`, or an injective affine
position `2*o + k < 224`.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache, reduce
from typing import Any
from weakref import WeakValueDictionary

from tnconv.errors import NetworkError
from tnconv.ir.size import Size, as_size, check_name, normal, product

_CONVENTIONAL = {letter: rank for rank, letter in enumerate("vngcd")}


@lru_cache(maxsize=4096)
def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that orders `k2` before `k10`."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in parts)


class Kind(Enum):
    """What an index is to a layer; the value is the letter that says so in a text, `b:n=N`.

    No value depends on a kind. Planners put legs in the order of kinds, loops over chunks take vectors and examples
    first, and what has one example alone may come without an axis for it.
    """

    VECTOR = "v"
    BATCH = "n"
    GROUP = "g"
    CHANNEL = "c"
    POSITION = "o"
    KERNEL = "k"
    NONE = "x"

    letter: str
    rank: int

    def __init__(self, letter: str) -> None:
        self.letter = letter  # as it is written
        self.rank = "vngckox".index(letter)  # in the layout that kernels like best

    @classmethod
    def of(cls, letter: str) -> "Kind":
        """The kind that a letter says.

        Raises:
            NetworkError: it says none.
        """
        if letter not in _KINDS:
            known = ", ".join(f"{k.letter} ({k.name.lower()})" for k in cls)
            raise NetworkError(f"{letter!r} is no kind of an index; the kinds are {known}")
        return _KINDS[letter]

    def joined(self, other: "Kind") -> "Kind":
        """The kind of an index in place of two; channels with groups or kernel cells are channels still."""
        if self is other:
            return self
        return Kind.CHANNEL if {self, other} <= {Kind.GROUP, Kind.CHANNEL, Kind.KERNEL} else Kind.NONE


_KINDS = {kind.letter: kind for kind in Kind}
# The one place where a name says something: what an index is that was made, or written, without a kind.
# `i` and `j` are positions of an input, plain and padded, `q` those that several kernels share.
_USUAL = {letter: Kind(kind) for letter, kind in zip("vngcdijoqk", "vngccooook", strict=True)}
_LETTERS = re.compile(r"((?:[a-z]\d*)+)(?:_\d+)?\Z")


@lru_cache(maxsize=4096)
def usual_kind(name: str) -> Kind:
    """The kind that goes without saying, by the letters of this package: `n`, `k1_2`, `gc`; none for other names."""
    found = _LETTERS.match(name)
    letters = re.findall("[a-z]", found[1]) if found else ["?"]
    return reduce(Kind.joined, (_USUAL.get(letter, Kind.NONE) for letter in letters))


@dataclass(frozen=True, slots=True, weakref_slot=True, init=False, eq=False)
class Index:
    """A named summation variable with a size: an edge of the network.

    There is one object for all that are equal: planners and kernels ask millions of times whether two are.

    Args:
        name: unique within a network.
        size: number of values, an int or an expression.
        kind: what it is to a layer; the usual one of its name if left out.

    Attributes:
        sort_key: the order in texts: v, n, g, c, d first, then by name; a second copy behind its original.

    Raises:
        NetworkError: the name is outside the alphabet, or the size is not a size.
    """

    name: str
    size: Size
    kind: Kind
    sort_key: tuple[Any, ...] = field(init=False, repr=False)

    def __new__(cls, name: str, size: Size, kind: Kind | None = None) -> "Index":
        """The index, made now if there is none."""
        plain = type(name) is str and type(size) is int
        found = _indices.get((name, size, kind)) if plain and kind is not None else None
        if found is not None:
            return found
        size = as_size(size)
        key = (check_name(name, "index"), size, usual_kind(name) if kind is None else kind)
        with _making:
            if (known := _indices.get(key)) is not None:
                return known
            made = object.__new__(cls)
            for slot, value in zip(
                ("name", "size", "kind", "sort_key"), (*key, _sort_key(name)), strict=True
            ):
                object.__setattr__(made, slot, value)
            return _indices.setdefault(key, made)

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self.name, self.size, self.kind)

    def named(self, name: str) -> "Index":
        """The same under another name."""
        return Index(name, self.size, self.kind)

    def sized(self, size: Size) -> "Index":
        """The same with another size."""
        return Index(self.name, size, self.kind)

    @property
    def declaration(self) -> str:
        """As in the first line of a network: `n=N`, or `b:n=N` where the kind is not the usual one of the name."""
        kind = "" if self.kind is usual_kind(self.name) else f":{self.kind.letter}"
        return f"{self.name}{kind}={self.size}"

    def __str__(self) -> str:
        return self.name


def _sort_key(name: str) -> tuple[Any, ...]:
    base, _, copy = name.partition("_")
    return (_CONVENTIONAL.get(base, len(_CONVENTIONAL)), natural_key(base), natural_key(copy), name)


_indices: WeakValueDictionary[tuple[str, Size, Kind], Index] = WeakValueDictionary()
_making = threading.RLock()  # what is collected meanwhile may make one, too


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an argument or of a result, and the indices that lie on it.

    The cell at index values `x_j` is at position `Σ strides_j·x_j + start` of an axis with `size` cells.
    On a tensor the other cells are not read; on an output they are zero. Left out, the strides are those
    of the row-major group `(a b)`, which covers the axis.

    Args:
        indices: the indices on this axis, outermost first; none for an axis of one cell.
        strides: positive, one an index; no two combinations of index values may share a cell.
        start: position of the first cell, in cells.
        size: cells on the axis; the least that fits if left out.

    Attributes:
        is_group: whether the indices cover the axis in row-major order, as `(g c)` says.
    """

    indices: tuple[Index, ...]
    strides: tuple[Size, ...] = ()
    start: int = 0
    size: Size = None
    is_group: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(self.indices))
        rows = _row_major(self.indices)
        strides = tuple([normal(stride) for stride in self.strides]) or rows
        object.__setattr__(self, "strides", strides)
        if len(strides) != len(self.indices):
            raise NetworkError(
                f"axis has {len(self.indices)} indices but {len(strides)} strides; give one each"
            )
        cells = product([i.size for i in self.indices]) if strides == rows and self.start == 0 else None
        size = normal(self.size) if self.size is not None else self.reach if cells is None else cells
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "is_group", cells is not None and size == cells)

    @property
    def reach(self) -> Size:
        """One more than the highest position that an index combination takes."""
        if self.strides == _row_major(self.indices):
            return normal(product(i.size for i in self.indices) + self.start)
        return normal(
            sum(s * (i.size - 1) for s, i in zip(self.strides, self.indices, strict=True)) + self.start + 1
        )

    def substitute(self, mapping: Mapping[Index, Index]) -> "Axis":
        """The same axis with indices exchanged for others; a group stays a group."""
        indices = tuple(mapping.get(i, i) for i in self.indices)
        return Axis(indices) if self.is_group else replace(self, indices=indices)

    def resized(self, change: Callable[[Size], Size]) -> "Axis":
        """The same axis with all sizes changed, those of its indices too."""
        indices = tuple(i.sized(change(i.size)) for i in self.indices)
        return Axis(indices, tuple(map(change, self.strides)), self.start, change(self.size))

    def __str__(self) -> str:
        if not self.is_group:
            terms = tuple(zip(self.strides, self.indices, strict=True))
            return f"{format_affine(terms, self.start)} < {self.size}"
        if len(self.indices) == 1:
            return self.indices[0].name
        return f"({' '.join(i.name for i in self.indices)})" if self.indices else "1"


def _row_major(indices: Sequence[Index]) -> tuple[Size, ...]:
    if len(indices) == 1:
        return (1,)
    strides: list[Size] = []
    stride: Size = 1
    for index in reversed(indices):
        strides.append(stride)
        stride = normal(stride * index.size)
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def group(*indices: Index) -> Axis:
    """The axis that holds `indices` in row-major order, as `(g c)` in the text."""
    return Axis(indices)


def format_affine(terms: Sequence[tuple[Size, Index]], offset: int) -> str:
    """`2*o + k - 3` for terms ((2, o), (1, k)) and offset -3."""
    text = ""
    for coefficient, index in terms:
        sign = "-" if coefficient < 0 else "+"
        size = abs(coefficient)
        body = index.name if size == 1 else f"{size}*{index.name}"
        text += f" {sign} {body}" if text else (f"-{body}" if sign == "-" else body)
    if offset or not text:
        text += f" {'-' if offset < 0 else '+'} {abs(offset)}" if text else str(offset)
    return text
