"""Reads the text of a plan back. Nothing in a text is ever evaluated.

    plan NAME {
      argument x [N, 3, 224, 224]
      table rows [16] of 64                                        (only if there are any)
      hints [N=64]                                                 (only if there are any)
      slices [n_part=N by 8]                                       (only if there are any)
      index [n=N, c=3, i1=224, ...]
      t1[n, c, k] = x[n, c, i] * [i = 2*o + k - 3] * scale(1/N)    # multiplications, elements
      result[(c c_2)] = t1[n, c] * t1[n, c_2]
      return result
    }

A relation is that of a pattern, or a selection `[c = rows[s]]`. An operand that is read conjugated is
`conj(x)[n, c, i]`; a value that is real by construction is `return real(result)`, one whose lower triangle alone is
returned, behind one axis that rows and columns share, `return lower{1}(result)`. The value of a plan with slices may be
scaled: `return result * scale(1/N)`. What else is returned follows after commas: `return result, t1`.

A step is its result, then operands, relations and a scale joined by `*`; `1` stands for none of them.
"""

import re
from collections.abc import Mapping

from tnconv.errors import NetworkError
from tnconv.ir import Index, Relational, Size, as_size, parse_expression
from tnconv.ir.monomial import ONE, Scalar, as_scalar
from tnconv.ir.network_parser import Lines, parse_axes, parse_index_line, parse_relation
from tnconv.ir.size import NETWORK_NAME, check_name, symbol_names
from tnconv.planner.count import count_factors, is_square
from tnconv.planner.hints import hint_values
from tnconv.planner.plan import Operand, Plan, Slice, Step

_ARGUMENT = re.compile(r"(?:argument (\w+) ?\[(.*)\]|table (\w+) ?\[(.*)\] of (.+))\Z", re.ASCII)
_STEP = re.compile(r"(\w+)\s*\[([^\]]*)\] = (.*)\Z", re.ASCII)
_FACTOR = re.compile(
    r"(?:conj\((\w+)\)|(\w+))\s*\[([^\]]*)\]|\[((?:[^\[\]]|\[[^\[\]]*\])*)\]|scale\((.*)\)\Z|1\Z", re.ASCII
)
_REAL = re.compile(r"real\((.*)\)\Z")
_LOWER = re.compile(r"lower\{(\d{1,9})\}\((.*)\)\Z", re.ASCII)


def parse_plan(text: str) -> Plan:
    """Read the text of a plan back.

    Args:
        text: what `str(plan)` gives, or the same written by hand.

    Raises:
        ParseError: the text does not follow the grammar; the message shows the line.
        PlanError: it does, but the steps do not fit together.
    """
    lines = Lines.of(text, "plan")
    name = lines.header("plan")
    lines.guard(lambda: check_name(name, "plan", NETWORK_NAME))
    arguments, tables = _arguments(lines)
    hints = _hints(lines)
    slices = _slices(lines)
    indices = parse_index_line(lines)
    symbols = sorted({s for i in indices.values() for s in symbol_names(i.size)})
    values = hint_values(symbols, hints)
    steps: list[Step] = []
    while lines.peek() and not lines.peek().startswith("return "):
        line = lines.next()
        steps.append(lines.guard(lambda line=line: _step(line, indices, values)))  # type: ignore[misc]
    value, *others = lines.next().removeprefix("return ").split(", ")
    total, _, number = value.partition(" * scale(")
    scale = lines.guard(lambda: as_scalar(parse_expression(number.removesuffix(")") or "1")))
    lines.expect("}")
    lines.end()
    (results, real, packed), *more = map(_sum, (total, *others))
    also, reals = tuple(names for names, _, _ in more), tuple(real for _, real, _ in more)
    reals, packs = reals if any(reals) else (), tuple(each for _, _, each in more)
    packs = () if all(each is None for each in packs) else packs
    return Plan(
        name, arguments, tuple(steps), results, hints, slices, scale, also, real, tables, reals, packed, packs
    )


