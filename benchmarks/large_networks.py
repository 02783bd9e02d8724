"""Networks of 50 to 5,000 tensors whose values are known by other means: graphs, spins, circuits.

Each function gives an `Example`: the network, its tensors, and `exact()`, which computes the value in another way.
large_convolutions.py has those with patterns.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, cosh, exp, log, pi, sin, sinh, sqrt

import networkx as nx
import torch
from torch import Tensor

from tnconv.ir import Index, Network, Node, group, pattern
from tnconv.ir import Tensor as TensorNode

Part = tuple[Sequence[str], Tensor]  # the names of the indices on a tensor, and the tensor
Relation = tuple[str, Sequence[tuple[int, str]], int]  # left index, terms, offset


@dataclass(frozen=True)
class Example:
    """A network with its tensors.

    Args:
        name: for tables.
        network: what is contracted.
        tensors: by the names of the arguments; float64 or complex128.
        exact: the value, by other means.
    """

    name: str
    network: Network
    tensors: Mapping[str, Tensor]
    exact: Callable[[], Tensor]

    @property
    def arguments(self) -> list[Tensor]:
        """The tensors in the order of the network's arguments."""
        return [self.tensors[name] for name in self.network.arguments]


def example(
    name: str,
    parts: Mapping[str, Part],
    output: Sequence[str],
    exact: Callable[[], Tensor],
    relations: Sequence[Relation] = (),
    sizes: Mapping[str, int] | None = None,
) -> Example:
    """The example of some tensors.

    Args:
        name: of the example.
        parts: the tensors by name.
        output: names of the indices of the result.
        exact: its value.
        relations: index patterns `left = Σ coefficient·index + offset`.
        sizes: of the indices that are on no tensor.
    """
    known = dict(sizes or {})
    for legs, tensor in parts.values():
        known |= zip(legs, tensor.shape, strict=True)
    index = {leg: Index(leg, size) for leg, size in known.items()}
    nodes: list[Node] = [
        TensorNode(each, "parameter" if count else "input", tuple(group(index[leg]) for leg in legs))
        for count, (each, (legs, _)) in enumerate(parts.items())
    ]
    for number, (left, terms, offset) in enumerate(relations):
        nodes.append(pattern(f"p{number}", index[left], tuple((a, index[leg]) for a, leg in terms), offset))
    network = Network(name, tuple(nodes), tuple(group(index[leg]) for leg in output))
    return Example(name, network, {each: tensor for each, (_, tensor) in parts.items()}, exact)


# -- graphs ------------------------------------------------------------------------------------------------


def even_subgraphs(count: int, degree: int = 3, seed: int = 0) -> Example:
    """How many sets of edges of a random regular graph meet every node evenly: 2^(edges - nodes + components).

    Args:
        count: number of nodes; each is a tensor with an index of size 2 for each of its edges.
        degree: edges at a node.
        seed: of the graph.
    """
    graph = nx.random_regular_graph(degree, count, seed=seed)
    names = {frozenset(edge): f"e{number}" for number, edge in enumerate(sorted(graph.edges))}
    even = torch.tensor([1.0 - sum(bits) % 2 for bits in product((0, 1), repeat=degree)])
    tensor = even.double().reshape((2,) * degree)
    parts = {
        f"v{node}": (sorted(names[frozenset((node, other))] for other in graph[node]), tensor)
        for node in sorted(graph)
    }
    cycles = len(names) - count + nx.number_connected_components(graph)
    return example(f"regular_{count}", parts, (), lambda: torch.tensor(2.0**cycles).double())


# -- the Ising model ---------------------------------------------------------------------------------------


def ising_logarithm(shape: Sequence[int], coupling: float) -> float:
    """The logarithm of the partition function of a cuboid with open boundaries, spin after spin.

    The states of the last layer of spins are a vector of 2^(product of all sizes but the largest) entries.

    Args:
        shape: spins by dimension.
        coupling: `K` in `Σ exp(K Σ s s')`.
    """
    longest, *others = sorted(shape, reverse=True)
    layer = list(product(*map(range, others)))
    place = {site: number for number, site in enumerate(layer)}
    bond = _bond(coupling)
    vector, logarithm = torch.ones((2,) * len(layer)).double(), 0.0
    for step in range(longest):
        for site in layer:
            if step:
                vector = torch.tensordot(vector, bond, ([place[site]], [0])).movedim(-1, place[site])
        for site in layer:
            for axis in range(len(site)):
                other = (*site[:axis], site[axis] + 1, *site[axis + 1 :])
                if other in place:
                    view = [1] * len(layer)
                    view[place[site]] = view[place[other]] = 2
                    vector = vector * bond.reshape(view)
        logarithm += log(vector.max().item())
        vector = vector / vector.max()
    return logarithm + log(vector.sum().item())


def _bond(coupling: float) -> Tensor:
    """The weights of two spins side by side."""
    alike, apart = exp(coupling), exp(-coupling)
    return torch.tensor([[alike, apart], [apart, alike]], dtype=torch.float64)


