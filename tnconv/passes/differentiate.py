"""Differentiate: cut a node out and let its legs dangle; close the output's with a cotangent for a VJP.

    differentiate{wrt=w, cotangent=dy}
    x = input     [n, c, i]                x  = input{conj} [n, c, i]
    p = pattern   [i = o + k]              p  = pattern     [i = o + k]
    w = parameter [d, c, k]          ->    dy = cotangent   [n, d, o]
    output        [n, d, o]                output           [d, c, k]

A node that the argument occurs on m times gives a sum of m networks, as the product rule says.

Complex values are those of PyTorch's autograd: `x̄ = Σ conj(∂y/∂x) ȳ` for a node that reads x, `Σ (∂y/∂x*) conj(ȳ)`
for one that reads its conjugate x*; `ẏ = Σ (∂y/∂x) ẋ + (∂y/∂x*) conj(ẋ)`. By a conjugate there is no Jacobian.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import PassError
from tnconv.ir import Axis, Delta, Expression, Index, Network, Role, Tensor, conjugate, fresh, make_sum
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import check_free, taken_names


@dataclass(frozen=True)
class Differentiate(Pass):
    """The derivative by an argument: Jacobian, or with `cotangent` the VJP, or with `tangent` the JVP.

    The Jacobian has the output's axes, then the argument's. The VJP has the argument's axes, the JVP those of
    the output.

    Args:
        wrt: the argument.
        cotangent: name of the new argument that is contracted with the output.
        tangent: name of the new argument that stands in the place of `wrt`.
    """

    name: ClassVar[str] = "differentiate"
    check_cells: ClassVar[int] = 300
    wrt: str
    cotangent: str | None = None
    tangent: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cotangent is not None and self.tangent is not None:
            raise PassError(
                f"differentiate has cotangent={self.cotangent} and tangent={self.tangent}; give one for a "
                "VJP or a JVP, none for the Jacobian"
            )

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """Terms that do not depend on the argument drop out."""
        if self.wrt not in expression.arguments:
            known = ", ".join(expression.arguments) or "none"
            raise PassError(
                f"there is no argument {self.wrt!r} to differentiate by; the arguments are {known}"
            )
        if self.wrt in expression.tables:
            raise PassError(
                f"argument {self.wrt!r} is a table of integers, by which there is no derivative; the others are "
                f"{', '.join(n for n in expression.arguments if n not in expression.tables) or 'none'}"
            )
        return self, tuple(term for term in expression.terms if term.reading(self.wrt))

    def requires(self, network: Network) -> None:
        """The new argument's name must be free, and the value have a derivative."""
        for node in network.reading(self.wrt):
            if node.conj and self.cotangent is None and self.tangent is None:
                raise PassError(
                    f"node {node.name!r} reads {self.wrt!r} conjugated, so that complex values have no Jacobian by "
                    f"{self.wrt!r}; give cotangent= for the gradient or tangent= for the derivative in a direction"
                )
        for new in (self.cotangent, self.tangent):
            check_free(network, new)

    def apply(self, network: Network) -> PassResult:
        """One network for each node that reads the argument."""
        reading = network.reading(self.wrt)
        if not reading:
            raise PassError(f"no node reads {self.wrt!r}; the arguments are {', '.join(network.arguments)}")
        after = make_sum(network.name, (self._by(network, node) for node in reading))
        return PassResult(after, after != network, tuple(f"by {node.name}" for node in reading))

    def _by(self, network: Network, node: Tensor) -> Network:
        rest = network.without(node.name)
        if self.tangent is not None:
            return network.with_nodes((*rest, Tensor(self.tangent, Role.TANGENT, node.axes, conj=node.conj)))
        seeds: tuple[Tensor, ...] = ()
        if self.cotangent is not None:
            seeds = (Tensor(self.cotangent, Role.COTANGENT, network.output, conj=node.conj),)
            rest = rest if node.conj else tuple(map(conjugate, rest))
        kept = () if seeds else network.output
        axes, deltas = _legs(node, {i for axis in kept for i in axis.indices}, taken_names(network))
        return network.declared(real=False).with_nodes((*rest, *seeds, *deltas), (*kept, *axes))

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """Difference quotients, exact because the value is a polynomial in the argument and its conjugate.

        A complex gradient has the derivatives of `Re Σ conj(ȳ) y` along 1 and along i as its real and imaginary part.
        """
        degree = max(len(term.reading(self.wrt)) for term in before.terms)
        point = arguments[self.wrt]

        def along(direction: Array) -> Array:
            values = [
                evaluate(before, arguments | {self.wrt: point + t * direction}) for t in range(degree + 1)
            ]
            return np.asarray(sum(w * v for w, v in zip(_weights(degree), values, strict=True)), dtype=object)

        if self.tangent is not None:
            return along(arguments[self.tangent])
        columns = [along(direction) for direction in _units(point.shape)]
        if self.cotangent is not None:
            cotangent = np.conj(arguments[self.cotangent])
            closed = [np.sum(cotangent * column) for column in columns]
            if np.iscomplexobj(point):
                turned = [np.sum(cotangent * along(1j * direction)) for direction in _units(point.shape)]
                closed = [complex(a.real, b.real) for a, b in zip(closed, turned, strict=True)]
            return np.array(closed, dtype=object).reshape(point.shape)
        return np.stack(columns, axis=-1).reshape((*columns[0].shape, *point.shape))


