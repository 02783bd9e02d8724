"""Which indices of an operation may be sampled, and the passes that do it (`tnconv.passes.sample`).

A network is linear in each index that is summed, so that sampling one keeps the mean over all draws. What is squared is
summed before: `Σ_n (Σ_t a_t)²` may be sampled over n, and not over t. Channels are summed in the forward network, so
that they are sampled before it is differentiated; examples and positions where they are summed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tnconv.errors import OperationError
from tnconv.ir import Index, Role
from tnconv.ops.parts import Parts
from tnconv.passes import Pass
from tnconv.passes.sample import METHODS, Preselect, Sample, fraction

CHANNELS, SPACE, BATCH, VECTORS = "in_channels", "space", "batch", "vectors"
Keep = tuple[tuple[str, tuple[Fraction, ...]], ...]
KINDS = (CHANNELS, SPACE, BATCH, VECTORS)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What of an operation is sampled.

    Args:
        keep: by a kind of `KINDS` or the name of an index, the fraction of its values, one for each of the indices that
            are meant; one for all.
        method: one of `METHODS`; see `tnconv.passes.sample.Sample`.
        preselect: whether the input is given as its selected rows.
    """

    keep: Keep = ()
    method: str = METHODS[0]
    preselect: bool = False

    def __post_init__(self) -> None:
        if not self.keep and (self.preselect or self.method != METHODS[0]):
            raise OperationError(
                f"sampling={self.method!r} and preselect={self.preselect} are given without sample=; say what is to be "
                "sampled, as in sample={'in_channels': 0.25}"
            )


NOTHING = Sampling()


def read_keep(option: str, sample: object) -> Keep:
    """What is kept of each index, from what `tnconv.compile` was given; nothing from None.

    Raises:
        OperationError: it is no mapping from names.
        PassError: a fraction is none in (0, 1].
    """
    if sample is None:
        return ()
    if not isinstance(sample, Mapping) or not sample or not all(isinstance(name, str) for name in sample):
        raise OperationError(
            f"{option}={sample!r} is no mapping from what is sampled to the fraction kept; give one such as "
            "{'in_channels': 0.25, 'space': (0.5, 0.5)}"
        )
    return tuple((name, _fractions(name, keep)) for name, keep in sample.items())


def _fractions(name: str, keep: Any) -> tuple[Fraction, ...]:
    many = keep if isinstance(keep, tuple | list) else (keep,)
    return tuple(fraction(each, f"sample of {name!r}") for each in many)


@dataclass(frozen=True, slots=True)
class _Found:
    """The indices that a name means, in order, and whether they are summed in the forward network."""

    indices: tuple[Index, ...]
    forward: bool


def sampled(
    op: str, allowed: tuple[str, ...], parts: Parts, sampling: Sampling
) -> tuple[list[Pass], list[Pass]]:
    """The passes that sample what is asked for: those before all others of an operation, and those behind.

    Args:
        op: name of the operation.
        allowed: the kinds that it may sample.
        parts: of the forward network.
        sampling: what is asked for.

    Raises:
        OperationError: something is not there, may not be sampled, or has another number of indices.
    """
    before: list[Pass] = []
    after: list[Pass] = []
    for name, keep in sampling.keep:
        found = _found(op, allowed, parts, name)
        passes = (
            Sample(i.name, str(part), sampling.method)
            for i, part in _each(name, keep, found.indices)
            if part < 1
        )
        (before if found.forward else after).extend(passes)
    if sampling.preselect:
        if parts.input is None:
            raise OperationError(f"operation {op!r} has no one input that could be preselected")
        after.append(Preselect(parts.input, f"{parts.input}_kept"))
    return before, after


def _each(name: str, keep: tuple[Fraction, ...], indices: tuple[Index, ...]) -> list[tuple[Index, Fraction]]:
    """Each index with its fraction; where channels are several indices and one fraction is given, the largest alone."""
    if len(keep) == 1 and name == CHANNELS:
        return [(max(indices, key=lambda i: i.size if isinstance(i.size, int) else 0), keep[0])]
    if len(keep) not in (1, len(indices)):
        raise OperationError(
            f"sample={{{name!r}: {tuple(map(str, keep))}}} has {len(keep)} fractions, but {name!r} means "
            f"{len(indices)} indices, {', '.join(i.name for i in indices)}; give one for each, or one for all"
        )
    return list(zip(indices, keep * (len(indices) if len(keep) == 1 else 1), strict=True))


def _found(op: str, allowed: tuple[str, ...], parts: Parts, name: str) -> _Found:
    if not allowed:
        raise OperationError(
            f"operation {op!r} is none that is sampled, but sample= names {name!r}; leave sample= out, or take "
            "'weight_vjp', 'kfac_expand' or another that is"
        )
    every = {kind: _of_kind(parts, kind, allowed) for kind in allowed}
    if name in KINDS and name not in allowed:
        raise OperationError(
            f"operation {op!r} cannot be sampled over {name!r}: it is not summed, or summed within a square, and the "
            f"mean over all draws would be another value; it may be sampled over {', '.join(allowed)}"
        )
    found = every.get(name) or next(
        (_Found((i,), f.forward) for f in every.values() for i in f.indices if i.name == name), None
    )
    if found is None or not found.indices:
        known = [f"{kind} ({', '.join(i.name for i in f.indices) or 'none'})" for kind, f in every.items()]
        raise OperationError(
            f"sample= names {name!r}, of which {parts.network.name!r} has none for {op!r}; there are {', '.join(known)}"
        )
    return found


def _of_kind(parts: Parts, kind: str, allowed: tuple[str, ...]) -> _Found:
    term = parts.network.terms[0]
    if kind == VECTORS:
        return _Found((Index("v", 1),), forward=False)
    if kind == BATCH:
        return _Found(parts.indices(parts.batch), forward=False)
    if kind == SPACE and CHANNELS not in allowed and parts.layout is not None:
        return _Found(parts.layout.positions, forward=False)
    inputs = [t for t in term.tensors if t.role == Role.INPUT]
    others = {i for t in term.tensors if t.role != Role.INPUT for i in t.indices}
    tied = {i for p in term.patterns for i in p.indices}
    legs = [i for t in inputs for i in t.indices if i.name not in parts.batch]
    summed = [i for i in legs if i not in term.open_indices]
    if kind == CHANNELS:
        return _Found(tuple(i for i in summed if i not in tied), forward=True)
    positions = tuple(i for i in summed if i in tied)
    if positions:
        return _Found(positions, forward=True)
    return _Found(tuple(i for i in legs if i in term.open_indices and i not in others), forward=False)
