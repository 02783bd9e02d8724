"""Chunks as jobs, alone and shared out, killed and resumed."""

import pickle
import re
import time

import pytest
import torch
import torch.distributed as dist

import tnconv
from tests.distributed.killed_runs import PATIENCE, begun, limited, outcomes, start, wait
from tests.distributed.sharding_cases import CLOSE, GROUPED, distance, values_of
from tnconv.compiler.chunk_jobs import ChunkJob, put_together
from tnconv.distributed import Interconnect, run
from tnconv.distributed.finished_sums import Folder
from tnconv.errors import ArgumentError, OperationError, PlanError

N = 5
CHUNKED = (  # an operation, a memory limit, the number of chunks
    ("kfac_expand", 1000, 5),
    ("kfac_expand", 700, 10),  # of examples, which are added up, and of groups
    ("gradient_norm", 1000, 3),
    ("weight_vjp", 1500, 3),
    ("forward", None, 1),
)


class Counted:
    """The calls of jobs, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: int | None = None) -> None:
        self.numbers: list[int] = []
        self.end = end
        before = ChunkJob.__call__

        def call(job: ChunkJob, *tensors: torch.Tensor) -> torch.Tensor:
            if len(self.numbers) == self.end:
                raise KeyboardInterrupt
            self.numbers.append(job.number)
            return before(job, *tensors)

        monkeypatch.setattr(ChunkJob, "__call__", call)


@pytest.mark.parametrize(("op", "limit", "count"), CHUNKED)
def test_jobs_make_up_the_value(op, limit, count):
    fn = limited(op, limit)
    values = [each.float() for each in values_of(fn)]
    jobs = pickle.loads(pickle.dumps(fn.jobs(N=N)))
    assert len(jobs) == count
    parts = [job(*values) for job in reversed(jobs)][::-1]
    assert torch.equal(parts[-1], jobs[-1](*values))  # again
    assert distance(put_together(jobs, parts), fn(*values)) < 1e-5
    assert all(job.shape == tuple(fn(*values).shape) for job in jobs)


def test_what_jobs_refuse():
    fn = limited("weight_vjp")
    with pytest.raises(PlanError, match=r"made for given sizes \['N'\], but got \[\]; call jobs\(N=…\)"):
        fn.jobs()
    jobs, values = fn.jobs(N=4), values_of(fn)
    with pytest.raises(ArgumentError, match=r"sizes {'N': 5} but the jobs were made for {'N': 4}"):
        jobs[0](*values)
    with pytest.raises(ArgumentError, match=r"there are 4 jobs, but not as many parts"):
        put_together(jobs, [])
    with pytest.raises(ArgumentError, match="no jobs are given"):
        put_together([], [])
    with pytest.raises(
        ArgumentError, match="argument 'x' requires a gradient, which does not go through jobs"
    ):
        run(fn)(values[0].requires_grad_(), values[1])


def test_jobs_of_a_function_of_any_size():
    fn = tnconv.compile(torch.nn.Conv2d(2, 3, 3), "weight_vjp", memory_limit=6000)
    x, dy = torch.randn(4, 2, 9, 8, dtype=torch.float64), torch.randn(4, 3, 7, 6, dtype=torch.float64)
    with pytest.raises(
        PlanError, match=r"made for given sizes \['H', 'N', 'W'\], but got \['N'\]|depends on H, W"
    ):
        fn.jobs(N=4)
    jobs = fn.jobs(N=4, H=9, W=8)
    assert len(jobs) > 1
    assert distance(put_together(jobs, [job(x, dy) for job in jobs]), fn(x, dy)) <= CLOSE
    assert distance(run(fn)(x, dy), fn(x, dy)) <= CLOSE


def test_operations_that_are_compiled_together_are_refused():
    fn = tnconv.compile(GROUPED, ["weight_vjp", "kfac_expand"])
    with pytest.raises(OperationError, match=r"compiled together, with a network each; give one of them"):
        run(fn)
    assert len(fn.functions[0].jobs(N=2)) == 1


def test_one_process_alone():
    for op, limit, _ in CHUNKED:
        fn = limited(op, limit)
        values = values_of(fn)
        assert distance(run(fn)(*values), fn(*values)) <= CLOSE
    with torch.no_grad():
        assert distance(run(fn)(**dict(zip(fn.arguments, values, strict=True))), fn(*values)) <= CLOSE


def test_what_was_finished_is_not_done_again(tmp_path, monkeypatch):
    fn = limited("kfac_expand")
    values = values_of(fn)
    count = len(fn.jobs(N=N))
    with monkeypatch.context() as patch:
        first = Counted(patch, end=2)
        with pytest.raises(KeyboardInterrupt):
            run(fn, resume=tmp_path, every=0)(*values)
    with monkeypatch.context() as patch:
        second = Counted(patch)
        found = run(fn, resume=tmp_path, every=0)(*values)
    assert first.numbers + second.numbers == list(range(count))
    assert distance(found, fn(*values)) <= CLOSE
    with monkeypatch.context() as patch:
        third = Counted(patch)
        assert torch.equal(run(fn, resume=tmp_path)(*values), found)
    assert third.numbers == []


def test_a_folder_is_of_one_computation(tmp_path):
    fn = limited("weight_vjp")
    x, dy = values_of(fn)
    run(fn, resume=tmp_path)(x, dy)
    with pytest.raises(
        ArgumentError, match="sums of another computation: its arguments differ; give another"
    ):
        run(fn, resume=tmp_path)(x + 1, dy)
    with pytest.raises(ArgumentError, match="sums of another computation: its plan differ"):
        run(limited("gradient_norm"), resume=tmp_path)(x, dy)


def test_nothing_is_counted_twice(tmp_path):
    folder = Folder(tmp_path)
    none = torch.zeros(5, dtype=torch.bool)

    def jobs(*numbers: int) -> torch.Tensor:
        found = none.clone()
        found[list(numbers)] = True
        return found

    total = torch.tensor([1.0])
    folder.save(total, jobs(0, 1), 0, [])
    folder.save(total * 2, jobs(0, 1, 2), 0, [])  # killed before it deleted the one in its place
    folder.save(total * 5, jobs(4), 1, [])
    (tmp_path / "unfinished-1").mkdir()
    kept = folder.sums()
    assert [each.jobs.nonzero().flatten().tolist() for each in kept] == [[0, 1, 2], [4]]
    assert [each.total(total).item() for each in kept] == [2.0, 5.0]
    folder.save(total, jobs(2, 3), 0, [])
    with pytest.raises(ArgumentError, match="share jobs; it was written by two runs at once"):
        folder.sums()


def test_a_rank_is_killed_and_others_go_on_later(tmp_path):
    """Jobs that both had finished are not done again by four, and count once; the first job takes rank 0 long."""
    first = start(tmp_path, 1, 2, pause=0.2)
    wait(lambda: len(begun(tmp_path, 1, 1)) > 2)
    first[1].kill()
    begin = time.monotonic()
    (message,) = outcomes(tmp_path, 1, first).values()
    assert time.monotonic() - begin < PATIENCE
    assert re.match(r"rank 0 of 2 waits for another that is lost \(.*finished sums are in ", message)
    assert begun(tmp_path, 1, 0) == [0, 2, 4, 6, 8]
    done = {int(n) for each in Folder(tmp_path / "sums").sums() for n in each.jobs.nonzero()}
    assert {0, 1, 2, 3, 4, 6, 8} <= done < set(range(10))
    assert outcomes(tmp_path, 2, start(tmp_path, 2, 4)) == dict.fromkeys(range(4), "equal")
    assert set(begun(tmp_path, 2)) == set(range(10)) - done


def test_what_is_explained_of_jobs():
    fn = limited("kfac_expand", 700)
    explained = run(fn).explain(*(each.to("meta") for each in values_of(fn)))
    assert (explained.jobs, explained.most, explained.traffic) == (10, 10, ())
    assert str(explained).startswith("conv1d.kfac_expand: 10 jobs, at most 10 for each of 1 ranks")
    dist.init_process_group("fake", rank=0, world_size=4)
    try:
        shared = run(fn).explain(*(each.to("meta") for each in values_of(fn)))
    finally:
        dist.destroy_process_group()
    size = 8 * 2 * 6 * 6  # of the factor of two groups
    assert (shared.jobs, shared.most) == (10, 3)
    assert shared.compute == 3 * shared.job == pytest.approx(0.3 * explained.compute)
    assert str(shared).splitlines()[1] == f"  result: added up; all-reduce, {2 * size * 3 // 4} bytes"
    assert shared.collectives(Interconnect(1.0, 2.0)) == {"all-reduce": 4 + 0.5 * (2 * size * 3 // 4)}
