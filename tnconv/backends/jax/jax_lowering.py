"""Plan → JAX source: each step by an einsum, a native convolution, reads and writes along axes, or cell by cell."""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tnconv.backends.backend import Choice, Program
from tnconv.backends.define import define
from tnconv.backends.jax import numerics
from tnconv.backends.jax.exchange import matched, read, write
from tnconv.backends.jax.steps import StepWriter
from tnconv.backends.jax.writer import RESERVED, Value, Writer
from tnconv.backends.operand_axes import renaming, tie, untied
from tnconv.ir import Axis as Layout
from tnconv.ir import Index, fresh
from tnconv.ir.size import symbol_names
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step
from tnconv.program import SizeOf
from tnconv.program.size_symbols import readable, symbols_used


def lower(plan: Plan, hints: Mapping[str, int]) -> Program:
    """The program of a plan.

    Args:
        plan: what to compute, in which order.
        hints: an integer for each size symbol, for choices by size.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return _Lowering(plan, hints).program()


class _Lowering:
    def __init__(self, plan: Plan, hints: Mapping[str, int]) -> None:
        self.plan, self.bindings = plan, readable(plan.arguments, symbols_used(plan))
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
        choices, workspace = [], []
        for step in self.plan.steps:
            value, kernel = self._step(step)
            self.values[step.result] = value, step.output
            choices.append(Choice(step.result, kernel))
            workspace += [(step.result, what, size) for what, size in self.w.buffers]
            self.w.buffers.clear()
        values = zip((self.plan.results, *self.plan.also), self.plan.reals, self.plan.packs, strict=True)
        result = ", ".join([self._total(*each) for each in values])
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
        operands = [self._operand(o) for o in step.operands] or [self._one()]
        output = list(dict.fromkeys(i for axis in step.output for i in axis.indices))
        made = StepWriter(self.w, operands, list(step.relations), output)
        value = made.value()
        if step.scale != 1:
            value = self.w.assign("scaled", f"{value.name} * {self.w.scale(step.scale)}", value.legs)
        return value, " + ".join(dict.fromkeys(made.kernels))

    def _operand(self, operand: Operand) -> Value:
        """What a step reads, with each index on one axis."""
        w = self.w
        if operand.source in self.values:
            made, axes = self.values[operand.source]
            value = made.rename(renaming(axes, operand.axes))
        else:
            value = self._argument(operand)
        if operand.conj:
            value = w.assign(value.name, f"jnp.conj({value.name})", value.legs)
        return matched(w, value)

    def _argument(self, operand: Operand) -> Value:
        """An argument with one axis an index."""
        w, name = self.w, self.python[operand.source]
        dims, reads = untied(operand.axes, {i.name for i in operand.indices})
        legs = [index for dim in dims for index in dim]
        value = Value(name, tuple(legs))
        if any(len(dim) != 1 for dim in dims):
            value = w.assign(name, f"{name}.reshape{w.sizes(legs)}", legs)
        for relation in reads:
            value = read(w, value, relation)
        return value

    def _one(self) -> Value:
        like = next((p for n, p in self.python.items() if n not in self.plan.tables), None)
        return self.w.assign("one", f"jnp.ones((), {like}.dtype)" if like else "jnp.ones(())", ())

    # -- the result ------------------------------------------------------------------------------

    def _total(self, results: Sequence[str], real: bool, packed: int | None) -> str:
        """The sum of some results, laid out as the output says; its lower triangle where that is packed."""
        text = " + ".join([self._laid_out(*self.values[name]) for name in results])
        if real:
            text = f"jnp.real({text})"
        if packed is not None:
            text = f"rt.pack_triangle({text}, {packed})"
        steps = self.plan.leading_to(results)
        divisors = {n for s in steps for n in symbol_names(s.scale.as_numer_denom()[1])}
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
            value = write(w, value, tie(cell, axis))
            groups.append([cell])
        return w.reshape(value, groups, [axis.size for axis in axes], "result")

    def _binding(self, found: SizeOf) -> str:
        """The line that reads a size symbol off an argument."""
        w, text = self.w, f"{self.python[found.argument]}.shape[{found.axis}]"
        if found.rest != 0:
            text = f"({text} - ({w.text(found.rest)}))"
        slope = "" if found.factor == 1 else f" // ({w.text(found.factor)})"
        return f"    {w.symbols[found.symbol]} = {text}{slope}"
