"""Plan → program, step by step: the kernel that is chosen for a step writes it; passes rewrite what was written."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from math import inf
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F

from tnconv.backends.backend import Choice, Decomposed, Program, Slower
from tnconv.backends.define import define
from tnconv.backends.operand_axes import renaming, untied
from tnconv.backends.torch.emit import Emitter, Value, call
from tnconv.backends.torch.kernels.kernel import Kernel, Problem
from tnconv.backends.torch.kernels.kernel_table import cheapest, natives, priced
from tnconv.backends.torch.kernels.window_views import Windows
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.profile import Profile
from tnconv.backends.torch.python import RESERVED, format_python, symbol_variables
from tnconv.backends.torch.returned import Returned, divisors
from tnconv.backends.torch.step_problems import After, applied, problem_of
from tnconv.backends.torch.streaming import emit_squares, square_of, squares, streamed
from tnconv.backends.torch.windows import gather
from tnconv.errors import LoweringError
from tnconv.ir import Axis, Size, fresh
from tnconv.ir.monomial import Scalar, polynomial_text
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.decompose import Decomposition, Reading, Setting, replaced
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step, varying_operands
from tnconv.program import Call, Given, Let, Once, ProgramText, SizeOf, Statement, Var
from tnconv.program.passes.free import FreeAfterUse
from tnconv.program.passes.fuse import Fuse
from tnconv.program.passes.hoist import Hoist
from tnconv.program.passes.program_pass import ProgramStage, added, run
from tnconv.program.passes.reuse import Reuse
from tnconv.program.passes.share import Share
from tnconv.program.size_symbols import readable, symbols_used
from tnconv.program.statements import Argument, reads, writes


class _Ready(NamedTuple):
    """A step as kernels see it, what is done behind it, and the kernel that was chosen with all that were asked.

    What is done behind it is a relation with the legs that the result has then. `squares` is what the squares of the
    result are predicted to take where it is streamed into them; None where it is written.
    """

    problem: Problem
    after: list[After]
    kernel: Kernel
    candidates: tuple[tuple[str, float], ...]
    squares: float | None = None


class Lowering:
    """Writes the program of a plan.

    Args:
        plan: as for `lower_with`.
        kernels: as for `lower_with`.
        hints: as for `lower_with`.
        prefer: as for `lower_with`.
        profile: as for `lower_with`.
        given: arguments that another program hands over in its own layout, with their axes; see `handed_over`.
        constant: arguments that seldom change; see `in_two_parts`.
        limit: microseconds; what is predicted to take longer is given up.
        only: kernels and rules by step, where others need not be asked.
        sizes: how size symbols are read that no shape gives away by itself.
        rules: that may take steps apart.
        known: what was found out about steps of other plans, as `How` says; all with the same kernels and rates.
    """

    def __init__(
        self,
        plan: Plan,
        kernels: Mapping[str, Kernel],
        hints: Mapping[str, int],
        prefer: Collection[str],
        profile: Profile,
        given: Mapping[str, tuple[Value, tuple[Axis, ...]]] | None = None,
        constant: Collection[str] = (),
        limit: float = inf,
        only: Mapping[str, Collection[str]] | None = None,
        sizes: Sequence[SizeOf] = (),
        rules: Sequence[Decomposition] = (),
        known: dict[Any, Any] | None = None,
    ) -> None:
        self.known = {} if known is None else known
        self.limit, self.only, self.rules = limit, only or {}, tuple(rules)
        self.plan, self.kernels, self.prefer, self.profile = plan, kernels, frozenset(prefer), profile
        given = given or {}
        shown = {name: sizes for name, sizes in plan.arguments.items() if name not in given}
        self.bindings = readable(shown, symbols_used(plan), sizes)
        self.hints = {b.symbol: hints.get(b.symbol, DEFAULT_HINT) for b in self.bindings}
        symbols = symbol_variables(self.hints)
        taken = {*symbols, *symbols.values()}
        self.python: dict[str, str] = {}
        for argument in plan.arguments:
            self.python[argument] = fresh(argument, taken | RESERVED)
            taken.add(self.python[argument])
        constants = frozenset(self.python[name] for name in constant)
        tables = {name: self.python[name] for name in plan.tables}
        self.em = Emitter(taken, self.hints, symbols, constants, tables, profile)
        self.values = {
            name: (replace(value, name=self.python[name], fresh=False), axes)
            for name, (value, axes) in given.items()
        }
        self.given = {name: Given(self.python[name], sizes) for name, sizes in plan.arguments.items()}
        self.given |= {
            name: Given(self.python[name], self.em.sizes(value.dims)) for name, (value, _) in given.items()
        }
        self.choices: list[Choice] = []
        self.workspace: list[tuple[str, str, Size]] = []
        self.decomposed: list[Decomposed] = []
        self._divided: set[str] = set()  # results that were multiplied by their scale as a whole

    @property
    def returns(self) -> Returned:
        """What hands over results."""
        return Returned(self.em, self.plan, self.values, self.python.values(), self._divided)

    def program(self, as_they_are: Collection[str] = (), *, gradients: bool = False) -> Program:
        """The program.

        Args:
            as_they_are: results that are handed over in the layout that they have.
            gradients: whether the results are gradients: a gradient of a mean over nothing is a sum over nothing.
        """
        self.run()
        handed_over = [self.values[name][0] for name in as_they_are]
        results: list[Value] = []
        for names in (self.plan.results, *self.plan.also):
            if names[0] in as_they_are:
                results.append(self.values[names[0]][0])
            else:
                total = self.returns.total(names) if gradients else self.returns.mean(names)
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
        value = self.returns.owned(self.returns.mean(self.plan.results))
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
        steps = replaced(self.plan, ((each.step, each.steps) for each in self.decomposed)).steps
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
        made, buffers, apart = tuple(choices), tuple(self.workspace), tuple(self.decomposed)
        return Program(
            text.name, source, given, made, buffers, function, text=text, stages=every, decomposed=apart
        )

    def handed_over(self, names: Collection[str]) -> dict[str, tuple[Value, tuple[Axis, ...]]]:
        """The results of some steps as `given` of another lowering."""
        return {name: self.values[name] for name in names}

    @property
    def predicted(self) -> float:
        """Microseconds that the steps that were lowered so far are predicted to take."""
        return sum(choice.predicted for choice in self.choices)

    def run(self) -> None:
        """Lower the steps, unless that was done before."""
        if self.values.keys() >= set(self.plan.results):
            return
        done: set[str] = set()  # results that were made along with others
        for step in self.plan.steps:
            if step.result in done:
                continue
            done |= self._cheapest(step)
            if self.predicted >= self.limit:
                raise Slower

    def _cheapest(self, step: Step) -> set[str]:
        """Lower a step as it is, or taken apart; return the results that were made along with its own."""
        only = self.only.get(step.result, ())
        rules = [rule for rule in self.rules if not only or rule.name in only]
        reading = Reading(step)
        options = [(rule.name, steps) for rule in rules if (steps := rule(step, self._setting, reading))]
        start = self._copied() if options else self
        user = square_of(self.plan, step)
        ready = self._ready(step, user)
        others = [(name, steps, start._along(steps)) for name, steps in options]
        prices = {name: trial.predicted - start.predicted for name, _, trial in others}
        every = (*ready.candidates, *prices.items())
        gain = self.profile.native if ready.kernel.is_native(ready.problem) else 1.0
        least = gain * dict(ready.candidates)[ready.kernel.name]
        rank = {name: (name not in self.prefer, price) for name, price in prices.items()}
        for name, steps, trial in sorted(others, key=lambda each: rank[each[0]])[:1]:
            if rank[name] < (ready.kernel.name not in self.prefer, least):
                self.__dict__.update(vars(trial))
                self.decomposed.append(Decomposed(step, name, steps, every))
                self._setting = self._setting.with_steps(steps)
                return set()
        ready = ready._replace(candidates=every)
        value = self._squared(step, user, ready) if user else None
        if user is not None and value is not None:
            self.values[user.result] = (value, user.output)
        else:
            self.values[step.result] = (self._step(step, ready), step.output)
        self._note(step)
        return set() if user is None or value is None else {user.result}

    @cached_property
    def _setting(self) -> Setting:
        return Setting.of(self.plan, self.hints)

    def _copied(self) -> Self:
        """The same state, which goes another way."""
        made = copy(self)
        made.em, made.values, made._divided = self.em.copied(), dict(self.values), set(self._divided)
        made.choices, made.workspace, made.decomposed = [*self.choices], [*self.workspace], [*self.decomposed]
        return made

    def _along(self, steps: Sequence[Step]) -> Self:
        """A copy that has lowered the steps in place of one."""
        made = self._copied()
        for step in steps:
            made.values[step.result] = (made._step(step, made._ready(step, None)), step.output)
            made._note(step)
        return made

    def _note(self, step: Step) -> None:
        """Keep what a step has allocated under its name."""
        self.workspace += [(step.result, what, size) for what, size in self.em.workspace]
        self.em.workspace.clear()

    def _ready(self, step: Step, user: Step | None) -> "_Ready":
        """A step as a problem, and the kernel that was chosen for it; `user` squares the result, if any does."""
        operands = list(map(self._operand, step.operands)) or [self._one()]
        problem, after = problem_of(step, operands, self.em, self.profile)
        problem.recall(self.known)
        made = priced(problem, self.kernels, self.only.get(step.result, ()))
        squared = {} if user is None or after else streamed(problem, [k for k, _ in made], user)
        if not squared:
            prefer = self.prefer or (natives(problem, made) if len(self.plan.steps) == 1 else ())
            return _Ready(problem, after, *cheapest(made, prefer))
        made = [(k, squared[k.name][0] if k.name in squared else cost) for k, cost in made]
        passes = self.profile.copying(problem.count(problem.output) / 2)  # over what is in memory
        behind = {k.name: squared[k.name][1] if k.name in squared else passes for k, _ in made}
        kernel, candidates = cheapest(made, self.prefer, behind)
        return _Ready(problem, after, kernel, candidates, squared.get(kernel.name, (0.0, None))[1])

    def _step(self, step: Step, ready: "_Ready") -> Value:
        problem, after, kernel, candidates, _ = ready
        made = kernel.multiplications(problem)
        rule = kernel.rule.name if kernel.rule else ""
        self.choices.append(Choice(step.result, kernel.name, candidates, made, rule))
        scale = _scale(step.scale) if step.scale != 1 else None
        divides = bool(divisors(step))
        if scale is not None and kernel.applies_scale:
            problem, scale = replace(problem, scale=scale), None
            self._divided |= {step.result} if divides and not after else set()
        # Scaling one of two operands that are one variable would make two of it.
        twice = len({v.name for v in problem.operands}) < len(problem.operands)
        if scale is not None and kernel.takes_scaled and not twice:
            small = min(range(len(problem.operands)), key=lambda p: problem.count(problem.operands[p].legs))
            if problem.count(problem.operands[small].legs) < problem.count(problem.output):
                problem = replace(problem, operands=self._scaled(problem.operands, small, scale))
                scale = None
        turned = bool(problem.operands) and all(v.conj for v in problem.operands)
        if turned:  # the conjugate of the product, written out: a result is no view of an argument
            problem = replace(problem, operands=tuple(replace(v, conj=False) for v in problem.operands))
        elif not kernel.takes_conj:
            problem = replace(problem, operands=tuple(map(self.em.conj, problem.operands)))
        value = kernel.emit(problem, self.em)
        self._divided |= {step.result} if scale is not None and divides and not after else set()
        if scale is not None:
            value = self.em.derive(value, "scaled", call("mul", value, scale), value.dims, copied=True)
        value = applied(self.em, value, after)
        return self.em.conj(replace(value, conj=True), "conj_physical") if turned else value

    def _squared(self, step: Step, user: Step, ready: "_Ready") -> Value | None:
        """The sum of the squares of a product that is never in memory as a whole; None where it had better be."""
        problem, _, kernel, candidates, price = ready
        if price is None:
            return None
        if isinstance(kernel, Windows):
            problem = kernel.opened(problem, self.em)
        found = squares(problem, user)
        if found is None:
            return None
        value = emit_squares(found, user, self.em)
        self.choices.append(Choice(step.result, kernel.name, candidates))
        self.choices.append(Choice(user.result, "streamed squares", (("streamed squares", price),)))
        # The plan counts the product as a whole, while it is made and while it is read.
        self.workspace += [
            (name, "all but one example", normal(-1 * step.elements)) for name in (step.result, user.result)
        ]
        if user.scale != 1:
            self._divided |= {user.result} if divisors(user) else set()
            made = call("mul", value, _scale(user.scale))
            value = self.em.derive(value, "scaled", made, value.dims, copied=True)
        return value

    def _scaled(self, operands: tuple[Value, ...], small: int, scale: Argument) -> tuple[Value, ...]:
        value = operands[small]
        made = self.em.derive(value, "scaled", call("mul", value, scale), value.dims, copied=True)
        return (*operands[:small], made, *operands[small + 1 :])

    def _one(self) -> Value:
        """A one with the dtype and the device of an argument, a constant if there is one."""
        like = next(iter(sorted(self.em.constants) or self.python.values()), None)
        if like is None:
            return self.em.make("one", call("ones", ()), ())
        return self.em.make("one", call("new_ones", Var(like), ()), ())

    def _operand(self, operand: Operand) -> Value:
        if operand.source in self.values:
            value, axes = self.values[operand.source]
            mapping = renaming(axes, operand.axes)
            return replace(value.rename(mapping), fresh=False, conj=operand.conj)
        python = self.python[operand.source]
        dims, reads = untied(operand.axes, {i.name for i in operand.indices})
        value = Value(python, tuple(dims), conj=operand.conj)
        return gather(self.em, value, reads) if reads else value


def _scale(scale: Scalar) -> Argument:
    """A number, or a ratio of two sizes."""
    if not symbol_names(scale):
        return float(scale) if scale.is_real else complex(scale)
    top, bottom = scale.as_numer_denom()
    if any(polynomial_text(part, {n: n for n in symbol_names(part)}) is None for part in (top, bottom)):
        raise LoweringError(f"scale {scale} is not a ratio of polynomials in the size symbols")
    return call("ratio", normal(top), normal(bottom))
