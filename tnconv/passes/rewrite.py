"""Rules and the driver that applies them until none fires.

A rule is a function from a network to a network, or to None where it does not apply. Its docstring says
what it does in a sentence and shows it on an example, which a test executes:

    @rule
    def absorb_delta(network: Network) -> Network | None:
        '''Two indices that a delta joins are one index.

        Before:
            network example { ... }
        After:
            network example { ... }
        '''
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tnconv.errors import PassError
from tnconv.ir import Network
from tnconv.passes.network_pass import Pass, PassResult

_FIRINGS_PER_PART = 8
_NAMES_SHOWN = 4
_DOCSTRING = re.compile(r"(.+?)\n\s*\n(.*?)Before:\n(.*)\nAfter:\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One local rewrite.

    Args:
        name: of the function.
        sentence: what it does.
        before: an example to which it applies, as network text.
        after: what one application makes of it.
        function: the rule itself.
    """

    name: str
    sentence: str
    before: str
    after: str
    function: Callable[[Network], Network | None]

    def __call__(self, network: Network) -> Network | None:
        """The rewritten network; None where the rule does not apply."""
        return self.function(network)


def rule(function: Callable[[Network], Network | None]) -> Rule:
    """Make a rule of a function; its docstring needs a sentence, `Before:` and `After:`.

    Raises:
        PassError: the docstring lacks one of them.
    """
    name = function.__name__
    shown = documented(function)
    if shown is None:
        raise PassError(
            f"rule {name!r} needs a docstring: a sentence, then Before: and After: with network text"
        )
    return Rule(name, *shown, function)


def documented(function: Callable[..., object]) -> tuple[str, str, str] | None:
    """The sentence, `Before:` and `After:` of the docstring of a rule; None where one is missing."""
    match = _DOCSTRING.fullmatch(inspect.cleandoc(function.__doc__ or ""))
    return match and (match[1].replace("\n", " "), inspect.cleandoc(match[3]), inspect.cleandoc(match[4]))


class RewritePass(Pass):
    """A pass that applies its rules until none fires. Subclasses set `name` and `rules`.

    Attributes:
        rules: tried in order; after one fired, from the first again.
    """

    preserves_value: ClassVar[bool] = True
    rules: ClassVar[tuple[Rule, ...]] = ()

    def apply(self, network: Network) -> PassResult:
        """Rewrite to a fixpoint.

        Raises:
            PassError: the rules do not come to an end, or one returns what it was given.
        """
        fired: dict[str, list[str]] = {}
        current = network
        limit = _FIRINGS_PER_PART * (len(network.nodes) + len(network.indices) + 1)
        for _ in range(limit):
            each, after = self._first(current)
            if each is None or after is None:
                break
            if after == current:
                raise PassError(
                    f"rule {each.name!r} returned the network that it was given; return None instead"
                )
            fired.setdefault(each.name, []).append(_difference(current, after))
            current = after
        else:
            raise PassError(
                f"the rules {', '.join(fired)} still fire after {limit} steps; make each reduce something"
            )
        notes = tuple(f"{name} x{len(what)}: {_listing(what)}" for name, what in fired.items())
        counts = tuple((name, len(what)) for name, what in fired.items())
        return PassResult(current, current is not network, notes + self.remarks(current), counts)

    def remarks(self, network: Network) -> tuple[str, ...]:
        """Notes about what is left in the final network."""
        return ()

    def _first(self, network: Network) -> tuple[Rule | None, Network | None]:
        for each in self.rules:
            after = each(network)
            if after is not None:
                return each, after
        return None, None


def _difference(before: Network, after: Network) -> str:
    """The nodes that a rule took away, or else those that it changed, or else the index that went."""
    left = {n.name for n in after.nodes}
    gone = [n.name for n in before.nodes if n.name not in left]
    if gone:
        return ", ".join(gone)
    names = {i.name for i in after.indices}
    indices = [i.name for i in before.indices if i.name not in names]
    return ", ".join(indices or [n.name for n in before.nodes if n not in after.nodes] or ["output"])


def _listing(parts: list[str]) -> str:
    shown = list(dict.fromkeys(parts))
    rest = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
