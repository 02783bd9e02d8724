"""The reference backend against explicit loops in plain Python, and against torch's convolutions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from hypothesis import assume, given, settings

from tnconv.backends.bound_symbols import bind_symbols
from tnconv.backends.reference import evaluate, evaluate_plan, expand_pattern
from tnconv.errors import ArgumentError
from tnconv.ir import (
    Axis,
    Index,
    Network,
    Scale,
    Select,
    Sum,
    Tensor,
    group,
    parse,
    parse_network,
    pattern,
    product,
    symbol,
)
from tnconv.planner.plan import Operand, Plan, Step
from tnconv.testing import conv_specs, networks, random_arguments, random_symbols, seeds, sums


def folded(position, size, mode):
    """The cell of a position, by the words of the definition."""
    if size is None:
        return position
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    while size > 1 and not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position if size > 1 else 0


def loops(network, arrays):
    """The value by the definition: one loop over all values of all indices, one product a round."""
    result = np.full([axis.size for axis in network.output], Fraction(0), dtype=object)
    indices = network.indices
    for values in itertools.product(*(range(index.size) for index in indices)):
        at = dict(zip(indices, values, strict=True))

        def cell(axes, at=at):
            return tuple(
                a.start + sum(s * at[i] for s, i in zip(a.strides, a.indices, strict=True)) for a in axes
            )

        factor = Fraction(int(network.scale.p), int(network.scale.q))
        for relation in network.patterns:
            if isinstance(relation, Select):
                factor *= at[relation.left] == arrays[relation.table][at[relation.right]]
                continue
            position = sum(a * at[i] for a, i in relation.terms) + relation.offset
            factor *= at[relation.left] == folded(position, relation.modulus, relation.mode)
        for tensor in network.tensors:
            factor *= int(arrays[tensor.argument][cell(tensor.axes)])
        result[cell(network.output)] += factor
    return result


@settings(max_examples=120)
@given(networks(max_volume=800, symbolic=True, selects=True), seeds())
def test_equals_plain_loops(network, seed):
    rng = np.random.default_rng(seed)
    values = random_symbols(network, rng)
    arrays = random_arguments(network, rng, symbols=values)
    result = evaluate(network, arrays, values)
    expected = loops(network.bind(values), arrays)
    assert result.shape == expected.shape
    assert (result == expected).all()


@settings(max_examples=40)
@given(sums(), seeds())
def test_a_sum_is_the_sum_of_its_terms(total, seed):
    assume(all(product(i.size for i in term.indices) < 2000 for term in total.terms))
    arrays = random_arguments(total, np.random.default_rng(seed))
    assert (evaluate(total, arrays) == sum(loops(term, arrays) for term in total.terms)).all()


@settings(max_examples=60)
@given(conv_specs(batch_size=None), seeds())
def test_equals_torch_convolutions(spec, seed):
    network = spec.network()
    arrays = random_arguments(network, np.random.default_rng(seed), np.float64)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
    pads = [side for pair in reversed(spec.paddings) for side in pair]
    dims = spec.spatial_dims
    convolution = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[
        dims - 1
    ]
    expected = convolution(
        torch.nn.functional.pad(tensors["x"], pads, mode=mode),
        tensors["weight"],
        tensors.get("bias"),
        spec.strides,
        0,
        spec.dilations,
        spec.groups,
    ).numpy()
    result = evaluate(network, arrays)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


PRODUCT = """
network product {
  index [i=3, k=3]
  x = input [i]
  y = input [k]
  d = delta [i = k]
  output []
}"""


@pytest.mark.parametrize("word", ["mod", "reflect", "replicate"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_padding_wider_than_the_input(size, word):
    text = f"network n {{\n index [i={size}, o=9, k=2]\n p = pattern [i = -2*o + 3*k + 6 {word} {size}]\n output [o, k, i]\n}}"
    network = parse_network(text)
    assert (evaluate(network, {}) == loops(network, {})).all()
    assert (evaluate(network, {}).sum(-1) == 1).all()


def test_integers_beyond_int64_are_exact():
    network = parse(PRODUCT)
    huge = np.array([2**62, -(2**61), 3])
    result = evaluate(network, {"x": huge, "y": huge})
    assert result.item() == 2**124 + 2**122 + 9
    small = evaluate(network, {"x": huge, "y": np.array([1, 2, 5])})
    assert small.dtype == np.int64
    assert small.item() == 15


def test_int8_and_bool_do_not_overflow():
    network = parse(PRODUCT)
    assert (
        evaluate(network, {"x": np.full(3, 127, np.int8), "y": np.full(3, 127, np.int8)}).item() == 3 * 127**2
    )
    assert evaluate(network, {"x": np.array([True] * 3), "y": np.array([True, False, True])}).item() == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_dtypes_are_kept(dtype):
    network = parse(PRODUCT)
    network = network.with_nodes((*network.nodes, Scale("s", sympy.Rational(1, 4))))
    x = np.array([1, 2, 3], dtype) * (1 + 1j if np.issubdtype(dtype, np.complexfloating) else 1)
    result = evaluate(network, {"x": x.astype(dtype), "y": np.ones(3, dtype)})
    assert result.dtype == dtype
    assert result == x.sum() / 4


def scaled(value):
    return Network("scaled", (Tensor("x", "input", ()), Scale("s", value)), ())


def test_scales():
    x = np.array(6)
    assert evaluate(scaled(2), {"x": x}).dtype == np.int64
    assert evaluate(scaled(sympy.Rational(1, 4)), {"x": x}).item() == Fraction(3, 2)
    assert evaluate(scaled(sympy.Integer(2) ** 70), {"x": x}).item() == 6 * 2**70
    half = 1 / symbol("N")
    assert evaluate(scaled(half), {"x": x}, {"N": 4}).item() == Fraction(3, 2)
    with pytest.raises(ArgumentError, match=r"scale 1/N of 'scaled' needs values"):
        evaluate(scaled(half), {"x": x})


def test_fractions_add_up():
    total = Sum("total", (scaled(sympy.Rational(1, 3)).rename("a"), scaled(sympy.Rational(2, 3)).rename("b")))
    for x in (np.array(1), np.array(1.0), np.array(1j)):
        value = evaluate(total, {"x": x})
        assert isinstance(value, np.ndarray)
        assert value.item() == x


def test_more_indices_than_letters():
    legs = [Index(f"a{j}", 2) for j in range(60)]
    chain = [
        Tensor(f"t{j}", "input", (group(a), group(b)), of="x")
        for j, (a, b) in enumerate(itertools.pairwise(legs))
    ]
    network = Network("chain", tuple(chain), (group(legs[0]), group(legs[-1])))
    fibonacci = np.linalg.matrix_power(np.array([[1, 1], [1, 0]], dtype=object), 59)
    assert (evaluate(network, {"x": np.array([[1, 1], [1, 0]])}) == fibonacci).all()


def test_expand_pattern():
    i, o, k = Index("i", 4), Index("o", 2), Index("k", 3)
    dense = expand_pattern(pattern("p", i, ((2, o), (1, k)), -1))
    assert dense.shape == (4, 2, 3)
    assert [tuple(int(v) for v in hit) for hit in np.argwhere(dense)] == [
        (0, 0, 1), (1, 0, 2), (1, 1, 0), (2, 1, 1), (3, 1, 2),
    ]  # fmt: skip
    wrapped = expand_pattern(pattern("p", i, ((-1, o), (1, k)), -1, 4))
    assert wrapped.sum(axis=0).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert wrapped[3, 0, 0] == 1
    huge = expand_pattern(pattern("p", i, ((2**31 - 1, o),), 2**61))
    assert not huge.any()


# -- sizes from shapes -----------------------------------------------------------------------------


def shaped(*sizes):
    axes = [[group(Index(f"i{a}_{b}", size)) for b, size in enumerate(axis)] for a, axis in enumerate(sizes)]
    return Network("shaped", tuple(Tensor("xyz"[a], "input", tuple(ax)) for a, ax in enumerate(axes)), ())


N, M = symbol("N"), symbol("M")


@pytest.mark.parametrize(
    ("sizes", "shapes", "values"),
    [
        (((N, 3),), ((5, 3),), {"N": 5}),
        (((2 * N + 1,),), ((7,),), {"N": 3}),
        (((N * M,), (M,)), ((6,), (3,)), {"N": 2, "M": 3}),
        (((N + M, N * M), (N,)), ((5, 6), (2,)), {"N": 2, "M": 3}),
        (((sympy.floor(N / 2), N),), ((2, 5),), {"N": 5}),
        (((N * M,),), ((6,),), {}),
    ],
)
def test_bind_symbols(sizes, shapes, values):
    assert bind_symbols(shaped(*sizes), dict(zip("xyz", shapes, strict=False))) == values


@pytest.mark.parametrize(
    ("sizes", "shapes", "message"),
    [
        (((N,), (N,)), ((5,), (4,)), r"axis 0 of argument 'y' has size 4 but the network says 5 \(N with N = 5 from axis 0 of argument 'x'\)"),
        (((3,),), ((4,),), r"axis 0 of argument 'x' has size 4 but the network says 3; make"),
        (((2 * N + 1,),), ((6,),), r"has size 6 but the network says 2\*N \+ 1, which needs N = 5/2"),
        (((N + 3,),), ((2,),), r"which needs N = -1"),
        (((N,),), ((3, 1),), r"argument 'x' has 2 axes, shape \(3, 1\), but the network reads 1, \[N\]"),
        (((sympy.floor(N / 2), N),), ((3, 5),), r"has size 3 but the network says 2 \(N//2 with N = 5"),
    ],
)  # fmt: skip
def test_wrong_shapes_name_the_argument_and_both_sizes(sizes, shapes, message):
    with pytest.raises(ArgumentError, match=message):
        bind_symbols(shaped(*sizes), dict(zip("xyz", shapes, strict=False)))


def test_missing_argument():
    with pytest.raises(ArgumentError, match="argument 'y' is missing; got x"):
        evaluate(shaped((2,), (2,)), {"x": np.ones(2)})
    with pytest.raises(ArgumentError, match="argument 'x' is missing; got none"):
        evaluate(shaped((2,)), {})


def test_a_symbol_that_no_shape_determines():
    network = Network("ones", (), (group(Index("n", N)),))
    with pytest.raises(
        ArgumentError, match=r"'ones' cannot be computed for sizes \{\}: size N needs a value for N"
    ):
        evaluate(network, {})
    assert evaluate(network, {}, {"N": 3}).tolist() == [1, 1, 1]


def test_a_symbol_known_beforehand_is_checked():
    with pytest.raises(ArgumentError, match=r"has size 5 but the network says 4 \(N with N = 4\)"):
        evaluate(shaped((N,)), {"x": np.ones(5)}, {"N": 4})


# -- plans -------------------------------------------------------------------------------------------


def two_step_plan(size):
    i, j, k, o = Index("i", size), Index("j", 3), Index("k", 2), Index("o", 3)
    steps = (
        Step("t", (Operand("x", (group(j), group(i))),), (), (group(i),)),
        Step(
            "u",
            (Operand("t", (Axis((k,), (1,), 0, size),)), Operand("w", (group(o),))),
            (pattern("p", o, ((1, k),), 1),),
            (group(o),),
            sympy.Rational(1, 2),
        ),
    )
    return Plan("plan", {"x": (3, size), "w": (3,)}, steps, ("u", "w"))


@pytest.mark.parametrize("size", [2, 4])
def test_evaluate_plan(size):
    x, w = np.arange(3 * size).reshape(3, size), np.array([5, 7, 11])
    t = x.sum(axis=0)
    result = evaluate_plan(two_step_plan(size), {"x": x, "w": w})
    assert result.tolist() == [5, 7 + Fraction(int(t[0]) * 7, 2), 11 + Fraction(int(t[1]) * 11, 2)]


def test_evaluate_plan_checks_shapes():
    with pytest.raises(ArgumentError, match="axis 1 of argument 'x' has size 4 but the network says 3"):
        evaluate_plan(two_step_plan(3), {"x": np.ones((3, 4)), "w": np.ones(3)})


def test_evaluate_plan_binds_symbols():
    n = Index("n", N)
    plan = Plan("p", {"x": (N, N)}, (Step("r", (Operand("x", (group(n), group(n))),), (), ()),), ("r",))
    assert evaluate_plan(plan, {"x": np.arange(9).reshape(3, 3)}) == 0 + 4 + 8


def test_output_cells_outside_are_zero():
    network = parse_network(
        "network put {\n index [i=2, j=2]\n x = input [i]\n output [i + 3*j + 1 < 7, 1]\n}"
    )
    assert evaluate(network, {"x": np.array([5, 7])}).tolist() == [[0], [5], [7], [0], [5], [7], [0]]
