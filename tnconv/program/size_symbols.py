"""Which axis of an argument gives each size symbol away."""

from collections.abc import Collection, Mapping, Sequence

from tnconv.errors import LoweringError
from tnconv.ir import Size, symbol
from tnconv.ir.monomial import Monomial
from tnconv.ir.size import normal, symbol_names
from tnconv.planner.plan import Plan
from tnconv.program.statements import SizeOf


def bindings(arguments: Mapping[str, tuple[Size, ...]]) -> tuple[SizeOf, ...]:
    """The bindings of all symbols that the shapes give away, in an order in which each can be read.

    Args:
        arguments: sizes by axis of each argument; a size is linear in the symbol that it gives away. Factor and rest
            of what is found later may hold symbols that are found earlier.
    """
    waiting = [(n, p, s) for n, sizes in arguments.items() for p, s in enumerate(sizes) if symbol_names(s)]
    waiting.sort(key=lambda w: not w[2].is_Symbol)  # plain symbols first
    found: list[SizeOf] = []
    progress = True
    while progress:
        progress = False
        for argument, place, size in waiting:
            unknown = [n for n in symbol_names(size) if n not in {b.symbol for b in found}]
            line = _linear(size, unknown[0]) if len(unknown) == 1 else None
            if line is not None:
                found.append(SizeOf(unknown[0], argument, place, *line))
                progress = True
    return tuple(found)


def _linear(size: Size, name: str) -> tuple[Size, Size] | None:
    """(slope, rest) of a size that is linear in a symbol."""
    if isinstance(size, Monomial):
        slope = size / symbol(name)
        return None if name in symbol_names(slope) else (normal(slope), 0)
    unknown = symbol(name)
    expanded = size.expand()
    slope, rest = expanded.coeff(unknown, 1), expanded.coeff(unknown, 0)
    if slope == 0 or expanded != slope * unknown + rest:
        return None
    return normal(slope), normal(rest)


def symbols_used(plan: Plan) -> set[str]:
    """The size symbols of the steps of a plan."""
    used = {name for step in plan.steps for name in symbol_names(step.scale)}
    return used | {name for step in plan.steps for i in step.indices for name in symbol_names(i.size)}


def readable(
    arguments: Mapping[str, tuple[Size, ...]], needed: Collection[str], also: Sequence[SizeOf] = ()
) -> tuple[SizeOf, ...]:
    """The bindings of symbols, some of which are needed.

    Args:
        arguments: as for `bindings`.
        needed: symbols.
        also: how others are read that no shape gives away by itself.

    Raises:
        LoweringError: a symbol that is needed is on no axis that gives it away.
    """
    found = bindings(arguments)
    known = {each.symbol for each in found}
    found = (*found, *(each for each in also if each.symbol not in known))
    missing = sorted({*needed} - {each.symbol for each in found})
    if missing:
        raise LoweringError(
            f"size symbol {missing[0]!r} cannot be read off the shape of an argument "
            f"({', '.join(arguments)}); give it an integer in the layer's spec, as out_channels=8 or batch_size=8"
        )
    return found
