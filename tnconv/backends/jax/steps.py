"""One step: its relations are done one after the other, until an einsum or a convolution is left, or cells to pick."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tnconv.backends.jax.convolve import Axis, axis_of, convolution
from tnconv.backends.jax.exchange import (
    apart,
    matched,
    read,
    readable,
    terms_of,
    window_sum,
    writable,
    write,
)
from tnconv.backends.jax.picking import picked
from tnconv.backends.jax.writer import Value, Writer
from tnconv.ir import Delta, Index, Pattern, Relational, product


@dataclass(frozen=True, slots=True)
class _Write:
    """What is written behind a step: the left index of a relation, by its terms.

    Args:
        relation: solved for an index that only the result has.
        kept: the terms that stay: the result has them, or what is written after this.
    """

    relation: Relational
    kept: list[Index]


@dataclass
class StepWriter:
    """Writes a step.

    Args:
        w: where.
        operands: one or two values, each index on one axis.
        relations: that are left to do.
        output: indices of the result; those that nothing has are left out.
        writes: what is done behind.
        kernels: what computes it.
    """

    w: Writer
    operands: list[Value]
    relations: list[Relational]
    output: list[Index]
    writes: list[_Write] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)

    def value(self) -> Value:
        """The value of the step, its indices in any order."""
        known = {i for v in self.operands for i in v.legs} | {i for r in self.relations for i in r.indices}
        self.output = [i for i in self.output if i in known]
        self._identify()
        self.relations = apart(self.relations)
        value = self._computed()
        for each in reversed(self.writes):
            value = write(self.w, value, each.relation, each.kept)
        return value

    def _computed(self) -> Value:
        """The product, before what is written behind it."""
        tangled = [r for r in self.relations if self._is_tangled(r)]
        given = list(self.operands)
        while self.relations:
            axes, swapped = self._linked([r for r in self.relations if r not in tangled])
            others = [r for r in self.relations if r not in axes]
            if self._read_one(others) or self._write_one(others):
                continue
            if others:
                self.kernels.append("gather and scatter")
                return picked(self.w, self.operands, self.relations, self.output)
            x, y = self.operands[::-1] if swapped else self.operands
            self.kernels.append("convolution")
            return convolution(self.w, x, y, list(axes.values()), self.output)
        if len(given) > 1:  # of one operand XLA makes what is read where it is summed, or it is the result
            found = [v for v, first in zip(self.operands, given, strict=True) if v is not first]
            self.w.buffers += [("what is read", product(i.size for i in v.legs)) for v in found]
        self.kernels.append("einsum")
        return self.w.einsum(
            self.operands, [i for i in self.output if any(i in v.legs for v in self.operands)]
        )

    def _identify(self) -> None:
        """Let one index stand for both of a delta, unless another relation has both and would say something else."""
        for name in [r.name for r in self.relations if isinstance(r, Delta)]:
            delta = next(r for r in self.relations if r.name == name)
            rest = [r for r in self.relations if r is not delta]
            gone, kept = sorted(delta.indices, key=lambda i: i in self.output)
            if any({gone, kept} <= set(r.indices) for r in rest):
                continue
            self.relations = [_with(r, gone, kept) for r in rest]
            self.operands = [matched(self.w, v.rename({gone: kept})) for v in self.operands]
            if gone in self.output:
                self.writes.append(_Write(Pattern(name, gone, ((1, kept),)), [kept]))
                self.output = [i for i in self.output if i != gone]

    def _read_one(self, candidates: Sequence[Relational]) -> bool:
        """Read one of some relations from the operands; whether there was one to read."""
        for relation in candidates:
            rest = [r for r in self.relations if r is not relation]
            if (solved := readable(relation, rest, self.operands, self.output)) is None:
                continue
            latent = self._latent(solved, rest)
            for place, value in enumerate(self.operands):
                if solved.left in value.legs:
                    self.operands[place] = (
                        read(self.w, value, solved)
                        if latent is None
                        else window_sum(self.w, value, solved, latent)
                    )
            self.kernels.append("read" if latent is None else "window sum")
            self.relations = rest
            return True
        return False

    def _write_one(self, candidates: Sequence[Relational]) -> bool:
        """Leave one of some relations to be written behind the step; whether there was one."""
        for relation in candidates:
            rest = [r for r in self.relations if r is not relation]
            if (solved := writable(relation, rest, self.operands, self.output)) is None:
                continue
            terms, legs = terms_of(solved), [i for i in self.output if i != solved.left]
            self.writes.append(_Write(solved, [x for x in terms if x in legs]))
            self.kernels.append("write")
            self.relations, self.output = rest, [*legs, *(x for x in terms if x not in legs)]
            return True
        return False

    def _is_tangled(self, relation: Relational) -> bool:
        """Whether a sum of indices has one in common with another such: both are read, and multiplied as matrices."""
        others = [r for r in self.relations if r is not relation and len(r.terms) > 1]
        return len(relation.terms) > 1 and any(i in r.indices for r in others for i in relation.indices)

    def _linked(self, fitting: Sequence[Relational]) -> tuple[dict[Relational, Axis], bool]:
        """The relations, of some, that are axes of a convolution, and whether its kernel is the first operand."""
        if len(self.operands) != 2:
            return {}, False
        found = []
        for swapped in (False, True):
            x, y = self.operands[::-1] if swapped else self.operands
            axes = {}
            for relation in fitting:
                rest = [r for r in self.relations if r is not relation]
                if axis := axis_of(relation, rest, x, y, self.output):
                    axes[relation] = axis
            in_strides = sum(not axis.transposed for axis in axes.values())
            found.append((len(axes), in_strides, self.w.count(x.legs), not swapped, axes))
        *_, straight, axes = max(found, key=lambda f: f[:4])
        return axes, not straight

    def _latent(self, relation: Relational, rest: Sequence[Relational]) -> Index | None:
        """The one of two terms that only the relation has, so that it is summed over windows; None if it is not so."""
        if len(relation.terms) != 2 or relation.modulus is not None:
            return None
        if sum(relation.left in v.legs for v in self.operands) != 1:
            return None
        elsewhere = {i for r in rest for i in r.indices} | {i for v in self.operands for i in v.legs}
        latent = [x for x in terms_of(relation) if x not in elsewhere and x not in self.output]
        return latent[0] if len(latent) == 1 else None


def _with(relation: Relational, gone: Index, kept: Index) -> Relational:
    """A relation with one index in place of another."""
    return relation.map_indices(lambda i: kept if i == gone else i)