def lattice(rows: int, columns: int, coupling: float = 0.44) -> Example:
    """The partition function of the Ising model on a square lattice with open boundaries, a tensor for each spin.

    Every tensor is scaled by the same number so that the value is 1: no float holds that of some thousand spins.

    Args:
        rows: spins one above another.
        columns: spins side by side; the exact value takes 2^rows or 2^columns numbers.
        coupling: `K`.
    """
    logarithm = ising_logarithm((rows, columns), coupling)
    even, odd = sqrt(cosh(coupling)), sqrt(sinh(coupling))
    root = torch.tensor(
        [[even, odd], [even, -odd]], dtype=torch.float64
    )  # times its transpose, the matrix of a bond
    scale = exp(-logarithm / (rows * columns))
    parts: dict[str, Part] = {}
    for r, c in product(range(rows), range(columns)):
        legs = [f"h{r}_{c - 1}"] * (c > 0) + [f"h{r}_{c}"] * (c < columns - 1)
        legs += [f"v{r - 1}_{c}"] * (r > 0) + [f"v{r}_{c}"] * (r < rows - 1)
        letters = "abcd"[: len(legs)]
        equation = ",".join(f"s{letter}" for letter in letters) + "->" + letters
        parts[f"t{r}_{c}"] = (legs, scale * torch.einsum(equation, *[root] * len(legs)))
    return example(f"lattice_{rows}x{columns}", parts, (), lambda: torch.ones(()).double())


def ising(shape: Sequence[int], coupling: float = 0.2) -> Example:
    """The same in any number of dimensions, a matrix for each bond: a spin is an index on up to 2·dimensions of them.

    Args:
        shape: spins by dimension; the exact value takes 2^(product of all but the largest) numbers.
        coupling: `K`.
    """
    sites = list(product(*map(range, shape)))
    bonds = [
        (site, (*site[:axis], site[axis] + 1, *site[axis + 1 :]))
        for site in sites
        for axis in range(len(shape))
        if site[axis] + 1 < shape[axis]
    ]
    scale = exp(-ising_logarithm(shape, coupling) / len(bonds))
    bond = _bond(coupling) * scale
    name = {site: "s" + "_".join(map(str, site)) for site in sites}
    parts = {f"b{number}": ((name[a], name[b]), bond) for number, (a, b) in enumerate(bonds)}
    return example(f"ising_{'x'.join(map(str, shape))}", parts, (), lambda: torch.ones(()).double())


# -- circuits ----------------------------------------------------------------------------------------------


def circuit(rows: int, columns: int, cycles: int, seed: int = 0) -> Example:
    """An amplitude of a circuit like those of the Sycamore processor (Arute et al. 2019).

    In each cycle every qubit has a root of X, Y or W, not the one before, and every second bond of one kind a gate
    fSim(π/2, π/6); the kinds follow each other as ABCDCDAB. The amplitude is that of a random string of bits.

    Args:
        rows: qubits one above another.
        columns: qubits side by side.
        cycles: layers of gates.
        seed: of roots and bits.
    """
    draw = random.Random(seed)
    qubits = list(product(range(rows), range(columns)))
    wires = {qubit: f"q{qubit[0]}_{qubit[1]}" for qubit in qubits}
    turns = dict.fromkeys(qubits, 0)
    zero = torch.tensor([1.0, 0.0], dtype=torch.complex128)
    gates: list[tuple[tuple[tuple[int, int], ...], Tensor]] = []
    last = dict.fromkeys(qubits, -1)
    for cycle in range(cycles):
        for qubit in qubits:
            last[qubit] = draw.choice([kind for kind in range(3) if kind != last[qubit]])
            gates.append(((qubit,), _root(last[qubit])))
        gates += [(bond, _fsim(pi / 2, pi / 6)) for bond in _bonds(rows, columns, "ABCDCDAB"[cycle % 8])]
    parts: dict[str, Part] = {f"zero_{wires[qubit]}": ((f"{wires[qubit]}_0",), zero) for qubit in qubits}
    for number, (on, gate) in enumerate(gates):
        before = [f"{wires[qubit]}_{turns[qubit]}" for qubit in on]
        for qubit in on:
            turns[qubit] += 1
        parts[f"gate{number}"] = ((*(f"{wires[qubit]}_{turns[qubit]}" for qubit in on), *before), gate)
    bits = {qubit: draw.randrange(2) for qubit in qubits}
    for qubit in qubits:
        final = torch.zeros(2, dtype=torch.complex128)
        final[bits[qubit]] = 1
        parts[f"bit_{wires[qubit]}"] = ((f"{wires[qubit]}_{turns[qubit]}",), final)

    def exact() -> Tensor:
        place = {qubit: number for number, qubit in enumerate(qubits)}
        state = torch.zeros((2,) * len(qubits), dtype=torch.complex128)
        state[(0,) * len(qubits)] = 1
        for on, gate in gates:
            axes = [place[qubit] for qubit in on]
            inner = list(range(len(on), 2 * len(on)))
            state = torch.tensordot(gate, state, (inner, axes)).movedim(list(range(len(on))), axes)
        return state[tuple(bits[qubit] for qubit in qubits)]

    return example(f"circuit_{rows}x{columns}_{cycles}", parts, (), exact)


def _bonds(rows: int, columns: int, kind: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    across, odd = kind in "AB", kind in "BD"
    for r, c in product(range(rows), range(columns)):
        other = (r, c + 1) if across else (r + 1, c)
        if other[0] < rows and other[1] < columns and (r + c) % 2 == odd:
            yield (r, c), other


def _root(kind: int) -> Tensor:
    """The square root of X, Y or W = (X + Y)/√2."""
    x = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
    y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)
    axis = (x, y, (x + y) / sqrt(2))[kind]
    return (torch.eye(2, dtype=torch.complex128) - 1j * axis) / sqrt(2)


def _fsim(theta: float, phi: float) -> Tensor:
    """The gate fSim(θ, φ) as `[out, out, in, in]`."""
    made = torch.zeros(4, 4, dtype=torch.complex128)
    made[0, 0], made[3, 3] = 1, complex(cos(phi), -sin(phi))
    made[1, 1] = made[2, 2] = cos(theta)
    made[1, 2] = made[2, 1] = -1j * sin(theta)
    return made.reshape(2, 2, 2, 2)
