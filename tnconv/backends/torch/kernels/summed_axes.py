"""Sums of a value over axes: in one call, or in several where torch is quicker so."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.operand_copies import Legs
from tnconv.backends.torch.profile import Profile
from tnconv.ir import Index
from tnconv.program import Call, Var
from tnconv.program.statements import flatten


def presum(em: Emitter, value: Value, keep: frozenset[Index]) -> Value:
    """Sum a value over the indices that are not kept."""
    gone = tuple(i for i in value.legs if i not in keep)
    if not gone:
        return value
    if any(set(dim) & set(gone) and set(dim) - set(gone) for dim in value.dims):
        value = em.isolate(value, gone)
    places = [p for p, dim in enumerate(value.dims) if set(dim) & set(gone)]
    apart = not value.contiguous and places[-1] - places[0] >= len(places)
    if apart and all(em.count(value.dims[p]) <= em.profile.short_axes for p in places):
        return _summed(em, value, places, _axis_sums(em, value, places))
    runs = _runs(value, gone)
    if value.contiguous and len(runs) > 1 and (which := _in_turn(em, value, runs)) is not None:
        while len(runs) > 1:
            value = _summed(em, value, runs[which], call("sum", value, runs[which]))
            runs = _runs(value, gone)
    places = [p for run in runs for p in run]
    return _summed(em, value, places, call("sum", value, tuple(places)))


def _summed(em: Emitter, value: Value, places: Sequence[int], made: Call) -> Value:
    """Write the sum of a value over some dimensions."""
    dims = tuple(dim for p, dim in enumerate(value.dims) if p not in places)
    return em.derive(value, "sum", made, dims, copied=True)


def _runs(value: Value, gone: Sequence[Index]) -> list[tuple[int, ...]]:
    """Dimensions that are summed, those in a row together."""
    places = [p for p, dim in enumerate(value.dims) if set(dim) & set(gone)]
    starts = [n for n, p in enumerate(places) if n == 0 or places[n - 1] != p - 1]
    return [tuple(places[a:b]) for a, b in pairwise((*starts, len(places)))]


def _in_turn(em: Emitter, value: Value, runs: Sequence[tuple[int, ...]]) -> int | None:
    """Which of several runs is summed first, by a call of its own, 0 or -1; None for one call for all at once.

    Torch sums one run of dimensions at the speed of memory, but several at once row by row.
    """
    profile, sizes = em.profile, [em.count(dim) for dim in value.dims]
    behind = runs[-1][-1] + 1 < len(sizes)
    at_once = prod(sizes) * profile.at_once_apart / profile.added
    if not behind:
        rows = prod(sizes[: runs[-1][0]])
        at_once = (prod(sizes) + rows * profile.begun_between) / profile.sum
    taken = {}
    for which, order in ((0, runs), (-1, runs[::-1])):
        left, taken[which] = list(sizes), (len(runs) - 1) * profile.call
        for run in order:
            taken[which] += _one_run(left, run, profile)
            left = [1 if place in run else size for place, size in enumerate(left)]
    first = min(taken, key=taken.__getitem__)
    return first if taken[first] < at_once else None


def _one_run(sizes: Sequence[int], run: tuple[int, ...], profile: Profile) -> float:
    """Predicted microseconds of a sum over some dimensions in a row."""
    cells, outer, inner = prod(sizes), prod(sizes[: run[0]]), prod(sizes[run[-1] + 1 :])
    if inner == 1:
        each = profile.sum_run * (profile.whole_runs if profile.is_whole(cells / outer) else 1)
        return (cells + outer * each) / profile.sum
    return (cells + outer * profile.begun) / profile.added


def _axis_sums(em: Emitter, value: Value, places: Sequence[int]) -> Call:
    """The sum over several short dimensions, one after another: torch sums short rows slowly."""
    made: Var | Call = Var(value.name)
    dims = list(value.dims)
    for place in reversed(places):
        made = slice_sum(em, made, dims, (place,))
        del dims[place]
    assert isinstance(made, Call)
    return made


def slice_sum(em: Emitter, value: Var | Call, dims: Sequence[Legs], places: Sequence[int]) -> Call:
    """The sum over some dimensions: slice by slice where these are few and large, for their cells are near then."""
    most = em.profile.slices_added
    return call("slice_sum" if in_slices(em, dims, places, most) else "sum", value, tuple(places))


def in_slices(em: Emitter, dims: Sequence[Legs], places: Sequence[int], most: float) -> bool:
    """Whether the slices at each cell of some dimensions are few, and large enough for calls of their own."""
    count, cells = em.count(flatten(tuple(dims[p] for p in places))), em.count(flatten(tuple(dims)))
    return few_and_large(count, cells, most, em.profile)


def few_and_large(count: int, cells: int, most: float, profile: Profile) -> bool:
    """Whether so many slices, with so many cells together, are added one after another."""
    return 0 < count <= most and cells >= count * profile.slice_cells
