"""A factorised weight as a network, and the layer's network with the factors in place of the weight.

The weight has the shape that torch gives it, `[C_out, C_in/groups, *K]`; its channels may be products of several
sizes. A *site* is one factor's share of its axes: a channel axis, a kernel axis, or a pair of channel axes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch

from tnconv.errors import SpecError
from tnconv.functional.visible import LayerSpec
from tnconv.ir import Axis, Expression, Index, Network, Node, Role, Sum, Tensor, as_integer, group
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.product import Product
from tnconv.spec import ConvTransposeSpec
from tnconv.spec.fields import shown

Ranks = Mapping[str, int]  # size of every bond, by its name
Factors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Site:
    """A share of the weight's axes.

    Args:
        name: of the factor that holds it.
        axes: as they lie on that factor.
        places: which axes of `WeightShape.sizes` they are.
    """

    name: str
    axes: tuple[Axis, ...]
    places: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Cells of every axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        """Cells in all."""
        return prod(self.sizes)


@dataclass(frozen=True, slots=True)
class WeightShape:
    """The axes of a weight, its channels factorised.

    The groups belong to the first out-channel axis, `[C_out, C_in/groups, *K]`; of a transposed convolution to the
    first in-channel axis, `[C_in, C_out/groups, *K]`. A linear layer has no kernel.

    Args:
        groups: channel groups of the convolution.
        outs: sizes whose product is C_out; C_out/groups if transposed.
        ins: sizes whose product is C_in/groups, as many; C_in if transposed.
        kernel: extents of the kernel.
        transposed: whether it is the weight of a transposed convolution.

    Raises:
        SpecError: the groups do not divide the first size of the channels of all groups, or `outs` and `ins` differ
            in length.
    """

    groups: int
    outs: tuple[int, ...]
    ins: tuple[int, ...]
    kernel: tuple[int, ...]
    transposed: bool = False

    def __post_init__(self) -> None:
        if len(self.outs) != len(self.ins):
            raise SpecError(
                f"in_shape {self.ins} has {len(self.ins)} sizes but out_shape {self.outs} has {len(self.outs)}; "
                "give both equally many, padded with 1"
            )
        name, sizes = ("in_shape", self.ins) if self.transposed else ("out_shape", self.outs)
        if sizes[0] % self.groups:
            raise SpecError(
                f"{name} {sizes} begins with {sizes[0]}, which groups {self.groups} does not divide; let it begin "
                "with a multiple of groups"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes: out-channels, in-channels, kernel."""
        return (*self.outs, *self.ins, *self.kernel)

    @property
    def parameters(self) -> int:
        """Of the dense weight."""
        return prod(self.sizes)

    @property
    def fan_in(self) -> int:
        """Cells of the weight's axes but the first, as torch has them: what `nn.Conv2d` is drawn by."""
        return prod(self.outs if self.transposed else self.ins) * prod(self.kernel)

    @property
    def reshaped(self) -> bool:
        """Whether the channels are products of several sizes."""
        return len(self.outs) > 1

    def _names(self, letter: str) -> list[str]:
        return [f"{letter}{m}" for m in range(1, len(self.outs) + 1)] if self.reshaped else [letter]

    def _channels(self, letter: str, sizes: tuple[int, ...], grouped: bool) -> list[Axis]:
        first = sizes[0] // self.groups if grouped else sizes[0]
        pairs = zip(self._names(letter), (first, *sizes[1:]), strict=True)
        found = [Index(name, size) for name, size in pairs]
        leading = (Index("g", self.groups),) if grouped else ()
        return [group(*leading, found[0]), *map(group, found[1:])]

    @property
    def out_axes(self) -> list[Axis]:
        """The axes of the out-channels; the first holds the groups too, unless transposed."""
        return self._channels("d", self.outs, not self.transposed)

    @property
    def in_axes(self) -> list[Axis]:
        """The axes of the in-channels; if transposed, the first holds the groups too."""
        return self._channels("c", self.ins, self.transposed)

    @property
    def kernel_axes(self) -> list[Axis]:
        """The axes of the kernel."""
        return [group(Index(f"k{place}", size)) for place, size in enumerate(self.kernel, 1)]

    def channel_sites(self) -> list[Site]:
        """One site for each pair of channel axes."""
        count = len(self.outs)
        pairs = enumerate(zip(self.out_axes, self.in_axes, strict=True))
        return [Site(f"factor_{m + 1}", pair, (m, count + m)) for m, pair in pairs]

    def kernel_sites(self) -> list[Site]:
        """One site for each kernel axis; one for all where the channels are reshaped."""
        axes, first = self.kernel_axes, 2 * len(self.outs)
        if not axes:
            return []
        if self.reshaped:
            return [Site("factor_kernel", tuple(axes), tuple(range(first, first + len(axes))))]
        return [Site(f"factor_k{place + 1}", (axis,), (first + place,)) for place, axis in enumerate(axes)]

    def sites(self) -> list[Site]:
        """The sites in a row: in-channels, kernel, out-channels; pairs of channels and the kernel if reshaped."""
        if self.reshaped:
            return [*self.channel_sites(), *self.kernel_sites()]
        first, last = (
            Site(f"factor_{name}", (axis,), (place,))
            for name, axis, place in (("in", self.in_axes[0], 1), ("out", self.out_axes[0], 0))
        )
        return [first, *self.kernel_sites(), last]

    def split(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight as torch has it as `[*outs, *ins, *kernel]`."""
        if not self.transposed:
            return weight.reshape(self.sizes)
        count = len(self.outs)
        order = [*range(count, 2 * count), *range(count), *range(2 * count, len(self.sizes))]
        return weight.reshape(*self.ins, *self.outs, *self.kernel).permute(order)

    def arranged(self, weight: torch.Tensor, sites: Sequence[Site]) -> torch.Tensor:
        """A weight `[*outs, *ins, *kernel]` with one axis a site, in their order."""
        order = [place for site in sites for place in site.places]
        return weight.permute(order).reshape([site.size for site in sites])


class Family(ABC):
    """A kind of factorisation; its subclasses are frozen dataclasses.

    Attributes:
        name: of the kind.
    """

    name: ClassVar[str]

    @abstractmethod
    def limits(self, shape: WeightShape) -> dict[str, int]:
        """The bonds, in the order of a tuple of ranks, and the largest rank that each can use."""

    def cuts(self, shape: WeightShape) -> dict[str, tuple[int, ...]]:
        """For each bond the axes of `WeightShape.sizes` on one of its sides, where its rank is that of a matrix.

        Then the product of the factors has no larger rank as a matrix of these axes and all others, and what a
        decomposition loses is bounded by what the bonds lose of singular values. Empty where bonds are no such cuts.
        """
        return {}

    @abstractmethod
    def factors(self, shape: WeightShape, ranks: Ranks) -> list[Tensor]:
        """The factors; their product, summed over the bonds, is the weight."""

    @abstractmethod
    def decompose(self, weight: torch.Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """Factors whose product comes near a weight.

        Args:
            weight: float64 or complex128, `[*outs, *ins, *kernel]`, finite and not zero.
            shape: its axes.
            ranks: size of every bond.
            budget: of an alternating method.
        """

    def product(self, shape: WeightShape, ranks: Ranks) -> Product:
        """The weight `[*outs, *ins, *kernel]` as a product of the factors."""
        sites = [*shape.out_axes, *shape.in_axes, *shape.kernel_axes]
        return Product.of([factor.axes for factor in self.factors(shape, ranks)], sites)

    def parameters(self, shape: WeightShape, ranks: Ranks) -> int:
        """Of all factors."""
        return sum(prod(axis.size for axis in factor.axes) for factor in self.factors(shape, ranks))

    def paths(self, ranks: Ranks) -> int:
        """Number of products that are added up to one cell of the weight."""
        return prod(ranks.values())

    def deviation(self, shape: WeightShape, ranks: Ranks) -> float:
        """The standard deviation of all factors for which the weight has the variance `1/(3*fan_in)`.

        That is the variance that `nn.Conv2d` begins with.
        """
        variance = 1 / (3 * shape.fan_in * self.paths(ranks))
        return float(variance ** (0.5 / len(self.factors(shape, ranks))))

    def weight_network(self, shape: WeightShape, ranks: Ranks) -> Network:
        """The dense weight as a network of its factors, `[(g d), c, *k]`; if transposed, `[(g c), d, *k]`."""
        sides = (shape.in_axes, shape.out_axes) if shape.transposed else (shape.out_axes, shape.in_axes)
        channels = (group(*(i for axis in axes for i in axis.indices)) for axes in sides)
        output = (*channels, *shape.kernel_axes)
        return Network(f"{self.name}.weight", tuple(self.factors(shape, ranks)), output)


def parameter(name: str, *axes: Axis) -> Tensor:
    """A factor."""
    return Tensor(name, Role.PARAMETER, axes)


def bond(name: str, size: int) -> Axis:
    """An axis that joins factors."""
    return group(Index(name, size))


def layer_network(spec: LayerSpec, weight: Network, kind: str) -> Expression:
    """The network of a layer with another network in place of its weight.

    network conv1d.forward {                 network cp1d.forward {
      index [n, g, c, d, i1, k1, o1]           index [n, g, c, d, i1, k1, o1, r]
      x      = input     [n, (g c), i1]        x         = input     [n, (g c), i1]
      p1     = pattern   [i1 = o1 + k1]        p1        = pattern   [i1 = o1 + k1]
      weight = parameter [(g d), c, k1]        factor_in = parameter [c, r]  …
      output             [n, (g d), o1]        output                [n, (g d), o1]
    }                                        }

    Args:
        spec: the layer.
        weight: with output `[(g d …), (c …), *k]`, or `[(g c …), (d …), *k]` of a transposed convolution.
        kind: of factorisation, for the name of the result.
    """
    first, second = weight.output[0].indices[1:], weight.output[1].indices
    split = dict(zip("cd" if isinstance(spec, ConvTransposeSpec) else "dc", (first, second), strict=True))

    def axis(old: Axis) -> Axis:
        return group(*(new for index in old.indices for new in split.get(index.name, (index,))))

    def term(old: Network, name: str) -> Network:
        nodes: list[Node] = []
        for node in old.nodes:
            if isinstance(node, Tensor) and node.name == "weight":
                nodes += weight.nodes
            elif isinstance(node, Tensor):
                nodes.append(Tensor(node.name, node.role, tuple(map(axis, node.axes)), node.of))
            else:
                nodes.append(node)
        return Network(name, tuple(nodes), tuple(map(axis, old.output)))

    forward = spec.network()
    name = f"{kind}_{forward.name.removesuffix('.forward')}"
    if isinstance(forward, Network):
        return term(forward, name)
    return Sum(
        name, tuple(term(t, name if t.name == forward.name else f"{name}.bias") for t in forward.terms)
    )


def channel_shape(name: str, given: object, channels: int, of: str = "") -> tuple[int, ...]:
    """The sizes that channels are a product of; the channels themselves if left out.

    Args:
        name: of the option, for messages.
        given: the option.
        channels: what the product should be.
        of: what it is the quotient of, for messages, such as `in_channels 6 over groups 2`.

    Raises:
        SpecError: it is no tuple of positive ints with that product.
    """
    if given is None:
        return (channels,)
    counts = [as_integer(size) for size in given] if isinstance(given, list | tuple) else []
    sizes = tuple(count for count in counts if count is not None and count >= 1)
    if not sizes or len(sizes) != len(counts):
        raise SpecError(
            f"{name} is {shown(given)}; give a tuple of positive ints whose product is {channels}"
        )
    if prod(sizes) != channels:
        quotient = f" ({of})" if of else ""
        raise SpecError(
            f"{name} {sizes} makes {prod(sizes)} channels but there are {channels}{quotient}; change one of them"
        )
    return sizes
