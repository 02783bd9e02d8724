"""Plan → JAX source: each step by an einsum, a native convolution, reads and writes along axes, or cell by cell."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from tnconv.backends.base import Choice, Program
from tnconv.backends.jax import numerics
from tnconv.backends.jax.link import Axis, axis_of, convolution
from tnconv.backends.jax.picking import picked
from tnconv.backends.jax.relations import apart, read, readable, terms_of, window_sum, writable, write
from tnconv.backends.jax.writer import RESERVED, Value, Writer
from tnconv.backends.signature import Binding, bindings
from tnconv.backends.torch.define import define
from tnconv.errors import LoweringError
from tnconv.ir import Axis as Layout
from tnconv.ir import Delta, Index, Pattern, Relational, fresh, product
from tnconv.ir.index import symbol_names
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step


def lower(plan: Plan, hints: Mapping[str, int]) -> Program:
    """The program of a plan.

    Args:
        plan: what to compute, in which order.
        hints: an integer for each size symbol, for choices by size.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return _Lowering(plan, hints).program()


@dataclass(frozen=True, slots=True)
class _Write:
    """What is written behind a step: the left index of a relation, by its terms.

    Args:
        relation: solved for an index that only the result has.
        kept: the terms that stay: the result has them, or what is written after this.
    """

    relation: Relational
    kept: list[Index]


