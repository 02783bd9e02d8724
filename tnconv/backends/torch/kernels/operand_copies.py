"""What the legs of a product do, and how long an operand takes to be copied into a layout."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.profile import Profile
from tnconv.ir import Index
from tnconv.program.statements import flatten

Legs = tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Legs of a product by what they do: `batch` on both and open, `summed` on both, `left`, `right`."""

    batch: Legs
    summed: Legs
    left: Legs
    right: Legs


def split_legs(a: Value, b: Value, output: frozenset[Index]) -> Split:
    """Sort the legs of two values by what they do in the product."""
    one, other = a.legs, b.legs
    both = [i for i in one if i in other]
    return Split(
        tuple([i for i in both if i in output]),
        tuple([i for i in both if i not in output]),
        tuple([i for i in one if i not in other]),
        tuple([i for i in other if i not in one]),
    )


def transposed(em: Emitter, value: Value, dims: tuple[Legs, ...]) -> Value:
    """Arrange for a matrix product: a transposition of the last two dimensions stays a view.

    What has to be copied is copied with the last two dimensions in the order of longer runs.
    """
    swapped = (*dims[:-2], dims[-1], dims[-2])
    turned = value.legs == flatten(swapped)
    if not turned and value.legs != flatten(dims) and not all(adjacent(value, d) for d in dims):
        turned = slowness(value, swapped, em.count, em.profile) < slowness(value, dims, em.count, em.profile)
    if turned:
        flat = em.arrange(value, swapped)
        return em.derive(flat, "t", call("mT", flat), dims, contiguous=False)
    return em.arrange(value, dims)


def slowness(
    value: Value, dims: Sequence[Legs], count: Callable[[Iterable[Index]], int], profile: Profile
) -> float:
    """How long it takes to copy a cell of a value into a layout, against a copy in runs of some cells."""
    legs = flatten(tuple(dims))
    if copies_in_order(value, legs, count, profile):
        return profile.ordered
    run, rows = _neighbours(value, legs, count)
    return (1.0 if value.contiguous else profile.overlapping) + profile.beginnings(run, rows)


def copies_in_order(
    value: Value, legs: Legs, count: Callable[[Iterable[Index]], int], profile: Profile
) -> bool:
    """Whether a copy of a value into an order of legs is one of long runs of neighbours."""
    inner, other = (next((i for i in reversed(each) if count((i,)) > 1), None) for each in (value.legs, legs))
    return value.contiguous and inner == other and _neighbours(value, legs, count)[0] >= profile.ordered_run


def _neighbours(value: Value, legs: Legs, count: Callable[[Iterable[Index]], int]) -> tuple[int, int]:
    """Cells at one distance both in a value and in an order of legs, and how many such runs are at one distance."""
    runs: list[list[Index]] = []
    for index in reversed([i for i in legs if count((i,)) > 1]):
        if runs and adjacent(value, (index, runs[-1][0])):
            runs[-1].insert(0, index)
        else:
            runs.append([index])
    run, rows = (count(each) for each in (*runs, (), ())[:2])
    return run, rows


def adjacent(value: Value, legs: Legs) -> bool:
    """Whether the legs can be merged into one dimension without a copy."""
    if len(legs) < 2:
        return True
    first = value.legs.index(legs[0])
    in_order = value.legs[first : first + len(legs)] == legs
    return in_order and (value.contiguous or legs in value.dims)
