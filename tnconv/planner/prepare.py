"""From a network to the problem that the planner solves: leaves, linear relations, and what frames them.

    x[i] * w[k] * [i = o + k - 1 mod I]  ->  x'[j] = x[i] * [i = j - 1 mod I]     prepares the leaf x
                                             x'[j] * w[k] * [j = o + k]           the problem

Terms of size 1 leave the relations, for they are 0. Deltas are substituted away, unless both indices are in
the output. A relation that folds (circular, reflecting, replicating) becomes a plain one and a *wrap*
`i = j + offset mod M`, which pads; where it stays within one straight run it is plain itself. A wrap is prepared
on the one leaf that holds `i`, or finished on the result. What fits neither is absorbed as a whole by the
first step that has all of its indices.

A selection is prepared too, on every leaf that holds the index which it selects from. Where that index is on a
relation too, a leaf that holds another index of the relation is prepared with both, so that all of it stays small:

    dy[o] * x[i] * [i = 2*o + k] * [i = rows[s]]  ->  x'[s] = x[i] * [i = rows[s]]
                                                      y'[s, k] = dy[o] * [i = 2*o + k] * [i = rows[s]]

That multiplies for each row and each kernel cell. Where strides make it more than the whole convolution does, or
channels are so few that a product of matrices is slow, rows are written into zeros: `x'[i] = x[s] * [i = rows[s]]`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

from tnconv.ir import Index, Network, Relational, Select, Size, fresh, product
from tnconv.ir.affine import combined, reach_of_sizes
from tnconv.ir.nodes import runs
from tnconv.planner.hints import extent_of
from tnconv.planner.problem import Leaf, Linear, Prepared, Wrap

_NARROW = 16  # rows of a matrix, below which its product is slow
_MOST_SHARED = 0.75  # of the cells that the whole axes have


class Preparation:
    """Builds a problem from a network.

    Args:
        network: the network.
        values: what every size symbol counts as while planning.
        known: indices of earlier terms of the same plan by name; an index that has another size there gets
            a new name. The indices of this network are added.

    Raises:
        PlanError: a size is not positive at the values.
    """

    def __init__(self, network: Network, values: Mapping[str, int], known: dict[str, Index]) -> None:
        self.network = network
        self.values = values
        self.known = known
        self.taken = {i.name for i in network.indices} | set(known)
        self.variables: list[Index] = []
        self.extents: list[int] = []
        self.number: dict[Index, int] = {}
        self.relations: list[Linear] = []
        self.wraps: list[Wrap] = []
        self.selects: list[Wrap] = []
        for index in network.ordered.indices:
            self.number[index] = self._add(index)
        self.leaves = [
            Leaf(t.name, t.argument, t.axes, [self.number[i] for i in t.indices], conj=t.conj)
            for t in network.ordered.tensors
        ]
        self.output = [self.number[i] for i in network.open_indices]

    def run(self) -> Prepared:
        """The problem."""
        for relation in self.network.ordered.patterns:
            self._read(relation)
        self._substitute_deltas()
        exchange = {i: self.variables[v] for i, v in self.number.items() if i != self.variables[v]}
        axes = self.network.output
        if exchange:
            axes = tuple(axis.substitute(exchange) for axis in axes)
            for leaf in self.leaves:
                leaf.axes = tuple(axis.substitute(exchange) for axis in leaf.axes)
        finish = [*self._place_selects(), *self._place_wraps()]
        self.relations += [wrap.relation for wrap in self.wraps]
        place = {leaf.name: number for number, leaf in enumerate(self.leaves)}
        return Prepared(
            self.variables,
            self.extents,
            self.leaves,
            self.relations,
            self.output,
            finish,
            axes,
            tuple(place[tensor.name] for tensor in self.network.tensors),
            self._multiplicity(finish),
        )

    def _multiplicity(self, finish: Sequence[Wrap]) -> Size:
        used = {v for leaf in self.leaves for v in leaf.legs} | set(self.output)
        used |= {v for r in self.relations for v in r.coefficients}
        prepared = [*(w.relation for w in finish), *(r for leaf in self.leaves for r in leaf.wraps)]
        used |= {v for r in prepared for v in r.coefficients}
        used |= {select.narrow for select in self.selects}  # it has one value
        return product(self._size(v) for v in sorted(set(self.number.values()) - used))

    # -- indices ---------------------------------------------------------------------------------

    def _add(self, index: Index) -> int:
        if self.known.setdefault(index.name, index) != index:
            index = index.named(fresh(index.name, self.taken))
            self.known[index.name] = index
        self.taken.add(index.name)
        self.variables.append(index)
        self.extents.append(extent_of(index.size, self.values))
        return len(self.variables) - 1

    def _new(self, like: int, letter: str, size: Size) -> int:
        """A fresh index named after another: `j1` for `i1`."""
        stem = re.sub(r"\A[A-Za-z]+", letter, self.variables[like].name)
        return self._add(Index(fresh(stem, self.taken), size, self.variables[like].kind))

    def _size(self, variable: int) -> Size:
        return self.variables[variable].size

    # -- relations -------------------------------------------------------------------------------

    def _read(self, relation: Relational) -> None:
        left = self.number[relation.left]
        if isinstance(relation, Select):
            right = self.number[relation.right]
            self.selects.append(Wrap(left, right, 0, relation.modulus, relation.mode, relation.table))
            return
        found = [(self.number[x], a) for a, x in relation.terms if x.size != 1]
        terms = dict(sorted(found, key=lambda term: (-abs(term[1]), -term[0])))
        if relation.modulus is None:
            self._keep({left: -1} | terms, relation.offset, left)
        elif relation.modulus != 1:
            self._read_folded(left, terms, relation.offset, relation.modulus, relation.mode)

    def _read_folded(self, left: int, terms: dict[int, int], offset: int, modulus: Size, mode: str) -> None:
        found = reach_of_sizes([(a, self._size(v)) for v, a in terms.items()], offset)
        low = found.low
        if all(isinstance(number, int) for number in (*found, modulus)):
            cell, step, length = next(runs(low, found.length, modulus, mode))
            if length == found.length:  # left = cell + step*(t - low)
                straight = {v: step * a for v, a in terms.items()}
                self._keep({left: -1} | straight, cell + step * (offset - low), left)
                return
        if list(terms.values()) == [1]:
            self.wraps.append(Wrap(left, next(iter(terms)), offset, modulus, mode))
        elif isinstance(low, int) and terms:
            wide = self._new(left, "j", found.length)
            self.relations.append(Linear({wide: -1} | terms, offset - low, wide))
            self.wraps.append(Wrap(left, wide, low, modulus, mode))
        else:
            self.relations.append(Linear({left: -1} | terms, offset, left, modulus, mode))

    def _keep(self, coefficients: dict[int, int], offset: int, left: int) -> None:
        """Add a plain relation, without a left index of size 1 where another can take its place."""
        made = self._simplified(coefficients, offset, left)
        if made is not None and made.coefficients:
            self.relations.append(made)

    def _simplified(self, coefficients: dict[int, int], offset: int, left: int) -> Linear | None:
        """The relation without zero terms; None where it has no index with coefficient 1 or -1."""
        kept = {v: a for v, a in coefficients.items() if a}
        units = [v for v, a in kept.items() if abs(a) == 1]
        if not kept:
            return Linear({}, 0, -1) if offset == 0 else None
        if kept.get(left, 0) not in (1, -1):
            if not units:
                return None
            left = units[0]
        if self._size(left) == 1 and (len(units) > 1 or (len(kept) == 1 and offset == 0)):
            return self._simplified({v: a for v, a in kept.items() if v != left}, offset, left)
        return Linear(kept, offset, left)

    def _substitute_deltas(self) -> None:
        place = 0
        while place < len(self.relations):
            if self._substitute(self.relations[place]):
                place = 0
            else:
                place += 1

    def _substitute(self, delta: Linear) -> bool:
        """Exchange one index of a delta for the other, everywhere; whether that was possible."""
        if sorted(delta.coefficients.values()) != [-1, 1] or delta.offset or delta.modulus is not None:
            return False
        kept, gone = sorted(delta.coefficients)
        if self._size(kept) != self._size(gone):
            return False
        if gone in self.output:
            kept, gone = gone, kept
        wraps = (*self.wraps, *self.selects)
        if gone in self.output or any({w.narrow, w.wide} == {kept, gone} for w in wraps):
            return False
        relations = []
        for relation in self.relations:
            made: Linear | None = relation
            if relation is not delta and gone in relation.coefficients:
                coefficients = combined(relation.coefficients, gone, ((1, kept),))
                left = kept if relation.left == gone else relation.left
                made = (
                    None
                    if relation.modulus is not None
                    else self._simplified(coefficients, relation.offset, left)
                )
                if made is None:
                    return False
            if relation is not delta and made is not None and made.coefficients:
                relations.append(made)
        self.relations = relations
        exchange = {gone: kept}
        self.wraps, self.selects = (
            [
                replace(w, narrow=exchange.get(w.narrow, w.narrow), wide=exchange.get(w.wide, w.wide))
                for w in each
            ]
            for each in (self.wraps, self.selects)
        )
        for leaf in self.leaves:
            leaf.legs = list(dict.fromkeys(kept if v == gone else v for v in leaf.legs))
        for index, number in self.number.items():
            if number == gone:
                self.number[index] = kept
        return True

    def _related(self, *but: Linear | Wrap) -> list[Collection[int]]:
        """The indices of each relation, wrap and selection but for some."""
        found: list[Collection[int]] = [
            r.coefficients for r in self.relations if all(r is not other for other in but)
        ]
        wraps = (w for w in (*self.wraps, *self.selects) if all(w is not other for other in but))
        return [*found, *((w.narrow, w.wide) for w in wraps)]

    # -- wraps -----------------------------------------------------------------------------------

    def _place_wraps(self) -> list[Wrap]:
        """Move wraps to the leaf or the result that they concern alone; return those of the result."""
        finish: list[Wrap] = []
        waiting = True
        while waiting:
            waiting = False
            for wrap in self.wraps:
                if self._place(wrap, finish):
                    self.wraps.remove(wrap)
                    waiting = True
                    break
        return finish

    def _place(self, wrap: Wrap, finish: list[Wrap]) -> bool:
        i, j = wrap.narrow, wrap.wide
        if any(i in other for other in self._related(wrap, *self.selects)):
            return False
        holders = [leaf for leaf in self.leaves if i in leaf.legs]
        if not holders and i in self.output and j not in self.output:
            self.output = [j if v == i else v for v in self.output]
            finish.insert(0, wrap)
            return True
        if len(holders) == 1 and i not in self.output and j not in holders[0].legs:
            holders[0].legs = [j if v == i else v for v in holders[0].legs]
            holders[0].wraps.append(wrap.relation)
            return True
        return False

    # -- selections ------------------------------------------------------------------------------

    def _place_selects(self) -> list[Wrap]:
        """Prepare the leaves that selections concern; return those of the result. The others become relations."""
        finish: list[Wrap] = []
        spread = self._spreads()
        for select in self.selects:
            if spread and self._spread_leaf(select):
                continue
            self._select_leaves(select)
            self._select_windows(select)
            still = any(select.narrow in other for other in self._related(select))
            held = any(select.narrow in leaf.legs for leaf in self.leaves)
            if select.narrow in self.output and not (still or held or select.wide in self.output):
                self.output = [select.wide if v == select.narrow else v for v in self.output]
                finish.append(select)
            elif still or held or select.narrow in self.output:
                self.relations.append(select.relation)
        return finish

    def _spreads(self) -> bool:
        """Whether windows at the rows would cost more than those of the whole axes."""
        share, narrow = 1.0, False
        for select in self.selects:
            for relation in self._plain(select):
                found = next(
                    (f for v in relation.coefficients if (f := self._reader(relation, select, v))), None
                )
                mine = self._holder(select)
                if found is None or mine is None:
                    continue
                other, read = found
                share *= self.extents[select.wide] / self.extents[read]
                tied = {v for r in self.relations for v in r.coefficients} | {select.wide, select.narrow}
                sides = (set(mine.legs) - set(other.legs), set(other.legs) - set(mine.legs))
                narrow |= min(prod(self.extents[v] for v in side - tied) for side in sides) < _NARROW
        return narrow or share >= _MOST_SHARED

    def _plain(self, select: Wrap) -> list[Linear]:
        """The relations besides the selection that hold its index."""
        return [r for r in self.relations if select.narrow in r.coefficients and r.modulus is None]

    def _holder(self, select: Wrap) -> Leaf | None:
        """The leaf that alone holds the index or its rows, if no other has the rows and only relations the index."""
        both = {select.narrow, select.wide}
        if any(select.wide in other for other in self._related(select)):
            return None
        holders = [leaf for leaf in self.leaves if both & set(leaf.legs)]
        alone = len(holders) == 1 and not both & set(self.output) and len(both & set(holders[0].legs)) == 1
        return holders[0] if alone else None

    def _spread_leaf(self, select: Wrap) -> bool:
        """Let the leaf with the rows have the whole index, zero elsewhere; whether that can be done and helps."""
        leaf = self._holder(select)
        if leaf is None or not self._plain(select):
            return False
        leaf.legs = [select.narrow if v == select.wide else v for v in leaf.legs]
        leaf.wraps.append(select.relation)
        return True

    def _select_leaves(self, select: Wrap) -> None:
        """Let each leaf that holds the index hold the rows alone; not where that makes it larger."""
        if self.extents[select.wide] > self.extents[select.narrow]:
            return
        for leaf in self.leaves:
            if select.narrow in leaf.legs and select.wide not in leaf.legs:
                leaf.legs = [select.wide if v == select.narrow else v for v in leaf.legs]
                leaf.wraps.append(select.relation)

    def _select_windows(self, select: Wrap) -> None:
        """Prepare leaves with the selection and a relation that holds its index, which goes."""
        for relation in self._plain(select):
            found = next((f for v in relation.coefficients if (f := self._reader(relation, select, v))), None)
            if found is None:
                continue
            leaf, read = found
            made = [select.wide, *(v for v in relation.coefficients if v not in (select.narrow, read))]
            place = leaf.legs.index(read)
            leaf.legs = list(dict.fromkeys((*leaf.legs[:place], *made, *leaf.legs[place + 1 :])))
            leaf.wraps += [relation, select.relation]
            self.relations.remove(relation)

    def _reader(self, relation: Linear, select: Wrap, read: int) -> tuple[Leaf, int] | None:
        """The one leaf with an index of a relation that is nowhere else, so that its cells can be read at rows."""
        elsewhere = any(read in other for other in self._related(relation, select))
        holders = [leaf for leaf in self.leaves if read in leaf.legs]
        if len(holders) != 1 or read in self.output or elsewhere:
            return None
        if read in (select.narrow, select.wide):
            return None
        grown = [
            v for v in (select.wide, *relation.coefficients) if v not in (*holders[0].legs, select.narrow)
        ]
        cells = prod(self.extents[v] for v in grown)
        kernel = prod(self.extents[v] for v in relation.coefficients if v not in (read, select.narrow))
        return (holders[0], read) if cells <= self.extents[select.wide] * kernel else None
