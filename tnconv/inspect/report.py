"""A report on a compiled function: one HTML file that needs nothing else and no network access.

What was compiled, the operation, every stage with diagrams before and after, the contraction tree, memory over
steps, the kernels that competed, and the source. The parts come from the other files of this room; this one puts
them together.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tnconv import ops
from tnconv.backends.backend import Choice
from tnconv.inspect.compare import changed_names, side_by_side
from tnconv.inspect.draw import write_text
from tnconv.inspect.explain import TRIAL_COLUMNS, buffers, trial_cells
from tnconv.inspect.highlight import highlighted
from tnconv.inspect.markup import Html, code, details, prose, table
from tnconv.inspect.occupancy import Moment, memory_over_steps, memory_svg, shades
from tnconv.inspect.origin import origin
from tnconv.inspect.svg import STYLE, to_svg
from tnconv.inspect.tree import tree_svg
from tnconv.inspect.views import Compiled, peak_at_hints, sentences
from tnconv.ir import Expression
from tnconv.ir.quantities import format_count, format_time
from tnconv.passes import Stage
from tnconv.planner import format_step
from tnconv.program import ProgramText

SECTIONS = {
    "origin": "Compiled from",
    "operation": "Operation",
    "stages": "Stages",
    "tree": "Contraction tree",
    "memory": "Memory",
    "kernels": "Kernels",
    "program": "Program",
    "source": "Source",
}


def report(function: Compiled, path: str | Path) -> None:
    """Write the report on a compiled function.

    Args:
        function: what to report on.
        path: the file, with suffix `.html`.

    Raises:
        TnconvError: the suffix is another, or the file cannot be written.
    """
    write_text(path, to_html(function), "report", suffix=".html")


def to_html(function: Compiled) -> str:
    """The report as HTML text; the same function gives the same text."""
    title = escape(function.plan.name)
    parts = (origin, _operations, _stages, _tree, _memory, _kernels, _statements, _source)
    sections = "".join(
        f'<section id="{key}"><h2>{name}</h2>{make(function)}</section>'
        for (key, name), make in zip(SECTIONS.items(), parts, strict=True)
    )
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in SECTIONS.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>\n{_asset('report.css')}{STYLE}\n</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{_lead(function)}{_figures(function)}</header>\n<nav><div>{links}</div></nav>\n"
        f"<main>{sections}</main>\n<footer>written by tnconv</footer>\n"
        f"<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# -- what it is --------------------------------------------------------------------------------------


def _lead(function: Compiled) -> str:
    names = ", ".join(function.plan.arguments)
    return f'<p class="lead">Operation <code>{escape(function.op)}</code> of {escape(names)}.</p>'


def _figures(function: Compiled) -> str:
    steps = len(function.plan.steps)
    figures = (
        (format_count(function.cost.multiplications), "multiplications"),
        (_peak(function), "elements at the peak"),
        (str(steps), "step" if steps == 1 else "steps"),
        (format_time(function.program.predicted * 1e-6), f"predicted{_at_hints(function)}"),
    )
    cells = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for value, what in figures
    )
    return f'<div class="figures">{cells}</div>'


def _peak(function: Compiled) -> str:
    if function.cost.peak is None:
        return format_count(peak_at_hints(function)) + _at_hints(function)
    return format_count(function.cost.peak)


def _at_hints(function: Compiled) -> str:
    hints = function.plan.hints
    return f" at {', '.join(f'{k}={v}' for k, v in hints.items())}" if hints else ""


def _operations(function: Compiled) -> str:
    return "".join(map(_operation, function.functions))


def _operation(function: Compiled) -> str:
    shapes = table(
        ("argument", "shape"),
        (((name, f"[{', '.join(map(str, sizes))}]"), "") for name, sizes in function.plan.arguments.items()),
    )
    return (
        f'{_formula(function)}<div class="wide">{to_svg(function.network, style=False)}</div>{shapes}'
        + details("the network after all passes", str(function.network))
    )


def _formula(function: Compiled) -> str:
    """What the operation is; the forward of a network is the network, whatever a layer's is."""
    if function.op not in ops.available() or (function.spec is None and function.op == "forward"):
        return ""
    known = ops.get(function.op)
    return (
        f"<p>{code(known.formula)}, for one spatial dimension. The axes of the result are {code(known.legs)}. "
        f'<span class="hint">{escape(known.reference)}</span></p>'
    )


