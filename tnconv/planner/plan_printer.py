"""The text of a plan: what people read, tests compare and the parser reads back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tnconv.ir.network_printer import format_axes, format_index_line

if TYPE_CHECKING:
    from tnconv.planner.plan import Operand, Plan, Step


def format_step(step: "Step") -> str:
    """`t1[n, c] = x[n, c, i] * [i = o + k]`."""
    factors = [f"{format_source(o)}{format_axes(o.axes)}" for o in step.operands]
    factors += [f"[{r.relation_text()}]" for r in step.relations]
    if step.scale != 1:
        factors.append(f"scale({step.scale})")
    return f"{step.result}{format_axes(step.output)} = {' * '.join(factors) or '1'}"


def format_source(operand: "Operand") -> str:
    """`x`, or `conj(x)` where the conjugate is read."""
    return f"conj({operand.source})" if operand.conj else operand.source


def _argument(plan: "Plan", name: str) -> str:
    """`argument x [N, 3]`, or `table rows [16] of 64`."""
    sizes = f"{name} [{', '.join(map(str, plan.arguments[name]))}]"
    return f"table {sizes} of {plan.tables[name]}" if name in plan.tables else f"argument {sizes}"


def _sum(names: Sequence[str], real: bool, packed: int | None) -> str:
    total = " + ".join(names)
    total = f"real({total})" if real else total
    return total if packed is None else f"lower{{{packed}}}({total})"


def format_plan(plan: "Plan") -> str:
    """The text of a plan; comments have the counts."""
    lines = [_argument(plan, name) for name in plan.arguments]
    if plan.hints:
        lines.append(f"hints [{', '.join(f'{k}={v}' for k, v in plan.hints.items())}]")
    if plan.slices:
        lines.append(f"slices [{', '.join(map(str, plan.slices))}]")
    lines.append(format_index_line(plan.indices))
    for step in plan.steps:
        counts = f"{step.multiplications} multiplications, {step.elements} elements"
        lines.append(f"{format_step(step)}   # {counts}")
    scale = f" * scale({plan.scale})" if plan.scale != 1 else ""
    value, *others = map(_sum, (plan.results, *plan.also), plan.reals, plan.packs)
    lines.append(f"return {value}{scale}{''.join(f', {each}' for each in others)}")
    return "\n".join([f"plan {plan.name} {{", *(f"  {line}" for line in lines), "}"])
