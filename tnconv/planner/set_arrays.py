"""The states of all sets of leaves at once, and the prices of many steps at once, as NumPy arrays.

The same numbers as `Model.state` and `Model.price`, which say why; here every set is a column, and the few things
that need more thought than an array operation (the extent of a cut, relations that are entangled) are asked of the
model, once each. Products are float64: exact below 2^53, and rounded to no less than that above.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tnconv.planner.cost import Floats, Ints, Model
from tnconv.planner.states import bits

Bools = npt.NDArray[np.bool_]

EXACT = float(2**53)  # below, a product of integers in float64 has no error
_CHUNK = 11  # bits of a mask that one table of products has
_WORD = 62  # bits of a mask
_MEMBERS = 16  # indices of one relation


def fits(model: Model) -> bool:
    """Whether a problem fits: up to 62 indices in relations, up to 16 in each, and cells that 64 bits can count."""
    joined = sum(1 for relations in model.relations_of if relations)
    widest = max((mask.bit_count() for mask in model.masks), default=0)
    reach = (
        abs(r.offset) + sum(abs(a) * model.extents[v] for v, a in r.coefficients.items())
        for r in model.problem.relations
    )
    small = max(reach, default=0) < EXACT
    return small and joined <= _WORD and len(model.masks) <= _WORD and widest <= _MEMBERS


class Columns:
    """The states of all sets of leaves, a column each; leaf `p` before it is reduced is column `2^count + p`.

    Args:
        model: prices; its `fits` holds.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sets = 1 << model.count_leaves
        self._joined = [v for v, relations in enumerate(model.relations_of) if relations]
        self._place = {v: place for place, v in enumerate(self._joined)}
        self._members = [bits(mask) for mask in model.masks]
        width = self.sets + model.count_leaves
        self._absorbed = np.zeros(width, np.int64)  # masks of relations
        self._merged = np.zeros(width, np.int64)
        self._legs = np.zeros(width, np.int64)  # masks of the indices in relations
        self._words, self._tables = self._plain_words(width)
        self._joined_tables = _product_tables([model.extents[v] for v in self._joined])
        self._cuts = [_Cuts(model, r, self._place, width) for r in range(len(model.masks))]
        if model.masks:
            self._read_relations()

    # -- indices without relations ---------------------------------------------------------------

    def _plain_words(self, width: int) -> tuple[list[Ints], list[list[Floats]]]:
        """Masks over the indices that no relation has; those on the same leaves are one bit."""
        model = self.model
        groups: dict[tuple[int, bool], int] = {}
        for v, holders in enumerate(model.holders):
            if holders and not model.relations_of[v]:
                key = holders, bool(model.output >> v & 1)
                groups[key] = groups.get(key, 1) * model.extents[v]
        sets = np.arange(self.sets)
        words, tables = [], []
        listed = list(groups.items())
        for start in range(0, len(listed), _WORD):
            word = np.zeros(width, np.int64)
            part = listed[start : start + _WORD]
            for bit, ((holders, is_open), _) in enumerate(part):
                held = (sets & holders) != 0
                if not is_open:
                    held &= (~sets & holders) != 0
                word[: self.sets] |= held.astype(np.int64) << bit
                for leaf in bits(holders):
                    word[self.sets + leaf] |= 1 << bit
            words.append(word)
            tables.append(_product_tables([extent for _, extent in part]))
        return words, tables

    # -- indices in relations ----------------------------------------------------------------------

    def _read_relations(self) -> None:
        """The states of all sets: what they absorb, their legs, and the cut of every relation."""
        model, sets = self.model, np.arange(self.sets)
        joined, place = self._joined, self._place
        held = np.array([model.holders[v] for v in joined])[:, None]
        owned = np.zeros((len(joined), self.sets), np.bool_)
        for v, needed in model.owners.items():
            owned[place[v]] = (~sets & needed) == 0
        present = ((held & sets) != 0) | owned
        is_open = np.array([bool(model.output >> v & 1) for v in joined])[:, None]
        outer = is_open | ((held & ~sets) != 0)
        absorbed = self._absorb(present, outer, owned)
        external = present & outer
        inner = present & ~outer
        legs = external.copy()
        inside = [np.zeros(self.sets, np.int64) for _ in model.masks]
        for v in joined:
            users, at = bits(model.relations_of[v]), place[v]
            free = np.array([~absorbed[r] for r in users])
            waiting = inner[at] & free.any(0)
            splittable = np.array([model.splittable[r] for r in users])[:, None]
            into = waiting & (owned[at] | ((free.sum(0) == 1) & (free & splittable).any(0)))
            legs[at] |= waiting & ~into
            for number, r in enumerate(users):
                inside[r] |= (into & free[number]).astype(np.int64) << self._members[r].index(v)
        self._store(legs, absorbed, inside)

    def _absorb(self, present: Bools, outer: Bools, owned: Bools) -> Bools:
        """Which set absorbs which relation; the indices that it thereby has are added to `present`."""
        model = self.model
        absorbed = np.zeros((len(model.masks), self.sets), np.bool_)
        changed = True
        while changed:
            changed = False
            for r, members in enumerate(self._members):
                rows = [self._place[v] for v in members]
                here = present[rows]
                count = here.sum(0)
                candidate = ~absorbed[r] & (count > 0)
                done = candidate & (count == len(rows))
                single = np.flatnonzero(candidate & (count == len(rows) - 1) & (count > 1))
                if len(single) and model.splittable[r]:
                    single = single[self._yields(r, single, here, outer, owned, absorbed)]
                    done[single] = True
                    present[np.ix_(np.array(rows), single)] = True
                if done.any():
                    absorbed[r] |= done
                    changed = True
        return absorbed

    def _yields(
        self, r: int, columns: Ints, here: Bools, outer: Bools, owned: Bools, absorbed: Bools
    ) -> Bools:
        """Whether the one missing index can take the place of all the others, as `Model._yields` says."""
        model, members = self.model, self._members[r]
        inside = here[:, columns]
        fine = np.ones(len(columns), np.bool_)
        for number, v in enumerate(members):
            at = self._place[v]
            fine &= ~(inside[number] & outer[at, columns])
            for other in bits(model.relations_of[v]):
                if other != r:
                    fine &= ~(inside[number] & ~owned[at, columns] & ~absorbed[other, columns])
        if model.numeric[r]:
            missing = ~inside.T @ np.array([model.extents[v] for v in members])
            fine &= self._cuts[r].extent[_codes(inside)] == missing
        return fine

    def _store(self, legs: Bools, absorbed: Bools, inside: Sequence[Ints]) -> None:
        model, sets = self.model, self.sets
        self._legs[:sets] = _codes(legs)
        self._absorbed[:sets] = _codes(absorbed)
        for leaf, mask in enumerate(model.leaf_legs):
            self._legs[sets + leaf] = sum(1 << self._place[v] for v in bits(mask) if v in self._place)
        final = model.state(model.everything)  # relations that nothing connects to a leaf cost nothing
        self._legs[sets - 1] = sum(1 << self._place[v] for v in bits(final.plain) if v in self._place)
        self._absorbed[sets - 1] = final.absorbed
        for r, cuts in enumerate(self._cuts):
            codes = np.where(absorbed[r], 0, inside[r])
            codes[-1] = 0
            cuts.fill(codes)
            self._merged |= (cuts.merged != 0).astype(np.int64) << r
            self._legs |= np.where(cuts.merged == 0, cuts.member_bits[cuts.whole], 0)

    # -- prices ------------------------------------------------------------------------------------

    def elements(self, sets: Ints) -> Floats:
        """Number of cells of what each of some sets is contracted to."""
        found = _product(self._joined_tables, self._legs[sets])
        for word, tables in zip(self._words, self._tables, strict=True):
            found *= _product(tables, word[sets])
        for cuts in self._cuts:
            found *= cuts.extent[cuts.merged[sets]]
        return found

    def prices(self, left: Ints, right: Ints, both: Ints) -> Floats:
        """Multiplications of steps from two sets each to their union; a leaf is read raw where that is no dearer."""
        first, second = left, right
        found = self._multiplications(left, right, both)
        for mask in sorted(self.model.reducible):
            raw = self.sets + mask.bit_length() - 1
            for side in (0, 1):
                at = np.flatnonzero((left if side == 0 else right) == mask)
                if not len(at):
                    continue
                a = np.full(len(at), raw) if side == 0 else first[at]
                b = second[at] if side == 0 else np.full(len(at), raw)
                trial = self._multiplications(a, b, both[at])
                better = at[trial <= found[at]]
                found[at] = np.minimum(found[at], trial)
                if side == 0 and len(better):
                    first = first.copy()
                    first[better] = raw
        return found

    def _multiplications(self, a: Ints, b: Ints, both: Ints) -> Floats:
        """Product of the extents of the independent indices, as `Model.multiplications` says."""
        found = np.ones(len(a))
        for word, tables in zip(self._words, self._tables, strict=True):
            found *= _product(tables, word[a] | word[b] | word[both])
        if not self._cuts:
            return found
        legs = self._legs[a] | self._legs[b] | self._legs[both]
        here = self._absorbed[both] & ~self._absorbed[a] & ~self._absorbed[b]
        involved = here | self._merged[a] | self._merged[b] | self._merged[both]
        gone = np.zeros(len(a), np.int64)
        tangled = np.zeros(len(a), np.bool_)
        for r, cuts in enumerate(self._cuts):
            at = np.flatnonzero(involved >> r & 1)
            if not len(at):
                continue
            factor, scope, largest = cuts.step(a[at], b[at], both[at], (here[at] >> r & 1).astype(np.bool_))
            found[at] *= factor
            legs[at] |= scope
            tangled[at] |= (gone[at] & largest) != 0
            gone[at] |= largest
        found *= _product(self._joined_tables, legs & ~gone)
        places = np.flatnonzero(tangled)
        if len(places):
            found[places] = self._entangled(a[places], b[places], both[places])
        return found

    def _entangled(self, a: Ints, b: Ints, both: Ints) -> Floats:
        """Steps in which two relations would determine one index; equal ones are asked for once."""
        parts = [w[x] for w in (*self._words, self._legs, self._absorbed) for x in (a, b, both)]
        parts += [cuts.whole[x] for cuts in self._cuts for x in (a, b, both)]
        known: dict[Any, float] = {}
        found = np.empty(len(a))
        columns = zip(a.tolist(), b.tolist(), both.tolist(), strict=True)
        keys = np.stack(parts, axis=1)
        for place, (x, y, z) in enumerate(columns):
            key = keys[place].tobytes()
            price = known.get(key)
            if price is None:
                price = known[key] = float(
                    self.model.multiplications(self._state(x), self._state(y), self._state(z))
                )
            found[place] = price
        return found

    def _state(self, column: int) -> Any:
        return self.model.raw(column - self.sets) if column >= self.sets else self.model.state(column)


