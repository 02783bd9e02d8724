"""What collectives take, predicted from the bytes and messages that `explain` shows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tnconv.distributed.placements import Traffic


@dataclass(frozen=True, slots=True)
class Interconnect:
    """What connects ranks: a message of so many bytes takes `latency + bytes / bandwidth` seconds.

    That is the alpha-beta model of Hockney (1994): alpha is the latency, beta one over the bandwidth. How many messages
    a collective waits for, and what it receives, is by Thakur, Rabenseifner & Gropp (2005); see `Traffic`. Messages of
    other ranks are taken not to get in each other's way.

    Args:
        latency: alpha, seconds that a message without content takes.
        bandwidth: one over beta, bytes a second that a rank receives.
    """

    latency: float
    bandwidth: float

    def seconds(self, traffic: Traffic) -> float:
        """Predicted seconds of a collective."""
        return traffic.messages * self.latency + traffic.bytes / self.bandwidth


Links = Interconnect | Mapping[str, Interconnect]  # the same everywhere, or by dimension of a mesh


def seconds_by_collective(traffic: Iterable[Traffic], over: Links) -> dict[str, float]:
    """Predicted seconds of all that is sent, one after the other, by collective.

    Args:
        traffic: what is sent.
        over: what connects the ranks.
    """
    found: dict[str, float] = {}
    for each in traffic:
        link = over if isinstance(over, Interconnect) else over[each.dimension]
        found[each.collective] = found.get(each.collective, 0.0) + link.seconds(each)
    return found
