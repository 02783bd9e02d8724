"""Plan → program: each step is prepared, given to the cheapest kernel, and its result laid out as asked."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F

from tnconv import plugins
from tnconv.backends.backend import Choice, Program
from tnconv.backends.define import define
from tnconv.backends.operand_axes import untied
from tnconv.backends.torch import runtime
from tnconv.backends.torch.emit import Emitter, Value, call, singles
from tnconv.backends.torch.huge_pages import LARGEST_REUSED
from tnconv.backends.torch.kernels.contract import Contract, presum
from tnconv.backends.torch.kernels.kernel import ACCURACIES, Kernel, Problem
from tnconv.backends.torch.kernels.window_views import Cells, Windows
from tnconv.backends.torch.profile import DEFAULT, Profile, profile_of
from tnconv.backends.torch.python import RESERVED, format_python, symbol_variables
from tnconv.backends.torch.streaming import emit_squares, square_of, squares, worth_streaming
from tnconv.backends.torch.windows import broadcast, diagonal, gather, match_diagonals, scatter, window_view
from tnconv.errors import LoweringError, PluginError
from tnconv.ir import Axis, Delta, Expression, Index, Pattern, Relational, Size, fresh, product, solve, symbol
from tnconv.ir.index import normal, symbol_names
from tnconv.ir.monomial import Scalar, polynomial_text
from tnconv.planner.plan import DEFAULT_HINT, Operand, Plan, Step
from tnconv.program import Call, Given, Let, Once, ProgramText, Statement, Var
from tnconv.program.passes.free import FreeAfterUse
from tnconv.program.passes.fuse import Fuse
from tnconv.program.passes.hoist import Hoist
from tnconv.program.passes.program_pass import ProgramStage, added, run
from tnconv.program.passes.reuse import Reuse
from tnconv.program.passes.share import Share
from tnconv.program.size_symbols import readable, symbols_used
from tnconv.program.statements import Argument, flatten, reads, writes

_LARGEST_ITEM = 16  # bytes
COMPONENTWISE = "componentwise"  # what kernels promise at least unless somebody asks for more, or less


def lower(
    plan: Plan,
    _network: Expression,
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    device: str | Profile = "cpu",
    accuracy: str = COMPONENTWISE,
) -> Program:
    """Write the program of a plan with the kernels of the group `tnconv.kernels`: the `torch` backend.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return lower_with(plan, kernel_table(accuracy), hints, prefer, profile_of(device))


def fastest_of(
    plans: Sequence[Plan],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    device: str | Profile = "cpu",
    accuracy: str = COMPONENTWISE,
) -> tuple[Plan, Program]:
    """The plan whose program is predicted to be fastest, and that; the others are written until they are slower.

    Raises:
        LoweringError: as for `lower`.
    """
    table, profile = kernel_table(accuracy), profile_of(device)
    best: Lowering | None = None
    for plan in plans:
        lowering = Lowering(plan, table, hints, prefer, profile, limit=best.predicted if best else inf)
        try:
            lowering.run()
        except _Slower:
            continue
        best = lowering
    assert best is not None
    return best.plan, best.program()


class _Slower(Exception):
    """A program is predicted to take longer than was allowed."""


def kernel_table(accuracy: str = ACCURACIES[0]) -> dict[str, Kernel]:
    """The kernels by name: the built-in ones in their order, then those of plug-ins.

    Args:
        accuracy: the least that kernels promise; see `ACCURACIES`. The last resort is there in any case.

    Raises:
        PluginError: an entry is not a kernel.
    """
    found = {name: _kernel(name, kernel) for name, kernel in plugins.load(plugins.KERNELS).items()}
    enough = ACCURACIES[ACCURACIES.index(accuracy) :]
    return {name: k for name, k in found.items() if k.accuracy in enough or isinstance(k, Cells)}


def _kernel(name: str, found: object) -> Kernel:
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Kernel):
        raise PluginError(
            f"kernel {name!r} is {made!r}, which is not a Kernel; subclass tnconv.backends.torch.kernels.Kernel"
        )
    return made