class _Cuts:
    """The cuts of one relation; sets of its indices are codes, with a bit for each member in order.

    Attributes:
        merged: for each column, what its cut has merged; 0 without a cut, and for an index that is its own leg.
        whole: the same with the indices that are their own legs.
        extent: of the cut by code; 1 for the empty code.
        member_bits: by code, the indices as a mask of the indices in relations.
    """

    def __init__(self, model: Model, r: int, place: dict[int, int], width: int) -> None:
        self._model, self._r, self._members = model, r, bits(model.masks[r])
        self.whole, self.merged = np.zeros(width, np.int64), np.zeros(width, np.int64)
        count = 1 << len(self._members)
        self._largest = np.zeros(count)  # the largest extent of a member in the code
        self._largest_bit = np.zeros(count, np.int64)
        self.member_bits = np.zeros(count, np.int64)
        for v in sorted(self._members, key=lambda v: (model.extents[v], v)):
            has = (np.arange(count) >> self._members.index(v) & 1).astype(np.bool_)
            self.member_bits[has] |= 1 << place[v]
            self._largest[has] = model.extents[v]
            self._largest_bit[has] = 1 << place[v]
        self.extent, self._is_merged = np.ones(count), np.zeros(count, np.bool_)
        if model.numeric[r]:
            self._meet()

    def _meet(self) -> None:
        """The extent of every cut by code: the cells that the sums of both sides reach, as `Model._make_cut` has it."""
        model, relation = self._model, self._model.problem.relations[self._r]
        low = high = step = np.zeros(1, np.int64)
        for v in self._members:
            coefficient = relation.coefficients[v]
            reach = coefficient * (model.extents[v] - 1)
            low, high = np.r_[low, low + min(reach, 0)], np.r_[high, high + max(reach, 0)]
            step = np.r_[step, np.gcd(step, coefficient)]
        at = self._members.index(relation.left)
        left_inside = (np.arange(len(low)) >> at & 1).astype(np.bool_)
        sign = np.where(left_inside, 1, -1) * relation.coefficients[relation.left]
        start, shift = np.where(left_inside, -sign * relation.offset, 0), -sign * relation.offset
        step = np.maximum(np.where(left_inside, step[::-1], step), 1)
        first = np.where(sign > 0, low, -high)
        last = np.where(sign > 0, high, -low)
        first = np.maximum(first, np.where(sign > 0, -high[::-1], low[::-1]) + shift)
        last = np.minimum(last, np.where(sign > 0, -low[::-1], high[::-1]) + shift)
        first = first + (start - first) % step
        size = np.maximum((last - first) // step + 1, 1)
        self._is_merged[:] = True
        for place, v in enumerate(self._members):
            alone = size[1 << place] >= model.extents[v]
            self._is_merged[1 << place] = not alone
            size[1 << place] = model.extents[v] if alone else size[1 << place]
        self._is_merged[0], size[0] = False, 1
        self.extent = size.astype(np.float64)

    def fill(self, codes: Ints) -> None:
        """Set the cuts of all sets from the members that are inside."""
        self.whole[: len(codes)] = codes
        if not self._model.numeric[self._r]:
            for code in np.unique(codes[codes != 0]).tolist():
                mask = sum(1 << self._members[place] for place in bits(code))
                cut = self._model.cut(self._r, mask)
                self.extent[code], self._is_merged[code] = self._model.extents[cut.variable], cut.merged
        self.merged[:] = np.where(self._is_merged[self.whole], self.whole, 0)

    def step(self, a: Ints, b: Ints, both: Ints, here: Bools) -> tuple[Floats, Ints, Ints]:
        """What the relation adds to steps that it matters to.

        Args:
            a: columns of the first operands.
            b: columns of the second.
            both: columns of the results.
            here: whether the step absorbs the relation.

        Returns:
            A factor, the indices that take part, and that of them which the relation determines; as masks.
        """
        part_a, part_b = self.merged[a], self.merged[b]
        result = np.where(here, 0, self.whole[both])
        made = self.merged[both]
        passed = ~here & (made != 0) & ((made == part_a) | (made == part_b))
        scope = np.where(here, len(self.extent) - 1, result) & ~part_a & ~part_b
        sizes = [self.extent[code] for code in (part_a, part_b, result)]
        product = sizes[0] * sizes[1] * sizes[2]
        greatest = np.maximum(np.maximum(sizes[0], sizes[1]), sizes[2])
        nothing = (part_a == 0) & (part_b == 0) & (result == 0)
        by_cut = ~nothing & (greatest >= self._largest[scope])
        factor = np.where(by_cut, product / greatest, product)
        factor = np.where(passed, self.extent[made], factor)
        taken = np.where(passed, 0, self.member_bits[scope])
        determined = np.where(passed | by_cut, 0, self._largest_bit[scope])
        return factor, taken, determined


def _codes(rows: Bools) -> Ints:
    """Each column of booleans as a number, the first row its lowest bit."""
    found = np.zeros(rows.shape[1], np.int64)
    for place, row in enumerate(rows):
        found |= row.astype(np.int64) << place
    return found


def _product_tables(extents: Sequence[int]) -> list[Floats]:
    """For each run of 11 bits, the product of extents by the bits that are set."""
    tables = []
    for start in range(0, len(extents), _CHUNK):
        table = np.ones(1)
        for extent in extents[start : start + _CHUNK]:
            table = np.concatenate([table, table * float(extent)])
        tables.append(table)
    return tables


def _product(tables: Sequence[Floats], masks: Ints) -> Floats:
    """The products of the extents in masks."""
    if not tables:
        return np.ones(len(masks))
    full = (1 << _CHUNK) - 1
    found: Floats = tables[0][masks & full]
    for number, table in enumerate(tables[1:], 1):
        found = found * table[(masks >> (_CHUNK * number)) & full]
    return found