class _Lowering:
    """Writes the program of a plan; arguments as for `lower`.

    Args:
        plan: likewise.
        hints: likewise.
    """

    def __init__(self, plan: Plan, hints: Mapping[str, int]) -> None:
        self.plan, self.bindings = plan, _bindings(plan)
        taken: set[str] = set()
        self.python: dict[str, str] = {}
        for name in plan.arguments:
            self.python[name] = fresh(name, taken | RESERVED)
            taken.add(self.python[name])
        symbols: dict[str, str] = {}
        for name in sorted(b.symbol for b in self.bindings):
            symbols[name] = fresh(name, taken | RESERVED)
            taken.add(symbols[name])
        self.w = Writer(
            taken, symbols, {name: hints.get(name, DEFAULT_HINT) for name in symbols}, self.python
        )
        self.values: dict[str, tuple[Value, tuple[Layout, ...]]] = {}

    def program(self) -> Program:
        """The program."""
        choices, workspace = [], []
        for step in self.plan.steps:
            value, kernel = self._step(step)
            self.values[step.result] = value, step.output
            choices.append(Choice(step.result, kernel))
            workspace += [(step.result, what, size) for what, size in self.w.buffers]
            self.w.buffers.clear()
        result = self._total()
        name = fresh(re.sub(r"\W", "_", self.plan.name), {*RESERVED})
        heads = [f"def {name}({', '.join(self.python.values())}):", *map(self._binding, self.bindings)]
        body = "\n".join([*heads, *self.w.lines, f"    return {result}"]) + "\n"
        function = define(name, body, {"jnp": jnp, "np": np, "rt": numerics})
        source = f"@jax.jit\n{body}"
        return Program(
            name, source, tuple(self.plan.arguments), tuple(choices), tuple(workspace), jax.jit(function)
        )

    # -- one step --------------------------------------------------------------------------------

    def _step(self, step: Step) -> tuple[Value, str]:
        """The value of a step, and the name of what computes it."""
        w = self.w
        operands = [self._operand(o) for o in step.operands] or [self._one()]
        known = {i for v in operands for i in v.legs} | {i for r in step.relations for i in r.indices}
        output = [i for i in dict.fromkeys(i for axis in step.output for i in axis.indices) if i in known]
        relations, writes, kernels = list(step.relations), list[_Write](), list[str]()
        for name in [r.name for r in step.relations if isinstance(r, Delta)]:
            delta = next(r for r in relations if r.name == name)
            if (same := _identified(delta, [r for r in relations if r is not delta], output)) is None:
                continue
            relations, gone, kept = same
            operands = [self._matched(v.rename({gone: kept})) for v in operands]
            if gone in output:
                writes.append(_Write(Pattern(delta.name, gone, ((1, kept),)), [kept]))
                output = [i for i in output if i != gone]
        relations = apart(relations)
        tangled = [r for r in relations if _is_tangled(r, relations)]
        given = list(operands)
        while relations:
            axes, swapped = _linked(
                w, [r for r in relations if r not in tangled], relations, operands, output
            )
            others = [r for r in relations if r not in [a for a, _ in axes]]
            done = self._one_by_one(others, relations, operands, output, writes, kernels)
            if done is not None:
                relations, output = done
            elif others:
                value = picked(w, operands, relations, output)
                kernels.append("gather and scatter")
                break
            else:
                x, y = operands[::-1] if swapped else operands
                value = convolution(w, x, y, [axis for _, axis in axes], output)
                kernels.append("convolution")
                break
        else:
            legs = [i for i in output if any(i in v.legs for v in operands)]
            if (
                len(operands) > 1
            ):  # of one operand XLA makes what is read where it is summed, or it is the result
                read_out = [v for v, first in zip(operands, given, strict=True) if v is not first]
                w.buffers += [("what is read", product(i.size for i in v.legs)) for v in read_out]
            value = w.einsum(operands, legs)
            kernels.append("einsum")
        for each in reversed(writes):
            value = write(w, value, each.relation, each.kept)
        if step.scale != 1:
            value = w.assign("scaled", f"{value.name} * {w.scale(step.scale)}", value.legs)
        return value, " + ".join(dict.fromkeys(kernels))

    def _one_by_one(
        self,
        others: Sequence[Relational],
        relations: list[Relational],
        operands: list[Value],
        output: list[Index],
        writes: list["_Write"],
        kernels: list[str],
    ) -> tuple[list[Relational], list[Index]] | None:
        """Read or write one of some relations; the others and the output then, or None where none can be."""
        for relation in others:
            rest = [r for r in relations if r is not relation]
            if solved := readable(relation, rest, operands, output):
                latent = _summed(solved, rest, operands, output)
                for place, value in enumerate(operands):
                    if solved.left not in value.legs:
                        continue
                    if latent is not None:
                        operands[place] = window_sum(self.w, value, solved, latent)
                    else:
                        operands[place] = read(self.w, value, solved)
                kernels.append("window sum" if latent is not None else "read")
                return rest, output
        for relation in others:
            rest = [r for r in relations if r is not relation]
            if solved := writable(relation, rest, operands, output):
                terms, legs = terms_of(solved), [i for i in output if i != solved.left]
                writes.append(_Write(solved, [x for x in terms if x in legs]))
                kernels.append("write")
                return rest, [*legs, *(x for x in terms if x not in legs)]
        return None

    def _operand(self, operand: Operand) -> Value:
        """What a step reads, with each index on one axis."""
        w = self.w
        if operand.source in self.values:
            made, axes = self.values[operand.source]
            value = made.rename(
                {a.indices[0]: b.indices[0] for a, b in zip(axes, operand.axes, strict=True) if a.indices}
            )
        else:
            value = self._argument(operand)
        if operand.conj:
            value = w.assign(value.name, f"jnp.conj({value.name})", value.legs)
        return self._matched(value)

    def _matched(self, value: Value) -> Value:
        """The diagonal of a value that has an index twice."""
        w = self.w
        while twice := next((i for i in value.legs if value.legs.count(i) > 1), None):
            first = value.legs.index(twice)
            second = value.legs.index(twice, first + 1)
            legs = (*(i for p, i in enumerate(value.legs) if p not in (first, second)), twice)
            value = w.assign("diagonal", f"jnp.diagonal({value.name}, 0, {first}, {second})", legs)
        return value

    def _argument(self, operand: Operand) -> Value:
        """An argument with one axis an index."""
        w, name = self.w, self.python[operand.source]
        taken = {i.name for i in operand.indices}
        legs: list[Index] = []
        reads: list[Pattern] = []
        for axis in operand.axes:
            if axis.is_group:
                legs += axis.indices
                continue
            cell = Index(fresh("cell", taken), axis.size)
            taken.add(cell.name)
            legs.append(cell)
            reads.append(
                Pattern("axis", cell, tuple(zip(axis.strides, axis.indices, strict=True)), axis.start)
            )
        value = Value(name, tuple(legs))
        if any(len(axis.indices) != 1 for axis in operand.axes if axis.is_group):
            value = w.assign(name, f"{name}.reshape{w.sizes(legs)}", legs)
        for relation in reads:
            value = read(w, value, relation)
        return value

    def _one(self) -> Value:
        like = next((p for n, p in self.python.items() if n not in self.plan.tables), None)
        return self.w.assign("one", f"jnp.ones((), {like}.dtype)" if like else "jnp.ones(())", ())

    # -- the result ------------------------------------------------------------------------------

    def _total(self) -> str:
        """The name of the sum of all results, laid out as the output says."""
        names = [self._laid_out(*self.values[name]) for name in self.plan.results]
        text = " + ".join(names)
        if self.plan.real:
            text = f"jnp.real({text})"
        divisors = {n for s in self.plan.steps for n in symbol_names(s.scale.as_numer_denom()[1])}
        if not divisors:
            return text
        result = text
        if not text.isidentifier():
            result = self.w.fresh("result")
            self.w.line(f"{result} = {text}")
        return f"{result} if {' and '.join(self.w.symbols[n] for n in sorted(divisors))} else rt.undefined({result})"

    def _laid_out(self, value: Value, axes: Sequence[Layout]) -> str:
        """A value with one axis for each of the output."""
        w, groups = self.w, list[list[Index]]()
        value = w.broadcast(value, [i for axis in axes for i in axis.indices])
        for place, axis in enumerate(axes):
            if axis.is_group:
                groups.append(list(axis.indices))
                continue
            cell = Index(fresh(f"cell{place}", {i.name for i in value.legs}), axis.size)
            terms = tuple(zip(axis.strides, axis.indices, strict=True))
            value = write(w, value, Pattern("axis", cell, terms, axis.start))
            groups.append([cell])
        return w.reshape(value, groups, [axis.size for axis in axes], "result")

    def _binding(self, found: Binding) -> str:
        """The line that reads a size symbol off an argument."""
        w, text = self.w, f"{self.python[found.argument]}.shape[{found.place}]"
        if found.rest != 0:
            text = f"({text} - ({w.text(found.rest)}))"
        slope = "" if found.slope == 1 else f" // ({w.text(found.slope)})"
        return f"    {w.symbols[found.symbol]} = {text}{slope}"


