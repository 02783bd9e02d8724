"""Beyond one process: a function over the ranks of a mesh, by indices of its network, on `torch.distributed`."""

from tnconv.distributed.interconnect import Interconnect
from tnconv.distributed.sharded import Sharded, shard
from tnconv.distributed.shared_jobs import SharedJobs, run

__all__ = ["Interconnect", "Sharded", "SharedJobs", "run", "shard"]
