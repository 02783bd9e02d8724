"""Square and tie: second-order networks from two copies, and diagonals.

square{over=[n, o], keep=[g]}
x = input   [n, (g c), i]              x   = input             [n, (g c), i]
p = pattern [i = o + k]          ->    x_2 = input{of=x, conj} [n, (g c_2), i_2]
output      [n, (g c k), o]            p   = pattern           [i = o + k]
                                       p_2 = pattern           [i_2 = o + k_2]
                                       output                  [g, (c k), (c_2 k_2)]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import (
    Axis,
    Delta,
    Expression,
    Index,
    Network,
    Node,
    Size,
    Tensor,
    as_size,
    conjugate,
    evaluate,
    fresh,
    group,
    make_sum,
)
from tnconv.ir.size import symbol_names
from tnconv.passes.cells import pack, unpack
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import counted, open_named, taken_names, without_indices

_FATES = ("copy", "sum", "keep")
_CONJUGATED = ("second", "first", "none")


@dataclass(frozen=True)
class Square(Pass):
    """The product of an expression with a copy of itself, joined on some of its open indices.

    An open index is *shared* by both copies and stays (`keep`), is shared and summed (`over`), or each copy
    has its own (`copy`). The result has the axes of `keep`, then those that `rest="keep"` leaves in place and
    the first copy's own, then the second copy's own. An axis whose indices are all kept stays whole.

    A sum is multiplied out; two terms that never meet on a shared axis have no product. The cells of an affine
    axis are one leg, which belongs to the rest.

    One of the copies is conjugated, so that the product is Hermitian: `a aᴴ`, or `⟨u, v⟩ = Σ conj(u) v`. Where nothing
    is copied it is a sum of `|v|²`, which is declared real.

    Args:
        over: open indices that both copies share and that are summed.
        keep: open indices that both copies share and that stay in the output, in front.
        copy: open indices of which each copy has its own.
        rest: what becomes of the open indices that are not named: `copy`, `sum` or `keep`.
        conj: the copy that is conjugated: `second`, `first`, or `none`, for what is of real values only.
        other: arguments in whose place the copy reads others, `x_other` for `x`.
        anew: indices of `copy` that have another size on the copy.
        sizes: these sizes, as texts.
    """

    name: ClassVar[str] = "square"
    whole: ClassVar[bool] = True
    over: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()
    rest: str = "copy"
    conj: str = "second"
    other: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rest not in _FATES:
            raise PassError(f"square has rest={self.rest!r}; it is one of {', '.join(_FATES)}")
        if self.conj not in _CONJUGATED:
            raise PassError(f"square has conj={self.conj!r}; it is one of {', '.join(_CONJUGATED)}")
        if len(self.anew) != len(self.sizes) or not set(self.anew) <= set(self.copy):
            raise PassError(
                f"square has anew={list(self.anew)}, sizes={list(self.sizes)} and copy={list(self.copy)}; give a size "
                "for each of anew, and name each in copy"
            )

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the sizes of the second copy."""
        return tuple(dict.fromkeys(n for size in self.sizes for n in symbol_names(as_size(size))))

    def bind(self, values: Mapping[str, int]) -> Self:
        """The sizes as integers."""
        return replace(self, sizes=tuple(str(evaluate(as_size(size), values)) for size in self.sizes))

    def second(self, expression: Expression) -> Expression:
        """What the copy is of: with arguments and sizes of its own."""
        if not (self.other or self.anew):
            return expression
        sizes = dict(zip(self.anew, self.sizes, strict=True))

        def changed(term: Network) -> Network:
            resized = term.map_indices(lambda i: i.sized(as_size(sizes.get(i.name, i.size))))
            return resized.with_nodes(
                replace(node, of=f"{node.argument}_other")
                if isinstance(node, Tensor) and node.argument in self.other
                else node
                for node in resized.nodes
            )

        return expression.map_terms(changed)

    def apply(self, expression: Expression) -> PassResult:
        """Write a copy beside each term, and multiply out."""
        fates = self._fates(expression)
        copied = any("copy" in (fate.values() if isinstance(fate, dict) else [fate]) for fate in fates)
        real = expression.terms[0].real or not (copied or self.conj == "none")
        pairs = ((left, right) for left in expression.terms for right in self.second(expression).terms)
        found = (_Product(self, fates, left, right).network() for left, right in pairs)
        made = [product.declared(real=real) for product in found if product]
        if not made:
            raise PassError("no two terms of the sum meet on the shared axes; their square is zero")
        if len(made) > 1:
            made = [term.rename(f"{expression.name}.{number}") for number, term in enumerate(made, 1)]
        after = make_sum(expression.name, made)
        joined = ", ".join((*self.keep, *self.over)) or ("nothing" if self.rest == "copy" else "the rest")
        return PassResult(after, after != expression, (f"joined on {joined}",))

    def _fates(self, expression: Expression) -> list[dict[str, str] | str]:
        """What becomes of each axis: by name of its indices, or as a whole where a term has it otherwise."""
        named = dict.fromkeys(self.keep, "keep") | dict.fromkeys(self.over, "sum")
        named |= dict.fromkeys(self.copy, "copy")
        fates: list[dict[str, str] | str] = []
        for term in expression.terms:
            open_named(term, (*self.keep, *self.over, *self.copy), "square")
        for axes in zip(*(term.output for term in expression.terms), strict=True):
            if all(axis.is_group and axis.indices for axis in axes):
                fates.append({i.name: named.get(i.name, self.rest) for axis in axes for i in axis.indices})
                continue
            for axis in axes:
                if wrong := [i.name for i in axis.indices if i.name in named]:
                    raise PassError(
                        f"square names index {wrong[0]!r}, whose axis {axis} is affine in some term; "
                        "leave it to rest, or arrange the axis as a group"
                    )
            fates.append(self.rest)
        return fates

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The outer product of two copies of the value, with shared legs matched."""
        first = before.terms[0]
        blocks: list[list[str]] = []  # names of the legs of each axis
        sizes: dict[str, int] = {}
        fate_of: dict[str, str] = {}
        for place, (axis, fate) in enumerate(zip(first.output, self._fates(before), strict=True)):
            named = (
                {i.name: i.size for i in axis.indices}
                if isinstance(fate, dict)
                else {f"cell {place}": axis.size}
            )
            blocks.append(list(named))
            sizes |= named
            fate_of |= {name: fate[name] if isinstance(fate, dict) else fate for name in named}
        legs = [name for block in blocks for name in block]
        value = np.asarray(evaluate(before, arguments)).reshape([sizes[name] for name in legs])
        resized = dict(zip(self.anew, map(int, self.sizes), strict=True))
        copied = np.asarray(evaluate(self.second(before), arguments))
        copied = copied.reshape([resized.get(name, sizes[name]) for name in legs])
        front = _kept_blocks(self.keep, blocks)
        one = [[n for n in block if fate_of[n] != "sum" and n not in self.keep] for block in blocks]
        two = [[f"{n} copy" for n in block if fate_of[n] == "copy"] for block in blocks]
        second = [f"{name} copy" if fate_of[name] == "copy" else name for name in legs]
        sizes |= dict(zip(second, copied.shape, strict=True))
        number = {name: place for place, name in enumerate(dict.fromkeys((*legs, *second)))}
        result = [block for block in (*front, *one, *two) if block]
        target = [number[name] for block in result for name in block]
        left = np.conj(value) if self.conj == "first" else value
        right = np.conj(copied) if self.conj == "second" else copied
        array = np.einsum(left, [number[n] for n in legs], right, [number[n] for n in second], target)
        return np.asarray(array).reshape([int(np.prod([sizes[n] for n in block])) for block in result])


def _kept_blocks(keep: Sequence[str], blocks: Sequence[Sequence[str]]) -> list[list[str]]:
    """The kept names as axes: those of a whole axis together, each of the others alone."""
    front: list[list[str]] = []
    for place, name in enumerate(keep):
        if any(name in block for block in front):
            continue
        block = next(list(b) for b in blocks if name in b)
        front.append(block if list(keep[place : place + len(block)]) == block else [name])
    return front


class _Product:
    """The product of one term with a copy of another."""

    def __init__(
        self, square: Square, fates: Sequence[dict[str, str] | str], left: Network, right: Network
    ) -> None:
        self.square, self.fates, self.left, self.right = square, fates, left, right
        self.exchange: dict[Index, Index] = {}  # from the right term's indices to those of its copy
        self.joined: list[Index] = []
        self.taken = taken_names(left) | taken_names(right)

    def network(self) -> Network | None:
        """The product; None where the terms never meet."""
        if not self._match():
            return None
        for index in self.right.indices:
            if index not in self.exchange:
                self.exchange[index] = index.named(fresh(index.name, self.taken))
                self.taken.add(self.exchange[index].name)
        first = tuple(map(conjugate, self.left.nodes)) if self.square.conj == "first" else self.left.nodes
        return counted(self.left, (*first, *self._copies()), self._output(), self.joined)

    def _match(self) -> bool:
        """Identify the shared indices of both terms; whether they meet at all."""
        for fate, axis, other in zip(self.fates, self.left.output, self.right.output, strict=True):
            if isinstance(fate, dict):
                pairs = _pairs(axis, other, fate)
            elif fate == "copy":
                continue
            elif (axis.start, axis.strides, _sizes(axis)) == (other.start, other.strides, _sizes(other)):
                pairs = list(zip(axis.indices, other.indices, strict=True))
            elif _apart(axis, other):
                return False
            else:
                raise PassError(
                    f"square shares an axis that is {axis} in one term and {other} in another; arrange both alike"
                )
            for mine, its in pairs:
                if mine.size != its.size:
                    raise PassError(
                        f"square shares index {mine.name!r}, of size {mine.size} in one term and {its.size} in another"
                        "; rename one"
                    )
                self.exchange[its] = mine
                self.joined.append(mine)
        return True

    def _copies(self) -> Iterator[Node]:
        for node in self.right.nodes:
            copy = node.map_indices(lambda i: self.exchange[i])
            if copy in self.left.nodes and not isinstance(node, Tensor) and node.indices:
                continue  # a relation among joined indices: once is enough, for its square is itself
            name = fresh(node.name, self.taken)
            self.taken.add(name)
            copy = replace(copy, name=name)
            if isinstance(copy, Tensor) and isinstance(node, Tensor):
                copy = replace(copy, of=node.argument)
            yield conjugate(copy) if self.square.conj == "second" else copy

    def _output(self) -> tuple[Axis, ...]:
        keep = self.square.keep
        by_name = {i.name: i for i in self.left.open_indices}
        blocks = [[i.name for i in axis.indices] for axis in self.left.output]
        front = [group(*(by_name[name] for name in block)) for block in _kept_blocks(keep, blocks)]
        one: list[Axis] = []
        two: list[Axis] = []
        for fate, axis, other in zip(self.fates, self.left.output, self.right.output, strict=True):
            copied = other.substitute(self.exchange)
            if not isinstance(fate, dict):
                one += [axis] if fate != "sum" else []
                two += [copied] if fate == "copy" else []
                continue
            one += _group_of(i for i in axis.indices if fate[i.name] != "sum" and i.name not in keep)
            pairs = zip(other.indices, copied.indices, strict=True)
            two += _group_of(copy for i, copy in pairs if fate[i.name] == "copy")
        return (*front, *one, *two)


def _pairs(axis: Axis, other: Axis, fate: Mapping[str, str]) -> list[tuple[Index, Index]]:
    """The shared indices of two axes: by name, or in their order where the terms call them differently."""
    mine, its = ([i for i in a.indices if fate[i.name] != "copy"] for a in (axis, other))
    if {i.name for i in mine} == {i.name for i in its}:
        named = {i.name: i for i in mine}
        return [(named[i.name], i) for i in its]
    if [i.size for i in mine] != [i.size for i in its]:
        raise PassError(
            f"square shares an axis that is {axis} in one term and {other} in another; arrange both alike"
        )
    return list(zip(mine, its, strict=True))


def _group_of(indices: Iterable[Index]) -> list[Axis]:
    found = tuple(indices)
    return [group(*found)] if found else []


def _sizes(axis: Axis) -> list[Size]:
    return [i.size for i in axis.indices]


def _apart(axis: Axis, other: Axis) -> bool:
    """Whether no cell of one lies between the first and the last of the other."""
    ends = (axis.start, axis.reach, other.start, other.reach)
    return all(isinstance(end, int) for end in ends) and (
        axis.reach <= other.start or other.reach <= axis.start
    )


@dataclass(frozen=True)
class Tie(Pass):
    """The diagonal over two open indices of one size; the first one's axis stays.

    Args:
        left: an open index; it stays where it is in the output.
        right: an open index of the same size; it leaves the output.
    """

    name: ClassVar[str] = "tie"
    left: str
    right: str

    def apply(self, network: Network) -> PassResult:
        """Add a delta, and take the second index from the output."""
        left, right, output = self._tied(network)
        delta = Delta(fresh(f"delta_{self.right}", taken_names(network)), left, right)
        after = network.with_nodes((*network.nodes, delta), output)
        return PassResult(after, True, (f"{self.right} = {self.left}",))

    def _tied(self, network: Network) -> tuple[Index, Index, tuple[Axis, ...]]:
        left, right = open_named(network, (self.left, self.right), "tie")
        if left.size != right.size:
            raise PassError(
                f"tie joins index {self.left!r} of size {left.size} and {self.right!r} of size {right.size}; "
                "choose two of one size"
            )
        return left, right, without_indices(network.output, (right,), "tie")

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The diagonal of the value."""
        parts = []
        for term in before.terms:
            left, right, output = self._tied(term)
            legs = term.open_indices
            rest = tuple(i for i in legs if i != right)
            value = unpack(evaluate(term, arguments), term.output, legs)
            labels = [rest.index(left if i == right else i) for i in legs]
            parts.append(pack(np.einsum(value, labels, list(range(len(rest)))), rest, output))
        return sum(parts[1:], parts[0])
