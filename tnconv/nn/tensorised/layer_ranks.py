"""Ranks by layer: a dict of names of modules, which may be patterns."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tnconv.errors import SpecError
from tnconv.nn.tensorised.criteria import is_nearness


def ranks_by_layer(rank: Any, names: Mapping[nn.Module, Sequence[str]]) -> dict[nn.Module, Any]:
    """The rank of each layer, without those that stay dense.

    Args:
        rank: one for all layers; or ranks by names or patterns such as `"layer3.*"`, of which the first that matches
            counts; None is a layer that stays.
        names: of each layer that may be replaced.

    Raises:
        SpecError: a pattern matches no layer.
    """
    if not isinstance(rank, Mapping) or is_nearness(rank):
        return dict.fromkeys(names, rank)
    found: dict[nn.Module, Any] = {}
    for pattern in rank:
        matched = [
            module
            for module, own in names.items()
            if isinstance(pattern, str) and any(fnmatchcase(name, pattern) for name in own)
        ]
        if not matched:
            known = ", ".join(own[0] or "the model" for own in names.values())
            raise SpecError(
                f"rank has {pattern!r}, which matches no layer that is replaced; they are {known or 'none'} "
                "(pointwise=True, linear=True and transposed=True take more)"
            )
        for module in matched:
            found.setdefault(module, rank[pattern])
    return {module: found[module] for module in names if found.get(module) is not None}
