"""Tables for people: what each pass did, the plan with its costs, and the kernels."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tnconv.backends.backend import Program
from tnconv.backends.tuning import Trial
from tnconv.ir import Expression
from tnconv.ir.quantities import format_count, format_time
from tnconv.passes import Stage
from tnconv.planner import Plan, format_step
from tnconv.program import Free, ProgramStage, Statement
from tnconv.program.program_text import format_statement

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

_WIDTH = 120


@dataclass(frozen=True)
class Explanation:
    """Tables that rich renders; as a str, plain text 120 columns wide."""

    parts: "tuple[Table | Text, ...]"

    def __rich_console__(self, _console: "Console", _options: "ConsoleOptions") -> "RenderResult":
        yield from self.parts

    def __str__(self) -> str:
        from rich.console import Console  # noqa: PLC0415 - see _table

        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
        console.print(self)
        file = console.file
        assert isinstance(file, io.StringIO)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def explain(
    op: str,
    name: str,
    stages: Mapping[str, Sequence[Stage]],
    plan: Plan,
    program: Program,
    cost: object,
    trials: Sequence[Trial] = (),
    backward: tuple[Plan, Program] | None = None,
) -> Explanation:
    """The tables of one compiled function: stages, plan, kernels, passes on the program.

    Args:
        op: name of the operation.
        name: of what is computed.
        stages: what each pass did, by title.
        plan: the steps.
        program: the kernel of each step.
        cost: printed as the first line.
        trials: what autotuning has timed.
        backward: plan and program of the backward pass, where that is planned.
    """
    from rich.text import Text  # noqa: PLC0415 - see _table

    title = Text(f"{name} ({op}): {cost}", style="bold")
    tables: list[Table | Text] = [title, *(_stages(title, each) for title, each in stages.items())]
    tables += _planned("plan", plan, program)
    if backward is not None:
        tables += _planned("backward plan", *backward)
    if trials:
        tables.append(_trials(trials))
    return Explanation(tuple(tables))


def _stages(title: str, stages: Sequence[Stage]) -> "Table":
    table = _table(title)
    table.add_column("pass", overflow="fold")
    table.add_column("nodes", justify="right")
    table.add_column("indices", justify="right")
    table.add_column("what it did")
    for stage in stages:
        nodes, indices = _sizes(stage.after)
        did = "; ".join(stage.notes) or ("changed" if stage.changed else "–")
        style = None if stage.changed else "dim"
        table.add_row(_escape(stage.text), str(nodes), str(indices), _escape(did), style=style)
    return table


def _sizes(network: Expression) -> tuple[int, int]:
    return sum(len(t.nodes) for t in network.terms), sum(len(t.indices) for t in network.terms)


def _planned(title: str, plan: Plan, program: Program) -> "list[Table]":
    """A plan as the program computes it, and how."""
    lowered = _plan(title, program.lowered(plan), program)
    return [lowered, *_decomposed(plan, program), _kernels(program), *_passes(program)]


def _decomposed(plan: Plan, program: Program) -> "list[Table]":
    """The steps that were taken apart, and what is computed in their place; what kernels take apart by themselves."""
    parts = program.taken_apart(plan)
    if not parts:
        return []
    table = _table("decompositions: one step as several")
    table.add_column("step", overflow="fold")
    table.add_column("rule")
    table.add_column("steps in its place", overflow="fold")
    for whole, how, steps in parts:
        made = "\n".join(format_step(step) for step in steps)
        table.add_row(_escape(format_step(whole)), how, _escape(made))
    return [table]


def _plan(title: str, plan: Plan, program: Program) -> "Table":
    table = _table(title)
    table.add_column("step", overflow="fold")
    table.add_column("multiplications", justify="right")
    table.add_column("elements", justify="right")
    table.add_column("kernel")
    kernel = {choice.step: choice.kernel for choice in program.choices}
    for step in plan.steps:
        text = format_step(step).split("#")[0].strip()
        table.add_row(
            _escape(text),
            format_count(step.multiplications),
            format_count(step.elements),
            kernel.get(step.result, ""),
        )
    for each in plan.slices:
        table.add_section()
        table.add_row(f"in a loop over chunks: {each}", "", "", "")
    if len(plan.steps) > 1:
        table.add_section()
        table.add_row(
            "total, and peak without buffers",
            format_count(plan.multiplications),
            format_count(plan.peak_elements),
            "",
        )
    return table


def _kernels(program: Program) -> "Table":
    table = _table("kernels: predicted time of each candidate")
    table.add_column("step")
    table.add_column("candidate")
    table.add_column("predicted", justify="right")
    table.add_column("buffers besides the result")
    for choice in (*(each.choice for each in program.decomposed), *program.choices):
        buffers = ", ".join(
            f"{what}: {format_count(n)}" for step, what, n in program.workspace if step == choice.step
        )
        for name, time in sorted(choice.candidates, key=lambda c: c[1]):
            chosen = name == choice.kernel
            table.add_row(
                choice.step,
                name,
                format_time(time * 1e-6),
                buffers if chosen else "",
                style="bold" if chosen else "dim",
            )
    return table


def _passes(program: Program) -> "list[Table]":
    """What each pass on the statements did; nothing where the backend has no statements."""
    if not program.stages:
        return []
    table = _table("program: passes on its statements")
    table.add_column("pass", overflow="fold")
    table.add_column("statements", justify="right")
    table.add_column("what it did")
    for stage in program.stages:
        table.add_row(
            _escape(stage.text),
            str(stage.statements[1]),
            _escape("\n".join(_did(stage))) or "–",
            style=None if stage.changed else "dim",
        )
    return [table]


def _did(stage: ProgramStage) -> list[str]:
    """The statements that went and came; of variables that are freed, the names."""
    gone, new = ([each for each in parts if not isinstance(each, Free)] for parts in (stage.gone, stage.new))
    freed = ", ".join(name for each in stage.new if isinstance(each, Free) for name in each.names)
    lines = [f"{mark} {line}" for mark, parts in (("-", gone), ("+", new)) for line in map(_line, parts)]
    return [*lines, *([f"free {freed}"] if freed else [])]


def _line(statement: Statement) -> str:
    return " ".join(format_statement(statement))


def _trials(trials: Sequence[Trial]) -> "Table":
    table = _table("autotuned: programs that were timed")
    table.add_column("plan", justify="right")
    table.add_column("kernels preferred")
    table.add_column("predicted", justify="right")
    table.add_column("measured", justify="right")
    best = min(trials, key=lambda trial: trial.measured)
    for trial in sorted(trials, key=lambda trial: trial.measured):
        style = "bold" if trial is best else "dim"
        preferred = ", ".join(trial.prefer) or "by cost"
        table.add_row(
            str(trial.plan),
            preferred,
            format_time(trial.predicted * 1e-6),
            format_time(trial.measured * 1e-6),
            style=style,
        )
    return table


def _table(title: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - 20 ms that compiling a layer never needs

    return Table(title=title, title_justify="left")


def _escape(text: str) -> str:
    """The text with brackets that rich does not take for markup: legs look like it."""
    from rich.markup import escape as escaped  # noqa: PLC0415 - see _table

    return escaped(text)
