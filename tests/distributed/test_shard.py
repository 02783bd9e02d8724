"""Sharded functions over processes: values, placements, gradients, what is sent, and what is refused."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import tnconv
from tests.distributed.sharding_cases import (
    CIRCLES,
    CLOSE,
    DILATED,
    GROUPED,
    compiled,
    distance,
    every_index,
    gradients,
    values_of,
)
from tests.docs import docs_code
from tests.docs.docs_code import DOCS
from tests.processes import in_processes
from tnconv.distributed import shard
from tnconv.errors import OperationError, TnconvError

PAGE = DOCS / "howto" / "distributed.md"
DIFFERENTIATED = (
    ("forward", "n"),
    ("forward", "c"),
    ("forward", "g"),
    ("forward", "d"),
    ("forward", "i1"),
    ("forward", "k1"),
    ("weight_vjp", "i1"),
    ("input_vjp", "o1"),
    ("kfac_expand", "n"),
    ("kfac_expand", "i1"),
    ("ggn_gram", "n"),
)
AROUND = (("forward", "i1"), ("forward", "o2"), ("weight_vjp", "i1"), ("input_vjp", "i1"))
IN_RINGS = (
    (GROUPED, "ggn_gram", "n"),  # a block of the result in each turn
    (GROUPED, "ggn_gram", "v"),  # z alone goes round
    (GROUPED, "ntk", "n"),
    (DILATED, "kfac_expand", "c"),
)


def rings(mesh: DeviceMesh) -> dict[str, Any]:
    """When a ring is taken, and what it moves."""
    fn = compiled(GROUPED, "ggn_gram")
    given = values_of(fn)
    whole = 8 * (given[0].numel() + given[1].numel())
    peak = 8 * fn.cost.at(N=5, V=2).peak_elements
    found = {}
    for name, options in {
        "no limit": {},
        "ring": {"gather": "ring"},
        "room": {"memory_limit": 2 * peak + whole},
        "no room": {"memory_limit": whole},
    }.items():
        sharded = shard(fn, mesh, {"n": "data"}, **options)
        found[name] = sharded.explain(*sharded.distribute(*given)).bytes
    return found


def halo(mesh: DeviceMesh) -> dict[str, Any]:
    fn = compiled(GROUPED, "forward")
    given = values_of(fn)
    sharded = shard(fn, mesh, {"i1": "data"})
    tensors = sharded.distribute(*given)
    found = sharded(*tensors)
    explained = sharded.explain(*tensors)
    return {
        "error": distance(found.full_tensor(), fn(*given)),
        "placements": [t.placements for t in tensors],
        "result": found.placements,
        "bytes": explained.bytes,
        "text": str(explained),
    }


def mean(mesh: DeviceMesh) -> dict[str, Any]:
    """A factor of a batch that lies on both, of which the scale is 1/N of all."""
    fn = compiled(GROUPED, "kfac_grad_expand")
    given = values_of(fn)
    sharded = shard(fn, mesh, {"batch": "data"})
    found = sharded(*sharded.distribute(*given))
    return {"error": distance(found.full_tensor(), fn(*given)), "placements": found.placements}


def few(mesh: DeviceMesh) -> dict[str, Any]:
    """More ranks than examples."""
    fn = compiled(GROUPED, "forward")
    given = [each[:1] if n == 0 else each for n, each in enumerate(values_of(fn))]
    sharded = shard(fn, mesh, {"n": "data"})
    found = sharded(*sharded.distribute(*given))
    return {"error": distance(found.full_tensor(), fn(*given)), "mine": tuple(found.to_local().shape)}


def refusals(mesh: DeviceMesh) -> list[str]:
    fn = compiled(GROUPED, "forward")
    x, weight, bias = values_of(fn)
    lain = [distribute_tensor(each, mesh, [Replicate()], src_data_rank=None) for each in (x, weight, bias)]
    other = init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))
    there = distribute_tensor(x, other, [Replicate(), Replicate()], src_data_rank=None)
    found = []
    for call in (
        lambda: shard(fn, mesh, {"n": "model"}),
        lambda: shard(fn, mesh, {"n": "data"})(x, *lain[1:]),
        lambda: shard(fn, mesh, {"n": "data"})(there, *lain[1:]),
        lambda: shard(fn, mesh, {"n": "data"})(lain[1], *lain[1:]),
        lambda: shard(fn, mesh, {"n": "data"})(lain[0][:0], *lain[1:]),
        lambda: shard(compiled(GROUPED, "forward", backend="reference"), mesh, {"n": "data"}),
        lambda: shard(fn, mesh, {"n": "data"}, gather="some"),
        lambda: shard(tnconv.compile(torch.nn.Conv2d(2, 3, 3), "forward"), mesh, {"n": "data"}),
        lambda: shard(fn, mesh, {"n": "data"}, gather="ring")(*lain),
        lambda: shard(fn, mesh, "batch"),
        lambda: shard(torch.nn.functional.conv1d, mesh, {"n": "data"}),
        lambda: shard(fn, mesh, {"n": "data"}).explain(*lain[:2]),
    ):
        try:
            call()
            found.append("nothing")
        except TnconvError as error:
            found.append(str(error))
    return found


def outside(_: DeviceMesh) -> str:
    """A mesh of one of the processes."""
    alone = DeviceMesh("cpu", [0], mesh_dim_names=("data",))
    fn = compiled(GROUPED, "forward")
    try:
        sharded = shard(fn, alone, {"n": "data"})
    except OperationError as error:
        return str(error)
    given = values_of(fn)
    return str(distance(sharded(*sharded.distribute(*given)).full_tensor(), fn(*given)) <= CLOSE)


def unusual(mesh: DeviceMesh) -> list[float]:
    """Complex values with a halo and a sum, and what is sampled by rows of a table."""
    found = []
    fn = compiled(GROUPED, "forward")
    given = [torch.complex(each, each.flip(0)) for each in values_of(fn)]
    for index in ("i1", "c"):
        sharded = shard(fn, mesh, {index: "data"})
        found.append(distance(sharded(*sharded.distribute(*given)).full_tensor(), fn(*given)))
    sampled = compiled(GROUPED, "weight_vjp", sample={"in_channels": 0.5})
    rows = sampled.draw_rows(torch.Generator().manual_seed(0))
    arguments = [*values_of(compiled(GROUPED, "weight_vjp")), *rows.values()]
    for index in ("n", "o1", "d"):
        sharded = shard(sampled, mesh, {index: "data"})
        found.append(distance(sharded(*sharded.distribute(*arguments)).full_tensor(), sampled(*arguments)))
    return found


def pickled(mesh: DeviceMesh) -> float:
    """A function that was pickled has the indices of its layer still."""
    fn = compiled(GROUPED, "unfold")
    sharded, given = shard(pickle.loads(pickle.dumps(fn)), mesh, {"g": "data"}), values_of(fn)
    return distance(sharded(*sharded.distribute(*given)).full_tensor(), fn(*given))


def named(mesh: DeviceMesh) -> float:
    """Arguments by name, one of them a partial sum."""
    fn = compiled(GROUPED, "forward")
    x, weight, bias = values_of(fn)
    halves = [DTensor.from_local(each / 2, mesh, [Partial()], run_check=False) for each in (weight, bias)]
    x_there = distribute_tensor(x, mesh, [Shard(1)], src_data_rank=None)
    found = shard(fn, mesh, {"n": "data"})(x_there, bias=halves[1], weight=halves[0])
    return distance(found.full_tensor(), fn(x, weight, bias))


def page(folder: str) -> list[tuple[str, str]]:
    """What the code of the page prints, and what the page says; rank 0 has rows of its own."""
    text = PAGE.read_text(encoding="utf-8").replace("```py\n", "```python\n")
    copy = Path(folder) / f"{torch.distributed.get_rank()}.md"
    copy.write_text(text, encoding="utf-8")
    torch.set_default_dtype(torch.float32)
    with docs_code.folder(Path(folder)):
        return [(ran.output, ran.quoted.text) for ran in docs_code.run_page(copy) if ran.quoted is not None]


def work(rank: int, folder: str) -> dict[str, Any]:
    faults = every_index(rank, (2,), [GROUPED], step=6)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
    for op, index in DIFFERENTIATED:
        faults += gradients(rank, mesh, GROUPED, op, {index: "data"})
    for op, index in AROUND:
        faults += gradients(rank, mesh, CIRCLES, op, {index: "data"})
    for layer, op, index in IN_RINGS:
        faults += gradients(rank, mesh, layer, op, {index: "data"}, gather="ring")
    parts = {
        "rings": rings,
        "halo": halo,
        "mean": mean,
        "few": few,
        "refusals": refusals,
        "named": named,
        "outside": outside,
        "unusual": unusual,
        "pickled": pickled,
    }
    return {"faults": faults, "page": page(folder)} | {name: part(mesh) for name, part in parts.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found: started once."""
    torch.serialization.add_safe_globals([Shard, Partial, Replicate])
    folders = [tmp_path_factory.mktemp(name) for name in ("pair", "page")]
    return in_processes(2, folders[0], work, str(folders[1]), deadline=300, anew=True)


