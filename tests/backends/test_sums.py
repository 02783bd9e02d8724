"""Sums: terms that share work must not share memory that is changed in place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.backends import reference
from tnconv.ir import Network, Scale, Sum, parse
from tnconv.passes import Pipeline
from tnconv.testing import networks

CUBE = """
network cube {
  index [i=3, j=4]
  x   = input       [i, j]
  x_2 = input{of=x} [i, j]
  x_3 = input{of=x} [i, j]
  output            [i]
}
"""
CONVOLUTION = """
network {name} {{
  index [n=N, c=2, d=3, i=6, k=3, a=4, b=4, j=6, l=3]
  x = input     [n, c, i, j]
  p = pattern   [i = a + k]
  q = pattern   [j = b + l]
  w = parameter [d, c, k, l]
  {scale}
  output        [n, d, {axes}]
}}
"""
BIAS = """
network bias {
  index [n=N, d=3, a=4, b=4]
  bias = parameter [d]
  output [n, d, a, b]
}
"""
ROLL = """
network {name} {{
  index [n=N, c=3, i=6, o=6]
  x = input     [n, c]
  p = pattern   [i = o + 2 mod 6]
  w = parameter [c, o]
  {scale}
  output        [n, i]
}}
"""


def check(expression, batch=2, **options):
    """The program of an expression has the reference's value."""
    function = tnconv.compile(expression, **options)
    rng = np.random.default_rng(0)
    found = {t.argument: t for term in expression.terms for t in term.tensors}
    arrays = {
        name: rng.integers(-3, 4, size=[a.size if isinstance(a.size, int) else batch for a in t.axes]).astype(
            float
        )
        for name, t in found.items()
    }
    want = np.asarray(reference.evaluate(expression, arrays), dtype=float)
    before = {name: array.copy() for name, array in arrays.items()}
    got = function(*(torch.from_numpy(arrays[name]) for name in function.arguments))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10, atol=1e-10)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])  # no argument was changed


def term(text, name, scale="", axes="a, b"):
    line = f"s = scale [{scale}]" if scale else ""
    return parse(text.format(name=name, scale=line, axes=axes))


@pytest.mark.parametrize("way", ["tangent=t", "cotangent=g"])
def test_derivative_of_a_cube(way):
    derivative, _ = Pipeline.parse(f"differentiate{{wrt=x, {way}}}").run(parse(CUBE))
    assert len(derivative.terms) == 3
    check(derivative)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_terms(count):
    check(Sum("s", tuple(term(CONVOLUTION, f"t{k}") for k in range(count))))


def test_a_term_and_its_transpose():
    check(Sum("s", (term(CONVOLUTION, "a"), term(CONVOLUTION, "b", axes="b, a"))))


def test_one_bias_for_two_equal_convolutions():
    check(Sum("s", (term(CONVOLUTION, "a"), term(CONVOLUTION, "b"), parse(BIAS))))


@pytest.mark.parametrize("scale", ["", "1/2", "3", "1/N"])
@pytest.mark.parametrize("hint", [1, 32])
def test_bias_is_not_scaled_with_its_convolution(scale, hint):
    check(Sum("s", (term(CONVOLUTION, "a", scale), parse(BIAS))), hints={"N": hint})


def test_bias_goes_into_the_native_call():
    function = tnconv.compile(Sum("s", (term(CONVOLUTION, "a"), parse(BIAS))))
    assert "F.conv2d(x, w, bias)" in function.source
    assert " + " not in function.source


@pytest.mark.parametrize(("one", "two"), [("5", "7"), ("5", ""), ("", "7"), ("1/2", "1/3")])
def test_scales_of_terms_that_share_a_product(one, two):
    check(Sum("s", (term(ROLL, "a", one), term(ROLL, "b", two))))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(networks(), st.lists(st.sampled_from([1, 2, -3]), min_size=2, max_size=4))
def test_multiples_of_a_random_network_add_up(network: Network, scales: list[int]):
    terms = [
        network.rename(f"t{k}").with_nodes((*network.nodes, Scale(network.fresh_name("z"), s)))
        for k, s in enumerate(scales)
    ]
    check(Sum("s", tuple(terms)), passes="none")
    check(Sum("s", tuple(terms)))


def test_a_result_is_never_an_argument():
    x = torch.randn(2, 3, 8)
    function = tnconv.compile(tnconv.ConvSpec(3, 4, 1, 8), "unfold")
    kept = x.clone()
    function(x).zero_()
    assert torch.equal(x, kept)
