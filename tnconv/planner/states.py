"""What a set of leaves is contracted to, where some indices are joined by affine relations.

A subset S of the leaves cuts every relation `Σ a·x + off = 0` in two: the indices that only S has, and the
rest. Towards the rest S needs nothing of them but their sum, so it has one leg for the relation,

    q = (Σ_inside a·x - base) / step,

whose extent is the number of cells in which the sums of the two sides can meet: the halo for a signal and
some kernels, the number of taps for kernels alone. One index inside is its own leg unless the cut is
narrower; one index outside takes the place of q, and then the relation is absorbed. An index on no leaf and
not in the output belongs to the set that has the largest private index of each of its relations; there it
is summed. In a *late* model it waits for the last tensor instead: the Gram matrix of an image, pixel by
pixel, is cheaper than that of its windows. All of this follows from S alone, so that Bellman's principle
holds and a dynamic programme over subsets is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

from tnconv.ir import Size
from tnconv.ir.affine import reach_of_sizes
from tnconv.planner.hints import extent_of
from tnconv.planner.problem import Linear, Prepared


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


@dataclass(frozen=True, slots=True)
class Cut:
    """The leg that a relation leaves at a set: `sign·Σ_inside a·x = step·variable + base`.

    Args:
        inside: bit mask of the indices that are merged.
        variable: number of the leg; the index itself if it is the only one and not narrowed.
        size: number of cells.
    """

    inside: int
    variable: int
    size: Size
    sign: int = 1
    step: int = 1
    base: int = 0
    merged: bool = True


@dataclass(slots=True)
class State:
    """What a set of leaves is contracted to.

    Args:
        plain: bit mask of the legs that are indices of the problem.
        absorbed: bit mask of the relations that are absorbed.
        cuts: the other relations that have something inside.
    """

    plain: int
    absorbed: int
    cuts: dict[int, Cut] = field(default_factory=dict)
    fresh: int = field(init=False, default=0)  # the legs that stand for a cut, as a bit mask
    merged: int = field(init=False, default=0)  # the relations that they belong to

    def __post_init__(self) -> None:
        for r, cut in self.cuts.items():
            if cut.merged:
                self.fresh |= 1 << cut.variable
                self.merged |= 1 << r
            else:
                self.plain |= 1 << cut.variable

    @property
    def legs(self) -> int:
        """Bit mask of all legs."""
        return self.plain | self.fresh

    def differs(self, other: "State") -> bool:
        """Whether a step leads from one to the other."""
        return (self.legs, self.absorbed) != (other.legs, other.absorbed)


@dataclass(frozen=True, slots=True)
class _Reached:
    """What a set of leaves has at hand, as bit masks. A larger set has all of it too.

    Args:
        present: the indices on the leaves, and those that relations give.
        inner: those of them that neither the output nor a leaf outside has.
        absorbed: the relations that are absorbed.
        pending: the other relations of indices at hand.
        owned: the indices at hand that only relations have.
    """

    present: int
    inner: int
    absorbed: int
    pending: int
    owned: int


class States:
    """What the sets of leaves of one problem are contracted to.

    Args:
        problem: what is contracted.
        values: what the size symbols count as.
        late: an index that only relations have waits for the last tensor, instead of being summed early.
    """

    def __init__(self, problem: Prepared, values: Mapping[str, int], *, late: bool = False) -> None:
        self.problem = problem
        self.values = values
        self.late = late
        self.extents = list(problem.extents)
        self.count_leaves = len(problem.leaves)
        self.everything = (1 << self.count_leaves) - 1
        self.leaf_legs = [sum(1 << v for v in set(leaf.legs)) for leaf in problem.leaves]
        self.output = sum(1 << v for v in problem.output)
        self.masks = [sum(1 << v for v in r.coefficients) for r in problem.relations]
        width = len(self.extents)
        self.holders = [0] * width
        for place, mask in enumerate(self.leaf_legs):
            for v in bits(mask):
                self.holders[v] |= 1 << place
        self.relations_of = [0] * width
        for r, mask in enumerate(self.masks):
            for v in bits(mask):
                self.relations_of[v] |= 1 << r
        sizes = [index.size for index in problem.variables]
        self.numeric = [all(isinstance(sizes[v], int) for v in r.coefficients) for r in problem.relations]
        self.splittable = [self._is_splittable(r) for r in problem.relations]
        self.owners = {} if late else self._find_owners()
        self.cuts: dict[tuple[int, int], Cut] = {}
        self.cut_of: dict[int, tuple[int, Cut]] = {}
        self._states: dict[int, State] = {}
        self._reaches: dict[int, _Reached] = {}
        self._products: dict[int, int] = {0: 1}
        self._elements: dict[int, int] = {}

    # -- set-up ----------------------------------------------------------------------------------

    def _is_splittable(self, relation: Linear) -> bool:
        """Whether the sums of either side start at a cell that is known while planning."""
        sign = -relation.coefficients[relation.left]
        symbolic = (
            a * sign > 0
            for v, a in relation.coefficients.items()
            if v != relation.left and not isinstance(self.problem.variables[v].size, int)
        )
        return relation.modulus is None and all(symbolic)

    def _find_owners(self) -> dict[int, int]:
        """For each index that lives on relations only: the leaves that a set needs to sum it."""
        principal: list[int] = []
        for mask in self.masks:
            private = [
                v
                for v in bits(mask & ~self.output)
                if self.holders[v] and self.relations_of[v].bit_count() == 1
            ]
            best = max(private, key=lambda v: (self.extents[v], -v), default=None)
            principal.append(0 if best is None else self.holders[best])
        owners = {}
        for v, relations in enumerate(self.relations_of):
            if relations and not self.holders[v] and not self.output >> v & 1:
                users = bits(relations)
                if all(principal[r] and self.splittable[r] for r in users):
                    needed = 0
                    for r in users:
                        needed |= principal[r]
                    owners[v] = needed
        return owners

    # -- sets ------------------------------------------------------------------------------------

    def product(self, mask: int) -> int:
        """Product of the extents of the indices in a mask."""
        found = self._products.get(mask)
        if found is None:
            found = 1
            for v in bits(mask):
                found *= self.extents[v]
            self._products[mask] = found
        return found

    def state(self, leaves: int) -> State:
        """What the leaves are contracted to; all of them to the output."""
        found = self._states.get(leaves)
        if found is None:
            found = self._states[leaves] = self._make_state(leaves)
        return found

    def joined(self, left: int, right: int) -> State:
        """What two sets of leaves are contracted to; what is known of each need not be found again."""
        leaves = left | right
        found = self._states.get(leaves)
        if found is None:
            found = self._states[leaves] = self._make_state(leaves, left, right)
        return found

    def raw(self, leaf: int) -> State:
        """A leaf as it is, before the indices that only it has are summed."""
        return State(self.leaf_legs[leaf], 0)

    def _make_state(self, leaves: int, *parts: int) -> State:
        if leaves == self.everything:
            return self._final()
        here = self._reach(leaves, *parts)
        legs = external = here.present & ~here.inner
        if not here.pending:
            return State(legs, here.absorbed)
        waiting = 0
        for r in bits(here.pending):
            waiting |= self.masks[r]
        inside: dict[int, int] = {}
        for v in bits(waiting & here.present & ~external):
            users = self.relations_of[v] & here.pending
            if here.owned >> v & 1 or (users & (users - 1) == 0 and self.splittable[users.bit_length() - 1]):
                for r in bits(users):
                    inside[r] = inside.get(r, 0) | 1 << v
            else:
                legs |= 1 << v
        return State(legs, here.absorbed, {r: self.cut(r, mask) for r, mask in inside.items()})

    def _reach(self, leaves: int, *parts: int) -> _Reached:
        """What leaves have at hand, from what parts of them have."""
        found = self._reaches.get(leaves)
        if found is None:
            found = self._reaches[leaves] = self._make_reach(leaves, [self._reach(part) for part in parts])
        return found

    def _make_reach(self, leaves: int, parts: Sequence[_Reached]) -> _Reached:
        present = inner = absorbed = pending = owned = 0
        for part in parts:
            present |= part.present
            inner |= part.inner
            absorbed |= part.absorbed
            pending |= part.pending
            owned |= part.owned
        if not parts:
            for place in bits(leaves):
                present |= self.leaf_legs[place]
            pending = self._users(present)
        pending &= ~absorbed
        if pending:
            for v in self._owners_among(pending):
                if not owned >> v & 1 and self.owners[v] & ~leaves == 0:
                    owned |= 1 << v
                    present |= 1 << v
                    pending |= self.relations_of[v] & ~absorbed
            present, absorbed, pending = self._absorb(leaves, present, absorbed, pending, owned)
        outer = self._external(present & ~inner, leaves)
        return _Reached(present, present & ~outer, absorbed, pending, owned)

    def _users(self, indices: int) -> int:
        """The relations of some indices."""
        users = 0
        if self.masks:
            for v in bits(indices):
                users |= self.relations_of[v]
        return users

    def _owners_among(self, relations: int) -> list[int]:
        """The indices of some relations that only relations have, ascending."""
        if not self.owners:
            return []
        return sorted({v for r in bits(relations) for v in bits(self.masks[r]) if v in self.owners})

    def _final(self) -> State:
        """The result: relations that nothing connects to a leaf cost nothing."""
        present = absorbed = 0
        for legs in self.leaf_legs:
            present |= legs
        pending = self._users(present)
        while pending:
            r = pending.bit_length() - 1
            absorbed |= 1 << r
            found = self.masks[r] & ~present
            present |= found
            pending = (pending | self._users(found)) & ~absorbed
        return State(present & self.output, absorbed)

    def _external(self, present: int, leaves: int) -> int:
        """The indices that are in the output or on a leaf outside."""
        external = present & self.output
        for v in bits(present & ~external):
            if self.holders[v] & ~leaves:
                external |= 1 << v
        return external

    def _absorb(
        self, leaves: int, present: int, absorbed: int, pending: int, owned: int
    ) -> tuple[int, int, int]:
        """The indices at hand once all relations are absorbed that can be, these relations, and those that cannot."""
        changed = True
        while changed:
            changed, waiting = False, pending
            while waiting:
                only = waiting & -waiting
                r, waiting = only.bit_length() - 1, waiting ^ only
                missing = self.masks[r] & ~present
                if not missing or self._yields(r, missing, leaves, absorbed, owned):
                    absorbed |= only
                    present |= missing
                    found = self._users(missing) & ~absorbed
                    pending = (pending | found) & ~only
                    waiting |= found & -only
                    changed = True
        return present, absorbed, pending

    def _yields(self, r: int, missing: int, leaves: int, absorbed: int, owned: int) -> bool:
        """Whether the one missing index can take the place of all the others."""
        inside = self.masks[r] & ~missing
        if missing & (missing - 1) or inside & (inside - 1) == 0 or not self.splittable[r]:
            return False
        if self._external(inside, leaves):
            return False
        only = 1 << r
        if any(self.relations_of[v] & ~absorbed & ~only for v in bits(inside & ~owned)):
            return False
        outside = missing.bit_length() - 1
        return not self.numeric[r] or self.cut(r, inside).size == self.extents[outside]

    # -- cuts ------------------------------------------------------------------------------------

    def cut(self, r: int, inside: int) -> Cut:
        """The leg that relation `r` leaves where the indices of the mask `inside` are merged."""
        found = self.cuts.get((r, inside))
        if found is None:
            found = self.cuts[r, inside] = self._make_cut(r, inside)
        return found

    def _make_cut(self, r: int, inside: int) -> Cut:
        relation, variables = self.problem.relations[r], self.problem.variables
        only = inside.bit_length() - 1
        alone = Cut(inside, only, variables[only].size, merged=False)
        single = inside == 1 << only
        if single and not self.numeric[r]:
            return alone
        left_inside = bool(inside >> relation.left & 1)
        unit = relation.coefficients[relation.left]
        sign = unit if left_inside else -unit
        here = [(sign * a, variables[v].size) for v, a in relation.coefficients.items() if inside >> v & 1]
        there = [
            (-sign * a, variables[v].size) for v, a in relation.coefficients.items() if not inside >> v & 1
        ]
        # The side without the left index may have gaps; the sums of both sides meet on its lattice only.
        shift = -sign * relation.offset
        sparse, start = (there, shift) if left_inside else (here, 0)
        step = gcd(*(a for a, _ in sparse)) or 1
        if self.numeric[r]:
            # The cells that the sums of both sides can reach.
            mine, others = reach_of_sizes(here), reach_of_sizes(there, shift)
            low, high = max(mine.low, others.low), min(mine.high, others.high)
            low += (start - low) % step
            size: Size = max((high - low) // step + 1, 1)
        else:
            reached = reach_of_sizes((a // step, size) for a, size in sparse)
            size, low = reached.length, reached.low * step + start
        if single and size >= variables[only].size:
            return alone
        cut = Cut(inside, len(self.extents), size, sign, step, low)
        self.extents.append(extent_of(size, self.values))
        self.cut_of[cut.variable] = (r, cut)
        return cut

    def elements(self, leaves: int) -> int:
        """Number of cells of what the leaves are contracted to."""
        found = self._elements.get(leaves)
        if found is None:
            state = self.state(leaves)
            sizes = [self.extents[c.variable] for c in state.cuts.values() if c.merged]
            found = self._elements[leaves] = self.product(state.plain) * prod(sizes)
        return found
