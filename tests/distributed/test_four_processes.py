"""Four processes, in a row and two by two: values, gradients, ranks without cells, chunks; `make distributed` has all."""

from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard

from tests.distributed.killed_runs import limited
from tests.distributed.sharding_cases import (
    CIRCLES,
    CLOSE,
    DILATED,
    GROUPED,
    TRANSPOSED,
    compiled,
    distance,
    faults,
    gradients,
    values_of,
)
from tests.processes import in_processes
from tnconv.distributed import run, shard

IN_A_ROW = (  # layer, operation, index, how the arguments lie
    (GROUPED, "forward", "i1", Shard(2)),
    (GROUPED, "kfac_expand", "n", Shard(0)),
    (GROUPED, "ggn_gram", "n", Shard(1)),
    (DILATED, "weight_vjp", "o2", Shard(0)),
    (TRANSPOSED, "input_vjp", "i1", Shard(2)),
    (TRANSPOSED, "kfac_reduce", "o1", Shard(1)),
    (CIRCLES, "forward", "i1", Shard(2)),
    (CIRCLES, "input_vjp", "i1", Shard(2)),
    (CIRCLES, "kfac_expand", "o1", Shard(3)),
)
TWO_BY_TWO = (
    (GROUPED, "per_example_weight_vjp", ("n", "c")),
    (DILATED, "forward", ("i2", "n")),
    (TRANSPOSED, "kfac_grad_expand", ("n", "o1")),
)
DIFFERENTIATED = (
    (GROUPED, "forward", "i1", {}),
    (CIRCLES, "forward", "i1", {}),
    (GROUPED, "ggn_gram", "n", {"gather": "ring"}),
)
CHUNKED = (("kfac_expand", 700), ("gradient_norm", 1000), ("forward", None))


def work(rank: int) -> dict[str, Any]:
    row = init_device_mesh("cpu", (4,), mesh_dim_names=("data",))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    found: dict[str, Any] = {"faults": [], "jobs": []}
    for layer, op, index, lies in IN_A_ROW:
        found["faults"] += faults(compiled(layer, op), row, {index: "data"}, [lies])
    for layer, op, (first, second) in TWO_BY_TWO:
        shards = {first: "data", second: "model"}
        found["faults"] += faults(compiled(layer, op), square, shards, [Shard(0), Shard(1)])
    for layer, op, index, options in DIFFERENTIATED:
        found["faults"] += gradients(rank, row, layer, op, {index: "data"}, **options)
    fn = compiled(GROUPED, "forward")
    given = [each[:3] if n == 0 else each for n, each in enumerate(values_of(fn))]
    sharded = shard(fn, row, {"n": "data"})
    few = sharded(*sharded.distribute(*given))
    found["few"] = distance(few.full_tensor(), fn(*given)), len(few.to_local())
    pair = dist.new_group([0, 1])
    for op, limit in CHUNKED:
        fn = limited(op, limit)
        values = values_of(fn)
        for group in (dist.group.WORLD, pair)[: 2 if rank < 2 else 1]:
            found["jobs"].append(distance(run(fn, group)(*values), fn(*values)))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return in_processes(4, tmp_path_factory.mktemp("four"), work)


def test_values_and_gradients(found):
    assert [fault for each in found for fault in each["faults"]] == []


def test_more_ranks_than_examples(found):
    assert max(error for error, _ in (each["few"] for each in found)) <= CLOSE
    assert [count for _, count in (each["few"] for each in found)] == [1, 1, 1, 0]


def test_jobs_are_shared_out(found):
    assert [len(each["jobs"]) for each in found] == [6, 6, 3, 3]
    assert max(error for each in found for error in each["jobs"]) <= CLOSE
