"""A folder of finished sums: which jobs are in which, so that none is lost and none is counted twice.

A sum is one checkpoint of `torch.distributed.checkpoint`: a tensor, and for every job whether it is in it. It is
written beside the others and given its name last, so that whatever has a name is whole. The sums that ranks write grow
by jobs, or by other sums as a whole: of any two, one has all jobs of the other and takes its place, or they share none.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from tnconv.compiler.chunk_jobs import ChunkJob
from tnconv.errors import ArgumentError

_ABOUT, _SUM, _UNFINISHED = "about.json", "sum-", "unfinished-"


@dataclass(frozen=True, slots=True)
class FinishedSum:
    """The sum of some jobs.

    Args:
        path: of its checkpoint.
        jobs: for each job whether it is in the sum.
    """

    path: Path
    jobs: Tensor

    def total(self, like: Tensor) -> Tensor:
        """The sum, as a tensor like another."""
        found = {"total": torch.empty_like(like, device="cpu")}
        _quietly(lambda: load(found, checkpoint_id=self.path, no_dist=True))
        return found["total"].to(like.device)


@dataclass(frozen=True, slots=True)
class Folder:
    """The finished sums of one computation.

    Args:
        path: of the folder; every rank sees the same.
    """

    path: Path

    def claim(self, jobs: Sequence[ChunkJob], tensors: Sequence[Tensor]) -> None:
        """Say what the folder is for, or check that it is for that; by one rank.

        Raises:
            ArgumentError: it has sums of another computation.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for each in self.path.glob(f"{_UNFINISHED}*"):  # of runs that were killed
            shutil.rmtree(each, ignore_errors=True)
        about = {"plan": digest(jobs), "arguments": [_values(each) for each in tensors]}
        file = self.path / _ABOUT
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in about if known.get(name) != about[name]]
            if differing:
                raise ArgumentError(
                    f"folder {str(self.path)!r} has sums of another computation: its {differing[0]} differ; give "
                    "another folder, or the arguments and the function that it was made with"
                )
            return
        part = file.with_suffix(".part")
        part.write_text(json.dumps(about), encoding="utf-8")
        part.rename(file)

    def sums(self) -> list[FinishedSum]:
        """The sums that have all jobs which were finished, each job once.

        Raises:
            ArgumentError: two sums share some of their jobs.
        """
        found = sorted((path for path in self.path.iterdir() if path.name.startswith(_SUM)), key=str)
        read = [FinishedSum(path, _jobs(path)) for path in found]
        read.sort(key=lambda each: -int(each.jobs.sum()))
        kept: list[FinishedSum] = []
        for each in read:
            shared = [other for other in kept if bool((other.jobs & each.jobs).any())]
            if not shared:
                kept.append(each)
            elif not bool((each.jobs <= shared[0].jobs).all()):
                raise ArgumentError(
                    f"sums {each.path.name!r} and {shared[0].path.name!r} of folder {str(self.path)!r} share jobs; it "
                    "was written by two runs at once: begin anew in an empty folder"
                )
        return kept

    def save(self, total: Tensor, jobs: Tensor, rank: int, instead: Sequence[Path]) -> Path:
        """Write a sum.

        Args:
            total: the sum.
            jobs: that are in it.
            rank: who writes it.
            instead: checkpoints that it takes the place of, which are deleted then.

        Returns:
            Where it is.
        """
        name = f"{rank}-{os.getpid()}-{time.time_ns()}"
        part, path = self.path / f"{_UNFINISHED}{name}", self.path / f"{_SUM}{name}"
        state = {"total": total, "jobs": jobs}
        _quietly(lambda: save(state, checkpoint_id=part, no_dist=True))
        part.rename(path)
        for each in instead:
            gone = each.with_name(each.name.replace(_SUM, _UNFINISHED, 1))
            each.rename(gone)  # at once: half of a sum is none
            shutil.rmtree(gone, ignore_errors=True)
        return path


def _jobs(path: Path) -> Tensor:
    stored = FileSystemReader(path).read_metadata().state_dict_metadata["jobs"]
    found = {"jobs": torch.empty(stored.size, dtype=torch.bool)}  # type: ignore[union-attr]
    _quietly(lambda: load(found, checkpoint_id=path, no_dist=True))
    return found["jobs"]


def _quietly(work: Callable[[], object]) -> None:
    """Without the warning that no process group takes part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        work()


def digest(jobs: Sequence[ChunkJob]) -> str:
    """Tells one list of jobs from another: by what is computed, in which order and pieces."""
    first = jobs[0].function
    text = "\n".join([str(first.network), str(first.plan), *(f"{job.sizes} {job.pieces}" for job in jobs)])
    return hashlib.sha256(text.encode()).hexdigest()


def _values(tensor: Tensor) -> str:
    """Tells the values of one tensor from those of another."""
    cells = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(
        f"{tuple(tensor.shape)} {tensor.dtype}".encode() + cells.numpy().tobytes()
    ).hexdigest()
