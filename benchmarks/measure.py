"""One row: an operation of a layer by tnconv and by every peer, values checked, times side by side, memory."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import tnconv
from benchmarks.cases import ROWS, Case
from benchmarks.memory import peak_bytes
from benchmarks.peers import Peer, Problem, make, tolerance
from benchmarks.timing import Clock, Race, quartiles, race
from tnconv.compiler.compile_cache import COMPILED

OURS = "tnconv"
_CLOSE = 1.6  # a peer this much slower than the fastest is not timed in all rounds
_HOPELESS = 5.0  # nor tried on alike layers, if it was so twice


@dataclass
class Bench:
    """What does not change from row to row.

    Args:
        names: makers of peers.
        rounds: rounds that count.
        device: "cpu" or "cuda".
        rates: multiplications and bytes a second, for the roofline.
        scale: examples for each one of `Case.batch_of`.
        seconds: once a row's rounds took this long, 7 are enough.
        memory: whether peaks are measured.
        dtype: that of all tensors.
    """

    names: Collection[str]
    rounds: int = 9
    device: str = "cpu"
    rates: dict[str, float] = field(default_factory=dict)
    scale: int = 1
    seconds: float = 0.5
    memory: bool = True
    dtype: torch.dtype = torch.float32
    _slow: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def row(self, case: Case, op: str) -> dict[str, Any]:
        """Measure.

        Raises:
            RuntimeError: PyTorch's implementation and tnconv disagree.
        """
        batch = case.batch_of(op) * self.scale
        function, compile_seconds = self._compile(case, op, batch)
        tensors = case.tensors(batch, self.dtype, self.device)
        arguments = [tensors[name] for name in function.arguments]
        ours = Peer(OURS, lambda: function(*arguments))
        want = ours.call()
        peers, single, refused = self._checked(Problem(case, op, tensors), want)
        calls = {p.name: p.call for p in (ours, *peers)}
        found = race(calls, self.rounds, Clock(self.device), seconds=self.seconds)
        mine = _timed(found, ours)
        timed = {p.name: _timed(found, p) for p in peers}
        for peer, seconds in single:
            timed[peer.name] = {"ms": seconds * 1e3, "ratio": mine["ms"] / (seconds * 1e3), "rounds": 1}
        self._remember(case, op, timed)
        return {
            "set": case.set, "layer": case.name, "op": op, "category": case.category, "batch": batch,
            "count": case.count, "kernels": [c.kernel for c in function.program.choices],
            "compile_ms": compile_seconds * 1e3, "ms": mine["ms"], "ms_quartiles": mine["ms_quartiles"],
            "rounds": mine["rounds"], "disturbed": found.disturbed(OURS), "noisy": found.noisy(),
            **_strongest(timed), **self._counts(function, arguments, want, mine["ms"]),
            **(self._memory(case, batch, want, calls) if self.memory else {}), "peers": timed, "refused": refused,
        }  # fmt: skip

    def _compile(self, case: Case, op: str, batch: int) -> tuple[tnconv.CompiledFunction, float]:
        hints = {"N": batch} | ({"V": ROWS} if op.startswith("ggn") else {})
        COMPILED.clear()
        start = time.perf_counter()
        function = tnconv.compile(case.spec, op, hints=hints, device=self.device)
        return function, time.perf_counter() - start

    def _checked(
        self, problem: Problem, want: Tensor
    ) -> tuple[list[Peer], list[tuple[Peer, float]], dict[str, str]]:
        """Peers to time in full, peers that are too slow for it with their time, and those that are not the same."""
        case, op = problem.case, problem.op
        made, refused = make(problem, self.names)
        clock, limit = Clock(self.device), tolerance(want.dtype)
        times: dict[str, float] = {}
        best = float("inf")
        for peer in made:
            past = self._slow[(peer.name, op, case.category)]
            if len(past) >= 2 and min(past) > _HOPELESS:
                refused[peer.name] = (
                    f"left out: {min(past):.0f} times as slow as the strongest on alike layers"
                )
                continue
            start = time.perf_counter()
            wrong = _wrong(peer, want, limit, problem.tensors.values())
            first = time.perf_counter() - start
            if wrong:
                if peer.name == "pytorch":
                    raise RuntimeError(f"{case.name} {op}: PyTorch {wrong}")
                refused[peer.name] = wrong
                continue
            slow = first > 2 * _HOPELESS * best
            times[peer.name] = first if slow else min(clock.seconds(peer.call) for _ in range(2))
            best = min(best, times[peer.name])
        alive = [p for p in made if p.name in times]
        fast = [p for p in alive if times[p.name] <= _CLOSE * best or p.name == "pytorch" or p.compiled]
        return fast, [(p, times[p.name]) for p in alive if p not in fast], refused

    def _remember(self, case: Case, op: str, timed: dict[str, Any]) -> None:
        best = min(t["ms"] for t in timed.values())
        for name, t in timed.items():
            self._slow[(name, op, case.category)].append(t["ms"] / best if name != "pytorch" else 1.0)

    def _counts(
        self, function: tnconv.CompiledFunction, arguments: list[Tensor], result: Tensor, ms: float
    ) -> dict[str, Any]:
        """Exact counts, and time over what multiplications or compulsory traffic take at the machine's rates."""
        symbols = function.network.symbols
        sizes = {"N": _batch(function, arguments), "V": ROWS}
        cost = function.cost.at(**{s: sizes[s] for s in symbols})
        moved = sum(t.numel() * t.element_size() for t in (*arguments, result))
        counts = {
            "multiplications": cost.multiplications,
            "reported_bytes": cost.peak_elements * result.element_size(),
            "result_bytes": result.numel() * result.element_size(),
        }
        if not self.rates:
            return counts
        bound = max(cost.multiplications / self.rates["multiplications"], moved / self.rates["bytes"])
        return counts | {"bound_ms": bound * 1e3, "roofline": ms / (bound * 1e3)}

    def _memory(
        self, case: Case, batch: int, want: Tensor, calls: dict[str, Callable[[], Tensor]]
    ) -> dict[str, Any]:
        """Peaks, results among them, and the unfolded input to compare with."""
        peaks = {name: peak_bytes(call, self.device)[0] for name, call in calls.items()}
        unfolded = case.unfolded(batch) * want.element_size()
        return {"peak_bytes": peaks.pop(OURS), "unfolded_bytes": unfolded, "peer_peak_bytes": peaks}