# -- stages ------------------------------------------------------------------------------------------


def _stages(function: Compiled) -> str:
    if not function.stages:
        pictures = "".join(to_svg(each.network, style=False) for each in function.functions)
        return f'<p class="hint">No pass was run.</p>{pictures}'
    chosen = next((n for n, s in enumerate(function.stages) if s.changed), 0)
    tabs = "".join(_tab(n, s, n == chosen) for n, s in enumerate(function.stages))
    panels = "".join(_stage(n, s, n == chosen, len(function.stages)) for n, s in enumerate(function.stages))
    return (
        '<p class="hint">Click a pass, or use the arrow keys. What changed is marked; hover over a part for its '
        f'relation or size.</p><ol class="timeline" role="tablist" aria-label="stages">{tabs}</ol>{panels}'
    )


def _tab(number: int, stage: Stage, selected: bool) -> str:
    css = "" if stage.changed else ' class="same"'
    state = f'aria-selected="{str(selected).lower()}" tabindex="{0 if selected else -1}"'
    return (
        f'<li role="presentation"><button role="tab" id="tab{number}" aria-controls="stage{number}" {state}{css} '
        f'title="{escape(stage.text)}">{escape(stage.pass_.name if stage.pass_ else stage.text)}</button></li>'
    )


def _stage(number: int, stage: Stage, selected: bool, count: int) -> str:
    hidden = "" if selected else " hidden"
    said = "".join(f"<p>{prose(text)}</p>" for text in sentences(stage))
    notes = "".join(f"<li>{escape(note)}</li>" for note in stage.notes)
    return (
        f'<div class="stage" id="stage{number}" role="tabpanel" aria-labelledby="tab{number}"{hidden}>'
        f'<h3>{number + 1} of {count}: <span class="pass">{escape(stage.text)}</span></h3>{said}'
        + (f"<ul>{notes}</ul>" if notes else "")
        + _pictures(stage)
        + "</div>"
    )


def _pictures(stage: Stage) -> str:
    if not stage.changed:
        return (
            f'<div class="pair single"><div><h3>unchanged</h3>{to_svg(stage.after, style=False)}</div></div>'
        )
    gone, come = changed_names(stage.before, stage.after)
    before = to_svg(stage.before, highlight=gone, style=False)
    after = to_svg(stage.after, highlight=come, style=False)
    return (
        f'<div class="pair"><div><h3>before</h3>{before}</div><div><h3>after</h3>{after}</div></div>'
        f"<details><summary>the same as text</summary>"
        f'<pre class="diff">{_difference(stage.before, stage.after)}</pre></details>'
    )


def _difference(before: Expression | ProgramText, after: Expression | ProgramText) -> str:
    lines = []
    for mark, left, right in side_by_side(str(before), str(after)):
        if mark == " ":
            lines.append(escape(left) + "\n")
            continue
        lines.append(f"<del>{escape(left)}</del>" if left else "")
        lines.append(f"<ins>{escape(right)}</ins>" if right else "")
    return "".join(lines)


# -- plan, memory, kernels, source -------------------------------------------------------------------


def _tree(function: Compiled) -> str:
    kernels = {choice.step: choice.kernel for choice in function.program.choices}
    return (
        '<p class="hint">Arguments on the left, results to the right, each with its axes, multiplications, elements '
        f"and kernel. The bar is the share of all multiplications; a thick line is read twice.{_chunks(function)}</p>"
        f'<div class="wide" tabindex="0">{tree_svg(function.plan, kernels)}</div>'
        + details("the plan as text", str(function.plan))
    )


def _chunks(function: Compiled) -> str:
    cut = "; ".join(map(str, function.plan.slices))
    return f" All steps run for each chunk, with its counts: {code(cut)}." if cut else ""


def _memory(function: Compiled) -> str:
    moments = memory_over_steps(function.plan, function.program, peak_at_hints(function))
    note = _at_hints(function)
    return (
        '<p class="hint">What is alive while each step runs, besides the arguments: results and the buffers of '
        f"kernels, in float32{escape(note)}.</p>"
        f'<div class="wide" tabindex="0">{memory_svg(moments)}</div><ul class="legend">{_legend(moments)}</ul>'
    )


