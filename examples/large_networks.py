"""Networks of 50 to 5,000 tensors whose values are known by other means.

    pip install tnconv
    python examples/large_networks.py

Statistical mechanics and counting on graphs, amplitudes of circuits, and long convolutional networks. Each function
gives an `Example`: the network, its tensors, and `exact()`, which computes the value in another way. The script
contracts some of them and prints what it took; docs/howto/large_networks.md explains the options.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, cosh, exp, log, pi, sin, sinh, sqrt

import networkx as nx
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tnconv
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


# -- convolutions ------------------------------------------------------------------------------------------


def convolutions(
    count: int,
    channels: int = 4,
    size: int | tuple[int, ...] = 32,
    kernel: int = 3,
    *,
    stride_every: int = 0,
    dilations: Sequence[int] = (1,),
    batch: int = 2,
    seed: int = 0,
) -> Example:
    """A chain of convolutions with nothing between them, each with padding that keeps the size.

    Args:
        count: of convolutions.
        channels: of every one.
        size: of the input, an int in one dimension.
        kernel: size of the kernels.
        stride_every: every so many convolutions one has stride 2; 0 for none.
        dilations: of one after the other, and from the start again.
        batch: examples.
        seed: of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    spatial = (size,) if isinstance(size, int) else tuple(size)
    rank = len(spatial)
    x = torch.randn(batch, channels, *spatial, generator=generator, dtype=torch.float64)
    parts: dict[str, Part] = {"x": (("n", "c0", *(f"i0_{d}" for d in range(rank))), x)}
    relations: list[Relation] = []
    sizes: dict[str, int] = {}
    layers: list[tuple[Tensor, int, int]] = []
    at = spatial
    for number in range(1, count + 1):
        stride = 2 if stride_every and number % stride_every == 0 and min(at) > 1 else 1
        dilation = dilations[(number - 1) % len(dilations)]
        weight = torch.randn(channels, channels, *(kernel,) * rank, generator=generator, dtype=torch.float64)
        weight /= sqrt(channels * kernel**rank)
        taps = [f"k{number}_{d}" for d in range(rank)]
        parts[f"w{number}"] = ((f"c{number}", f"c{number - 1}", *taps), weight)
        padding = dilation * (kernel - 1) // 2
        at = tuple((each + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for each in at)
        for d in range(rank):
            before, after = f"i{number - 1}_{d}", f"i{number}_{d}"
            sizes[after] = at[d]
            relations.append((before, ((stride, after), (dilation, taps[d])), -padding))
        layers.append((weight, stride, dilation))
    output = ("n", f"c{count}", *(f"i{count}_{d}" for d in range(rank)))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]

    def exact() -> Tensor:
        made = x
        for weight, stride, dilation in layers:
            made = convolve(made, weight, None, stride, dilation * (kernel - 1) // 2, dilation)
        return made

    name = f"convolutions_{count}_{rank}d{'_strided' * bool(stride_every)}{'_dilated' * (max(dilations) > 1)}"
    return example(name, parts, output, exact, relations, sizes)


def factorised(
    count: int, channels: int = 16, rank: int = 8, size: int = 16, *, joined: bool = False, seed: int = 0
) -> Example:
    """A chain of convolutions in two dimensions, each of which is factorised: four tensors, as CP has them.

    Args:
        count: of convolutions, with 3×3 taps and padding 1.
        channels: of every one.
        rank: of its factorisation.
        size: of the image.
        joined: whether the factors of a convolution share one index of size `rank`, as in CP; else each two
            neighbours have one of their own, as in a tensor train.
        seed: of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normal(2, channels, size, size)
    parts: dict[str, Part] = {"x": (("n", "c0", "h0", "w0"), x)}
    relations: list[Relation] = []
    sizes: dict[str, int] = {}
    weights: list[Tensor] = []
    for j in range(1, count + 1):
        ranks = [f"r{j}"] * 3 if joined else [f"r{j}_{place}" for place in range(3)]
        legs = [(f"c{j - 1}", ranks[0]), (ranks[0], f"a{j}", ranks[1]), (ranks[1], f"b{j}", ranks[2])]
        legs.append((ranks[2], f"c{j}"))
        legs = [tuple(dict.fromkeys(each)) for each in legs]
        known = {f"a{j}": 3, f"b{j}": 3, f"c{j}": channels, f"c{j - 1}": channels} | dict.fromkeys(
            ranks, rank
        )
        factors = [normal(*(known[leg] for leg in each)) for each in legs]
        letters = dict(zip(known, "abcdefgh", strict=False))
        terms = ",".join("".join(letters[leg] for leg in each) for each in legs)
        result = "".join(letters[leg] for leg in (f"c{j}", f"c{j - 1}", f"a{j}", f"b{j}"))
        weight = torch.einsum(f"{terms}->{result}", *factors)
        factors[0] /= weight.norm() / sqrt(channels)
        weights.append(weight / (weight.norm() / sqrt(channels)))
        parts |= {f"f{j}_{place}": pair for place, pair in enumerate(zip(legs, factors, strict=True))}
        for axis, tap in (("h", f"a{j}"), ("w", f"b{j}")):
            sizes[f"{axis}{j}"] = size
            relations.append((f"{axis}{j - 1}", ((1, f"{axis}{j}"), (1, tap)), -1))

    def exact() -> Tensor:
        made = x
        for weight in weights:
            made = F.conv2d(made, weight, None, 1, 1)
        return made

    name = f"{'cp' if joined else 'tt'}_{count}"
    return example(name, parts, ("n", f"c{count}", f"h{count}", f"w{count}"), exact, relations, sizes)


def squared_norm(count: int, channels: int = 4, size: int = 16, seed: int = 0) -> Example:
    """The squared norm of what a chain of convolutions makes: two copies of the chain, of 2·(count + 1) tensors."""
    once = convolutions(count, channels, size, seed=seed)
    tensors = [node for node in once.network.nodes if isinstance(node, TensorNode)]
    kept = {f"c{count}", f"i{count}_0", "n"}

    def other(leg: str) -> str:
        return leg if leg in kept else f"{leg}_2"

    parts: dict[str, Part] = {}
    for node in tensors:
        legs = [axis.indices[0].name for axis in node.axes]
        parts[node.name] = (legs, once.tensors[node.name])
        parts[f"{node.name}_2"] = ([other(leg) for leg in legs], once.tensors[node.name])
    relations: list[Relation] = []
    sizes: dict[str, int] = {}
    for each in once.network.patterns:
        terms = [(a, leg.name) for a, leg in each.terms]
        relations.append((each.left.name, terms, each.offset))
        relations.append((other(each.left.name), [(a, other(leg)) for a, leg in terms], each.offset))
        sizes |= {name: index.size for index in each.indices for name in (index.name, other(index.name))}  # type: ignore[misc]
    return example(f"squared_norm_{count}", parts, (), lambda: once.exact().square().sum(), relations, sizes)


def polynomials(count: int, degree: int = 3, seed: int = 0) -> Example:
    """The coefficients of a product of polynomials: one pattern that has `count` + 1 indices."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(count, degree + 1, generator=generator, dtype=torch.float64)
    factors /= factors.sum(1, keepdim=True)
    parts: dict[str, Part] = {f"f{j}": ((f"k{j}",), factors[j]) for j in range(count)}
    relation: Relation = ("o", tuple((1, f"k{j}") for j in range(count)), 0)

    def exact() -> Tensor:
        made = torch.ones(1, dtype=torch.float64)
        for factor in factors:
            padded = F.pad(made, (degree, degree)).unfold(0, degree + 1, 1)
            made = padded @ factor.flip(0)
        return made

    sizes = {"o": count * degree + 1}
    return example(f"polynomials_{count}", parts, ("o",), exact, (relation,), sizes)


def products(levels: int, channels: int = 6, size: int = 32, seed: int = 0) -> Example:
    """A tree of convolutions: two inputs, each convolved, are multiplied cell by cell, and so on (a ConvAC).

    Args:
        levels: of the tree, which has 2^levels inputs.
        channels: of all.
        size: of the inputs.
        seed: of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Part] = {}
    relations: list[Relation] = []
    sizes: dict[str, int] = {}
    weights: dict[str, Tensor] = {}

    def grown(level: int, name: str) -> Callable[[], Tensor]:
        """A subtree with indices `c` and `i` of its name; how its value is computed."""
        if not level:
            x = 1 + torch.randn(channels, size, generator=generator, dtype=torch.float64) / 4
            parts[f"x{name}"] = ((f"c{name}", f"i{name}"), x)
            return lambda: x
        halves = [grown(level - 1, f"{name}{half}") for half in "lr"]
        sizes[f"i{name}"] = size
        for half in "lr":
            child = f"{name}{half}"
            weight = torch.rand(channels, channels, 3, generator=generator, dtype=torch.float64) / channels
            weights[child] = weight
            parts[f"w{child}"] = ((f"c{name}", f"c{child}", f"k{child}"), weight)
            relations.append((f"i{child}", ((1, f"i{name}"), (1, f"k{child}")), -1))
        left, right = (
            lambda half=half, value=value: F.conv1d(value(), weights[f"{name}{half}"], None, 1, 1)
            for half, value in zip("lr", halves, strict=True)
        )
        return lambda: left() * right()

    exact = grown(levels, "r")
    return example(f"products_{levels}", parts, ("cr", "ir"), exact, relations, sizes)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "random regular graph": lambda: even_subgraphs(60),
    "square lattice": lambda: lattice(40, 10),
    "Ising in 3 dimensions": lambda: ising((5, 4, 4)),
    "circuit": lambda: circuit(3, 4, 8),
    "convolutions": lambda: convolutions(200),
}


def main() -> None:
    """Contract the examples and compare them with the exact values."""
    table = Table("network", "tensors", "compiled in", "multiplications", "contracted in", "relative error")
    for name, make in EXAMPLES.items():
        made = make()
        start = time.perf_counter()
        function = tnconv.compile(made.network)
        compiled = time.perf_counter()
        value = function(*made.arguments)
        done = time.perf_counter()
        want = made.exact()
        error = ((value - want).abs().max() / want.abs().max()).item()
        row = (f"{compiled - start:.1f} s", f"{float(function.plan.multiplications):.1e}")
        table.add_row(name, str(len(made.tensors)), *row, f"{done - compiled:.2f} s", f"{error:.0e}")
    Console().print(table)


if __name__ == "__main__":
    main()
