"""Guards: conditions on sizes that a proof leaves open, and how they are asked, assumed and recorded.

    with assuming({"H": 56, "W": 56}) as found:
        network, stages = pipeline.run(network)      # rules ask `at_most(2*o1, H - 1)` and the like
    found.guards                                     # H % 2 == 0

A rule asks whether something is so. It is, where it is proved, or where it holds at the assumed sizes, and then it is
a guard: what was made is right for all sizes that pass. Where nothing is assumed, what is not proved is not so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from tnconv.errors import NetworkError
from tnconv.ir.guard_text import LEAST, NONZERO, WHOLE, ZERO, denominator, guard_text
from tnconv.ir.monomial import Monomial, as_scalar, expanded, is_sympy, sympy
from tnconv.ir.provable import Bounds, bounds_of, never_negative
from tnconv.ir.quotient import is_quotient
from tnconv.ir.size import Size, evaluate, integers_of, normal, symbol_names


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on size symbols.

    Args:
        value: an expression.
        says: that it is `">= 0"`, `"== 0"`, `"!= 0"`, or `"whole"`, an integer.
    """

    value: Size
    says: str

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds for sizes.

        Raises:
            NetworkError: one of its symbols has none.
        """
        if self.says == WHOLE:
            return (
                evaluate(denominator(self.value)[0], sizes) % evaluate(denominator(self.value)[1], sizes) == 0
            )
        found = evaluate(self.value, sizes)
        return found >= 0 if self.says == LEAST else (found == 0) == (self.says == ZERO)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of its symbols, sorted."""
        return symbol_names(self.value)

    def negated(self) -> "Guard":
        """What holds where it does not."""
        if self.says == LEAST:
            return Guard(normal(-self.value - 1), LEAST)
        return Guard(self.value, NONZERO if self.says == ZERO else ZERO)

    def __str__(self) -> str:
        return guard_text(self.value, self.says)


@dataclass(frozen=True)
class Guards:
    """Conditions under which something is right.

    Args:
        needed: in the order in which they were met.
        chosen: conditions that decided what was made though it is right without them: where they hold as well, exactly
            the same would be made for those integers.
    """

    needed: tuple[Guard, ...] = ()
    chosen: tuple[Guard, ...] = ()

    def hold(self, sizes: Mapping[str, int]) -> bool:
        """Whether what was made is right for sizes."""
        return all(guard.holds(sizes) for guard in self.needed)

    def same(self, sizes: Mapping[str, int]) -> bool:
        """Whether for these integers exactly the same would be made."""
        return self.hold(sizes) and all(guard.holds(sizes) for guard in self.chosen)

    def broken(self, sizes: Mapping[str, int]) -> tuple[Guard, ...]:
        """The needed guards that do not hold."""
        return tuple(guard for guard in self.needed if not guard.holds(sizes))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols of the needed guards, sorted."""
        return tuple(sorted({name for guard in self.needed for name in guard.symbols}))

    @cached_property
    def live(self) -> tuple[Guard, ...]:
        """The needed guards that do not follow from the others."""
        kept = list(dict.fromkeys(self.needed))
        for guard in reversed(tuple(kept)):
            others = [other for other in kept if other != guard]
            if _follows(guard, others):
                kept = others
        return tuple(kept)

    def __add__(self, other: "Guards") -> "Guards":
        needed, chosen = (
            tuple(dict.fromkeys((*a, *b)))
            for a, b in ((self.needed, other.needed), (self.chosen, other.chosen))
        )
        return Guards(needed, chosen)

    def __iter__(self) -> Iterator[Guard]:
        return iter(self.live)

    def __len__(self) -> int:
        return len(self.live)

    def __str__(self) -> str:
        return ", ".join(map(str, self.live))


NO_GUARDS = Guards()


@dataclass(slots=True)
class Found:
    """What is known and assumed in a block, and what was recorded in it.

    Args:
        sizes: that are assumed.
        bounds: what symbols and floors are at least.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    bounds: Bounds = ()
    needed: dict[Guard, None] = field(default_factory=dict)
    chosen: dict[Guard, None] = field(default_factory=dict)

    @property
    def guards(self) -> Guards:
        """What was recorded so far."""
        return Guards(tuple(self.needed), tuple(self.chosen))


_scope: ContextVar[Found | None] = ContextVar("tnconv_sizes", default=None)


@contextmanager
def assuming(sizes: Mapping[str, int] | None = None, known: Iterable[Size] = ()) -> Iterator[Found]:
    """Decide about sizes as they are, and record what was decided so.

    Within another such block it adds to that: what is recorded here is recorded there too.

    Args:
        sizes: integers for some symbols; nothing is assumed of others.
        known: sizes of indices, which are at least 1 each.
    """
    outer = _scope.get()
    bounds = dict.fromkeys((*(outer.bounds if outer else ()), *bounds_of(known)))
    assumed = (outer.sizes if outer else {}) | integers_of(sizes or {})
    found = Found(assumed, tuple(bounds))
    token = _scope.set(found)
    try:
        yield found
    finally:
        _scope.reset(token)
        if outer is not None:
            outer.needed |= found.needed
            outer.chosen |= found.chosen


# -- questions ---------------------------------------------------------------------------------------


def at_most(low: Size, high: Size) -> bool:
    """Whether `low <= high`, as far as that is known."""
    if isinstance(low, int) and isinstance(high, int):
        return low <= high
    return _known(_difference(high, low), LEAST)


def below(low: Size, high: Size) -> bool:
    """Whether `low < high`, as far as that is known."""
    if isinstance(low, int) and isinstance(high, int):
        return low < high
    return _known(_difference(high, low, 1), LEAST)


