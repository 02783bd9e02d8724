"""What processes that each have a part of the data tell each other."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree


def add_up(tensors: Iterable[Tensor], group: Any) -> None:
    """Replace tensors by their sums over the processes of a group, or of one process alone where it is None."""
    if group is not None:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)


def totals(counts: list[float], like: Tensor, group: Any) -> list[float]:
    """The sums of counts over processes.

    Args:
        counts: of this process.
        like: a tensor on the device of the process.
        group: a process group, or None.
    """
    summed = torch.tensor(counts, dtype=torch.float64, device=like.device)
    add_up([summed], group)
    found: list[float] = summed.tolist()
    return found


def own_seed(seed: int, group: Any) -> int:
    """The seed of a process, so that no two draw alike: that given, and one more for each rank."""
    return seed if group is None else seed + dist.get_rank(group)


def of_all(value: Any, like: Tensor, group: Any) -> list[Any]:
    """What every process has, in the order of ranks.

    Args:
        value: of this process: a tensor, or tensors in lists, tuples and dicts.
        like: a tensor on the device of the process, where the tensors are to be.
        group: a process group.
    """
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group)
    moved: list[Any] = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(like.device), found)
    return moved
