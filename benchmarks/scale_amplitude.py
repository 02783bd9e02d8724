"""An amplitude of 53 qubits over many ranks: trees of ever more slices, each slice priced as a compiled plan."""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import log10
from typing import Any
from unittest import mock

import cotengra
import msgspec

import tnconv
from tnconv import plugins
from tnconv.backends import cache_files
from tnconv.backends.torch.calibration import MEASURED
from tnconv.backends.torch.profile import FILE, Profile, profile_of
from tnconv.distributed import Interconnect
from tnconv.distributed.local_function import predicted_seconds
from tnconv.distributed.placements import all_reduce
from tnconv.distributed.sharded_explanation import JobsExplanation
from tnconv.ir import Index, Network, Tensor, group
from tnconv.planner.search import Problem

RANKS = (1, 4, 16, 64, 256, 1024, 4096)
LINKS = {
    "10 Gb/s Ethernet": Interconnect(20e-6, 1.25e9),
    "200 Gb/s InfiniBand": Interconnect(2e-6, 25e9),
}
CYCLES, TARGET, TRIALS = 10, 2**27, 16  # of the circuit; elements of an intermediate; trees that are tried
STEP = 2  # times as many slices as the tree before
PLANNER = "tree_of_amplitude"
PRODUCTS = (
    "matmul",
    "convolution",
    "depthwise",
    "reference",
)  # rates of multiplications; others are of elements

Row = dict[str, Any]


def circuit(cycles: int, rows: int = 6, columns: int = 9) -> list[tuple[str, ...]]:
    """The indices of the gates on two qubits of a circuit like Sycamore's (Arute et al. 2019): 53 qubits on a grid.

    Gates on one qubit, the first state and the last are part of their neighbours; bonds follow each other as ABCDCDAB.
    """
    turns = {qubit: 0 for qubit in product(range(rows), range(columns)) if qubit != (0, 0)}
    gates: list[list[str]] = []
    for cycle in range(cycles):
        kind = "ABCDCDAB"[cycle % 8]
        for row, column in list(turns):
            other = (row, column + 1) if kind in "AB" else (row + 1, column)
            if other not in turns or (row + column) % 2 != (kind in "BD"):
                continue
            gates.append([])
            for qubit in ((row, column), other):
                if turns[qubit]:
                    gates[-1].append(f"q{qubit}_{turns[qubit]}")
                turns[qubit] += 1
                gates[-1].append(f"q{qubit}_{turns[qubit]}")
    last = {f"q{qubit}_{turn}" for qubit, turn in turns.items()}
    return [tuple(leg for leg in gate if leg not in last) for gate in gates]


def sliced_trees(cycles: int, target: int, trials: int, slices: int) -> list[cotengra.ContractionTree]:
    """The best of some trees, and the same with ever more slices.

    Args:
        cycles: of the circuit.
        target: elements of the largest intermediate; the first tree has as few slices as keep to it.
        trials: trees that are tried.
        slices: of the last tree, at least.
    """
    gates = circuit(cycles)
    random.seed(0)
    search = cotengra.HyperOptimizer(
        methods=("greedy", "labels"), minimize="combo", max_repeats=trials, parallel=False, progbar=False,
        slicing_reconf_opts={"target_size": target}, seed=0,
    )  # fmt: skip
    found = [search.search(gates, (), {leg: 2 for gate in gates for leg in gate})]
    while found[-1].nslices < slices:
        tree = found[-1].slice(target_slices=STEP, minimize="combo", max_repeats=64, seed=0)
        found.append(tree.subtree_reconfigure(minimize="combo"))
    return found


def seconds_of_slice(tree: cotengra.ContractionTree, rates: Profile) -> float:
    """Predicted seconds of one slice of complex numbers: those of the program of this tree, as kernels are priced."""
    cut = set(tree.sliced_inds)
    names = {leg: f"e{number}" for number, leg in enumerate(tree.size_dict)}
    tensors = tuple(
        Tensor(f"t{place}", "input", tuple(group(Index(names[leg], 2)) for leg in legs if leg not in cut))
        for place, legs in enumerate(tree.inputs)
    )

    def proposed(problem: Problem) -> Any:
        parts: list[Any] = [problem.names.index(f"t{place}") for place in range(tree.N)]
        for left, right in tree.get_ssa_path():
            parts.append((parts[left], parts[right]))
        return parts[-1]

    plugins.register(plugins.PLANNERS, PLANNER, proposed)
    try:
        with priced_by(of_complex(rates)):
            return predicted_seconds(tnconv.compile(Network("amplitude", tensors, ()), planner=PLANNER))
    finally:
        plugins.unregister(plugins.PLANNERS, PLANNER)


def of_complex(rates: Profile) -> Profile:
    """The rates of complex numbers: four multiplications for one, two elements for one."""
    fewer = dict.fromkeys((*MEASURED, "cache"), 2) | dict.fromkeys(PRODUCTS, 4) | {"call": 1}
    return msgspec.structs.replace(rates, **{name: getattr(rates, name) / by for name, by in fewer.items()})


def amplitude(rates: Profile) -> dict[str, Any]:
    """Predicted seconds of an amplitude over ranks, each with its share of the slices of the tree that is quickest."""
    begin = time.process_time()
    found = sliced_trees(CYCLES, TARGET, TRIALS, RANKS[-1])
    planning = time.process_time() - begin
    trees = [
        {
            "slices": int(tree.nslices),
            "job": seconds_of_slice(tree, rates),
            "multiplications": log10(tree.contraction_cost()),
            "elements": int(tree.contraction_width()),
        }
        for tree in found
    ]
    return {
        "tensors": found[0].N,
        "cycles": CYCLES,
        "planning": planning,
        "trees": trees,
        "rows": shares(trees),
    }


def shares(trees: Sequence[Row]) -> list[Row]:
    """For each number of ranks the slices of each, of the tree that is quickest."""
    rows = []
    for ranks in RANKS:
        added = all_reduce("result", 8, ranks)
        every = [JobsExplanation("amplitude", t["slices"], ranks, t["job"], added) for t in trees]
        best = min(every, key=lambda each: each.compute)
        sums = {name: sum(best.collectives(link).values()) for name, link in LINKS.items()}
        rows.append(
            {"ranks": ranks, "slices": best.jobs, "jobs": best.most, "compute": best.compute, "sums": sums}
        )
    return rows


@contextmanager
def priced_by(rates: Profile) -> Iterator[None]:
    """Everything is priced by these rates meanwhile."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"TNCONV_CACHE": folder}):
        cache_files.write(FILE, {"cpu": rates}, Profile)
        profile_of.cache_clear()
        try:
            yield
        finally:
            profile_of.cache_clear()