def _sum(text: str) -> tuple[tuple[str, ...], bool, int | None]:
    """The names of steps that are added, whether the sum is real, and how it is packed."""
    lower = _LOWER.match(text)
    text = lower[2] if lower else text
    declared = _REAL.match(text)
    names = tuple(part.strip() for part in (declared[1] if declared else text).split("+"))
    return names, declared is not None, int(lower[1]) if lower else None


def _arguments(lines: Lines) -> tuple[dict[str, tuple[Size, ...]], dict[str, Size]]:
    """The shapes of all arguments, and what those select from that are tables."""
    arguments: dict[str, tuple[Size, ...]] = {}
    tables: dict[str, Size] = {}
    while match := _ARGUMENT.match(lines.peek()):
        lines.next()
        name, sizes = match[1] or match[3], [part.strip() for part in (match[2] or match[4] or "").split(",")]
        wanted = [size for size in sizes if size]
        arguments[name] = lines.guard(lambda wanted=wanted: tuple(map(as_size, wanted)))  # type: ignore[misc]
        if match[5]:
            tables[name] = lines.guard(lambda count=match[5]: as_size(count))  # type: ignore[misc]
    return arguments, tables


def _hints(lines: Lines) -> dict[str, int]:
    match = re.fullmatch(r"hints ?\[(.*)\]", lines.peek())
    if not match:
        return {}
    lines.next()
    pairs = [part.strip().partition("=") for part in match[1].split(",")]
    if not all(re.fullmatch(r"\d{1,18}", value, re.ASCII) for _, _, value in pairs):
        raise lines.error("expected 'hints [N=64, ...]'", back=1)
    return {name: int(value) for name, _, value in pairs}


def _slices(lines: Lines) -> tuple[Slice, ...]:
    match = re.fullmatch(r"slices ?\[(.*)\]", lines.peek())
    if not match:
        return ()
    lines.next()
    found = []
    for text in match[1].split(","):
        part = re.fullmatch(r" ?(\w+)=(.+) by ([1-9]\d{0,17}) ?", text, re.ASCII)
        if part is None:
            raise lines.error("expected 'slices [n_part=N by 8, ...]'", back=1)
        size = lines.guard(lambda part=part: as_size(part[2]))  # type: ignore[misc]
        found.append(Slice(part[1], size, int(part[3])))
    return tuple(found)


def _step(line: str, indices: Mapping[str, Index], values: Mapping[str, int]) -> Step:
    match = _STEP.match(line)
    if not match:
        raise NetworkError("expected 'result[axes] = operand[axes] * [relation] * scale(number)'")
    operands: list[Operand] = []
    relations: list[Relational] = []
    scale: Scalar = ONE
    rest = match[3]
    while rest:
        factor = _FACTOR.match(rest)
        if not factor:
            raise NetworkError(f"cannot read {rest!r}; expected name[axes], [relation] or scale(number)")
        conjugated, source, axes, relation, number = factor.groups()
        if axes is not None:
            conj = conjugated is not None
            operands.append(Operand(conjugated if conj else source, parse_axes(axes, indices), conj))
        elif relation is not None:
            relations.append(parse_relation(f"r{len(relations) + 1}", relation, indices))
        elif number is not None:
            scale = as_scalar(parse_expression(number))
        rest = rest[factor.end() :].strip()
        if rest and not rest.startswith("* "):
            raise NetworkError(f"expected '*' before {rest!r}")
        rest = rest[2:]
    if len(operands) > 2 and not is_square(operands):
        raise NetworkError(
            f"step {match[1]!r} has {len(operands)} operands; a step has at most two, or those of a product twice"
        )
    output = parse_axes(match[2], indices)
    factors = count_factors(operands, relations, values)
    return Step(match[1], tuple(operands), tuple(relations), output, scale, factors)
