"""What `Sharded.explain` prints."""

from dataclasses import dataclass

from torch.distributed.tensor import Placement

from tnconv.compiler.function import CompiledFunction
from tnconv.distributed.interconnect import Interconnect, Links, seconds_by_collective
from tnconv.distributed.local_function import predicted_seconds
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
        functions: what this rank computes; several where parts go round in a ring, none for nothing.
    """

    name: str
    shards: dict[str, str]
    arguments: tuple[tuple[str, Placements, tuple[Traffic, ...]], ...]
    result: Placements
    sent: tuple[Traffic, ...]
    whole: tuple[Traffic, ...]
    functions: tuple[CompiledFunction, ...]

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

    @property
    def compute(self) -> float:
        """Seconds that what this rank computes is predicted to take, by the rates that its kernels were chosen by."""
        return sum(map(predicted_seconds, self.functions))

    def collectives(self, over: Links, whole: bool = False) -> dict[str, float]:
        """Seconds that collectives are predicted to take, by collective, one after the other.

        Args:
            over: what connects the ranks, or for each dimension of the mesh what connects those along it.
            whole: whether every rank is to have the whole result.
        """
        return seconds_by_collective((*self.traffic, *(self.whole if whole else ())), over)

    def __str__(self) -> str:
        lines = [f"{self.name}: " + ", ".join(f"{i} along {d!r}" for d, i in self.shards.items())]
        for name, placements, traffic in self.arguments:
            lines.append(f"  {name}: {_written(placements)}{_sent(traffic)}")
        lines.append(f"  result: {_written(self.result)}{_sent(self.sent)}")
        if self.whole:
            lines.append(f"    to be whole everywhere: {_sent(self.whole)[2:]}")
        total = ", ".join(f"{count} by {what}" for what, count in self.bytes.items()) or "none"
        lines.append(f"  bytes that a rank receives in a call: {total}")
        lines += [f"  this rank: {cost}" for cost in dict.fromkeys(str(each.cost) for each in self.functions)]
        return "\n".join(lines)


@dataclass(frozen=True)
class JobsExplanation:
    """How the jobs of a function are shared out; see `SharedJobs.explain`.

    Args:
        name: of the network.
        jobs: how many there are.
        ranks: that share them.
        job: seconds that one is predicted to take, by the rates that its kernels were chosen by.
        traffic: what adding the results up sends.
    """

    name: str
    jobs: int
    ranks: int
    job: float
    traffic: tuple[Traffic, ...]

    @property
    def most(self) -> int:
        """Jobs of one rank, at most."""
        return -(-self.jobs // self.ranks)

    @property
    def compute(self) -> float:
        """Predicted seconds of the jobs of one rank, at most."""
        return self.most * self.job

    def collectives(self, over: Interconnect) -> dict[str, float]:
        """Seconds that collectives are predicted to take, by collective."""
        return seconds_by_collective(self.traffic, over)

    def __str__(self) -> str:
        share = f"{self.name}: {self.jobs} jobs, at most {self.most} for each of {self.ranks} ranks"
        return f"{share}\n  result: added up{_sent(self.traffic)}"


def _written(placements: Placements) -> str:
    return ", ".join(map(str, placements))


def _sent(traffic: tuple[Traffic, ...]) -> str:
    return "".join(
        f"; {t.collective}{f' along {t.dimension!r}' if t.dimension else ''}, {t.bytes} bytes"
        for t in traffic
    )
