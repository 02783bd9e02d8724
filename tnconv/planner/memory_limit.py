"""A limit on memory: what it says, what a program needs, and the best plan that stays below it."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from tnconv.errors import PlanError
from tnconv.ir import Size, as_integer
from tnconv.ir.quantities import BINARY, format_memory
from tnconv.planner.plan import Plan

_DECIMAL = {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {unit.lower(): size for unit, size in (BINARY | _DECIMAL).items()}


def parse_memory(limit: int | str) -> int:
    """A memory limit in bytes: `512`, `"512MiB"`, `"1.5 GiB"`, `"2GB"`; a GB is 10^9 bytes, a GiB 2^30.

    Raises:
        PlanError: it is not a positive number of bytes, or the unit is not known.
    """
    count = as_integer(limit)
    if count is None:
        text = limit if isinstance(limit, str) else ""
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text, re.ASCII)
        size = _UNITS.get(found[2].lower()) if found else None
        if found is None or size is None:
            raise PlanError(
                f"memory_limit={limit!r} is not a number of bytes; give an integer, or a text such as '512MiB' or "
                f"'1.5 GB', with a unit out of {', '.join((*BINARY, *_DECIMAL))}"
            )
        count = int(Fraction(found[1]) * size)
    if count < 1:
        raise PlanError(f"memory_limit={limit!r} is {count} bytes; give at least 1")
    return count


def program_peak(plan: Plan, workspace: Iterable[tuple[str, str, Size]]) -> Size:
    """Most elements alive at once: results, intermediates, and the buffers that kernels reported.

    Args:
        plan: the steps.
        workspace: (step, what, elements) of each buffer, as in `Program.workspace`.
    """
    buffers: dict[str, Size] = {}
    for step, _, size in workspace:
        buffers[step] = buffers.get(step, 0) + size
    return plan.peak_with(buffers)


def does_not_fit(
    least: int,
    tried: int,
    allowed: int,
    itemsize: int,
    symbols: Sequence[str],
    what: str = "contraction orders",
) -> PlanError:
    """The refusal of a limit.

    Args:
        least: elements at the least peak.
        tried: number of plans.
        allowed: bytes.
        itemsize: bytes of an element.
        symbols: names of the size symbols, for the advice.
        what: was tried.
    """
    smaller = f", or plan for smaller sizes with hints= (symbols {', '.join(symbols)})" if symbols else ""
    return PlanError(
        f"the program needs at least {format_memory(least * itemsize)} besides its arguments (the least peak of "
        f"{tried} {what}, {least} elements of {itemsize} bytes), but memory_limit is "
        f"{format_memory(allowed)}; raise the limit{smaller or ', or compile a smaller batch or layer'}"
    )
