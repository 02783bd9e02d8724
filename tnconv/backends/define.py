"""From a generated source to its function, whose lines a traceback shows as long as somebody holds it."""

import itertools
import linecache
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

_numbers = itertools.count()


def define(name: str, source: str, names: Mapping[str, Any]) -> Callable[..., Tensor]:
    """The function of a source.

    Args:
        name: of the function in it.
        source: its text.
        names: what the text uses besides its arguments.
    """
    filename = f"<tnconv {name} {next(_numbers)}>"
    space = dict(names)
    exec(compile(source, filename, "exec"), space)
    function: Callable[..., Tensor] = space.pop(name)  # else it would hold itself, and wait for the collector
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return function