def equal(one: Size, other: Size) -> bool:
    """Whether two sizes are equal, as far as that is known."""
    if one == other:
        return True
    if isinstance(one, int) and isinstance(other, int):
        return False
    scope = _scope.get()
    if not (scope and scope.sizes) and not is_sympy(one) and not is_sympy(other):
        return False  # products of symbols that differ are equal at some sizes only
    return _known(_difference(*_without_bottoms(one, other)), ZERO)


def impossible(low: Size, high: Size) -> bool:
    """Whether `low <= high` is proved to be wrong, whatever is assumed."""
    if isinstance(low, int) and isinstance(high, int):
        return low > high
    return _proof(_least(_difference(high, low))) is False


def refuted(low: Size, high: Size) -> bool:
    """Whether `low <= high` is proved to be wrong. Where it is left open it is a guard."""
    if isinstance(low, int) and isinstance(high, int):
        return low > high
    guard = _least(_difference(high, low))
    proved = _proof(guard)
    scope = _scope.get()
    if proved is None and scope is not None:
        scope.needed[guard] = None
    return proved is False


def whole(value: Size) -> None:
    """Record that a quotient of sizes is an integer."""
    scope = _scope.get()
    if scope is not None and not isinstance(value, int) and value.is_integer is not True:
        scope.needed[Guard(_broken_part(value), WHOLE)] = None


def _without_bottoms(one: Size, other: Size) -> tuple[Size, Size]:
    """Both times what a product of symbols, or two, are over, so that `C/G == 1` is `C == G`."""
    for size in (one, other):
        if isinstance(size, Monomial):
            bottom = size.as_numer_denom()[1]
            one, other = normal(one * bottom), normal(other * bottom)
    return one, other


def _difference(one: Size, other: Size, less: int = 0) -> Size:
    return normal(expanded(one - other - less))


def _least(value: Size) -> Guard:
    """`value >= 0`, without a floor where it is but one and a number."""
    if is_sympy(value):
        constant, rest = value.as_coeff_Add()
        times, floor = rest.as_coeff_Mul()
        if is_quotient(floor) and floor.args[1].is_Integer and constant.is_Integer and times.is_Integer:
            top, bottom = floor.args
            # The floor is at least a number, or at most where it is subtracted.
            least, most = -(constant // times), constant // -times
            value = top - least * bottom if times > 0 else bottom * (most + 1) - 1 - top
            value = normal(sympy.expand(value))
    return Guard(value, LEAST)


def _broken_part(value: Size) -> Size:
    """What of a sum is no integer as it stands; of one product of symbols over a number that product over it."""
    parts = [p for p in sympy.Add.make_args(sympy.expand(value)) if p.is_integer is not True]
    found = as_scalar(sympy.Add(*parts))
    if isinstance(found, Monomial) and all(power > 0 for _, power in found.powers):
        return Monomial(Fraction(1, found.q), found.powers)
    return found


def _known(value: Size, says: str) -> bool:
    guard = _least(value) if says == LEAST else Guard(value, says)
    proved = _proof(guard)
    scope = _scope.get()
    if proved is not None or scope is None or not set(guard.symbols) <= scope.sizes.keys():
        return bool(proved)
    if guard.holds(scope.sizes):
        scope.needed[guard] = None
        return True
    scope.chosen[guard.negated()] = None
    return False


def _proof(guard: Guard) -> bool | None:
    """Whether a guard always holds, or never; None where that is open."""
    scope = _scope.get()
    bounds = scope.bounds if scope is not None and is_sympy(guard.value) else ()
    value = guard.value
    above, under = never_negative(value, bounds), never_negative(_negative(value, 0), bounds)
    if guard.says == LEAST:
        return True if above else False if never_negative(_negative(value, 1), bounds) else None
    if above and under:
        return guard.says == ZERO
    apart = (above and never_negative(_negative(-value, 1), bounds)) or (
        under and never_negative(_negative(value, 1), bounds)
    )
    return guard.says == NONZERO if apart else None


def _negative(value: Size, less: int) -> Size:
    return normal(expanded(-value - less))


# -- what follows from others ------------------------------------------------------------------------


def _follows(guard: Guard, others: Iterable[Guard]) -> bool:
    """Whether a guard holds wherever some others do."""
    if guard.says == WHOLE:
        ratios = (
            as_scalar(sympy.cancel(guard.value / other.value)) for other in others if other.says == WHOLE
        )
        return any(ratio.is_integer is True for ratio in ratios)
    if guard.says == ZERO:
        return any(_modulus(guard, other) for other in others)
    bounds = bounds_of(normal(expanded(other.value + 1)) for other in others if other.says == LEAST)
    return guard.says == LEAST and never_negative(guard.value, bounds)


def _modulus(guard: Guard, other: Guard) -> bool:
    """Whether `x % 2 == 0` follows from `x % 4 == 2`."""
    mine, its = _equation(guard), _equation(other)
    if mine is None or its is None or mine[0] != its[0]:
        return False
    return bool(its[1] % mine[1] == 0 and its[2] % mine[1] == mine[2])


@lru_cache(maxsize=1024)
def _equation(guard: Guard) -> tuple[Any, int, int] | None:
    """(x, 4, 2) of a guard that says `x % 4 == 2`; None of another."""
    found = re.fullmatch(r"(\(.*\)|\w+) % (\d+) == (\d+)", str(guard))
    return None if found is None else (found[1], int(found[2]), int(found[3]))


def check(guards: Guards, sizes: Mapping[str, int], what: str) -> None:
    """Refuse sizes that break a guard.

    Raises:
        NetworkError: one does not hold; the message has both sides.
    """
    for guard in guards.broken(sizes):
        given = ", ".join(f"{name}={sizes[name]}" for name in guard.symbols)
        raise NetworkError(f"{what} needs {guard}, but {given} was given; give sizes for which that holds")
