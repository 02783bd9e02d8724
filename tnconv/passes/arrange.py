"""Arrange, sum and scale: what the output looks like.

arrange{output=[n, (g c k), o]}     the axes anew; an index left out is summed
sum{over=[n, o]}                    indices leave the output
scale{by=1/(N*T)}                   a factor
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Self

import numpy as np

from tnconv.errors import NetworkError, PassError
from tnconv.ir import Expression, Index, Network, Scale, group, parse_expression, symbol
from tnconv.ir.monomial import as_scalar, is_expression
from tnconv.ir.size import symbol_names
from tnconv.passes.cells import pack, unpack
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.pass_text import split
from tnconv.passes.tools import axes_of, counted, names, open_named, without_indices


@dataclass(frozen=True)
class Arrange(Pass):
    """The output's axes anew. Any index of the network may be named; those left out are summed.

    Args:
        output: axes, as `"[n, (g c k1 k2), (o1 o2)]"` or as a tuple of their texts.
    """

    name: ClassVar[str] = "arrange"
    output: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.output, str):
            text = self.output.strip().strip('"').strip()
            body = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            object.__setattr__(self, "output", tuple(filter(None, split(body, ","))))
        super().__post_init__()

    def apply(self, network: Network) -> PassResult:
        """Write the axes; what left the output and is on no node becomes a factor."""
        axes = axes_of(network, self.output)
        after = counted(network, network.nodes, axes, network.open_indices)
        return PassResult(after, after != network)

    def requires(self, network: Network) -> None:
        """The present axes must be groups: a cell that nothing reaches could not be carried over."""
        for axis in network.output:
            if not axis.is_group and axis not in axes_of(network, self.output):
                raise PassError(
                    f"output axis {axis} is affine and is not among {self.output}; name it as it is"
                )

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value over all indices, summed over those left out, laid out anew."""
        parts = []
        for term in before.terms:
            axes = axes_of(term, self.output)
            legs = tuple(i for axis in axes for i in axis.indices)
            every = term.indices
            full = evaluate(term.with_nodes(term.nodes, tuple(group(i) for i in every)), arguments)
            parts.append(pack(_marginal(full, every, legs), legs, axes))
        return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class SumOver(Pass):
    """Indices leave the output: the value is summed over them.

    Args:
        over: open indices.
    """

    name: ClassVar[str] = "sum"
    over: tuple[str, ...]

    def apply(self, network: Network) -> PassResult:
        """Take the indices from the output's axes; an axis without indices goes."""
        gone = open_named(network, self.over, "sum")
        output = without_indices(network.output, gone, "sum")
        after = counted(network, network.nodes, output, gone)
        return PassResult(after, after != network, (f"summed {names(gone)}",) if gone else ())

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value summed over the indices."""
        parts = []
        for term in before.terms:
            rest = tuple(i for i in term.open_indices if i.name not in self.over)
            value = unpack(evaluate(term, arguments), term.output, term.open_indices)
            axes = without_indices(term.output, open_named(term, self.over, "sum"), "sum")
            parts.append(pack(_marginal(value, term.open_indices, rest), rest, axes))
        return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class ScaleBy(Pass):
    """A factor on the value.

    Args:
        by: an integer, a fraction or an expression of size symbols, such as `1/(N*T)`.
    """

    name: ClassVar[str] = "scale"
    by: str

    def __post_init__(self) -> None:
        if isinstance(self.by, int) or is_expression(self.by):
            object.__setattr__(self, "by", str(self.by))
        super().__post_init__()
        try:
            parse_expression(self.by)
        except NetworkError as error:
            raise PassError(f"option 'by' of pass 'scale': {error}") from error

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the factor."""
        return symbol_names(parse_expression(self.by))

    def bind(self, values: Mapping[str, int]) -> Self:
        """The factor as a number."""
        numbers = {symbol(name): value for name, value in values.items()}
        return replace(self, by=str(as_scalar(parse_expression(self.by)).subs(numbers)))

    def apply(self, network: Network) -> PassResult:
        """Add a scale node; a factor of one changes nothing."""
        factor = parse_expression(self.by)
        if factor == 1:
            return PassResult(network, False)
        return PassResult(
            network.with_nodes((*network.nodes, Scale(network.fresh_name("scale"), factor))), True
        )

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value times the factor."""
        factor = as_scalar(parse_expression(self.by))
        return np.asarray(evaluate(before, arguments).astype(object) * Fraction(int(factor.p), int(factor.q)))


def _marginal(value: Array, legs: tuple[Index, ...], kept: tuple[Index, ...]) -> Array:
    return np.asarray(np.einsum(value, list(range(len(legs))), [legs.index(i) for i in kept]))