def _is_tangled(relation: Relational, relations: Sequence[Relational]) -> bool:
    """Whether a sum of indices has one in common with another such sum: both are read, and multiplied as matrices."""
    others = [r for r in relations if r is not relation and len(r.terms) > 1]
    return len(relation.terms) > 1 and any(i in r.indices for r in others for i in relation.indices)


def _linked(
    w: Writer,
    fitting: Sequence[Relational],
    relations: Sequence[Relational],
    operands: Sequence[Value],
    output: Collection[Index],
) -> tuple[list[tuple[Relational, Axis]], bool]:
    """Those of some relations that are axes of a convolution, and whether its kernel is the first operand."""
    if len(operands) != 2:
        return [], False
    found = []
    for swapped in (False, True):
        x, y = operands[::-1] if swapped else operands
        axes = [
            (r, axis)
            for r in fitting
            if (axis := axis_of(r, [o for o in relations if o is not r], x, y, list(output)))
        ]
        read_in_strides = sum(not axis.transposed for _, axis in axes)
        found.append((len(axes), read_in_strides, w.count(x.legs), not swapped, axes))
    *_, straight, axes = max(found, key=lambda f: f[:4])
    return axes, not straight


def _identified(
    delta: Relational, rest: Sequence[Relational], output: Collection[Index]
) -> tuple[list[Relational], Index, Index] | None:
    """The other relations with one index of a delta for both, which one is gone and which is kept.

    None where one of them has both, so that it would say something else.
    """
    gone, kept = sorted(delta.indices, key=lambda i: i in output)
    if any({gone, kept} <= set(r.indices) for r in rest):
        return None
    return [r.map_indices(lambda i: kept if i == gone else i) for r in rest], gone, kept


def _summed(
    relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: Collection[Index]
) -> Index | None:
    """The one of two terms that only the relation has, so that it is summed over windows; None if it is not so."""
    if len(relation.terms) != 2 or relation.modulus is not None:
        return None
    if sum(relation.left in v.legs for v in operands) != 1:
        return None
    latent = [
        x
        for x in terms_of(relation)
        if x not in output
        and not any(x in r.indices for r in rest)
        and not any(x in v.legs for v in operands)
    ]
    return latent[0] if len(latent) == 1 else None


def _bindings(plan: Plan) -> tuple[Binding, ...]:
    """How every size symbol is read off the shape of an argument.

    Raises:
        LoweringError: a symbol is on no axis that gives it away.
    """
    found = bindings(plan.arguments)
    used = {name for step in plan.steps for name in symbol_names(step.scale)}
    used |= {name for step in plan.steps for i in step.indices for name in symbol_names(i.size)}
    missing = sorted(used - {b.symbol for b in found})
    if missing:
        raise LoweringError(
            f"size symbol {missing[0]!r} cannot be read off the shape of an argument "
            f"({', '.join(plan.arguments)}); give it an integer value, as by batch_size=8 in the layer's spec"
        )
    return found
