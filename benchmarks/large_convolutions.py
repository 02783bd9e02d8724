"""Long convolutional networks whose values are known by other means: chains, factorised kernels, trees of products."""

from collections.abc import Callable, Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.large_networks import Example, Part, Relation, example
from tnconv.ir import Tensor as TensorNode


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
