"""What `Sharded.explain` prints."""

from dataclasses import dataclass

from torch.distributed.tensor import Placement

from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.placements import Traffic

Placements = tuple[Placement, ...]


@dataclass(frozen=True)
class ShardedExplanation:
    """What each rank computes, and what goes over the wire for it.

    Args:
        name: of the network.
        shards: the index along each dimension of the mesh.
        arguments: name, placements and traffic of each part of an argument that ranks need.
        result: placements of the result.
        sent: what ranks exchange for these.
        whole: what it takes to give every rank the whole result.
        function: what this rank computes; None for nothing.
    """

    name: str
    shards: dict[str, str]
    arguments: tuple[tuple[str, Placements, tuple[Traffic, ...]], ...]
    result: Placements
    sent: tuple[Traffic, ...]
    whole: tuple[Traffic, ...]
    function: CompiledFunction | None

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        """All that a call sends."""
        return (*(t for _, _, traffic in self.arguments for t in traffic), *self.sent)

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes that one rank receives in a call, at most, by collective."""
        found: dict[str, int] = {}
        for each in self.traffic:
            found[each.collective] = found.get(each.collective, 0) + each.bytes
        return found

    def __str__(self) -> str:
        lines = [f"{self.name}: " + ", ".join(f"{i} along {d!r}" for d, i in self.shards.items())]
        for name, placements, traffic in self.arguments:
            lines.append(f"  {name}: {_written(placements)}{_sent(traffic)}")
        lines.append(f"  result: {_written(self.result)}{_sent(self.sent)}")
        if self.whole:
            lines.append(f"    to be whole everywhere: {_sent(self.whole)[2:]}")
        total = ", ".join(f"{count} by {what}" for what, count in self.bytes.items()) or "none"
        lines.append(f"  bytes that a rank receives in a call: {total}")
        if self.function is not None:
            lines.append(f"  this rank: {self.function.cost}")
        return "\n".join(lines)


def _written(placements: Placements) -> str:
    return ", ".join(map(str, placements))


def _sent(traffic: tuple[Traffic, ...]) -> str:
    return "".join(f"; {t.collective} along {t.dimension!r}, {t.bytes} bytes" for t in traffic)