def _legend(moments: Sequence[Moment]) -> str:
    return "".join(
        f'<li><svg width="12" height="12" aria-hidden="true"><rect class="shade{shade}" width="12" height="12" rx="3"/>'
        f"</svg> {escape(name)}</li>"
        for name, shade in shades(moments).items()
    )


def _kernels(function: Compiled) -> str:
    program = function.program
    every = (*(each.choice for each in program.decomposed), *program.choices)
    choices = [choice for choice in every if choice.candidates]
    if not choices:
        return '<p class="hint">This backend does not choose between kernels.</p>'
    rows = (row for choice in choices for row in _candidates(function, choice))
    return (
        f'<p class="hint">Kernels that accept a step, by predicted time{escape(_at_hints(function))}; bars on a '
        "logarithmic scale.</p>"
        + _decomposed(function)
        + table(("step", "kernel", "predicted", "", "buffers"), rows)
        + _trials(function)
    )


def _decomposed(function: Compiled) -> str:
    parts = function.program.taken_apart(function.plan)
    rows = ((format_step(step), how, "; ".join(map(format_step, made))) for step, how, made in parts)
    if not parts:
        return ""
    hint = '<p class="hint">Steps that several compute, or that a kernel takes apart at once.</p>'
    return hint + table(("step", "rule", "steps in its place"), ((row, "") for row in rows))


def _candidates(function: Compiled, choice: Choice) -> Iterator[tuple[tuple[str, ...], str]]:
    ordered = sorted(choice.candidates, key=lambda c: (c[0] != choice.kernel, c[1]))
    longest = max(math.log10(1 + t) for _, t in ordered) or 1.0
    for place, (name, time) in enumerate(ordered):
        css = "chosen" if name == choice.kernel else "lost"
        bar = Html(f'<span class="time" style="width:{100 * math.log10(1 + time) / longest:.1f}%"></span>')
        step, taken = ("", "") if place else (choice.step, buffers(function.program, choice.step))
        yield (step, name, format_time(time * 1e-6), bar, taken), css if place else f"{css} first"


def _trials(function: Compiled) -> str:
    if not function.trials:
        return '<p class="hint">Predicted only: compile with autotune=True to measure the fastest.</p>'
    best = min(t.measured for t in function.trials)
    rows = (
        (trial_cells(t), "chosen" if t.measured == best else "lost")
        for t in sorted(function.trials, key=lambda t: t.measured)
    )
    timed = table(TRIAL_COLUMNS, rows)
    return f"<h3 style='margin-top:20px'>Autotuned: programs that were timed</h3>{timed}"


def _statements(function: Compiled) -> str:
    program = function.program
    if program.text is None:
        return '<p class="hint">This backend has no statements between a plan and the source.</p>'
    parts = [
        f"<details><summary>{escape(stage.text)}: {stage.statements[0]} statements before, {stage.statements[1]} after"
        f'</summary><pre class="diff">{_difference(stage.before, stage.after)}</pre></details>'
        for stage in program.stages
        if stage.changed
    ]
    same = ", ".join(code(stage.text) for stage in program.stages if not stage.changed)
    return (
        '<p class="hint">What is between the plan and the source: statements, which passes rewrite. Each variable is '
        "followed by its dimensions and, where it matters, by whose memory it has.</p>"
        f'<pre class="source" tabindex="0">{escape(str(program.text))}</pre><h3>What each pass did</h3>'
        + "".join(parts)
        + (f'<p class="hint">Nothing to do for {same}.</p>' if same else "")
    )


def _source(function: Compiled) -> str:
    parts = [_program("", function.program.source)]
    if function.backward is not None:
        plan = details("the backward plan as text", str(function.backward.trained.backward))
        parts.append(
            _program(
                "Forward pass, which saves what the backward one reads", function.backward.forward.source
            )
        )
        parts.append(_program("Backward pass", function.backward.backward.source) + plan)
    if function.kept is not None:
        parts.append(
            _program("Made once, and kept while the constants do not change", function.kept.head.source)
        )
        parts.append(_program("What then remains of a call", function.kept.body.source))
    return "".join(parts)


def _program(title: str, source: str) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{heading}<pre class="source" tabindex="0">{highlighted(source)}</pre>'
