"""The pass `repeated_patterns`: of equal patterns one stays. A rule does it; the driver applies it until none fires."""

from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Network
from tnconv.passes import RewritePass, Rule, rule


@rule
def drop_repeated_pattern(network: Network) -> Network | None:
    """A pattern is 0 or 1, so the product of it with itself is the pattern.

    Before:
        network example {
          index [i=8, k=3, o=6]
          x = input   [i]
          p = pattern [i = o + k]
          q = pattern [i = o + k]
          output [k, o]
        }
    After:
        network example {
          index [i=8, k=3, o=6]
          x = input   [i]
          p = pattern [i = o + k]
          output [k, o]
        }
    """
    seen: set[str] = set()
    for node in network.patterns:
        if node.relation_text() in seen:
            return network.with_nodes(network.without(node.name))
        seen.add(node.relation_text())
    return None


@dataclass(frozen=True)
class RepeatedPatterns(RewritePass):
    """Keep one of equal patterns."""

    name: ClassVar[str] = "repeated_patterns"
    rules: ClassVar[tuple[Rule, ...]] = (drop_repeated_pattern,)
