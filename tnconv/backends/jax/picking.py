"""The last resort for a step: each combination of its free indices, cells picked by position. Accepts every step.

Each relation determines one index by the others, as an array of positions, or is a condition where none is left
to determine. XLA fuses the picking, the product and the sum; what is in memory is the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tnconv.backends.jax.exchange import terms_of
from tnconv.backends.jax.writer import Value, Writer
from tnconv.ir import Index, Relational, Select, solve
from tnconv.ir.nodes import Delta


def picked(
    w: Writer, operands: Sequence[Value], relations: Sequence[Relational], output: Sequence[Index]
) -> Value:
    """Write a step.

    Args:
        w: where.
        operands: what is multiplied.
        relations: that hold.
        output: indices of the result, in any order.
    """
    found = _Determined(w, output)
    for relation in relations:
        found.add(relation)
    every = dict.fromkeys(
        [*(i for v in operands for i in v.legs), *(i for r in relations for i in r.indices)]
    )
    free = [i for i in every if i not in found.by]
    where = found.positions(free)
    factors = []
    for value in operands:
        factors.append(f"rt.picked({value.name}, {_named(where, value.legs)})" if value.legs else value.name)
    held = {i for v in operands for i in v.legs}
    like = operands[0].name
    factors += [f"{each}.astype({like}.dtype)" for each in found.conditions(where, held)]
    kept = [i for i in free if i in output]
    determined = [i for i in found.by if i in output]
    product = w.fresh("product")
    w.line(f"{product} = {' * '.join(factors)}")
    summed = tuple(
        p for p, i in enumerate(free) if i not in kept and not any(map(found.needs(i), determined))
    )
    total = f"rt.total({product}, {w.sizes(free)}, {summed}"
    if not determined:
        return w.assign("result", f"{total})", kept)
    legs = [*kept, *determined]
    return w.assign(
        "result", f"rt.added({total}, keepdims=True), {_named(where, legs)}, {w.sizes(legs)})", legs
    )


def _named(where: Mapping[Index, str], legs: Sequence[Index]) -> str:
    """The positions of some indices as a tuple in source."""
    return f"({', '.join(where[i] for i in legs)}{',' if len(legs) == 1 else ''})"


@dataclass
class _Determined:
    """Which relation determines which index.

    Args:
        w: where it is written.
        output: indices of the result.
    """

    w: Writer
    output: Sequence[Index]
    by: dict[Index, Relational] = field(default_factory=dict)
    equal: list[Relational] = field(default_factory=list)

    def add(self, relation: Relational) -> None:
        """Determine an index, the largest that can be and better one that is summed; or none."""
        options = [
            solved
            for index in relation.indices
            if (solved := solve(relation, index)) and index not in self.by and not self._needs(solved, index)
        ]
        if not options:
            self.equal.append(relation)
            return
        best = max(options, key=lambda r: (r.left not in self.output, self.w.count([r.left])))
        self.by[best.left] = best

    def needs(self, index: Index) -> Callable[[Index], bool]:
        """Whether a determined index depends on one, as a function of the former."""
        return lambda determined: self._needs(self.by[determined], index)

    def _needs(self, relation: Relational, index: Index) -> bool:
        """Whether a right side depends on an index."""
        return any(
            x == index or (x in self.by and self._needs(self.by[x], index)) for x in terms_of(relation)
        )

    def positions(self, free: Sequence[Index]) -> dict[Index, str]:
        """The name of the positions of every index, each free one along its own axis."""
        w = self.w
        where = {i: w.fresh(i.name) for i in free}
        if free:
            w.line(f"{', '.join(where.values())}{',' if len(free) == 1 else ''} = rt.mesh{w.sizes(free)}")
        waiting = list(self.by)
        while waiting:
            index = next(i for i in waiting if all(x in where for x in terms_of(self.by[i])))
            waiting.remove(index)
            where[index] = w.fresh(index.name)
            w.line(f"{where[index]} = {self._right(self.by[index], where)}")
        return where

    def _right(self, relation: Relational, where: dict[Index, str]) -> str:
        """The source of a right side."""
        if isinstance(relation, Select):
            return f"rt.looked_up({self.w.arguments[relation.table]}, {where[relation.right]})"
        terms = [where[x] if a == 1 else f"{a} * {where[x]}" for a, x in relation.terms]
        text = " + ".join([*terms, str(relation.offset)] if relation.offset or not terms else terms)
        if not terms:
            return f"np.int64({text})"
        if relation.modulus is None or isinstance(relation, Delta):
            return text
        return f"rt.folded({text}, {self.w.text(relation.modulus)}, {relation.mode!r})"

    def conditions(self, where: dict[Index, str], held: set[Index]) -> Iterator[str]:
        """What has to hold besides: an index that nothing holds is in its range, both sides of a relation are equal."""
        for index, relation in self.by.items():
            if index not in held and index not in self.output and relation.modulus is None:
                yield f"rt.inside({where[index]}, {self.w.text(index.size)})"
        for relation in self.equal:
            yield f"({where[relation.left]} == {self._right(relation, where)})"
