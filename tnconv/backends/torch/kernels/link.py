"""What a step is as a convolution: which leg has which part in its relations, and which of three roles that is.

Two operands joined by relations `i = s*o + d*k - p`, one leg on each operand and one in the output:
which leg the output has decides the role. Batch legs become groups, contracted legs input channels, the
others batch and output channels.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from tnconv.backends.torch.kernels.kernel import Problem
from tnconv.backends.torch.kernels.operand_copies import Split, split_legs
from tnconv.ir import Index, Relational, Size, reach
from tnconv.ir.affine import reverse
from tnconv.ir.shapes import ConvAxis

OUTPUT = 2
NATIVE_DIMENSIONS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """One relation as `image = stride·near + dilation·far - padding`; the legs and where they are.

    `place` maps each leg to 0 or 1 (an operand) or 2 (the output). `flip` is a leg that is reversed first.
    """

    image: Index
    legs: tuple[tuple[int, Index], tuple[int, Index]]
    offset: int
    place: dict[Index, int]
    flip: Index | None = None

    def at(self, place: int) -> tuple[int, Index]:
        """The (coefficient, index) of the leg at a place; the image has coefficient 1."""
        if self.place[self.image] == place:
            return 1, self.image
        first, second = self.legs
        return first if self.place[first[1]] == place else second


def link(problem: Problem, relation: Relational) -> Link | None:
    """Read a relation as that of a convolution; None if it is not one."""
    if relation.modulus is not None or len(relation.indices) != 3:
        return None
    place: dict[Index, int] = {}
    for index in relation.indices:
        spots = [*problem.holders(index), *([OUTPUT] if index in problem.open else [])]
        if len(spots) != 1 or problem.uses(index) != 1 or not isinstance(index.size, int):
            return None
        place[index] = spots[0]
    if sorted(place.values()) != [0, 1, OUTPUT]:
        return None
    reached = reach(relation.terms, relation.offset)
    if reached is None or reached.length > problem.profile.padded * (relation.left.size + 1):
        return None
    form = relation.zero_form
    if not any(c > 0 for c in form.values()):
        flip = relation.left  # its coefficient is ±1: reversed, it becomes the image
        return _link(reverse(relation, flip), place, flip)
    found = _link(relation, place, None)
    if found is not None:
        return found
    # As `i = 2*o - k + 2`: the smaller of two legs is reversed to make the other the image.
    alone = _image(form)
    flip, image = sorted((i for i in form if i != alone), key=lambda i: integer(i.size))
    return _link(reverse(relation, flip), place, flip) if abs(form[image]) == 1 else None


def _link(relation: Relational, place: dict[Index, int], flip: Index | None) -> Link | None:
    form = relation.zero_form
    image = _image(form)
    if abs(form[image]) != 1:
        return None
    legs = tuple((abs(c), i) for i, c in form.items() if i != image)
    return Link(image, (legs[0], legs[1]), -form[image] * relation.offset, place, flip)


def _image(form: dict[Index, int]) -> Index:
    """The one of three indices whose coefficient has a sign of its own."""
    positive = [i for i, c in form.items() if c > 0]
    return positive[0] if len(positive) == 1 else next(i for i, c in form.items() if c < 0)


class ConvRole(StrEnum):
    """What a convolution computes: its output has the positions, the image or the kernel of each link."""

    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"
    GRADIENT = "weight gradient"


@dataclass(frozen=True, slots=True)
class Roles:
    """A whole step as a convolution: which operand is which, and the links in order."""

    role: ConvRole
    first: int  # the image (convolution, weight gradient) or the positions (transposed)
    links: tuple[Link, ...]

    @property
    def image(self) -> int:
        """The place of the image."""
        return OUTPUT if self.role == ConvRole.TRANSPOSED else self.first

    @property
    def kernel(self) -> int:
        """The place of the kernel."""
        return OUTPUT if self.role == ConvRole.GRADIENT else 1 - self.first

    @property
    def positions(self) -> int:
        """The place of the positions."""
        return 3 - self.image - self.kernel

    def axis(self, link: Link) -> ConvAxis:
        """A relation in numbers."""
        (stride, position), (dilation, tap) = link.at(self.positions), link.at(self.kernel)
        image, taps, positions = (integer(i.size) for i in (link.image, tap, position))
        return ConvAxis(image, taps, stride, dilation, link.offset, positions)

    @property
    def axes(self) -> tuple[ConvAxis, ...]:
        """All relations in numbers."""
        return tuple(map(self.axis, self.links))


def find_roles(problem: Problem) -> Roles | None:
    """The role that a step has; None if its relations do not agree on one."""
    if "roles" not in problem.memo:
        problem.memo["roles"] = _find_roles(problem)
    found: Roles | None = problem.memo["roles"]
    return found


def _find_roles(problem: Problem) -> Roles | None:
    if len(problem.operands) != 2 or not problem.relations:
        return None
    links: list[Link] = []
    for relation in problem.relations:
        found = link(problem, relation)
        if found is None:
            return None
        links.append(found)
    spots = {found.place[found.image] for found in links}
    if len(spots) != 1:
        return None
    spot = spots.pop()
    sizes = [problem.count(found.at(place)[1] for found in links) for place in (0, 1, OUTPUT)]
    if spot == OUTPUT:
        options = [Roles(ConvRole.TRANSPOSED, first, tuple(links)) for first in (0, 1)]
        likely = options[0 if sizes[0] >= sizes[1] else 1]
    else:
        options = [Roles(role, spot, tuple(links)) for role in (ConvRole.CONVOLUTION, ConvRole.GRADIENT)]
        likely = options[1 if sizes[1 - spot] > sizes[OUTPUT] else 0]
    # Torch's own layout says more than sizes do: a kernel may be as large as the positions. And an index of any
    # size may be empty, as a batch is: torch refuses channels that are.
    return min(options, key=lambda r: (_any_size_in_channels(problem, r), _copies(problem, r), r != likely))


def _any_size_in_channels(problem: Problem, roles: Roles) -> bool:
    s = plain_split(problem, roles)
    channels = (*s.left, *s.right) if roles.role == ConvRole.GRADIENT else (*s.summed, *s.right)
    return any(not isinstance(i.size, int) for i in channels)


def _copies(problem: Problem, roles: Roles) -> int:
    """How many operands have their ordinary legs in another order than the native call of a role takes them."""
    first, second = problem.operands[roles.first], problem.operands[1 - roles.first]
    s = plain_split(problem, roles)
    match roles.role:
        case ConvRole.CONVOLUTION:
            wanted = ((*s.left, *s.batch, *s.summed), (*s.batch, *s.right, *s.summed))
        case ConvRole.TRANSPOSED:
            wanted = ((*s.left, *s.batch, *s.summed), (*s.batch, *s.summed, *s.right))
        case _:
            wanted = ((*s.summed, *s.batch, *s.left), (*s.summed, *s.batch, *s.right))
    return sum(value.legs[: len(legs)] != legs for value, legs in zip((first, second), wanted, strict=True))


def plain_split(problem: Problem, roles: Roles) -> Split:
    """The legs of a step but those of its links, by what they do; `left` are those of the first operand of the role."""
    return split_without(problem, roles, ())


def split_without(problem: Problem, roles: Roles, taken: Collection[Index]) -> Split:
    """The same without the legs that are `taken` besides."""
    key = f"split {roles.role} {roles.first}", frozenset(taken)
    if key not in problem.memo:
        problem.memo[key] = _split_without(problem, roles, taken)
    found: Split = problem.memo[key]
    return found


def _split_without(problem: Problem, roles: Roles, taken: Collection[Index]) -> Split:
    spatial = {i for found in roles.links for i in found.place}.union(taken)
    split = split_legs(problem.operands[roles.first], problem.operands[1 - roles.first], problem.open)
    groups = (split.batch, split.summed, split.left, split.right)
    return Split(*[tuple([i for i in legs if i not in spatial]) for legs in groups])


def multiplications(problem: Problem, roles: Roles) -> int:
    """Multiplications of a native call: every index but those that the relations determine."""
    a, b = problem.operands
    images = {found.image for found in roles.links}
    return problem.count(i for i in dict.fromkeys((*a.legs, *b.legs, *problem.output)) if i not in images)


def integer(size: Size) -> int:
    """The size of a leg of a link, which is never a symbol."""
    assert isinstance(size, int)
    return size
