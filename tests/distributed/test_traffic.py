"""What `explain` says is sent is what is sent: in one process, as each rank of a process group that sends nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.utils._python_dispatch import TorchDispatchMode

import tnconv
from tests.distributed.sharding_cases import (
    CIRCLES,
    DILATED,
    GROUPED,
    TRANSPOSED,
    compiled,
    placements_for,
    values_of,
)
from tnconv.distributed import Interconnect, shard
from tnconv.distributed.collectives import Exchange
from tnconv.distributed.index_ranges import chunks
from tnconv.distributed.placements import Traffic
from tnconv.errors import OperationError

CASES = (
    (GROUPED, "forward", "i1", "all"),
    (GROUPED, "input_vjp", "o1", "all"),
    (GROUPED, "kfac_expand", "n", "all"),
    (GROUPED, "kfac_expand", "i1", "all"),
    (GROUPED, "ggn_gram", "n", "all"),
    (GROUPED, "ggn_gram", "n", "ring"),
    (DILATED, "weight_vjp", "i2", "all"),
    (DILATED, "forward", "d", "all"),
    (TRANSPOSED, "forward", "o1", "all"),
    (CIRCLES, "input_vjp", "i1", "all"),
)
LIES = (Replicate(), Shard(0), Shard(1), Shard(2), Partial())


class Received(TorchDispatchMode):
    """Bytes that this rank receives, by collective; of reductions by the rings that the bandwidth is used best with."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self.rank, self.ranks = rank, ranks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        kind = func._schema.name.split("::")[1]
        if kind == "all_gather_into_tensor":
            self._add("all-gather", args[0].nbytes * (self.ranks - 1))
        elif kind == "reduce_scatter_tensor":
            self._add("reduce-scatter", args[0].nbytes * (self.ranks - 1) // self.ranks)
        elif kind in ("all_reduce", "all_reduce_"):
            self._add("all-reduce", 2 * (args[0].nbytes * (self.ranks - 1) // self.ranks))
        elif kind == "alltoall_base_":
            got = args[3]
            self._add("all-to-all", args[0].element_size() * (sum(got) - got[self.rank]))
        elif func.namespace in ("c10d", "_c10d_functional"):
            assert kind.startswith(("wait", "_wrap")), kind
        return made

    def _add(self, name: str, count: int) -> None:
        self.found[name] = self.found.get(name, 0) + count


@contextmanager
def as_rank(rank: int, ranks: int) -> Iterator[DeviceMesh]:
    """A mesh of which this process is one rank; nothing is sent."""
    dist.init_process_group("fake", rank=rank, world_size=ranks)
    try:
        yield init_device_mesh("cpu", (ranks,), mesh_dim_names=("data",))
    finally:
        dist.destroy_process_group()


def lain(tensor: torch.Tensor, lies: Any, mesh: DeviceMesh) -> DTensor:
    whole = DTensor.from_local(tensor, mesh, [Replicate()], run_check=False)
    if isinstance(lies, Partial):
        return DTensor.from_local(tensor, mesh, [lies], run_check=False)
    return whole.redistribute(placements=placements_for(tensor, [lies]))


def by_collective(traffic: tuple[Traffic, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in traffic:
        name = "all-to-all" if each.collective in ("exchange", "ring") else each.collective
        found[name] = found.get(name, 0) + each.bytes
    return found


def test_bytes_are_those_that_are_sent():
    explained: dict[Any, Any] = {}
    sent: dict[Any, dict[str, int]] = {}
    for rank in range(2):
        with as_rank(rank, 2) as mesh:
            for case in CASES:
                layer, op, index, gather = case
                sharded = shard(compiled(layer, op), mesh, {index: "data"}, gather=gather)
                for lies in LIES:
                    given = [lain(each, lies, mesh) for each in values_of(sharded.fn)]
                    found = sharded.explain(*given)
                    with Received(rank, 2) as call:
                        result = sharded(*given)
                    with Received(rank, 2) as whole:
                        result.redistribute(placements=[Replicate()])
                    for what, traffic, seen in (
                        ("call", found.traffic, call),
                        ("whole", found.whole, whole),
                    ):
                        key = (*case, str(lies), what)
                        explained[key] = by_collective(traffic)
                        most = sent.setdefault(key, {})
                        for name, count in seen.found.items():
                            most[name] = max(most.get(name, 0), count)
    wrong = {
        key: (explained[key], most)
        for key, most in sent.items()
        if explained[key] != {name: count for name, count in most.items() if count}
    }
    assert wrong == {}
    assert len(sent) == 2 * len(CASES) * len(LIES)


def test_what_an_exchange_receives_at_most():
    for size, ranks, reach in ((9, 4, 1), (16, 5, 3), (3, 6, 1), (40, 8, 12)):
        has = chunks(size, ranks)
        needs = tuple((max(0, a - reach), min(size, b + reach)) if a < b else (a, a) for a, b in has)
        owner = [rank for rank, (a, b) in enumerate(has) for _ in range(a, b)]
        others = [
            [owner[cell] for cell in range(*need) if owner[cell] != rank] for rank, need in enumerate(needs)
        ]
        move = Exchange(0, has, needs, 0, None)
        assert move.most_received(7) == 7 * max(map(len, others))
        assert move.most_senders() == max(len(set(each)) for each in others)


def test_what_an_exchange_around_a_circle_receives_at_most():
    for size, ranks, before, behind in (
        (9, 4, 1, 1),
        (16, 5, 3, 0),
        (3, 6, 1, 1),
        (7, 2, 2, 2),
        (5, 1, 1, 1),
    ):
        has = chunks(size, ranks)
        needs = tuple((a - before, b + behind) if a < b else (a, a) for a, b in has)
        owner = [rank for rank, (a, b) in enumerate(has) for _ in range(a, b)]
        own = [[owner[cell % size] for cell in range(*need)] for need in needs]
        others = [[each for each in found if each != rank] for rank, found in enumerate(own)]
        move = Exchange(0, has, needs, 0, None)
        assert move.most_received(7) == 7 * max(map(len, others))
        assert move.most_senders() == max(len(set(each)) for each in others)


@pytest.mark.parametrize(
    ("index", "lies", "collective", "messages"),
    [
        ("n", Replicate(), "all-reduce", 6),  # two of log2 of 8 ranks
        ("n", Partial(), "reduce-scatter", 3),
        ("c", Shard(0), "all-gather", 3),
    ],
)
def test_messages_and_their_times(index, lies, collective, messages):
    fn = compiled(GROUPED, "weight_vjp")
    with as_rank(0, 8) as mesh:
        sharded = shard(fn, mesh, {index: "data"})
        found = sharded.explain(*(lain(each, lies, mesh) for each in values_of(fn)))
    each = next(t for t in (*found.traffic, *found.whole) if t.collective == collective)
    assert each.messages == messages
    over = Interconnect(latency=3.0, bandwidth=2.0)
    assert over.seconds(each) == 3 * messages + each.bytes / 2
    whole = found.collectives(over, whole=True)
    assert whole == found.collectives({"data": over}, whole=True)
    assert sum(whole.values()) == sum(map(over.seconds, (*found.traffic, *found.whole)))
    assert found.compute == 1e-6 * sum(each.program.predicted for each in found.functions) > 0


def test_a_halo_of_many_ranks_is_two_messages():
    fn = compiled(TRANSPOSED, "forward")
    with as_rank(0, 5) as mesh:
        sharded = shard(fn, mesh, {"i1": "data"})
        found = sharded.explain(*sharded.distribute(*(each.to("meta") for each in values_of(fn))))
    exchange = next(t for t in found.traffic if t.collective == "exchange")
    assert 1 <= exchange.messages <= 2


def test_triangles_are_half_of_what_is_sent():
    """Partial sums of two ranks, by what is summed and by groups: their lower triangles, which are all that is sent."""
    for op, index in (("kfac_expand", "n"), ("kfac_reduce", "i1"), ("kfac_expand", "g")):
        whole, packed = (tnconv.compile(GROUPED, op, packed=each) for each in (False, True))
        given = values_of(whole)
        want = tnconv.pack_triangle(whole(*given))
        parts = []
        for rank in range(2):
            with as_rank(rank, 2) as mesh:
                functions = [shard(each, mesh, {index: "data"}) for each in (whole, packed)]
                lain_out = [lain(each, Replicate(), mesh) for each in given]
                results = [function(*lain_out) for function in functions]
                assert results[1].shape == want.shape
                parts.append(results[1].to_local())
                seen = []
                for result in results:
                    with Received(rank, 2) as received:
                        result.redistribute(placements=[Replicate()])
                    seen.append(sum(received.found.values()))
                explained = [sum(t.bytes for t in each.explain(*lain_out).whole) for each in functions]
                rows = whole(*given).shape[-1]
                assert seen == explained and seen[1] * 2 * rows == seen[0] * (rows + 1)
        total = torch.cat(parts) if index == "g" else parts[0] + parts[1]
        torch.testing.assert_close(total, want)
    packed = tnconv.compile(GROUPED, "kfac_expand", packed=True)
    with as_rank(0, 2) as mesh:
        for index, function in (("c", packed), ("n", tnconv.compile(GROUPED, "ntk", packed=True))):
            with pytest.raises(
                OperationError,
                match=f"index '{index}' is to be sharded, but .* packed=True and it is on axis",
            ):
                shard(function, mesh, {index: "data"})
