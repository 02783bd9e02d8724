"""How long, and how, the order of a large network is searched for: an option, read once."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from tnconv.errors import PlanError
from tnconv.ir import as_integer

# What suggests parameters, and the heuristics, each with the package that it needs.
_OPTLIBS = {
    "sbplx": None, "sses": None, "neldermead": None, "random": None,
    "optuna": "optuna", "cmaes": "cmaes", "nevergrad": "nevergrad", "skopt": "skopt",
}  # fmt: skip
_METHODS = {
    "greedy": None, "labels": None, "random-greedy": None,
    "kahypar": "kahypar", "spinglass": "igraph", "betweenness": "igraph", "walktrap": "igraph",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How long, and how, cotengra's `HyperOptimizer` searches for the order of a large network.

    Args:
        trials: trees that it makes; 32 if neither this nor `seconds` is given.
        seconds: after which no other tree is begun. How many there are then differs from run to run, and so may the
            plan.
        seed: of all that is random.
        optlib: what suggests the parameters of the heuristics: "sbplx", "sses", "neldermead", "random"; "optuna",
            "cmaes", "nevergrad", "skopt" where they are installed.
        methods: the heuristics; if left out "greedy", and "kahypar" or, where that is not installed, "labels".
        progress: whether to show a bar.
    """

    trials: int | None = None
    seconds: float | None = None
    seed: int = 0
    optlib: str = "sbplx"
    methods: tuple[str, ...] = ()
    progress: bool = False

    @classmethod
    def read(cls, given: object) -> "Search":
        """From a mapping, as `search={"seconds": 10}`.

        Raises:
            PlanError: a key or a value is not known, or needs a package that is not installed.
        """
        if isinstance(given, Search):
            return given
        known = tuple(each.name for each in fields(cls))
        if not isinstance(given, Mapping) or not set(given) <= set(known):
            odd = (
                next((key for key in given if key not in known), None) if isinstance(given, Mapping) else None
            )
            what = f"search={given!r} is no mapping" if odd is None else f"search has {odd!r}"
            raise PlanError(f"{what}; give some of {', '.join(known)}, as in search={{'seconds': 10}}")
        return cls(**{key: _READERS[key](key, value) for key, value in given.items() if value is not None})

    @property
    def heuristics(self) -> tuple[str, ...]:
        """The methods, or those by default."""
        return self.methods or ("greedy", "kahypar" if _installed("kahypar") else "labels")


def _count(key: str, value: object) -> int:
    number = as_integer(value)
    least = 0 if key == "seed" else 1
    if number is None or number < least:
        raise PlanError(
            f"search has {key}={value!r}, which is no integer of at least {least}; give one, or leave it out"
        )
    return number


def _seconds(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < inf:
        raise PlanError(
            f"search has {key}={value!r}, which is no positive number; give seconds, or leave it out"
        )
    return float(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"search has {key}={value!r}, a {type(value).__name__}; give True or False")
    if value and not _installed("tqdm"):
        raise PlanError(f"search has {key}=True, which needs tqdm; pip install tqdm, or leave it out")
    return value


def _optlib(key: str, value: object) -> str:
    return _one_of(key, value, _OPTLIBS)


def _methods(key: str, value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names:
        raise PlanError(f"search has {key}={value!r}; give some of {', '.join(_METHODS)}")
    return tuple(_one_of(key, name, _METHODS) for name in names)


def _one_of(key: str, value: object, known: Mapping[str, str | None]) -> str:
    if not isinstance(value, str) or value not in known:
        raise PlanError(f"search has {key}={value!r}, which is not known; use one of {', '.join(known)}")
    package = known[value]
    if package is not None and not _installed(package):
        free = ", ".join(name for name, needs in known.items() if needs is None)
        raise PlanError(
            f"search has {key}={value!r}, which needs the package {package}; pip install {package}, or use one of "
            f"{free}"
        )
    return value


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "trials": _count, "seconds": _seconds, "seed": _count, "optlib": _optlib, "methods": _methods, "progress": _flag,
}  # fmt: skip
