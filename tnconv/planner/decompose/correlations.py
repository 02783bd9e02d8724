"""Relations of three indices as those of a convolution: `image = stride·position + dilation·tap + offset`."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

from tnconv.ir import Index, Relational
from tnconv.planner.plan import Step

OUTPUT = 2  # the place of an index that is on the output; operands are the places 0 and 1


def places(step: Step) -> dict[Index, tuple[int, ...]]:
    """Where each index of a step is, besides its relations: operands 0 and 1, the output 2."""
    found: dict[Index, tuple[int, ...]] = dict.fromkeys(step.indices, ())
    for place, operand in enumerate(step.operands):
        for index in operand.indices:
            found[index] += (place,)
    for index in dict.fromkeys(i for axis in step.output for i in axis.indices):
        found[index] += (OUTPUT,)
    return found


def uses(step: Step, index: Index) -> int:
    """Number of relations that have an index."""
    return sum(index in relation.indices for relation in step.relations)


@dataclass(frozen=True, slots=True)
class Correlation:
    """`image = one[0]·one[1] + other[0]·other[1] + offset`, each index in this relation alone and on one place.

    Args:
        image: the index whose coefficient has a sign of its own, which is ±1.
        one: (coefficient, index), the coefficient positive.
        other: (coefficient, index), the coefficient positive.
        offset: in cells of the image.
        at: where each of the three is.
    """

    image: Index
    one: tuple[int, Index]
    other: tuple[int, Index]
    offset: int
    at: dict[Index, int]

    def term(self, place: int) -> tuple[int, Index]:
        """The term whose index is at a place."""
        return self.one if self.at[self.one[1]] == place else self.other


def correlations(step: Step, spots: dict[Index, tuple[int, ...]]) -> list[Correlation] | None:
    """All relations of a step of two operands so; None where one is none, or two differ in where the image is.

    Args:
        step: any.
        spots: where its indices are.
    """
    if len(step.operands) != 2 or not step.relations:
        return None
    found = [c for r in step.relations if (c := _read(step, r, spots))]
    if len(found) < len(step.relations) or len({c.at[c.image] for c in found}) > 1:
        return None
    return found


def is_kernel(found: list[Correlation], place: int, other: int) -> bool:
    """Whether what is at one place has no more cells, along the axes, than what is at another."""
    one, two = (prod(each.term(at)[1].size for each in found) for at in (place, other))
    return bool(one <= two)


def _read(step: Step, relation: Relational, spots: dict[Index, tuple[int, ...]]) -> Correlation | None:
    if relation.modulus is not None or len(relation.indices) != 3:
        return None
    if any(not isinstance(i.size, int) or len(spots[i]) != 1 or uses(step, i) != 1 for i in relation.indices):
        return None
    at = {i: spots[i][0] for i in relation.indices}
    form = relation.zero_form
    if sorted(at.values()) != [0, 1, OUTPUT] or all(c < 0 for c in form.values()):
        return None
    alone = [i for i, c in form.items() if c > 0]
    image = alone[0] if len(alone) == 1 else next(i for i, c in form.items() if c < 0)
    if abs(form[image]) != 1:
        return None
    one, other = ((abs(c), i) for i, c in form.items() if i != image)
    return Correlation(image, one, other, -form[image] * relation.offset, at)


@dataclass(frozen=True)
class Reading:
    """What rules ask of a step, found out once for all of them."""

    step: Step

    @cached_property
    def places(self) -> dict[Index, tuple[int, ...]]:
        """As the function `places` says."""
        return places(self.step)

    @cached_property
    def correlations(self) -> list[Correlation] | None:
        """As the function `correlations` says."""
        return correlations(self.step, self.places)
