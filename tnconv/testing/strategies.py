"""Hypothesis strategies: small networks with everything that the IR allows, sums, and layers."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from tnconv.errors import NetworkError
from tnconv.ir import (
    Axis,
    Delta,
    Index,
    Network,
    Node,
    Pattern,
    Scale,
    Select,
    Sum,
    Tensor,
    group,
    pattern,
    product,
    symbol,
)
from tnconv.ir.nodes import MODES, ROLES
from tnconv.ir.shapes import covered
from tnconv.spec import ConvSpec

Draw = Callable[[st.SearchStrategy[Any]], Any]
_LETTERS = ("n", "g", "c", "d", "i1", "i2", "k1", "o1", "v", "a", "c_2", "k10")
_SCALES = (1, 2, -3, 0, Fraction(1, 2), Fraction(-2, 7))


def seeds() -> st.SearchStrategy[int]:
    """Seeds for random arguments."""
    return st.integers(0, 2**16)


@st.composite
def networks(
    draw: Draw,
    *,
    max_tensors: int = 4,
    max_patterns: int = 3,
    max_indices: int = 7,
    max_size: int = 5,
    max_volume: int = 20_000,
    affine: bool = True,
    scales: bool = True,
    symbolic: bool = False,
    selects: bool = False,
) -> Network:
    """Small valid networks with everything that the IR allows.

    Hyperedges, indices twice on one tensor, arguments read by two nodes, grouped and affine axes, patterns
    with negative coefficients, offsets and moduli of each mode, deltas, scales, broadcast, summed and latent indices,
    kernels larger than inputs, sizes of 1, arguments that are read conjugated.

    Args:
        draw: given by hypothesis.
        max_tensors: tensor nodes, at least one.
        max_patterns: patterns and deltas.
        max_indices: indices.
        max_size: of an index.
        max_volume: bound for the product of all sizes, so that a dense evaluation stays cheap.
        affine: whether axes with strides, starts and unread cells occur.
        scales: whether scale nodes occur.
        symbolic: whether one index may have the size `N`.
        selects: whether selections occur, up to two: with a table each or one for both, of one index or two, of
            indices that patterns hold as well. A table is an argument, integers below the size selected from.
    """
    pool = _indices(draw, draw(st.integers(1, max_indices)), max_size, max_volume)
    nodes: list[Node] = []
    for number in range(1, draw(st.integers(0, max_patterns)) + 1):
        relation = _fitted if draw(st.booleans()) else _relation
        nodes += relation(draw, f"p{number}", pool, max_volume)
    if selects:
        nodes += _selections(draw, pool)
    for name in ("x", "y", "weight", "z")[: draw(st.integers(1, min(max_tensors, 4)))]:
        nodes.append(_tensor(draw, name, pool, [n for n in nodes if isinstance(n, Tensor)], affine))
    if scales and draw(st.booleans()):
        nodes.append(Scale("s", draw(st.sampled_from(_SCALES))))
    chosen = draw(st.lists(st.sampled_from(pool), unique=True, max_size=5))
    output = tuple(_axis(draw, legs, affine) for legs in _chunks(draw, chosen))
    network = Network(draw(st.sampled_from(("net", "conv.forward", "a_1.b"))), tuple(nodes), output)
    return _symbolic(draw, network) if symbolic and draw(st.booleans()) else network


@st.composite
def sums(draw: Draw, *, max_terms: int = 3, max_volume: int = 4_000) -> Sum:
    """Sums of networks that share their output, as a product rule makes them.

    Args:
        draw: given by hypothesis.
        max_terms: at least one.
        max_volume: bound for the product of all sizes of the first term.
    """
    first = draw(networks(max_volume=max_volume, symbolic=False))
    legs = first.open_indices
    terms = [first]
    for number in range(2, draw(st.integers(1, max_terms)) + 1):
        inner = [*_indices(draw, draw(st.integers(1, 3)), 4, 200, _LETTERS[::-1]), *legs]
        pool = [i for i in inner if i in legs or i.name not in {leg.name for leg in legs}]
        nodes: list[Node] = [_tensor(draw, f"t{number}", pool or [Index("q", 2)], [], True)]
        nodes += _relation(draw, "p", pool, 0) if draw(st.booleans()) else []
        terms.append(Network(f"term{number}", tuple(nodes), first.output))
    return Sum("total", tuple(terms))


@st.composite
def conv_specs(
    draw: Draw,
    *,
    max_dims: int = 3,
    modes: bool = True,
    groups: bool = True,
    bias: bool | None = None,
    batch_size: int | str | None = "N",
    max_channels: int = 3,
    max_output: int = 4,
) -> ConvSpec:
    """Small convolution specs over all hyper-parameters: depthwise, "same", "valid", asymmetric, every mode.

    Args:
        draw: given by hypothesis.
        max_dims: spatial dimensions, at least 1.
        modes: whether circular, reflecting and replicating padding occur.
        groups: whether groups above 1 occur.
        bias: whether there is one; drawn if left out.
        batch_size: as in ConvSpec; drawn from 1 to 3 if None.
        max_channels: channels of one group.
        max_output: bound for the output positions of a dimension, before the rest of a stride.
    """
    dims = draw(st.integers(1, max_dims))
    small = st.integers(1, 3 if dims < 3 else 2)
    same = draw(st.integers(0, 4)) == 0
    kernel = _each(draw, dims, small)
    dilation = _each(draw, dims, small)
    stride = (1,) * dims if same else _each(draw, dims, st.integers(1, 4))
    mode = draw(st.sampled_from(("zeros", *MODES))) if modes and draw(st.booleans()) else "zeros"
    padding, pairs = _padding(draw, dims, same, kernel, dilation)
    sizes = []
    for k, d, s, (left, right) in zip(kernel, dilation, stride, pairs, strict=True):
        outputs, rest = draw(st.integers(1, max_output if dims < 3 else 2)), draw(st.integers(0, s - 1))
        least = {"circular": max(left, right, 1), "reflect": max(left, right) + 1}.get(mode, 1)
        sizes.append(max(covered(k, d, outputs, s) + rest - left - right, least))
    count = draw(st.integers(1, 3)) if groups else 1
    depthwise = draw(st.integers(0, 3)) == 0
    channels = st.just(1) if depthwise else st.integers(1, max_channels)
    return ConvSpec(
        count * draw(channels),
        count * draw(st.integers(1, max_channels)),
        kernel,
        tuple(sizes),
        batch_size=draw(st.integers(1, 3)) if batch_size is None else batch_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=count,
        bias=draw(st.booleans()) if bias is None else bias,
        padding_mode=mode,
    )


def _indices(
    draw: Draw, count: int, max_size: int, max_volume: int, letters: Sequence[str] = _LETTERS
) -> list[Index]:
    names = draw(st.permutations(letters))[:count]
    pool: list[Index] = []
    for name in names:
        room = max_volume // int(product(i.size for i in pool))
        pool.append(Index(name, draw(st.integers(1, max(1, min(max_size, room))))))
    return pool


def _tensor(draw: Draw, name: str, pool: list[Index], others: list[Tensor], affine: bool) -> Tensor:
    if affine and others and draw(st.integers(0, 3)) == 0:
        return _second_reader(draw, name, pool, draw(st.sampled_from(others)))
    legs = draw(st.lists(st.sampled_from(pool), unique=True, max_size=4))
    if legs and draw(st.integers(0, 6)) == 0:
        legs.append(draw(st.sampled_from(legs)))
    axes = tuple(_axis(draw, chunk, affine) for chunk in _chunks(draw, legs))
    return Tensor(name, draw(st.sampled_from(ROLES)), axes, conj=draw(st.integers(0, 3)) == 0)


def _second_reader(draw: Draw, name: str, pool: list[Index], other: Tensor) -> Tensor:
    """A node that reads the argument of `other` through indices of its own."""
    axes = []
    for axis in other.axes:
        fitting = [index for index in pool if index.size <= axis.size]
        if fitting and draw(st.booleans()):
            index = draw(st.sampled_from(fitting))
            axes.append(Axis((index,), (1,), draw(st.integers(0, axis.size - index.size)), axis.size))
        else:
            axes.append(axis)
    return Tensor(name, other.role, tuple(axes), other.argument, draw(st.booleans()))


def _chunks(draw: Draw, legs: Sequence[Index]) -> list[tuple[Index, ...]]:
    """The legs in order, cut into axes of none to three indices."""
    chunks: list[tuple[Index, ...]] = []
    rest = list(legs)
    while rest or (len(chunks) < 4 and draw(st.integers(0, 7)) == 0):
        size = draw(st.sampled_from((1, 1, 1, 2, 3, 0)))
        chunks.append(tuple(rest[:size]))
        rest = rest[size:]
    return chunks


def _axis(draw: Draw, legs: tuple[Index, ...], affine: bool) -> Axis:
    if not affine or draw(st.integers(0, 2)):
        return group(*legs)
    strides = [0] * len(legs)
    reach = 1
    for place in draw(st.permutations(range(len(legs)))):
        strides[place] = max(1, reach + draw(st.integers(0, 2)))
        reach += strides[place] * (int(legs[place].size) - 1)
    start = draw(st.integers(0, 2))
    return Axis(legs, tuple(strides), start, start + reach + draw(st.integers(0, 2)))


def _fitted(draw: Draw, name: str, pool: list[Index], max_volume: int) -> list[Node]:
    """A pattern whose left index, new in the pool, just covers it or nearly so; tiling ones occur."""
    legs = draw(st.lists(st.sampled_from(pool), unique=True, min_size=1, max_size=3))
    terms, reach = [], 1
    for leg in legs:
        coefficient = draw(st.sampled_from((reach, reach, reach + 1, 1, 2)))
        terms.append((coefficient, leg))
        reach += coefficient * (int(leg.size) - 1)
    offset = draw(st.sampled_from((0, 0, 0, 1, -1)))
    size = reach + offset + draw(st.sampled_from((0, 0, 0, 1, 2, -1)))
    if not 1 <= size <= max_volume // int(product(i.size for i in pool)):
        return []
    pool.append(Index(f"q{name[1:]}", size))
    return [pattern(name, pool[-1], tuple(terms), offset)]


def _relation(draw: Draw, name: str, pool: list[Index], _max_volume: int) -> list[Node]:
    """One pattern or delta; none where too few indices fit."""
    left = draw(st.sampled_from(pool))
    others = [i for i in pool if i != left]
    equal = [i for i in others if i.size == left.size]
    if equal and draw(st.integers(0, 3)) == 0:
        return [Delta(name, left, draw(st.sampled_from(equal)))]
    if not others:
        return []
    legs = draw(st.lists(st.sampled_from(others), unique=True, min_size=1, max_size=3))
    coefficient = st.sampled_from((1, 1, 1, 2, 3, -1, -1, -2))
    terms = tuple((draw(coefficient), leg) for leg in legs)
    folds = (left.size, draw(st.sampled_from(tuple(MODES)))) if draw(st.integers(0, 3)) == 0 else ()
    return [pattern(name, left, terms, draw(st.integers(-4, 4)), *folds)]


def _selections(draw: Draw, pool: list[Index]) -> list[Select]:
    """Up to two selections among the indices of the pool, the second maybe by the table of the first."""
    made: list[Select] = []
    for number in range(1, draw(st.integers(0, 2)) + 1):
        left = draw(st.sampled_from(pool))
        others = [i for i in pool if i != left]
        if not others:
            break
        right, table = draw(st.sampled_from(others)), f"rows{number}"
        if (
            made
            and (made[0].left.size, made[0].right.size) == (left.size, right.size)
            and draw(st.booleans())
        ):
            table = made[0].table
        made.append(Select(f"r{number}", left, right, table))
    return made


def _symbolic(draw: Draw, network: Network) -> Network:
    """The network with size `N` on one index, where that is valid."""
    chosen = draw(st.sampled_from(network.indices)) if network.indices else None
    if chosen is None:
        return network
    open_size = chosen.sized(symbol("N"))
    exchange = {chosen: open_size}
    nodes = [
        Pattern(n.name, exchange.get(n.left, n.left), n.terms, n.offset, symbol("N"), n.mode)
        if isinstance(n, Pattern) and n.modulus is not None and n.left == chosen
        else n
        for n in network.nodes
    ]
    nodes = [n.map_indices(lambda i: exchange.get(i, i)) for n in nodes]
    try:
        made = network.with_nodes(nodes, (axis.substitute(exchange) for axis in network.output))
        for size in (1, 1000):
            made.at(N=size)
    except NetworkError:
        return network
    return made


def _each(draw: Draw, dims: int, values: st.SearchStrategy[int]) -> tuple[int, ...]:
    return tuple(draw(values) for _ in range(dims))


def _padding(
    draw: Draw, dims: int, same: bool, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[Any, list[tuple[int, int]]]:
    """Padding as it is written, and as (left, right) pairs."""
    if same:
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return "same", [(total // 2, total - total // 2) for total in totals]
    form = draw(st.sampled_from(("valid", "int", "tuple", "pairs")))
    amount = st.integers(0, 3)
    if form == "valid":
        return "valid", [(0, 0)] * dims
    if form == "int":
        value = draw(amount)
        return value, [(value, value)] * dims
    if form == "tuple":
        values = _each(draw, dims, amount)
        return values, [(v, v) for v in values]
    pairs = [(draw(amount), draw(amount)) for _ in range(dims)]
    return tuple(pairs), pairs
