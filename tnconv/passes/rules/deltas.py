"""Deltas: the two indices that one joins are one index."""

from dataclasses import dataclass
from typing import ClassVar

from tnconv.ir import Delta, Network
from tnconv.passes.relations import replace_index
from tnconv.passes.rewrite import RewritePass, Rule, rule


@rule
def absorb_delta(network: Network) -> Network | None:
    """Two indices that a delta joins are one index; an open one keeps its name.

    Before:
        network example {
          index [c=3, d=4, d_2=4]
          x     = input [d, c]
          delta = delta [d = d_2]
          output [d_2, c]
        }
    After:
        network example {
          index [c=3, d_2=4]
          x = input [d_2, c]
          output [d_2, c]
        }
    """
    for delta in network.patterns:
        if isinstance(delta, Delta):
            kept, gone = delta.left, delta.right
            if gone in network.open_indices:
                kept, gone = gone, kept
            if gone not in network.open_indices:
                after = replace_index(network, gone, ((1, kept),), 0, delta)
                if after is not None:
                    return after
    return None


@dataclass(frozen=True)
class AbsorbDeltas(RewritePass):
    """Identify the two indices of every delta, unless both are open."""

    name: ClassVar[str] = "absorb_deltas"
    rules: ClassVar[tuple[Rule, ...]] = (absorb_delta,)
