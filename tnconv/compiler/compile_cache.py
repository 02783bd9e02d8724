"""What was compiled in this process, so that compiling the same once more is a look-up.

A key holds all that a compilation depends on: the layer or the network, the operation, every option as it was checked,
what is registered with `tnconv.plugins`, the rates of the machine, torch's default dtype and its number of threads.
What cannot be a key, such as a pass that is no value, is compiled anew each time, and so is what `verify=` asks to
check. What calls change (such as what is kept of constant arguments) is never shared: `tnconv.compile` gives every
caller a function of its own.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any, TypeVar, cast

import numpy as np
import torch

from tnconv.passes import Pass, Pipeline
from tnconv.planner.effort import Search

Made = TypeVar("Made")


class CompileCache:
    """Values by key, those used most recently; any number of threads may ask at once.

    Args:
        most: how many are kept; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._made: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for a key, or is made now.

        Two threads that ask for a new key at the same time both make it, and are given the same.

        Args:
            key: all that the value depends on; where it is not hashable the value is made anew.
            make: makes the value; what it raises is raised, and nothing is kept.
        """
        found = self.find(key, _NOTHING)
        return self.keep(key, make()) if found is _NOTHING else cast(Made, found)

    def find(self, key: Hashable, default: Any = None) -> Any:
        """What was made for a key; the default where nothing was, or the key is not hashable."""
        try:
            found = self._made[key]
            self._made.move_to_end(key)
        except (KeyError, TypeError):  # maybe forgotten meanwhile
            return default
        return found

    def keep(self, key: Hashable, made: Made) -> Made:
        """Keep a value, unless there is one for the key or that is not hashable; returns what is kept."""
        try:
            hash(key)
        except TypeError:
            return made
        with self._lock:
            made = self._made.setdefault(key, made)
            self._made.move_to_end(key)
            while len(self._made) > self.most:
                self._made.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forget all, so that the next compilation is one: for measuring it, or after a class was patched in place."""
        with self._lock:
            self._made.clear()

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._made))

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made


_NOTHING = object()
COMPILED = CompileCache(512)  # of the process; some 40 kB each


def as_key(value: Any) -> Hashable:
    """An option as it was given as a part of a key: equal only where type and value are.

    What may change behind its hash, such as a pass that is no frozen dataclass, gives a key that is not hashable.
    """
    kind = type(value)
    if kind in _PLAIN:
        return (kind, value)
    if isinstance(value, Mapping):
        return _unordered(dict, [(as_key(name), as_key(each)) for name, each in value.items()])
    if kind is list or kind is tuple:
        return (kind, tuple(map(as_key, value)))
    if kind is set or kind is frozenset:
        return _unordered(kind, [as_key(each) for each in value])
    if kind is Pipeline:
        return (kind, tuple(map(as_key, value.passes)))
    return _pass_key(value) if isinstance(value, Pass) else _NO_KEY


def _pass_key(value: Pass) -> Hashable:
    """A pass by its class and options, where these are all that it is."""
    kind: Any = type(value)
    params = kind.__dict__.get("__dataclass_params__")  # not those of a base class
    if params is None or not params.frozen:
        return _NO_KEY
    options = [each.name for each in fields(kind)]
    if getattr(value, "__dict__", {}).keys() - options:
        return _NO_KEY
    return (kind, tuple(as_key(getattr(value, name)) for name in options))


_PLAIN = frozenset(
    (
        type(None),
        bool,
        int,
        float,
        Fraction,
        str,
        np.bool_,
        np.int32,
        np.int64,
        torch.dtype,
        torch.device,
        Search,
    )
)
_NO_KEY = cast(Hashable, [])  # which it is not


def _unordered(kind: type, parts: list[Hashable]) -> Hashable:
    try:
        return (kind, frozenset(parts))
    except TypeError:  # one of the parts has no key
        return _NO_KEY