@dataclass(frozen=True)
class Close(Pass):
    """The leading axes of the output are contracted with a new argument, as a VJP closes a Jacobian of real values.

    Nothing is conjugated.

    Args:
        cotangent: name of the new argument.
        axes: how many axes it has.
    """

    name: ClassVar[str] = "close"
    cotangent: str
    axes: int

    def requires(self, network: Network) -> None:
        """The new argument's name must be free."""
        check_free(network, self.cotangent)
        if not 0 < self.axes <= len(network.output):
            raise PassError(
                f"close has axes={self.axes} but the output has {len(network.output)} axes; give 1 to as many"
            )

    def apply(self, network: Network) -> PassResult:
        """Take the axes from the output and give them to the new argument."""
        seed = Tensor(self.cotangent, Role.COTANGENT, network.output[: self.axes])
        closed = network.declared(real=False)
        return PassResult(closed.with_nodes((*network.nodes, seed), network.output[self.axes :]), True)

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The tensor product of the argument and the value over the axes."""
        value = np.asarray(evaluate(before, arguments))
        seed = arguments[self.cotangent]
        return np.asarray(np.tensordot(seed.astype(np.result_type(seed, value)), value, self.axes))


def _legs(node: Tensor, taken: set[Index], names: set[str]) -> tuple[tuple[Axis, ...], tuple[Delta, ...]]:
    """The axes of a node as output axes: an index opens where it can, else a new one is tied to it."""
    axes, deltas = [], []
    for axis in node.axes:
        indices = []
        for index in axis.indices:
            if index in taken:
                copy = index.named(fresh(index.name, names))
                delta = fresh(f"delta_{index.name}", names | {copy.name})
                names |= {copy.name, delta}
                deltas.append(Delta(delta, index, copy))
                index = copy  # noqa: PLW2901
            taken = taken | {index}
            indices.append(index)
        axes.append(replace(axis, indices=tuple(indices)))
    return tuple(axes), tuple(deltas)


def _units(shape: tuple[int, ...]) -> Iterator[Array]:
    for cell in range(prod(shape)):
        direction = np.zeros(prod(shape), dtype=np.int64)
        direction[cell] = 1
        yield direction.reshape(shape)


def _weights(degree: int) -> list[Fraction]:
    """w with `f'(0) = Σ_t w_t f(t)` over t = 0, ..., degree for a polynomial f of that degree."""
    weights = [Fraction(0)] * (degree + 1)
    for t in range(1, degree + 1):
        others = (s for s in range(1, degree + 1) if s != t)
        weights[t] = Fraction(1, t) * prod((Fraction(-s, t - s) for s in others), start=Fraction(1))
    weights[0] = -sum(weights, Fraction(0))
    return weights
