"""Floors of sizes have one form, which prints as Python does and is read back."""

import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnconv.ir import as_size, evaluate, parse_expression, symbol
from tnconv.ir.monomial import Monomial
from tnconv.ir.quotient import quotient

H, K = symbol("H"), symbol("K")
numbers = st.integers(-40, 40)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("floor(H/2)", "H//2"),
        ("(H + 1)//2", "(H - 1)//2 + 1"),
        ("floor(H/2 + 1/2)", "(H - 1)//2 + 1"),
        ("(H + 2 - K)//3 + 1", "(H - K - 1)//3 + 2"),
        ("2*H//4", "H//2"),
        ("(2*H + 3)//4", "(H - 1)//2 + 1"),
        ("(H//2 - 3)//3", "H//6 - 1"),
        ("3*(H//2)", "3*(H//2)"),
        ("H - H//2", "H - (H//2)"),
        ("(H//2)**2", "(H//2)**2"),
        ("H//K", "H//K"),
        ("(4*H + 2)//2", "2*H + 1"),
    ],
)
def test_equal_floors_have_one_text(text, printed):
    size = as_size(text)
    assert str(size) == printed
    assert as_size(printed) == size
    assert pickle.loads(pickle.dumps(size)) == size


@given(st.tuples(numbers, numbers, numbers), st.integers(1, 12), st.integers(1, 5))
def test_it_is_the_floor(coefficients, bottom, second):
    a, b, c = coefficients
    size = quotient(quotient(a * H + b * K + c, bottom) + b, second)
    text = parse_expression(str(size)) if not isinstance(size, int) else size
    assert text == size
    for h, k in ((1, 1), (7, 3), (12, 30)):
        expected = (Fraction(a * h + b * k + c, bottom) // 1 + b) // second
        assert (evaluate(size, {"H": h, "K": k}) if not isinstance(size, int) else size) == expected


@given(numbers, st.integers(1, 9), numbers)
def test_what_is_whole_stands_before_the_bar(number, bottom, whole):
    assert quotient(number * bottom * H + whole * bottom, bottom) == number * H + whole
    assert isinstance(quotient(bottom * H, bottom), Monomial)
    assert quotient(H + whole * bottom, bottom) == quotient(H, bottom) + whole
