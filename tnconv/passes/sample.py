"""Sample: a random part of the values of a summed index in place of all, rescaled (column-row sampling, CRS).

    sample{index=c, keep=1/2}
    index [n=N, c=8, d=4]                  index [n=N, c=8, d=4, sc=4]
    x = input     [n, c]                   x      = input     [n, c]
    w = parameter [d, c]            ->     rows_c = select    [c = rows_c[sc]]
    output        [n, d]                   w      = parameter [d, c]
                                           scale  = scale     [2]
                                           output             [n, d]

For any index that is summed: a network is linear in each of its indices. The mean over all draws of rows is the value
before (Drineas et al. 2006; Adelman et al. arXiv 1805.08079; as tensor networks arXiv 2307.02275).

`preselect` reads an argument that has only the selected rows, which is all that is to be stored of it.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np

from tnconv.errors import PassError, meant
from tnconv.ir import (
    Expression,
    Index,
    Network,
    Role,
    Scale,
    Select,
    Size,
    Tensor,
    as_size,
    fresh,
    group,
)
from tnconv.ir.monomial import as_scalar
from tnconv.ir.size import symbol_names
from tnconv.passes.network_pass import Array, Evaluate, Pass, PassResult
from tnconv.passes.tools import taken_names

METHODS = ("crs", "bernoulli", "weights")


def fraction(keep: object, what: str) -> Fraction:
    """A fraction in (0, 1] from a number or a text such as `1/4` or `0.25`.

    Args:
        keep: the number.
        what: of what, for the message.

    Raises:
        PassError: it is none.
    """
    try:
        found = Fraction(str(keep)) if not isinstance(keep, bool) else None
    except (ValueError, ZeroDivisionError):
        found = None
    if found is None or not 0 < found <= 1:
        raise PassError(
            f"{what} keeps {keep!r}, which is no fraction in (0, 1]; give one such as 1/4 or 0.25"
        )
    return found


def kept_of(size: Size, keep: Fraction, what: str) -> int | None:
    """How many of `size` values are kept, rounded to the nearest, halves up; None of a size that is a symbol.

    Raises:
        PassError: none is left.
    """
    if not isinstance(size, int):
        return None
    if size == 0:
        raise PassError(
            f"{what} has size 0, of which keep={keep} leaves none; sample what has one value at least"
        )
    kept = int(keep * size + Fraction(1, 2))
    if kept < 1:
        raise PassError(
            f"{what} has size {size}, of which keep={keep} leaves {float(keep * size):g}, that is none; "
            f"keep at least {Fraction(1, 2 * size)}"
        )
    return kept


@dataclass(frozen=True)
class Sample(Pass):
    """A summed index takes the values of a table only; the scale makes the mean over all draws exact.

    Args:
        index: name of an index that no term has in its output; terms without it stay as they are.
        keep: the fraction of its values, as `1/4` or `0.25`.
        method: `crs`: a fixed number of rows, without replacement, of equal probability; the scale is `size/kept`.
            `bernoulli`: each value with probability `keep`, so that the number of rows differs from draw to draw (it
            is a size symbol); the scale is `1/keep`. `weights`: with replacement by probabilities p of your own; an
            argument `factors_INDEX` has `1/(kept p(row))` for each row.
    """

    name: ClassVar[str] = "sample"
    whole: ClassVar[bool] = True
    index: str
    keep: str
    method: str = "crs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", str(fraction(self.keep, f"sample of index {self.index!r}")))
        super().__post_init__()
        if self.method not in METHODS:
            raise PassError(
                f"sample has method={self.method!r}{meant(self.method, METHODS)}; the methods are {', '.join(METHODS)}"
            )

    @property
    def table(self) -> str:
        """The argument with the rows."""
        return f"rows_{self.index}"

    @property
    def factors(self) -> str | None:
        """The argument with the factors of the rows; None but for method `weights`."""
        return f"factors_{self.index}" if self.method == "weights" else None

    def kept(self, size: Size) -> Size:
        """The size of the table: a symbol where the index has one, or where the number of rows is left to chance.

        Raises:
            PassError: nothing would be left.
        """
        fixed = kept_of(size, Fraction(self.keep), f"index {self.index!r}")
        stem = symbol_names(size)[0] if fixed is None else self.index.upper()
        return as_size(f"{stem}_kept") if fixed is None or self.method == "bernoulli" else fixed

    def apply(self, expression: Expression) -> PassResult:
        """Add the selection and the scale to each term that has the index."""
        having = [term for term in expression.terms if self.index in {i.name for i in term.indices}]
        if not having:
            known = dict.fromkeys(i.name for t in expression.terms for i in t.indices)
            raise PassError(
                f"sample names index {self.index!r}, which is none; the indices are {', '.join(known)}"
            )
        if opened := [t for t in having if self.index in {i.name for i in t.open_indices}]:
            summed = [i.name for i in opened[0].indices if i not in opened[0].open_indices]
            raise PassError(
                f"sample names index {self.index!r}, which is in the output and not summed; the summed indices are "
                f"{', '.join(summed) or 'none'}"
            )
        taken = {name for term in expression.terms for name in (*taken_names(term), *term.arguments)}
        for new in (self.table, self.factors):
            if new is not None and new in taken:
                raise PassError(f"the name {new!r} is taken; rename it, or sample index {self.index!r} once")
        name = fresh(f"s{self.index}", taken)
        terms = tuple(self._sampled(term, name) if term in having else term for term in expression.terms)
        after = terms[0] if isinstance(expression, Network) else replace(expression, terms=terms)
        size = having[0].index(self.index).size
        return PassResult(after, True, (f"{self.index}: {self.kept(size)} of {size} rows",))

    def _sampled(self, term: Network, name: str) -> Network:
        index = term.index(self.index)
        row = Index(name, self.kept(index.size), index.kind)
        nodes: list[Any] = [*term.nodes, Select(self.table, index, row, self.table)]
        if self.factors is not None:
            nodes.append(Tensor(self.factors, Role.PARAMETER, (group(row),)))
        else:
            scale = Fraction(1) / Fraction(self.keep) if self.method == "bernoulli" else None
            number = as_scalar(scale) if scale else as_scalar(index.size) / as_scalar(row.size)
            nodes.append(Scale(fresh("scale", taken_names(term)), number))
        return term.with_nodes(nodes)

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array:
        """The value with a vector on the index that counts how often each row was drawn, times the scale."""
        rows = arguments[self.table]
        parts = []
        for term in before.terms:
            if self.index not in {i.name for i in term.indices}:
                parts.append(np.asarray(evaluate(term, arguments), dtype=object))
                continue
            index, seed = term.index(self.index), term.fresh_name("counts")
            weights = np.ones(len(rows), dtype=np.int64)
            scale = Fraction(index.size, max(len(rows), 1))
            if self.factors is not None:
                weights, scale = arguments[self.factors], Fraction(1)
            elif self.method == "bernoulli":
                scale = 1 / Fraction(self.keep)
            counts = np.zeros(index.size, dtype=weights.dtype)
            np.add.at(counts, rows, weights)
            weighted = term.with_nodes((*term.nodes, Tensor(seed, Role.PARAMETER, (group(index),))))
            value = np.asarray(evaluate(weighted, arguments | {seed: counts}))
            exact = value.dtype.kind in "iO"
            parts.append(value.astype(object) * scale if exact else value * float(scale))
        return np.asarray(sum(parts[1:], parts[0]))

    @property
    def symbols(self) -> tuple[str, ...]:
        """None: the size of a table is read off the table."""
        return ()


@dataclass(frozen=True)
class Preselect(Pass):
    """An argument is given as the rows that selections take of it, under another name.

    Args:
        argument: some nodes read it.
        into: the new argument, of the size of the rows along each index that is selected.
    """

    name: ClassVar[str] = "preselect"
    argument: str
    into: str

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """All terms read the one or the other."""
        if self.argument not in expression.arguments:
            raise PassError(
                f"there is no argument {self.argument!r}; the arguments are {', '.join(expression.arguments)}"
            )
        if self.into in expression.arguments:
            raise PassError(f"the name {self.into!r} is an argument already; choose another")
        return self, expression.terms

    def requires(self, network: Network) -> None:
        """A selection that the argument has must be no larger than what it selects from."""
        for node in network.reading(self.argument):
            for select in self._of(network, node):
                sizes = select.right.size, select.left.size
                if all(isinstance(size, int) for size in sizes) and sizes[0] > sizes[1]:
                    raise PassError(
                        f"selection {select.name!r} takes {sizes[0]} rows of {sizes[1]}; preselect takes no more than "
                        "there are"
                    )

    @staticmethod
    def _of(network: Network, node: Tensor) -> list[Select]:
        return [s for s in network.selects if s.left in node.indices and s.right not in node.indices]

    def apply(self, network: Network) -> PassResult:
        """Put the rows in place of the indices on the nodes that read the argument; drop what nothing else needs."""
        nodes, gone = list(network.nodes), dict.fromkeys(network.selects, False)
        for node in network.reading(self.argument):
            rows = {s.left: s.right for s in self._of(network, node)}
            axes = tuple(axis.substitute(rows) for axis in node.axes)
            nodes[nodes.index(node)] = replace(node, axes=axes, of=self.into)
            gone |= {s: True for s in network.selects if s.left in rows}
        for select, read in gone.items():
            others = [n for n in nodes if n is not select and select.left in n.indices]
            if read and not others and select.left not in network.open_indices:
                nodes.remove(select)
        return PassResult(network.with_nodes(nodes), True, (f"{self.argument} as {self.into}",))

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array | None:
        """The value where the argument has the given rows in their places, whatever is in the others."""
        whole = np.zeros(
            [int(size) for size in before.shapes[self.argument]], dtype=arguments[self.into].dtype
        )
        node = next(n for term in before.terms for n in term.reading(self.argument))
        term = next(term for term in before.terms if node in term.nodes)
        rows = {s.left: arguments[s.table] for s in self._of(term, node)}
        if any(len(set(map(int, table))) < len(table) for table in rows.values()):
            return None
        cells = []
        for axis in node.axes:
            places = np.full((1,) * 0, axis.start, dtype=np.int64)
            for stride, index in zip(axis.strides, axis.indices, strict=True):
                values = rows.get(index, np.arange(index.size))
                places = places[..., None] + int(stride) * values
            cells.append(places.reshape(-1))
        whole[np.ix_(*cells)] = arguments[self.into]
        return evaluate(
            before, {name: a for name, a in arguments.items() if name != self.into} | {self.argument: whole}
        )