def test_every_operation_by_every_index(found):
    assert [fault for each in found for fault in each["faults"]] == []


def test_the_page_runs_and_prints_what_it_says(found):
    printed = found[0]["page"]
    assert len(printed) == 8
    for output, quoted in printed:
        assert output == quoted


def test_positions_are_sharded_with_a_halo(found):
    for each in found:
        assert each["halo"]["error"] <= CLOSE
        x, weight, bias = each["halo"]["placements"]
        assert (x, weight, bias) == ((Shard(2),), (Replicate(),), (Replicate(),))
        assert each["halo"]["result"] == (Shard(2),)
        # Rank 0 has the cells 0 to 4 of 9 and reads 0 to 5 for o = 0, 1, 2; rank 1 has 5 to 8 and reads 5 to 8.
        assert each["halo"]["bytes"] == {"exchange": 5 * 4 * 8}
        assert "x: S(2); exchange along 'data', 160 bytes" in each["halo"]["text"]


def test_a_ring_is_taken_where_the_whole_does_not_fit(found):
    for each in found:
        three = 8 * 3 * (4 * 9 + 2 * 6 * 5)  # of five examples: the larger part
        gathered, ring = {"all-gather": three}, {"ring": three}
        assert each["rings"] == {"no limit": gathered, "ring": ring, "room": gathered, "no room": ring}


