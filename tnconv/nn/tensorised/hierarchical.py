"""Hierarchical Tucker: the sites as leaves of a binary tree, with a transfer tensor at each inner node.

The root has no tensor of its own: its two children share their bond (Hackbusch and Kühn 2009; Grasedyck 2010).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnconv import ir
from tnconv.nn.tensorised import linalg
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.factorised_linear import TensorisedLinear
from tnconv.nn.tensorised.factorised_module import TensorisedConv
from tnconv.nn.tensorised.factorised_transpose import TensorisedConvTranspose
from tnconv.nn.tensorised.factors import Factors, Family, Ranks, Site, WeightShape, bond, parameter
from tnconv.nn.tensorised.fixed_dims import OfOneDimension, OfThreeDimensions, OfTwoDimensions


@dataclass(frozen=True, slots=True)
class Branch:
    """A node of the tree below the root.

    Args:
        bond: towards its parent.
        name: of its factor.
        leaves: the sites below it.
        children: two, or none for a leaf.
    """

    bond: str
    name: str
    leaves: tuple[Site, ...]
    children: "tuple[Branch, ...]" = ()

    def nodes(self) -> "Iterator[Branch]":
        """The node and all below it."""
        yield self
        for child in self.children:
            yield from child.nodes()


def _halves(shape: WeightShape) -> tuple[list[Site], list[Site]]:
    """The leaves below the two children of the root: channels and kernel, or half of the channels each."""
    if not shape.kernel:
        sites = shape.channel_sites() if shape.reshaped else [*reversed(shape.sites())]
        middle = (len(sites) + 1) // 2
        return sites[:middle], sites[middle:]
    if shape.reshaped:
        return shape.channel_sites(), shape.kernel_sites()
    first, *kernel, last = shape.sites()
    return [last, first], kernel


def _branch(sites: Sequence[Site], name: str) -> Branch:
    """A balanced tree."""
    own = f"r{name}"
    if len(sites) == 1:
        return Branch(own, sites[0].name, (sites[0],))
    middle = (len(sites) + 1) // 2
    children = tuple(
        _branch(part, f"{name}{side}") for part, side in ((sites[:middle], 1), (sites[middle:], 2))
    )
    return Branch(own, f"transfer{name}", tuple(sites), children)


def _branches(shape: WeightShape) -> tuple[Branch, Branch]:
    channels, kernel = _halves(shape)
    return _branch(channels, "_1"), _branch(kernel, "_2")


@dataclass(frozen=True, slots=True)
class HierarchicalTucker(Family):
    """`W[d, c, k1, k2] = Σ out[d, r_11] in[c, r_12] transfer_1[r_11, r_12, r] transfer_2[r, r_21, r_22] k1 k2`."""

    name = "ht"

    def limits(self, shape: WeightShape) -> dict[str, int]:
        """The bond of the root's children, `r`, then every other, from the root down, channels first."""
        found = {}
        for branch in _branches(shape):
            for node in branch.nodes():
                size = prod(site.size for site in node.leaves)
                found[_shared(node.bond)] = min(size, shape.parameters // size)
        return found

    def cuts(self, shape: WeightShape) -> dict[str, tuple[int, ...]]:
        """The axes below a node."""
        return {
            _shared(node.bond): tuple(place for site in node.leaves for place in site.places)
            for branch in _branches(shape)
            for node in branch.nodes()
        }

    def factors(self, shape: WeightShape, ranks: Ranks) -> list[ir.Tensor]:
        """Leaves `[*site, r]` and transfer tensors `[r_left, r_right, r]`."""

        def axis(name: str) -> ir.Axis:
            return bond(_shared(name), ranks[_shared(name)])

        return [
            parameter(node.name, *_inner(node, axis), axis(node.bond))
            for branch in _branches(shape)
            for node in branch.nodes()
        ]

    def decompose(self, weight: Tensor, shape: WeightShape, ranks: Ranks, budget: Budget) -> Factors:
        """By singular value decompositions of one unfolding a node; there are no iterations."""
        left, right = _branches(shape)
        sites = [*left.leaves, *right.leaves]
        matrix = shape.arranged(weight, sites).reshape(prod(s.size for s in left.leaves), -1)
        u, s, v = linalg.singular(matrix)
        root = s.sqrt()[: ranks["r"]]
        halves = (u[:, : len(root)] * root, v[: len(root)].mT * root)
        found: Factors = {}
        for branch, half in zip((left, right), halves, strict=True):
            whole = torch.nn.functional.pad(half, (0, ranks["r"] - len(root)))
            found |= _split(branch, whole, matrix if branch is left else matrix.mT, ranks)
        return found


def _shared(name: str) -> str:
    """The name of a bond: the two children of the root have one."""
    return "r" if name in ("r_1", "r_2") else name


def _inner(node: Branch, axis: Callable[[str], ir.Axis]) -> list[ir.Axis]:
    """The axes of a node's factor without the bond to its parent."""
    if not node.children:
        return list(node.leaves[0].axes)
    return [axis(child.bond) for child in node.children]


def _split(node: Branch, tensor: Tensor, matrix: Tensor, ranks: Ranks) -> Factors:
    """The factors of a subtree.

    Args:
        node: its root.
        tensor: what it should be, `[leaves, r]`.
        matrix: the weight, `[leaves, all others]`.
        ranks: of all bonds.
    """
    if not node.children:
        return {node.name: tensor.reshape(*node.leaves[0].sizes, -1)}
    sizes = [prod(site.size for site in child.leaves) for child in node.children]
    whole, made = matrix.reshape(*sizes, -1), tensor.reshape(*sizes, -1)
    found: Factors = {}
    for mode, child in enumerate(node.children):
        unfolded = whole.movedim(mode, 0).reshape(sizes[mode], -1)
        frame = linalg.leading(unfolded, ranks[child.bond])
        made = torch.tensordot(frame.mH, made.movedim(mode, 0), 1).movedim(0, mode)
        found |= _split(child, frame, unfolded, ranks)
    return {node.name: made} | found


class HTConv(TensorisedConv):
    """A convolution whose weight is a hierarchical Tucker decomposition. See `TensorisedConv`."""

    family = HierarchicalTucker()


class HTConv1d(OfOneDimension, HTConv):
    """`HTConv` in one spatial dimension."""


class HTConv2d(OfTwoDimensions, HTConv):
    """`HTConv` in two spatial dimensions."""


class HTConv3d(OfThreeDimensions, HTConv):
    """`HTConv` in three spatial dimensions."""


class HTConvTranspose(TensorisedConvTranspose):
    """A transposed convolution whose weight is a hierarchical Tucker decomposition. See `TensorisedConvTranspose`."""

    family = HierarchicalTucker()


class HTLinear(TensorisedLinear):
    """A linear layer whose weight is a hierarchical Tucker decomposition. See `TensorisedLinear`."""

    family = HierarchicalTucker()
