"""Results of pure functions of integers, kept between calls, and worked out anew where torch.compile traces them.

Torch's tracer looks through `functools.lru_cache` and warns the user of it, who has nothing to do with it.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with its last 1,024 results kept.

    Args:
        function: of hashable arguments that alone decide its result.
    """
    kept = lru_cache(maxsize=1024)(function)

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **options)
        return kept(*args, **options)  # type: ignore[arg-type]

    return call
