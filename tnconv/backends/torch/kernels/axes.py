"""The spatial axes of a native convolution call, and in which layout an operand is given to it.

Besides the axes that relations have, legs that a convolution leaves alone may be spatial, with a kernel of one
cell: the rows, where only columns are convolved. Else they would have to be moved into the batch. A leg behind a
convolved one is folded into it, which multiplies dilation and padding by its size (a tensor ring's open bond).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tnconv.backends.torch.emit import Value
from tnconv.backends.torch.kernels.base import Problem
from tnconv.backends.torch.kernels.contract import Split
from tnconv.backends.torch.kernels.link import OUTPUT, Link, Roles, integer, split_without
from tnconv.ir import Index
from tnconv.program import Dims

Legs = tuple[Index, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpatialAxis:
    """One axis: `image = factor·positions + factor·kernel + offset`, what belongs to it by place as in `Link`.

    Args:
        legs: on the first operand, on the second, on the output; none where the kernel has one cell.
        factors: coefficients; that of the image is 1.
        sizes: cells.
        offset: minus the padding.
    """

    legs: tuple[Legs, Legs, Legs]
    factors: tuple[int, int, int]
    sizes: tuple[int, int, int]
    offset: int

    @classmethod
    def of(cls, link: Link) -> "SpatialAxis":
        """The axis of a relation."""
        ends = [link.at(place) for place in (0, 1, OUTPUT)]
        legs: list[Legs] = [(index,) for _, index in ends]
        sizes = [integer(index.size) for _, index in ends]
        return cls(_three(legs), _three([factor for factor, _ in ends]), _three(sizes), link.offset)

    @classmethod
    def plain(cls, leg: Index, kernel: int) -> "SpatialAxis":
        """The axis of a leg that no relation has, with a kernel of one cell at the place `kernel`."""
        places = range(3)
        legs: list[Legs] = [() if place == kernel else (leg,) for place in places]
        sizes = [1 if place == kernel else integer(leg.size) for place in places]
        return cls(_three(legs), (1, 1, 1), _three(sizes), 0)

    def with_plain(self, other: "SpatialAxis", kernel: int) -> "SpatialAxis":
        """This axis with a plain one folded into it, as the inner part."""
        inner = max(other.sizes)
        legs = [self.legs[p] if p == kernel else (*self.legs[p], *other.legs[p]) for p in range(3)]
        sizes = [self.sizes[p] * (1 if p == kernel else inner) for p in range(3)]
        factors = [self.factors[p] * (inner if p == kernel else 1) for p in range(3)]
        return SpatialAxis(_three(legs), _three(factors), _three(sizes), self.offset * inner)

    def folds(self, image: int, kernel: int) -> bool:
        """Whether a plain axis may be folded in: at stride 1, with the same padding on both sides."""
        near = 3 - image - kernel
        reach = self.factors[kernel] * (self.sizes[kernel] - 1)
        return (
            self.factors[near] == 1
            and self.sizes[near] == self.sizes[image] - 2 * self.offset - reach
            and self.offset <= 0
        )


def _three(values: Sequence[T]) -> tuple[T, T, T]:
    a, b, c = values
    return a, b, c


@dataclass(frozen=True, slots=True)
class Arranged:
    """A step as one native call.

    Args:
        roles: which operand is which.
        axes: the spatial axes, in order.
        split: the legs that are not spatial.
        channels_last: whether the first operand has its channels behind the spatial axes.
        copied: cells of the operands that lie otherwise and are copied.
    """

    roles: Roles
    axes: tuple[SpatialAxis, ...]
    split: Split
    channels_last: bool = False
    copied: int = 0

    @property
    def image(self) -> int:
        """The place of the image."""
        return OUTPUT if self.roles.role == "transposed convolution" else self.roles.first

    @property
    def kernel(self) -> int:
        """The place of the kernel."""
        return OUTPUT if self.roles.role == "weight gradient" else 1 - self.roles.first

    def dims(self, place: int) -> Dims:
        """The spatial dimensions at a place."""
        return tuple(axis.legs[place] for axis in self.axes)

    def factors(self, place: int) -> list[int]:
        """The coefficients at a place."""
        return [axis.factors[place] for axis in self.axes]


def as_linked(problem: Problem, roles: Roles) -> Arranged:
    """A native call with the axes of the relations alone, channels first."""
    made = Arranged(roles, tuple(map(SpatialAxis.of, roles.links)), split_without(problem, roles, ()))
    return _laid_out(problem, made)


def arranged(problem: Problem, roles: Roles) -> Arranged:
    """A native call with further axes where they save moving legs, in the layout of the first operand."""
    if "arranged" not in problem.memo:
        problem.memo["arranged"] = _arranged(problem, roles)
    found: Arranged = problem.memo["arranged"]
    return found


def _arranged(problem: Problem, roles: Roles) -> Arranged:
    first = problem.operands[roles.first]
    linked = {found.at(roles.first)[1]: SpatialAxis.of(found) for found in roles.links}
    bare = Arranged(roles, (), split_without(problem, roles, ()))
    pool = bare.split.summed if roles.role == "weight gradient" else bare.split.left
    free = {i for i in pool if isinstance(i.size, int) and i != first.legs[0]}
    run = _run(first.legs, set(linked), free)
    axes: list[SpatialAxis] = []
    for leg in run:
        made = linked.get(leg) or SpatialAxis.plain(leg, bare.kernel)
        if leg in free and axes and not axes[-1].legs[bare.kernel]:
            made = axes.pop().with_plain(made, bare.kernel)
        axes.append(made)
    axes = _few(axes, len(linked), bare)
    taken = {i for axis in axes for legs in axis.legs for i in legs}
    return _laid_out(problem, replace(bare, axes=tuple(axes), split=split_without(problem, roles, taken)))


def _run(legs: Legs, linked: set[Index], free: set[Index]) -> Legs:
    """The legs around the linked ones that may be spatial; the linked ones alone where other legs part them."""
    places = sorted(legs.index(i) for i in linked)
    low, high = places[0], places[-1]
    if any(i not in linked | free for i in legs[low:high]):
        return tuple(legs[place] for place in places)
    while high + 1 < len(legs) and legs[high + 1] in free:
        high += 1
    while low > 0 and legs[low - 1] in free:
        low -= 1
    return legs[low : high + 1]


def _few(axes: list[SpatialAxis], linked: int, bare: Arranged) -> list[SpatialAxis]:
    """At most two axes, or as many as relations: plain ones are folded into what stands before them, or left out."""
    most = max(2, linked)
    for place in reversed(range(1, len(axes))):
        before, plain = axes[place - 1], axes[place]
        if len(axes) > most and not plain.legs[bare.kernel] and before.folds(bare.image, bare.kernel):
            axes[place - 1 : place + 1] = [before.with_plain(plain, bare.kernel)]
    while len(axes) > most:
        axes.remove(next(axis for axis in axes if not axis.legs[bare.kernel]))
    return axes


def _laid_out(problem: Problem, made: Arranged) -> Arranged:
    """The call with what is known of layouts: whether channels are last, and what is copied."""
    first, second = problem.operands[made.roles.first], problem.operands[1 - made.roles.first]
    s, gradient = made.split, made.roles.role == "weight gradient"
    lead, inner = (s.summed, (*s.batch, *s.left)) if gradient else (s.left, (*s.batch, *s.summed))
    axes = tuple(i for legs in made.dims(made.roles.first) for i in legs)
    last = len(made.axes) > 1 and bool(inner) and _lies(first, (*lead, *axes, *inner))
    copied = 0 if last or _lies(first, (*lead, *inner, *axes)) else problem.count(first.legs)
    if gradient:
        outer = (*s.batch, *s.right)
        positions = tuple(i for legs in made.dims(1 - made.roles.first) for i in legs)
        wanted = (*lead, *positions, *outer) if last else (*lead, *outer, *positions)
        copied += 0 if _lies(second, wanted) else problem.count(second.legs)
    return replace(made, channels_last=last, copied=copied)


def _lies(value: Value, legs: Legs) -> bool:
    return value.legs == legs and value.contiguous
