"""Tables for people: what each pass did, the plan with its costs, and the kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tnconv.backends.backend import Program
from tnconv.backends.tuning import Trial
from tnconv.ir import Expression
from tnconv.ir.printed import Printed, new_table
from tnconv.ir.quantities import format_count, format_time
from tnconv.passes import Stage
from tnconv.planner import Plan, format_step
from tnconv.program import Free, ProgramStage, Statement
from tnconv.program.program_text import format_statement

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


@dataclass(frozen=True)
class Explanation(Printed):
    """Tables of a compiled function; see `Printed`."""

    parts: "tuple[Table | Text, ...]"


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
    from rich.text import Text  # noqa: PLC0415 - see new_table

    title = Text(f"{name} ({op}): {cost}", style="bold")
    tables: list[Table | Text] = [title, *(_stages(title, each) for title, each in stages.items())]
    tables += _planned("plan", plan, program)
    if backward is not None:
        tables += _planned("backward plan", *backward)
    if trials:
        tables.append(_trials(trials))
    return Explanation(tuple(tables))


def _stages(title: str, stages: Sequence[Stage]) -> "Table":
    table = new_table(("pass", "nodes", "indices", "what it did"), fold=("pass",), title=title)
    for stage in stages:
        nodes, indices = _sizes(stage.after)
        did = "; ".join(stage.notes) or ("changed" if stage.changed else "–")
        style = None if stage.changed else "dim"
        table.add_row(_escape(stage.text), str(nodes), str(indices), _escape(did), style=style)
    return table


def _sizes(network: Expression) -> tuple[int, int]:
    return sum(len(t.nodes) for t in network.terms), sum(len(t.indices) for t in network.terms)


def _planned(title: str, plan: Plan, program: Program) -> "list[Table]":
    lowered = _plan(title, program.lowered(plan), program)
    return [lowered, *_decomposed(plan, program), _kernels(program), *_passes(program)]


def _decomposed(plan: Plan, program: Program) -> "list[Table]":
    """The steps that were taken apart, and what is computed in their place; what kernels take apart by themselves."""
    parts = program.taken_apart(plan)
    if not parts:
        return []
    columns = ("step", "rule", "steps in its place")
    table = new_table(columns, fold=columns[::2], title="decompositions: one step as several")
    for whole, how, steps in parts:
        made = "\n".join(format_step(step) for step in steps)
        table.add_row(_escape(format_step(whole)), how, _escape(made))
    return [table]


def _plan(title: str, plan: Plan, program: Program) -> "Table":
    table = new_table(("step", "multiplications", "elements", "kernel"), fold=("step",), title=title)
    kernel = {choice.step: choice.kernel for choice in program.choices}
    for step in plan.steps:
        text = format_step(step).split("#")[0].strip()
        counts = map(format_count, (step.multiplications, step.elements))
        table.add_row(_escape(text), *counts, kernel.get(step.result, ""))
    for each in plan.slices:
        table.add_section()
        table.add_row(f"in a loop over chunks: {each}", "", "", "")
    if len(plan.steps) > 1:
        table.add_section()
        counts = map(format_count, (plan.multiplications, plan.peak_elements))
        table.add_row("total, and peak without buffers", *counts, "")
    return table


def _kernels(program: Program) -> "Table":
    columns = ("step", "candidate", "predicted", "buffers besides the result")
    table = new_table(columns, title="kernels: predicted time of each candidate")
    for choice in (*(each.choice for each in program.decomposed), *program.choices):
        for name, time in sorted(choice.candidates, key=lambda c: c[1]):
            taken, style = (buffers(program, choice.step), "bold") if name == choice.kernel else ("", "dim")
            table.add_row(choice.step, name, format_time(time * 1e-6), taken, style=style)
    return table


def _passes(program: Program) -> "list[Table]":
    if not program.stages:
        return []
    columns = ("pass", "statements", "what it did")
    table = new_table(columns, fold=("pass",), title="program: passes on its statements")
    for stage in program.stages:
        did, style = _escape("\n".join(_did(stage))) or "–", None if stage.changed else "dim"
        table.add_row(_escape(stage.text), str(stage.statements[1]), did, style=style)
    return [table]


def _did(stage: ProgramStage) -> list[str]:
    gone, new = ([each for each in parts if not isinstance(each, Free)] for parts in (stage.gone, stage.new))
    freed = ", ".join(name for each in stage.new if isinstance(each, Free) for name in each.names)
    lines = [f"{mark} {line}" for mark, parts in (("-", gone), ("+", new)) for line in map(_line, parts)]
    return [*lines, *([f"free {freed}"] if freed else [])]


def _line(statement: Statement) -> str:
    return " ".join(format_statement(statement))


def _trials(trials: Sequence[Trial]) -> "Table":
    table = new_table(TRIAL_COLUMNS, title="autotuned: programs that were timed")
    for place, trial in enumerate(sorted(trials, key=lambda trial: trial.measured)):
        table.add_row(*trial_cells(trial), style="dim" if place else "bold")
    return table


# -- what tables and reports share --------------------------------------------------------------------

TRIAL_COLUMNS = ("plan", "kernels preferred", "predicted", "measured")


def trial_cells(trial: Trial) -> tuple[str, ...]:
    """What is shown of a program that was timed, under `TRIAL_COLUMNS`."""
    times = (format_time(each * 1e-6) for each in (trial.predicted, trial.measured))
    return str(trial.plan), ", ".join(trial.prefer) or "by cost", *times


def buffers(program: Program, step: str) -> str:
    """The buffers of the kernel of a step, with the elements of each."""
    return ", ".join(f"{what}: {format_count(n)}" for owner, what, n in program.workspace if owner == step)


def _escape(text: str) -> str:
    """The text with brackets that rich does not take for markup: legs look like it."""
    from rich.markup import escape as escaped  # noqa: PLC0415 - see new_table

    return escaped(text)
