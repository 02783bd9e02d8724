"""How many multiplications a step takes: the product of the sizes of its independent indices.

The indices are those of the operands and of the relations that the step absorbs; each relation determines
one of them, the largest that is still free. Scaling and summing count nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from typing import TypeVar

from tnconv.ir import Index, Relational, Size, product
from tnconv.ir.size import normal
from tnconv.planner.hints import extent_of
from tnconv.planner.plan import Operand

Key = TypeVar("Key")


def determined(rows: Sequence[Mapping[Key, int]], order: Iterable[Key]) -> list[Key]:
    """The indices that the relations determine, chosen greedily in the order given.

    Greedy is optimal: sets of columns that relations can determine are the independent sets of a matroid.

    Args:
        rows: a relation each, as coefficient by index.
        order: the indices, those to get rid of first.

    Returns:
        As many indices as there are independent relations.
    """
    rest = [dict(row) for row in rows]
    found: list[Key] = []
    for key in order:
        pivot = next((row for row in rest if row.get(key)), None)
        if pivot is None:
            continue
        found.append(key)
        rest.remove(pivot)
        rest = [_eliminate(row, pivot, key) if row.get(key) else row for row in rest]
    return found


def _eliminate(row: Mapping[Key, int], pivot: Mapping[Key, int], key: Key) -> dict[Key, int]:
    """The row without `key`, in lowest terms."""
    a, b = pivot[key], row[key]
    made = {k: a * row.get(k, 0) - b * pivot.get(k, 0) for k in {**row, **pivot}}
    divisor = gcd(*made.values()) or 1
    return {k: v // divisor for k, v in made.items() if v}


def connected(relations: Sequence[Relational], indices: Iterable[Index]) -> list[Relational]:
    """The relations that touch the indices, directly or through one another."""
    reached = set(indices)
    waiting = list(relations)
    found: list[Relational] = []
    while touching := [r for r in waiting if not reached.isdisjoint(r.indices)]:
        found += touching
        waiting = [r for r in waiting if r not in touching]
        reached.update(i for r in touching for i in r.indices)
    return [r for r in relations if r in found]


def count_factors(
    operands: Sequence[Operand], relations: Sequence[Relational], values: Mapping[str, int]
) -> tuple[Size, ...]:
    """The sizes whose product is the number of multiplications of a step.

    Args:
        operands: what the step reads; fewer than two multiply nothing.
        relations: what it absorbs.
        values: what the size symbols count as where sizes are compared.

    Returns:
        Sizes of the independent indices; `(0,)` for a step that multiplies nothing.
    """
    if len(operands) < 2:
        return (0,)
    if len(operands) > 2:
        return _square_factors(operands, relations, values)
    indices = dict.fromkeys(i for operand in operands for i in operand.indices)
    rows = connected(relations, indices)
    if rows:
        indices |= dict.fromkeys(i for r in rows for i in r.indices)
        order = sorted(indices, key=lambda i: -extent_of(i.size, values))
        for gone in determined([r.zero_form for r in rows], order):
            del indices[gone]
    return tuple(i.size for i in indices)


def is_square(operands: Sequence[Operand]) -> bool:
    """Whether operands are those of a product and then those of the same product once more."""
    half = len(operands) // 2
    return half == 2 and [o.source for o in operands[:half]] == [o.source for o in operands[half:]]


def _square_factors(
    operands: Sequence[Operand], relations: Sequence[Relational], values: Mapping[str, int]
) -> tuple[Size, ...]:
    """The same of a product of two that is multiplied by itself cell by cell: that of the product, and its cells."""
    first, second = ({i for o in half for i in o.indices} for half in (operands[:2], operands[2:]))
    own = [r for r in relations if second.difference(first).isdisjoint(r.indices)]
    others = {i for r in relations if first.difference(second).isdisjoint(r.indices) for i in r.indices}
    factors = count_factors(operands[:2], own, values)
    legs = dict.fromkeys(
        (*(i for o in operands[:2] for i in o.indices), *(i for r in own for i in r.indices))
    )
    cells = product(i.size for i in legs if i in second | others)
    return (normal(product(factors) + cells),)