def _timed(found: Race, peer: Peer) -> dict[str, Any]:
    seconds, ratios = found.seconds(peer.name), found.ratios(OURS, peer.name)
    return {
        "ms": statistics.median(seconds) * 1e3,
        "ms_quartiles": [1e3 * t for t in quartiles(seconds)],
        "ratio": statistics.median(ratios),
        "ratio_quartiles": list(quartiles(ratios)),
        "rounds": len(ratios),
        **({"compile_s": peer.seconds} if peer.compiled else {}),
    }


def _strongest(timed: dict[str, Any]) -> dict[str, Any]:
    """The eager peer against which tnconv does worst."""
    eager = {name: t["ratio"] for name, t in timed.items() if name != "compiled"}
    name = max(eager, key=eager.__getitem__)
    return {
        "strongest": name,
        "ratio": eager[name],
        "pytorch_ratio": timed.get("pytorch", {}).get("ratio", 1.0),
    }


def _batch(function: tnconv.CompiledFunction, arguments: list[Tensor]) -> int:
    """N, from the first argument that has it."""
    places = {"x": 0, "grad_output": 0, "z": 1}
    name = next(name for name in function.arguments if name in places)
    return arguments[function.arguments.index(name)].shape[places[name]]


def _wrong(peer: Peer, want: Tensor, limit: float, arguments: Iterable[Tensor]) -> str | None:
    try:
        return peer.check(want, limit, arguments)
    except Exception as error:  # a peer may fail in any way, and that must not end the run
        return f"{type(error).__name__}: {error}"[:200]