def test_a_mean_is_that_of_all_examples(found):
    assert all(each["mean"]["error"] <= CLOSE for each in found)
    assert {each["mean"]["placements"] for each in found} == {(Partial(),)}


def test_more_ranks_than_cells(found):
    assert all(each["few"]["error"] <= CLOSE for each in found)
    assert [each["few"]["mine"] for each in found] == [(1, 6, 5), (0, 6, 5)]


def test_arguments_by_name_and_in_any_placement(found):
    assert all(each["named"] <= CLOSE for each in found)


def test_complex_values_and_sampled_ones(found):
    assert all(len(each["unusual"]) == 5 and max(each["unusual"]) <= CLOSE for each in found)


def test_a_function_that_was_pickled(found):
    assert all(each["pickled"] <= CLOSE for each in found)


def test_a_process_outside_the_mesh(found):
    assert found[0]["outside"] == "True"
    assert "this process is not in the mesh DeviceMesh((data=1)" in found[1]["outside"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "index 'n' is to be sharded along 'model', but the mesh has ['data']"),
        (1, "argument 'x' is a Tensor, not a DTensor; make it one"),
        (2, "argument 'x' lies on DeviceMesh((a=1, b=2)"),
        (3, "axis 1 (index (g c)) but 4 is needed"),
        (4, "size 'N' of 'conv1d.forward' is 0, of which no rank gets a part"),
        (5, "backend 'reference' has no tnconv.distributed: its arrays are no DTensors"),
        (6, "gather='some' is not known; use 'auto', 'all', 'ring'"),
        (7, "sizes H, W of 'forward' are open; shard the function of a size, at(H=56, W=56)"),
        (8, "no argument of 'conv1d.forward' is read with an index of ['n'] and with its copy"),
        (9, "shards='batch' is no mapping; give dimensions of the mesh by names of indices"),
        (10, "is no compiled function; give one of tnconv.compile(layer, …)"),
        (11, "2 arguments are given but 'forward' takes 3: x, weight, bias"),
    ],
)
def test_what_is_refused(found, number, message):
    assert all(re.search(re.escape(message), each["refusals"][number]) for each in found)


def test_what_is_no_mesh_is_refused():
    fn = tnconv.compile(tnconv.ConvSpec(2, 2, 3, (4, 4)))
    with pytest.raises(OperationError, match=r"mesh is a NoneType; give one of torch\.distributed"):
        shard(fn, None, {"n": "data"})
