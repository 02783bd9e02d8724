"""The spatial axes of a native convolution call, and in which layout an operand is given to it.

Besides the axes that relations have, legs that a convolution leaves alone may be spatial, with a kernel of one
cell: the rows, where only columns are convolved. Else they would have to be moved into the batch. A leg behind a
convolved one is folded into it, which multiplies dilation and padding by its size (a tensor ring's open bond).
"""

from dataclasses import dataclass, replace

from tnconv.backends.torch.emit import Value
from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.link import OUTPUT, ConvRole, Link, Roles, integer, split_without
from tnconv.backends.torch.kernels.operand_copies import Split, copies_in_order
from tnconv.ir import Index
from tnconv.ir.shapes import ConvAxis
from tnconv.program import Dims

Legs = tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class SpatialAxis:
    """One axis of a call.

    Args:
        legs: on the first operand, on the second, on the output; none where the kernel has one cell.
        numbers: the axis.
    """

    legs: tuple[Legs, Legs, Legs]
    numbers: ConvAxis

    @classmethod
    def of(cls, link: Link, roles: Roles) -> "SpatialAxis":
        """The axis of a relation."""
        first, second, output = (link.at(place)[1] for place in (0, 1, OUTPUT))
        return cls(((first,), (second,), (output,)), roles.axis(link))

    @classmethod
    def plain(cls, leg: Index, kernel: int) -> "SpatialAxis":
        """The axis of a leg that no relation has, with a kernel of one cell at the place `kernel`."""
        first, second, output = (() if place == kernel else (leg,) for place in range(3))
        size = integer(leg.size)
        return cls((first, second, output), ConvAxis(size, 1, 1, 1, 0, size))

    def with_plain(self, other: "SpatialAxis") -> "SpatialAxis":
        """This axis with a plain one folded into it, as the inner part."""
        (a, b, c), (x, y, z) = self.legs, other.legs  # those of the other's kernel are none
        old, inner = self.numbers, other.numbers.size
        made = replace(
            old,
            size=old.size * inner,
            positions=old.positions * inner,
            dilation=old.dilation * inner,
            offset=old.offset * inner,
        )
        return SpatialAxis(((*a, *x), (*b, *y), (*c, *z)), made)

    @property
    def folds(self) -> bool:
        """Whether a plain axis may be folded in: at stride 1, with the same padding on both sides."""
        left, right = self.numbers.padding
        return self.numbers.stride == 1 and left == right >= 0


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
    copied: float = 0.0

    def dims(self, place: int) -> Dims:
        """The spatial dimensions at a place."""
        return tuple(axis.legs[place] for axis in self.axes)

    @property
    def strides(self) -> list[int]:
        """The stride of each axis."""
        return [axis.numbers.stride for axis in self.axes]

    @property
    def dilations(self) -> list[int]:
        """The dilation of each axis."""
        return [axis.numbers.dilation for axis in self.axes]


def as_linked(problem: Problem, roles: Roles) -> Arranged:
    """A native call with the axes of the relations alone, channels first."""
    axes = tuple(SpatialAxis.of(found, roles) for found in roles.links)
    made = Arranged(roles, axes, split_without(problem, roles, ()))
    return _laid_out(problem, made)


def arranged(problem: Problem, roles: Roles) -> Arranged:
    """A native call with further axes where they save moving legs, in the layout of the first operand."""
    if "arranged" not in problem.memo:
        problem.memo["arranged"] = _arranged(problem, roles)
    found: Arranged = problem.memo["arranged"]
    return found


def _arranged(problem: Problem, roles: Roles) -> Arranged:
    first = problem.operands[roles.first]
    linked = {found.at(roles.first)[1]: SpatialAxis.of(found, roles) for found in roles.links}
    bare = Arranged(roles, (), split_without(problem, roles, ()))
    pool = bare.split.summed if roles.role == ConvRole.GRADIENT else bare.split.left
    free = {i for i in pool if isinstance(i.size, int) and i != first.legs[0]}
    run = _run(first.legs, set(linked), free)
    axes: list[SpatialAxis] = []
    for leg in run:
        made = linked.get(leg) or SpatialAxis.plain(leg, roles.kernel)
        if leg in free and axes and not axes[-1].legs[roles.kernel]:
            made = axes.pop().with_plain(made)
        axes.append(made)
    axes = _few(axes, len(linked), roles.kernel)
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


def _few(axes: list[SpatialAxis], linked: int, kernel: int) -> list[SpatialAxis]:
    """At most two axes, or as many as relations: plain ones are folded into what stands before them, or left out."""
    most = max(2, linked)
    for place in reversed(range(1, len(axes))):
        before, plain = axes[place - 1], axes[place]
        if len(axes) > most and not plain.legs[kernel] and before.folds:
            axes[place - 1 : place + 1] = [before.with_plain(plain)]
    while len(axes) > most:
        axes.remove(next(axis for axis in axes if not axis.legs[kernel]))
    return axes


def _laid_out(problem: Problem, made: Arranged) -> Arranged:
    """The call with what is known of layouts: whether channels are last, and what is copied."""
    first, second = problem.operands[made.roles.first], problem.operands[1 - made.roles.first]
    s, gradient = made.split, made.roles.role == ConvRole.GRADIENT
    lead, inner = (s.summed, (*s.batch, *s.left)) if gradient else (s.left, (*s.batch, *s.summed))
    axes = tuple(i for legs in made.dims(made.roles.first) for i in legs)
    last = len(made.axes) > 1 and bool(inner) and _lies(first, (*lead, *axes, *inner))
    copied = 0.0 if last else _copied(problem, first, (*lead, *inner, *axes))
    if gradient:
        outer = (*s.batch, *s.right)
        positions = tuple(i for legs in made.dims(1 - made.roles.first) for i in legs)
        wanted = (*lead, *positions, *outer) if last else (*lead, *outer, *positions)
        copied += _copied(problem, second, wanted)
    return replace(made, channels_last=last, copied=copied)


def _copied(problem: Problem, value: Value, legs: Legs) -> float:
    """Cells that it takes as long to copy as to bring a value into an order of legs."""
    if _lies(value, legs):
        return 0.0
    ordered = copies_in_order(value, legs, problem.count, problem.profile)
    return problem.count(legs) * (problem.profile.ordered if ordered else 1)


def _lies(value: Value, legs: Legs) -> bool:
    return value.legs == legs and value.contiguous
