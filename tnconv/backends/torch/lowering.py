"""Plan → program, step by step: the kernel that was chosen for a step writes it; passes rewrite what was written."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf

import torch
import torch.nn.functional as F

from tnconv.backends.backend import Choice, Program
from tnconv.backends.define import define
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.python import RESERVED, format_python, symbol_variables
from tnconv.backends.torch.returned import Returned
from tnconv.backends.torch.selection import Selection, Table
from tnconv.backends.torch.written_steps import Laid, WrittenSteps
from tnconv.errors import LoweringError
from tnconv.ir import Size, fresh
from tnconv.planner.decompose import replaced
from tnconv.planner.plan import DEFAULT_HINT, Plan, varying_operands
from tnconv.program import Call, Given, Let, Once, ProgramText, SizeOf, Statement, Var
from tnconv.program.passes.free import FreeAfterUse
from tnconv.program.passes.fuse import Fuse
from tnconv.program.passes.hoist import Hoist
from tnconv.program.passes.program_pass import ProgramStage, added, run
from tnconv.program.passes.reuse import Reuse
from tnconv.program.passes.share import Share
from tnconv.program.size_symbols import readable, symbols_used
from tnconv.program.statements import reads, writes


class Lowering:
    """Writes the program of a plan.

    Args:
        plan: what to compute, in which order.
        table: what may compute the steps; the cheapest by predicted time does.
        given: arguments that another program hands over in its own layout, with their axes; see `handed_over`.
        constant: arguments that seldom change; see `in_two_parts`.
        only: kernels and rules by step, where others need not be asked.
        sizes: how size symbols are read that no shape gives away by itself.
    """

    def __init__(
        self,
        plan: Plan,
        table: Table,
        given: Mapping[str, Laid] | None = None,
        constant: Collection[str] = (),
        only: Mapping[str, Collection[str]] | None = None,
        sizes: Sequence[SizeOf] = (),
    ) -> None:
        self.plan, given = plan, given or {}
        shown = {name: sizes for name, sizes in plan.arguments.items() if name not in given}
        self.bindings = readable(shown, symbols_used(plan), sizes)
        hints = {b.symbol: table.hints.get(b.symbol, DEFAULT_HINT) for b in self.bindings}
        symbols = symbol_variables(hints)
        taken = {*symbols, *symbols.values()}
        self.python: dict[str, str] = {}
        for argument in plan.arguments:
            self.python[argument] = fresh(argument, taken | RESERVED)
            taken.add(self.python[argument])
        constants = frozenset(self.python[name] for name in constant)
        tables = {name: self.python[name] for name in plan.tables}
        self.em, sketch = (
            Emitter(set(taken), hints, symbols, constants, tables, table.profile) for _ in range(2)
        )
        laid = {n: (replace(v, name=self.python[n], fresh=False), axes) for n, (v, axes) in given.items()}
        self.given = {name: Given(self.python[name], sizes) for name, sizes in plan.arguments.items()}
        self.given |= {n: Given(self.python[n], self.em.sizes(v.dims)) for n, (v, _) in given.items()}
        self._steps = WrittenSteps(self.em, self.python, laid, plan.lower)
        sketched = WrittenSteps(sketch, self.python, laid, plan.lower)
        self.selection = Selection(plan, replace(table, hints=hints), sketched, only or {})
        self.choices: list[Choice] = []
        self.workspace: list[tuple[str, str, Size]] = []

    @property
    def values(self) -> dict[str, Laid]:
        """What was given and what steps have made, with its axes."""
        return self._steps.values

    @property
    def returns(self) -> Returned:
        """What hands over results."""
        return Returned(self.em, self.plan, self.values, self.python.values(), self._steps.divided)

    def program(self, as_they_are: Collection[str] = (), *, gradients: bool = False) -> Program:
        """The program.

        Args:
            as_they_are: results that are handed over in the layout that they have.
            gradients: whether the results are gradients: a gradient of a mean over nothing is a sum over nothing.
        """
        self.run()
        handed_over = [self.values[name][0] for name in as_they_are]
        results: list[Value] = []
        for names, packed in zip((self.plan.results, *self.plan.also), self.plan.packs, strict=True):
            if names[0] in as_they_are and packed is None:
                results.append(self.values[names[0]][0])
            else:
                total = self.returns.total(names) if gradients else self.returns.mean(names, packed)
                results.append(self.returns.owned(total, (*results, *handed_over)))
        return self._made(self._text("", self.em.statements, self._returned(results)), self.choices)

    def _returned(self, results: Sequence[Value]) -> tuple[Var | Call, ...]:
        """What is returned, the value first."""
        pairs = zip((Var(result.name) for result in results), self.plan.reals, strict=True)
        return tuple([Call("real", (each,)) if real else each for each, real in pairs])

    def in_two_parts(self, constant: Collection[str]) -> tuple[Program, Program]:
        """The program that makes what depends on constants alone, and that which takes it behind the arguments.

        Args:
            constant: names of the arguments that seldom change.

        Raises:
            LoweringError: nothing depends on constants alone, or all does.
        """
        self.run()
        value = self.returns.owned(self.returns.mean(self.plan.results, self.plan.packed))
        result = value.name
        text = self._text("", self.em.statements, self._returned([value]))
        whole, stages = run((Share(), Fuse(), Hoist(tuple(sorted(self.em.constants)))), text)
        once, *rest = whole.statements
        first = once.body if isinstance(once, Once) else ()
        read = {name for each in rest for name in reads(each)}
        kept = [name for each in first if (name := writes(each)) in read and name]
        constants = [n for n, p in self.python.items() if any(p in reads(each) for each in first)]
        if not kept or result in map(writes, first):
            raise LoweringError(
                f"in {self.plan.name!r} nothing depends on the constants alone, or all does; leave constant= out"
            )
        steps = replaced(self.plan, ((each.step, each.steps) for each in self.selection.decomposed)).steps
        changing = {step for step, count in varying_operands(steps, constant).items() if count}
        choices = [choice for choice in self.choices if choice.step in changing]
        others = [choice for choice in self.choices if choice.step not in changing]
        head = self._text("_kept", first, tuple(map(Var, kept)), constants)
        sizes = {s.name: self.em.sizes(s.dims) for s in first if isinstance(s, Let) and s.dims is not None}
        body = replace(whole, statements=tuple(rest))
        body = replace(body, arguments=(*body.arguments, *(Given(name, sizes.get(name)) for name in kept)))
        return (
            self._made(head, others, constants),
            self._made(body, choices, [*self.python, *kept], stages),
        )

    def _text(
        self,
        suffix: str,
        statements: Sequence[Statement],
        results: tuple[Var | Call, ...],
        arguments: Iterable[str] | None = None,
    ) -> ProgramText:
        """Some statements as a program.

        Args:
            suffix: of its name.
            statements: in order.
            results: what is returned.
            arguments: names of those that it takes; all if left out.
        """
        given = {name: self.given[name] for name in (self.python if arguments is None else arguments)}
        # A function called `torch` would hide the module.
        name = fresh(re.sub(r"\W", "_", self.plan.name) + suffix, {*RESERVED})
        sizes = tuple(
            replace(b, argument=self.python[b.argument]) for b in self.bindings if b.argument in given
        )
        return ProgramText(name, tuple(given.values()), sizes, tuple(statements), results)

    def _made(
        self,
        text: ProgramText,
        choices: Sequence[Choice],
        arguments: Iterable[str] | None = None,
        before: tuple[ProgramStage, ...] | None = None,
    ) -> Program:
        """The program of a text, which passes rewrite; `before` is what passes have done already."""
        first = (Share(), Fuse()) if before is None else ()
        text, stages = run((*first, Reuse(), *added(), FreeAfterUse()), text)
        source = format_python(text)
        function = define(text.name, source, {"torch": torch, "F": F, "rt": runtime})
        given = tuple(self.python if arguments is None else arguments)
        every = (*(before or ()), *stages)
        made, buffers, apart = tuple(choices), tuple(self.workspace), tuple(self.selection.decomposed)
        return Program(
            text.name, source, given, made, buffers, function, text=text, stages=every, decomposed=apart
        )

    def handed_over(self, names: Collection[str]) -> dict[str, Laid]:
        """How the results of some steps will lie: `given` of another lowering."""
        self.selection.run()
        return {name: self.selection.layout(name) for name in names}

    def predicted(self, limit: float = inf) -> float:
        """Microseconds that all steps are predicted to take; nothing is written.

        Args:
            limit: microseconds; what is predicted to take as long is given up.

        Raises:
            Slower: it was.
        """
        self.selection.run(limit)
        return self.selection.predicted

    def run(self) -> None:
        """Write the steps, unless that was done before."""
        if self.values.keys() >= set(self.plan.results):
            return
        self.selection.run()
        for chosen in self.selection.chosen:
            step = chosen.step
            problem, after = self._steps.problem(step, loose=chosen.loose, swapped=chosen.swapped)
            problem.recall(self.selection.table.known)
            self.choices.append(chosen.choice(problem))
            self.values[step.result] = self._steps.write(step, problem, after, chosen.kernel), step.output
            self.workspace += [(step.result, what, size) for what, size in self.em.workspace]
            self.em.workspace.clear()
