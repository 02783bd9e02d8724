"""Networks of hundreds of tensors as one equation, with values that are known by other means.

    pip install tnconv
    python examples/large_networks.py

How many sets of edges of a graph meet every node evenly, what spins on a square lattice weigh together, the amplitude
of a circuit, and a chain of convolutions with nothing between them. The script contracts them and prints what it took;
`--quick` takes smaller ones. docs/howto/large_networks.md explains the options of the search.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tnconv


@dataclass(frozen=True)
class Example:
    """What is contracted.

    Args:
        name: of the network.
        compiled: makes the function.
        tensors: its arguments.
        exact: the value, by other means.
    """

    name: str
    compiled: Callable[[], Callable[..., Tensor]]
    tensors: list[Tensor]
    exact: Callable[[], Tensor]


def of_equation(
    name: str, terms: list[str], output: str, tensors: list[Tensor], exact: Callable[[], Tensor]
) -> Example:
    """The example of an equation."""
    equation, shapes = f"{', '.join(terms)} -> {output}", [tensor.shape for tensor in tensors]
    return Example(name, lambda: tnconv.einsum_expression(equation, *shapes), tensors, exact)


def even_subgraphs(nodes: int) -> Example:
    """Sets of edges of a random graph that meet every node evenly; there are 2^(edges - nodes + components).

    Each edge is an index of size 2, in the set or not, each node a tensor that is 1 where evenly many are.
    """
    graph = nx.random_regular_graph(3, nodes, seed=0)
    names = {frozenset(edge): f"e{number}" for number, edge in enumerate(graph.edges)}
    bits = torch.cartesian_prod(*[torch.arange(2)] * 3).sum(1).reshape(2, 2, 2)
    terms = [" ".join(names[frozenset((node, other))] for other in graph[node]) for node in graph]
    cycles = len(names) - nodes + nx.number_connected_components(graph)
    count = torch.tensor(2.0**cycles, dtype=torch.float64)
    return of_equation("random graph", terms, "", [(1.0 - bits % 2).double()] * nodes, lambda: count)


def lattice(rows: int, columns: int, coupling: float = 0.2) -> Example:
    """The partition function of spins on a square lattice (Ising 1925): spins are indices, bonds matrices.

    The transfer matrix has it, too: 2^columns states of a row, row after row.
    """
    bonds = [((r, c), (r, c + 1)) for r in range(rows) for c in range(columns - 1)]
    bonds += [((r, c), (r + 1, c)) for r in range(rows - 1) for c in range(columns)]
    bond = torch.tensor([[coupling, -coupling], [-coupling, coupling]], dtype=torch.float64).exp()

    def exact() -> Tensor:
        spins = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * columns)
        along = (coupling * (spins[:, 1:] * spins[:, :-1]).sum(1)).exp()
        between, state = (coupling * spins @ spins.T).exp(), along
        for _ in range(rows - 1):
            state = along * (between @ state)
        return state.sum()

    terms = [f"s{a}_{b} s{c}_{d}" for (a, b), (c, d) in bonds]
    return of_equation("square lattice", terms, "", [bond] * len(bonds), exact)


def circuit(qubits: int, layers: int) -> Example:
    """An amplitude of random gates on neighbours, as bricks are laid; the state vector has 2^qubits numbers."""
    torch.manual_seed(0)
    zero = torch.tensor([1, 0], dtype=torch.complex128)
    terms, tensors = [f"q{q}_0" for q in range(qubits)], [zero] * qubits
    turns, gates = [0] * qubits, []
    for layer in range(layers):
        for q in range(layer % 2, qubits - 1, 2):
            gate = torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex128))[0].reshape(2, 2, 2, 2)
            before = f"q{q}_{turns[q]} q{q + 1}_{turns[q + 1]}"
            turns[q], turns[q + 1] = turns[q] + 1, turns[q + 1] + 1
            terms.append(f"q{q}_{turns[q]} q{q + 1}_{turns[q + 1]} {before}")
            gates.append((q, gate))
    terms += [f"q{q}_{turns[q]}" for q in range(qubits)]

    def exact() -> Tensor:
        state = torch.zeros((2,) * qubits, dtype=torch.complex128)
        state[(0,) * qubits] = 1
        for q, gate in gates:
            state = torch.tensordot(gate, state, ([2, 3], [q, q + 1])).movedim([0, 1], [q, q + 1])
        return state[(0,) * qubits]

    return of_equation("circuit", terms, "", [*tensors, *(gate for _, gate in gates), *tensors], exact)


def convolutions(count: int, channels: int = 4, cells: int = 32) -> Example:
    """A chain of convolutions, which is a network with a pattern for each: `tnconv.parse` reads its text."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, cells, dtype=torch.float64)
    kernels = [
        torch.randn(channels, channels, 3, dtype=torch.float64) / math.sqrt(3 * channels)
        for _ in range(count)
    ]
    sizes = [f"c{j}={channels}, i{j}={cells}" for j in range(count + 1)]
    sizes += [f"k{j}=3" for j in range(1, count + 1)]
    lines = ["network chain {", f"  index [n=2, {', '.join(sizes)}]", "  x = input [n, c0, i0]"]
    for j in range(1, count + 1):
        lines.append(f"  w{j} = parameter [c{j}, c{j - 1}, k{j}]")
        lines.append(f"  p{j} = pattern [i{j - 1} = i{j} + k{j} - 1]")
    network = tnconv.parse("\n".join([*lines, f"  output [n, c{count}, i{count}]", "}"]))

    def exact() -> Tensor:
        made = x
        for kernel in kernels:
            made = torch.conv1d(made, kernel, padding=1)
        return made

    return Example("convolutions", lambda: tnconv.compile(network), [x, *kernels], exact)


def main() -> None:
    """Contract the examples and compare them with the exact values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller networks")
    quick = parser.parse_args().quick
    table = Table("network", "tensors", "compiled in", "multiplications", "contracted in", "relative error")
    for example in (
        even_subgraphs(14 if quick else 60),
        lattice(4 if quick else 20, 3 if quick else 8),
        circuit(4 if quick else 12, 6 if quick else 16),
        convolutions(4 if quick else 100),
    ):
        start = time.perf_counter()
        function = example.compiled()
        compiled = time.perf_counter()
        value = function(*example.tensors)
        done = time.perf_counter()
        want = example.exact()
        error = ((value - want).abs().max() / want.abs().max()).item()
        if error > 1e-9:
            raise SystemExit(f"{example.name}: off by {error}")
        row = (f"{compiled - start:.1f} s", f"{float(function.plan.multiplications):.1e}")
        table.add_row(
            example.name, str(len(example.tensors)), *row, f"{done - compiled:.2f} s", f"{error:.0e}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