def lower_with(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    hints: Mapping[str, int],
    prefer: Collection[str] = (),
    profile: Profile = DEFAULT,
) -> Program:
    """Write the program of a plan.

    Args:
        plan: what to compute, in which order.
        kernels: the kernel table, by name; the cheapest that accepts a step is taken.
        hints: representative integers of the size symbols, for choices by cost; 32 for those not named.
        prefer: names of kernels that are taken wherever they accept, whatever they cost.
        profile: rates of the machine that will run it.

    Raises:
        LoweringError: a size symbol is on no argument, or a size is not a polynomial.
    """
    return Lowering(plan, kernels, hints, prefer, profile).program()


class _Ready(NamedTuple):
    """A step as kernels see it, what is done behind it, and the kernel that was chosen with all that were asked.

    What is done behind it is a relation with the legs that the result has then.
    """

    problem: Problem
    after: list[tuple[Relational, tuple[Index, ...]]]
    kernel: Kernel
    candidates: tuple[tuple[str, float], ...]


class Lowering:
    """Writes the program of a plan; arguments as for `lower_with`.

    Args:
        plan: likewise.
        kernels: likewise.
        hints: likewise.
        prefer: likewise.
        profile: likewise.
        given: arguments that another program hands over in its own layout, with their axes; see `handed_over`.
        constant: arguments that seldom change; see `in_two_parts`.
        limit: microseconds; what is predicted to take longer is given up.
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
    ) -> None:
        self.limit = limit
        self.plan, self.kernels, self.prefer, self.profile = plan, kernels, frozenset(prefer), profile
        given = given or {}
        shown = {name: sizes for name, sizes in plan.arguments.items() if name not in given}
        self.bindings = readable(shown, symbols_used(plan))
        self.hints = {b.symbol: hints.get(b.symbol, DEFAULT_HINT) for b in self.bindings}
        symbols = symbol_variables(self.hints)
        taken = {*symbols, *symbols.values()}
        self.python: dict[str, str] = {}
        for argument in plan.arguments:
            self.python[argument] = fresh(argument, taken | RESERVED)
            taken.add(self.python[argument])
        constants = frozenset(self.python[name] for name in constant)
        tables = {name: self.python[name] for name in plan.tables}
        self.em = Emitter(taken, self.hints, symbols, constants, tables)
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
        self._divided: set[str] = set()  # results that were multiplied by their scale as a whole

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
                total = self._total(names) if gradients else self._mean(names)
                results.append(self._owned(total, (*results, *handed_over)))
        return self._made(self._text("", self.em.statements, self._returned(results)), self.choices)

    def _returned(self, results: Sequence[Value]) -> tuple[Var | Call, ...]:
        """What is returned, the value first."""
        value, *others = (Var(result.name) for result in results)
        return (Call("real", (value,)) if self.plan.real else value, *others)

    def in_two_parts(self, moving: Collection[str]) -> tuple[Program, Program]:
        """The program that makes what depends on constants alone, and that which takes it behind the arguments.

        Args:
            moving: the steps that depend on something else.

        Raises:
            LoweringError: nothing depends on constants alone, or all does.
        """
        self.run()
        value = self._owned(self._mean(self.plan.results))
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
        choices = [choice for choice in self.choices if choice.step in moving]
        others = [choice for choice in self.choices if choice.step not in moving]
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
        made, buffers = tuple(choices), tuple(self.workspace)
        return Program(text.name, source, given, made, buffers, function, text=text, stages=every)

    def handed_over(self, names: Collection[str]) -> dict[str, tuple[Value, tuple[Axis, ...]]]:
        """The results of some steps as `given` of another lowering."""
        return {name: self.values[name] for name in names}

    def _owned(self, result: Value, others: Sequence[Value] = ()) -> Value:
        """A result with memory of its own: none of an argument, of what is kept, of another result, no cell twice."""
        owners = {self.em.owner(other.name) for other in others}
        if not self._borrowed(result) and self.em.owner(result.name) not in owners:
            return result
        return self.em.make("result", call("clone", result), result.dims, memo=False, fresh=True)

    def _borrowed(self, value: Value) -> bool:
        """Whether a value has, or may have, memory of an argument or of what is kept, or several cells at one place."""
        given = self.em.owner(value.name) in self.python.values()
        return given or self.em.overlaps(value) or self.em.is_constant(value)

    @property
    def predicted(self) -> float:
        """Microseconds that the steps that were lowered so far are predicted to take."""
        return sum(choice.predicted for choice in self.choices)

    def run(self) -> None:
        """Lower the steps, unless that was done before."""
        if self.values.keys() >= set(self.plan.results):
            return
        streamed: set[str] = set()
        for step in self.plan.steps:
            if step.result in streamed:
                continue
            ready = self._ready(step)
            user = square_of(self.plan, step)
            value = self._squared(step, user, ready) if user else None
            if user is not None and value is not None:
                streamed.add(user.result)
                self.values[user.result] = (value, user.output)
            else:
                self.values[step.result] = (self._step(step, ready), step.output)
            if self.predicted >= self.limit:
                raise _Slower
            self.workspace += [(step.result, what, size) for what, size in self.em.workspace]
            self.em.workspace.clear()

    # -- one step --------------------------------------------------------------------------------

    def _ready(self, step: Step) -> "_Ready":
        """A step as a problem, and the kernel that was chosen for it."""
        problem, after = self._prepare(step)
        return _Ready(problem, after, *self._choose(problem))

    def _step(self, step: Step, ready: "_Ready") -> Value:
        problem, after, kernel, candidates = ready
        made = kernel.multiplications(problem)
        self.choices.append(Choice(step.result, kernel.name, candidates, made))
        scale = _scale(step.scale) if step.scale != 1 else None
        divides = bool(_divisors(step))
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
        for relation, wanted in after:
            if isinstance(relation, Delta):
                value = diagonal(self.em, value, relation, wanted)
            else:
                value = scatter(self.em, value, relation, ())
        return self.em.conj(replace(value, conj=True), "conj_physical") if turned else value

    def _squared(self, step: Step, user: Step, ready: "_Ready") -> Value | None:
        """The sum of the squares of a product that is never in memory as a whole; None where it had better be."""
        problem, after, kernel, candidates = ready
        if after or not isinstance(kernel, Windows | Contract) or not worth_streaming(problem):
            return None
        if isinstance(kernel, Windows):
            problem = kernel.opened(problem, self.em)
        found = squares(problem, user)
        if found is None:
            return None
        value = emit_squares(found, user, self.em)
        cells = problem.count(problem.output)
        self.choices.append(Choice(step.result, kernel.name, candidates))
        self.choices.append(
            Choice(user.result, "streamed squares", (("streamed squares", self.profile.copying(cells / 4)),))
        )
        # The plan counts the product as a whole, while it is made and while it is read.
        self.workspace += [
            (name, "all but one example", normal(-1 * step.elements)) for name in (step.result, user.result)
        ]
        if user.scale != 1:
            self._divided |= {user.result} if _divisors(user) else set()
            made = call("mul", value, _scale(user.scale))
            value = self.em.derive(value, "scaled", made, value.dims, copied=True)
        return value

    def _scaled(self, operands: tuple[Value, ...], small: int, scale: Argument) -> tuple[Value, ...]:
        value = operands[small]
        made = self.em.derive(value, "scaled", call("mul", value, scale), value.dims, copied=True)
        return (*operands[:small], made, *operands[small + 1 :])

    def _prepare(self, step: Step) -> tuple[Problem, list[tuple[Relational, tuple[Index, ...]]]]:
        """Operands with each index once, two-legged relations applied, lonely indices summed."""
        operands = [match_diagonals(self.em, self._operand(o)) for o in step.operands]
        if not operands:
            operands = [self._one()]
        on_values = {i for v in operands for i in v.legs} | {i for r in step.relations for i in r.indices}
        output = tuple(i for axis in step.output for i in axis.indices if i in on_values)
        relations = list(step.relations)
        after: list[tuple[Relational, tuple[Index, ...]]] = []
        for relation in [r for r in relations if len(r.indices) <= 2]:
            rest = [r for r in relations if r is not relation]
            solved = self._readable(relation, rest, operands, output)
            if solved is not None:
                operands = [gather(self.em, v, [solved]) if solved.left in v.legs else v for v in operands]
                relations = rest
                continue
            beside = self._diagonal(relation, rest, operands, output)
            if beside is not None:
                kept, gone = beside
                after.append((relation, output))
                operands = [v.rename({gone: kept}) if gone in v.legs else v for v in operands]
                output = tuple(
                    i for i in output if i != gone and (i != kept or any(i in v.legs for v in operands))
                )
                relations = rest
                continue
            placed = self._writable(relation, rest, operands, output)
            if placed is not None:
                after.append((placed, output))
                output = tuple(placed.terms[0][1] if i == placed.left else i for i in output)
                relations = rest
        keep = frozenset(output) | {i for r in relations for i in r.indices}
        both = frozenset(i for i in operands[0].legs if all(i in v.legs for v in operands[1:]))
        if len(operands) > 1:
            keep |= both
            operands = [presum(self.em, v, keep) for v in operands]
        return Problem(tuple(operands), tuple(relations), output, self.hints, self.profile), after[::-1]

    def _one(self) -> Value:
        """A one with the dtype and the device of an argument, a constant if there is one."""
        like = next(iter(sorted(self.em.constants) or self.python.values()), None)
        if like is None:
            return self.em.make("one", call("ones", ()), ())
        return self.em.make("one", call("new_ones", Var(like), ()), ())

    @staticmethod
    def _readable(
        relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
    ) -> Relational | None:
        for index in relation.indices:
            solved = solve(relation, index)
            elsewhere = index in output or any(index in r.indices for r in rest)
            if solved is not None and not elsewhere and any(index in v.legs for v in operands):
                return solved
        return None

    @staticmethod
    def _diagonal(
        relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
    ) -> tuple[Index, Index] | None:
        """A delta of two indices of the output as (kept, gone), where no operand has both and nothing else has them."""
        if not isinstance(relation, Delta) or not set(relation.indices) <= set(output):
            return None
        if any(i in r.indices for i in relation.indices for r in rest):
            return None
        kept, gone = sorted(relation.indices, key=lambda i: not any(i in v.legs for v in operands))
        return None if any(kept in v.legs and gone in v.legs for v in operands) else (kept, gone)

    @staticmethod
    def _writable(
        relation: Relational, rest: Sequence[Relational], operands: Sequence[Value], output: tuple[Index, ...]
    ) -> Relational | None:
        """A relation `i = a*j + b` with i in the output only, and j not: the step computes j, then writes i."""
        for index in relation.indices:
            solved = solve(relation, index)
            if solved is None or len(solved.terms) != 1 or index not in output:
                continue
            other = solved.terms[0][1]
            lonely = not any(index in v.legs for v in operands) and not any(index in r.indices for r in rest)
            known = any(other in v.legs for v in operands) or any(other in r.indices for r in rest)
            if lonely and known and other not in output:
                return solved
        return None

    def _operand(self, operand: Operand) -> Value:
        if operand.source in self.values:
            value, axes = self.values[operand.source]
            mapping = {a.indices[0]: b.indices[0] for a, b in zip(axes, operand.axes, strict=True)}
            return replace(value.rename(mapping), fresh=False, conj=operand.conj)
        python = self.python[operand.source]
        dims, reads = untied(operand.axes, {i.name for i in operand.indices})
        value = Value(python, tuple(dims), conj=operand.conj)
        return gather(self.em, value, reads) if reads else value

    def _choose(self, problem: Problem) -> tuple[Kernel, tuple[tuple[str, float], ...]]:
        apart = _apart(problem)
        seen = ((k, problem if k.takes_conj else apart) for k in self.kernels.values())
        costs = [(k, k.cost(view)) for k, view in seen if k.accepts(view)]
        if not costs:
            raise LoweringError(
                "no kernel accepts this step; the table needs 'gather and scatter', which accepts all"
            )
        kernel, _ = min(costs, key=lambda c: (c[0].name not in self.prefer, c[1]))
        return kernel, tuple((k.name, cost) for k, cost in costs)

    # -- the result ------------------------------------------------------------------------------

    def _mean(self, results: Sequence[str]) -> Value:
        """The sum of some results; not a number in every cell where a scale divides by the size of an empty batch."""
        total, sizes = self._total(results), self._divided_by()
        if not sizes or (len(results) == 1 and self._divides_all(results[0])):
            return total
        made = call("unless_empty", total, *sizes)
        return self.em.derive(total, "result", made, total.dims, contiguous=total.contiguous)

    def _divided_by(self) -> list[Size]:
        """The size symbols that some scale divides by."""
        return [symbol(n) for n in sorted({n for step in self.plan.steps for n in _divisors(step)})]

    def _divides_all(self, result: str) -> bool:
        """Whether every cell of a result was multiplied by a scale that is not a number for an empty batch."""
        return result in self._divided and all(axis.is_group for axis in self.values[result][1])

    def _total(self, results: Sequence[str]) -> Value:
        """The sum of some results, laid out as the output says."""
        first, *others = results
        total = self._laid_out(first, wide=not others)
        axes = self.values[first][1]
        for name in others:
            axes = self.values[name][1]
            value = self._laid_out(name, wide=False)
            dims = tuple(a or b for a, b in zip(total.dims, value.dims, strict=True))
            total = self.em.make("result", call("add", total, value), dims, fresh=True)
        if all(dim or not axis.indices for dim, axis in zip(total.dims, axes, strict=True)):
            return total
        dims = tuple(axis.indices for axis in axes)  # no term has a leg on some axis
        return self.em.derive(
            total,
            "result",
            call("expand", total, self.em.sizes(dims)),
            dims,
            contiguous=False,
            overlaps=True,
        )

    def _laid_out(self, name: str, *, wide: bool) -> Value:
        """A result with the dimensions of its output axes; size 1 where it is broadcast, unless `wide`."""
        value, axes = self.values[name]
        em = self.em
        indices = tuple(i for axis in axes for i in axis.indices)
        if wide or any(set(a.indices) & set(value.legs) not in (set(), set(a.indices)) for a in axes):
            value = broadcast(em, value, indices)
        if not all(axis.is_group for axis in axes):
            value = self._embedded(broadcast(em, value, indices), axes)
        dims = tuple(axis.indices if axis.is_group else (self._cell(p, axis),) for p, axis in enumerate(axes))
        dims = tuple(tuple(i for i in dim if i in value.legs) for dim in dims)
        return em.arrange(value, dims, "result", own=self._borrowed(value))

    @staticmethod
    def _cell(place: int, axis: Axis) -> Index:
        return Index(f"cell{place}", axis.size)

    def _embedded(self, value: Value, axes: tuple[Axis, ...]) -> Value:
        """Write a value into zeros at the cells of its affine axes."""
        em = self.em
        writes: list[Relational] = []
        dims: list[tuple[Index, ...]] = []
        for place, axis in enumerate(axes):
            if axis.is_group:
                dims += singles(axis.indices)
                continue
            cell = self._cell(place, axis)
            dims.append((cell,))
            writes.append(
                Pattern("axis", cell, tuple(zip(axis.strides, axis.indices, strict=True)), axis.start)
            )
        cells = product(i.size for dim in dims for i in dim)
        large = isinstance(cells, int) and cells > LARGEST_REUSED // _LARGEST_ITEM
        made = call("zeros" if large else "new_zeros", value, em.sizes(tuple(dims)))
        target = em.make("result", made, tuple(dims), memo=False, fresh=True)
        view = window_view(em, target, writes)
        ordered = em.order(value, flatten(view.dims))
        em.do(call("copy_", view, ordered), [target.name], "the other cells stay zero")
        return target


def _apart(problem: Problem) -> Problem:
    """A problem as it is for kernels that know no conjugates: a variable and its conjugate are two."""
    if len({v.name for v in problem.operands}) == len({(v.name, v.conj) for v in problem.operands}):
        return problem
    operands = tuple(replace(v, name=f"{v.name}_conj") if v.conj else v for v in problem.operands)
    return replace(problem, operands=operands)


def _divisors(step: Step) -> set[str]:
    """The size symbols that the scale of a step divides by."""
    return set(symbol_names(step.scale.as_numer_denom()[1]))


def _scale(scale: Scalar) -> Argument:
    """A number, or a ratio of two sizes."""
    if not symbol_names(scale):
        return float(scale) if scale.is_real else complex(scale)
    top, bottom = scale.as_numer_denom()
    if any(polynomial_text(part, {n: n for n in symbol_names(part)}) is None for part in (top, bottom)):
        raise LoweringError(f"scale {scale} is not a ratio of polynomials in the size symbols")
    return call("ratio", normal(top), normal(bottom))
