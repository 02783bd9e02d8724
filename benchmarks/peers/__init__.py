"""What tnconv is compared with; each peer computes the same numbers, or its row is refused."""

from collections.abc import Callable, Collection

from benchmarks.peers import compiled, einconv, packages, pytorch
from benchmarks.peers.base import TOLERANCES, Peer, Problem, tolerance

__all__ = ["MAKERS", "TOLERANCES", "Peer", "Problem", "available", "tolerance"]

MAKERS: dict[str, Callable[[Problem], list[Peer]]] = {
    "pytorch": pytorch.peers,
    "einconv": einconv.peers,
    **packages.PACKAGES,
    "compiled": compiled.peers,
}


def available() -> list[str]:
    """The makers whose package is installed, without `compiled`, which takes seconds a layer."""
    return [name for name in MAKERS if name == "pytorch" or (name != "compiled" and packages.installed(name))]


def make(p: Problem, names: Collection[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers of a problem, and why the others were not made."""
    made: list[Peer] = []
    refused: dict[str, str] = {}
    for name in names:
        try:
            made += MAKERS[name](p)
        except Exception as error:  # a peer may fail in any way, and that must not end the run
            refused[name] = f"{type(error).__name__}: {error}"[:200]
    return made, refused
