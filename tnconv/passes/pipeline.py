"""Passes in order: `absorb_deltas | dense | batch{index=v}`. Every stage is kept, every contract enforced."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tnconv.errors import PassError, TnconvError
from tnconv.ir import Expression, Network, Size, Sum, make_sum
from tnconv.ir.guards import NO_GUARDS, Guards, assuming
from tnconv.passes.network_pass import Pass, PassResult, parse_pass
from tnconv.passes.pass_text import PRESETS, split

Check = Callable[[Pass, Expression, Expression], None]


@dataclass(frozen=True)
class Stage:
    """What one pass did.

    Args:
        text: the pass, as `str` gives it.
        before: what it was given.
        after: what it made of it; the same value if nothing changed.
        changed: whether they differ.
        notes: what the pass says about it.
        fired: each rule that was applied, by name, and how often.
        guards: what the pass took to be so of sizes that are symbols.
        pass_: the pass; after a pickle that which its text names, None where none does.
    """

    text: str
    before: Expression
    after: Expression
    changed: bool
    notes: tuple[str, ...] = ()
    fired: tuple[tuple[str, int], ...] = ()
    guards: Guards = NO_GUARDS
    pass_: Pass | None = field(default=None, compare=False)

    @classmethod
    def of(cls, each: Pass, before: Expression, result: PassResult, guards: Guards = NO_GUARDS) -> "Stage":
        """What a pass did to an expression, with what it took to be so."""
        parts = (before, result.network, result.changed, result.notes, result.fired, guards)
        return cls(str(each), *parts, each)

    def __reduce__(self) -> tuple[Callable[..., "Stage"], tuple[Any, ...]]:
        return _read, (self.text, self.before, self.after, self.changed, self.notes, self.fired, self.guards)


def _read(*parts: Any) -> Stage:
    """A stage of a pickle: passes may be of a notebook or a plug-in that is not there any more."""
    stage = Stage(*parts)
    try:
        return replace(stage, pass_=parse_pass(stage.text))
    except TnconvError:
        return stage


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after the other.

    Args:
        passes: in order.
    """

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        passes = _items(self.passes)
        if isinstance(self.passes, str) or not all(isinstance(each, Pass) for each in passes):
            raise PassError(f"passes={self.passes!r} are no passes; Pipeline.parse reads texts")
        object.__setattr__(self, "passes", passes)

    @classmethod
    def parse(cls, text: "str | Pass | Pipeline | Iterable[str | Pass | Pipeline]") -> "Pipeline":
        """Read `"default | batch{index=v}"`: passes and presets, with `|` between them.

        Passes, texts of passes, and a pipeline itself are taken as they are; an empty text is no pass.

        Raises:
            PassError: a part is not a pass or a preset, or there is nothing between two `|`.
        """
        if isinstance(text, Pipeline):
            return text
        if isinstance(text, Pass):
            return cls((text,))
        if not isinstance(text, str):
            return cls(tuple(q for part in _items(text) for q in cls.parse(part).passes))
        parts = split(text, "|")
        if parts == [""]:
            return cls()
        if "" in parts:
            raise PassError(
                f"part {parts.index('') + 1} of {len(parts)} of passes {text.strip()!r} is empty; write a pass or a "
                "preset on both sides of '|'"
            )
        return cls(
            tuple(
                q for p in parts for q in (cls.parse(PRESETS[p]).passes if p in PRESETS else (parse_pass(p),))
            )
        )

    def __str__(self) -> str:
        return " | ".join(map(str, self.passes))

    def run(
        self, expression: Expression, check: Check | None = None, assume: Mapping[str, int] | None = None
    ) -> tuple[Expression, tuple[Stage, ...]]:
        """Apply the passes in order.

        Args:
            expression: a network or a sum; a pass is applied to each term.
            check: called as `check(pass, before, after)` behind every pass, and raises PassError if the value
                is wrong; `exact_check` makes one.
            assume: integers for size symbols, at which rules may take what they cannot prove to be so. The result is
                right for all sizes for which the guards of the stages hold; without, it is for all sizes.

        Returns:
            The result, and a stage for every pass.

        Raises:
            PassError: a pass failed or broke its contract; the message has its place and shows the network.
        """
        stages: list[Stage] = []
        with assuming(assume, symbolic_sizes(expression)):
            for place, each in enumerate(self.passes, 1):
                try:
                    with assuming() as found:
                        result = _applied(each, expression)
                    if check is not None:
                        check(each, expression, result.network)
                except (
                    Exception
                ) as error:  # a plug-in may fail in any way; the place and the network are what helps
                    raise _located(error, each, f"pass {place} of {len(self.passes)}", expression) from error
                stages.append(Stage.of(each, expression, result, found.guards))
                expression = result.network
        return expression, tuple(stages)


def symbolic_sizes(expression: Expression) -> tuple[Size, ...]:
    """The sizes of indices that are expressions of symbols, each once."""
    sizes = (index.size for term in expression.terms for index in term.indices)
    return tuple(dict.fromkeys(size for size in sizes if not isinstance(size, int)))


def _items(passes: Any) -> "tuple[str | Pass | Pipeline, ...]":
    try:
        found = tuple(passes)
    except TypeError:
        found = (passes,)
    for item in found:
        if not isinstance(item, str | Pass | Pipeline):
            raise PassError(
                f"passes hold {item!r}, a {type(item).__name__}; give texts such as 'default | my_pass', or passes"
            )
    return found


def run_pass(each: Pass, expression: Expression) -> tuple[Expression, tuple[str, ...]]:
    """Apply one pass to every term that it selects, and enforce the contract of passes.

    Returns:
        The result (`expression` itself if nothing changed) and the notes.

    Raises:
        PassError: `requires`, `ensures` or the contract does not hold.
    """
    result = _applied(each, expression)
    return result.network, result.notes


def _applied(each: Pass, expression: Expression) -> PassResult:
    ready, selected = each.prepare(expression)
    if not selected:
        raise PassError("no term of the sum is left; the result would be zero everywhere")
    if ready.whole:
        result = _run_term(ready, make_sum(expression.name, selected))
        return result if result.changed else replace(result, network=expression)
    results = [_run_term(ready, term) for term in selected]
    notes = tuple(note for result in results for note in result.notes)
    fired = Counter[str]()
    for result in results:
        fired.update(dict(result.fired))
    changed = selected != expression.terms or any(result.changed for result in results)
    after = expression
    if changed and isinstance(expression, Network):
        after = results[0].network
    elif changed:
        after = make_sum(expression.name, [term for result in results for term in result.network.terms])
    return PassResult(after, changed, notes, tuple(fired.items()))


def _run_term(each: Pass, network: Any) -> PassResult:
    each.requires(network)
    result = each.apply(network)
    if not isinstance(result, PassResult) or not isinstance(result.network, Network | Sum):
        raise PassError(f"apply returned {type(result).__name__}; return PassResult(network, changed, notes)")
    if result.changed != (result.network != network):
        state = "differs" if not result.changed else "is the same"
        raise PassError(
            f"apply says changed={result.changed} but the network {state} ({network.name!r}; "
            "each term of a sum comes by itself); set changed to what happened"
        )
    each.ensures(network, result.network)
    return result


def _located(error: Exception, each: Pass, place: str, expression: Expression) -> PassError:
    message = str(error) if isinstance(error, TnconvError) else f"{type(error).__name__}: {error}"
    return PassError(f"{place}, {each}: {message}\nThe pass was given:\n{expression}")
