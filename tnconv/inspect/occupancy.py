"""Memory over the steps of a plan: what is alive while each step runs, as numbers and as a plot in SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tnconv.backends.backend import Program
from tnconv.inspect.labels import SMALL, number, width_of
from tnconv.inspect.views import hinted
from tnconv.ir import product
from tnconv.ir.quantities import format_count, format_memory
from tnconv.planner import Plan

_HEIGHT, _LEFT, _TOP, _BOTTOM = 190.0, 84.0, 22.0, 26.0
_LEAST_BAR, _MOST_BAR = 10.0, 110.0
_WIDTH = 780.0
_BYTES = 4  # an element in float32
_SHADES = 6


@dataclass(frozen=True)
class Moment:
    """What is alive while a step runs.

    Args:
        step: its name.
        parts: (what, elements) of the results that live, its own last, and of the buffers of its kernel.
    """

    step: str
    parts: tuple[tuple[str, int], ...]

    @property
    def elements(self) -> int:
        """All of it."""
        return sum(count for _, count in self.parts)


def memory_over_steps(plan: Plan, program: Program, peak: int) -> tuple[Moment, ...]:
    """What is alive while each step runs, besides the arguments; symbols at the hints of the plan.

    Args:
        plan: results that live.
        program: buffers that kernels report.
        peak: elements, as measured: what is missing in the largest step is added to it as temporaries, and of buffers
            that are more not all are alive at once.
    """
    moments, always = [], _kept_for_all_chunks(plan)
    for step, live in zip(plan.steps, plan.live(), strict=True):
        parts = [(each.result, hinted(each.elements, plan)) for each in live]
        parts += [(what, hinted(n, plan)) for owner, what, n in program.workspace if owner == step.result]
        moments.append(Moment(step.result, _at_most((*always, *parts), peak)))
    largest = max(moments, key=lambda m: m.elements, default=None)
    return tuple(_filled(m, peak) if m is largest else m for m in moments)


def _at_most(parts: tuple[tuple[str, int], ...], peak: int) -> tuple[tuple[str, int], ...]:
    """Parts of a peak at most, the last ones cut."""
    left, shown = peak, []
    for what, count in parts:
        shown.append((what, min(count, left)))
        left -= shown[-1][1]
    return tuple(shown)


def _filled(moment: Moment, peak: int) -> Moment:
    missing = peak - moment.elements
    return Moment(moment.step, (*moment.parts, ("temporaries", missing))) if missing else moment


def _kept_for_all_chunks(plan: Plan) -> tuple[tuple[str, int], ...]:
    """What is alive besides the steps of a chunk: the whole result, and pieces of arguments that are copied."""
    if not plan.slices:
        return ()
    result = next(step for step in plan.steps if step.result in plan.results)
    pieces = ((f"piece of {name}", hinted(product(plan.arguments[name]), plan)) for name in plan.copied)
    return (("whole result", hinted(result.elements, plan, whole=True)), *pieces)


def memory_svg(moments: Sequence[Moment]) -> str:
    """A bar a step, in parts, as an SVG element of a page; it has no colours of its own but classes."""
    peak = max((m.elements for m in moments), default=0) or 1
    pitch = min(max((_WIDTH - _LEFT) / max(len(moments), 1), _LEAST_BAR), _MOST_BAR)
    width = max(_LEFT + pitch * len(moments) + 8, 420.0)
    shade = shades(moments)
    parts = [_scale(peak, width)]
    for place, moment in enumerate(moments):
        parts.append(_bar(moment, _LEFT + place * pitch, pitch, peak, shade, is_peak=moment.elements == peak))
    total = _TOP + _HEIGHT + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="memory" width="{number(width)}" height="{number(total)}" '
        f'viewBox="0 0 {number(width)} {number(total)}" role="img">'
        f"<title>memory over steps</title>{''.join(parts)}</svg>"
    )


def shades(moments: Sequence[Moment]) -> dict[str, int]:
    """The number of the colour of each part of the bars, by name."""
    names = dict.fromkeys(name for moment in moments for name, _ in moment.parts)
    return {name: place % _SHADES for place, name in enumerate(names)}


def _scale(peak: int, width: float) -> str:
    lines = []
    for part in (0.0, 0.5, 1.0):
        y = _TOP + _HEIGHT * (1 - part)
        text = format_memory(max(round(peak * part), 0) * _BYTES) if part else "0"
        lines.append(f'<path class="grid" d="M{number(_LEFT - 6)} {number(y)}H{number(width)}"/>')
        lines.append(
            f'<text class="tick" x="{number(_LEFT - 12)}" y="{number(y + 4)}" text-anchor="end">{text}</text>'
        )
    return "".join(lines)


def _bar(moment: Moment, left: float, pitch: float, peak: int, shade: dict[str, int], is_peak: bool) -> str:
    parts, base = [], _TOP + _HEIGHT
    width = max(pitch - 8, 4.0)
    for name, count in moment.parts:
        height = _HEIGHT * count / peak
        base -= height
        title = f"{name}: {format_count(count)} elements, while {moment.step} is computed"
        parts.append(
            f'<rect class="shade{shade[name]}" x="{number(left)}" y="{number(base)}" width="{number(width)}" '
            f'height="{number(max(height, 0.5))}"><title>{escape(title)}</title></rect>'
        )
    middle = left + width / 2
    if width_of(moment.step, SMALL) < pitch - 2:
        y = _TOP + _HEIGHT + 17
        parts.append(
            f'<text x="{number(middle)}" y="{number(y)}" text-anchor="middle">{escape(moment.step)}</text>'
        )
    if is_peak and pitch > 40:
        parts.append(
            f'<text class="peak" x="{number(middle)}" y="{number(base - 6)}" text-anchor="middle">peak</text>'
        )
    return "".join(parts)
