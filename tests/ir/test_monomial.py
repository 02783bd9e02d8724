"""Monomials are the sympy expressions that they stand for: value, text, hash and whatever else."""

import copy
import operator
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from tnconv.ir import as_size, evaluate, parse_expression, symbol
from tnconv.ir.monomial import ONE, Monomial, as_scalar, expanded, monomial_of, polynomial_text
from tnconv.ir.quotient import quotient
from tnconv.ir.size import normal, symbol_names

NAMES = ("N", "M", "K_2", "a10", "a9")
N, M = symbol("N"), symbol("M")
few = settings(max_examples=30)
NUMBERS = st.fractions(-12, 12, max_denominator=12)


def twin(value: Any) -> Any:
    """The sympy expression, made on its own."""
    if not isinstance(value, Monomial):
        return sympy.sympify(value)
    made = sympy.Rational(value.coefficient.numerator, value.coefficient.denominator)
    for name, power in value.powers:
        made = made * sympy.Symbol(name, integer=True, positive=True) ** power
    return made


@st.composite
def monomials(draw: Callable[..., Any]) -> Monomial:
    made = Monomial(draw(NUMBERS))
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        made = made * symbol(name) ** draw(st.integers(-3, 3))
    return made


OPERATORS = (operator.add, operator.sub, operator.mul, operator.truediv)
OTHERS = (
    monomials()
    | st.integers(-6, 6)
    | NUMBERS
    | st.sampled_from([sympy.Integer(3), sympy.Rational(1, 2), twin(N), twin(N) + 1])
)


@given(monomials(), OTHERS, st.sampled_from(OPERATORS), st.booleans())
def test_arithmetic_is_that_of_sympy(a, b, operation, swapped):
    left, right = (b, a) if swapped else (a, b)
    if operation is operator.truediv and right == 0:
        return
    got, want = operation(left, right), operation(twin(left), twin(right))
    assert twin(normal(got)) == want
    assert got == want
    assert want == got
    assert isinstance(normal(got), Monomial | int) == (monomial_of(want) is not None)


@given(monomials(), st.integers(-3, 3))
def test_powers_signs_and_magnitudes_are_those_of_sympy(a, power):
    if a != 0 or power >= 0:
        assert twin(a**power) == twin(a) ** power
    assert twin(-a) == -twin(a)
    assert +a == a
    assert twin(abs(a)) == abs(twin(a))
    assert 2**a == sympy.Integer(2) ** twin(a)
    assert twin(expanded(a)) == sympy.expand(twin(a))


@given(monomials())
def test_the_text_is_that_of_sympy_and_reads_back(a):
    assert str(a) == repr(a) == str(twin(a))
    names = {name: f"{name}_size" for name in NAMES}
    renamed = twin(a).subs({s: sympy.Symbol(names[s.name]) for s in twin(a).free_symbols})
    if a.is_integer:
        assert polynomial_text(a, names) == sympy.pycode(renamed)
    else:
        assert polynomial_text(a, names) is None
    if all(abs(power) <= 6 for _, power in a.powers):
        assert parse_expression(str(a)) == a


@given(monomials(), OTHERS)
def test_what_is_equal_has_one_hash(a, b):
    assert (a == b) == (twin(a) == twin(b))
    assert (b == a) == (a == b)
    assert (a != b) != (a == b)
    if isinstance(b, Monomial | int | Fraction) and a == b:
        assert hash(a) == hash(b)
    again = normal(twin(a))
    assert again == a
    assert hash(again) == hash(a)
    assert (type(again) is int) == a.is_Integer


@few
@given(monomials(), monomials() | st.integers(-3, 3))
def test_comparisons_are_those_of_sympy(a, b):
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        assert sympy.sympify(compare(a, b)) == compare(twin(a), twin(b))


@few
@given(monomials())
def test_what_is_asked_of_it_is_what_sympy_says(a):
    other = twin(a)
    for name in (
        "is_Symbol",
        "is_Integer",
        "is_integer",
        "is_nonpositive",
        "is_finite",
        "is_real",
        "is_Mul",
        "is_Pow",
    ):
        assert getattr(a, name) == getattr(other, name), name
    assert {twin(s) for s in a.free_symbols} == other.free_symbols
    assert symbol_names(a) == tuple(sorted(s.name for s in other.free_symbols))
    assert bool(a) == bool(other != 0)
    assert tuple(map(twin, a.as_numer_denom())) == other.as_numer_denom()
    if not a.powers:
        assert (a.p, a.q, float(a), int(a)) == (other.p, other.q, float(other), int(other))
    assert a.coeff(N, 1) == other.coeff(twin(N), 1)
    assert sympy.sympify(a) == other
    assert a // 2 == other // 2
    assert a % 3 == other % 3


@given(monomials(), st.fixed_dictionaries({name: st.integers(1, 9) for name in NAMES}))
def test_values_are_those_of_sympy(a, values):
    want = twin(a).subs({sympy.Symbol(n, integer=True, positive=True): v for n, v in values.items()})
    assert a.subs({symbol(n): v for n, v in values.items()}) == want
    assert a.subs({twin(symbol(n)): v for n, v in values.items()}) == want
    if want.is_Integer:
        assert evaluate(a, values) == want


@given(monomials(), monomials() | st.integers(0, 3))
def test_symbols_are_exchanged_as_by_sympy(a, b):
    if b != 0:
        assert a.subs(N, b) == twin(a).subs(twin(N), twin(b))


@given(monomials())
def test_it_is_a_value(a):
    for same in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
        assert same == a
        assert hash(same) == hash(a)


def test_numbers_of_other_packages_are_taken():
    for number in (np.int64(3), sympy.Integer(3), True + 2):
        assert number * N == N * number == 3 * N
        assert str(N + number) == "N + 3"
    assert ONE * np.int32(2) == 2
    for other in ("a", None, [1]):
        with pytest.raises(TypeError):
            N * other
        assert other != N
    with pytest.raises(TypeError, match="size N is no integer"):
        operator.index(N)
    with pytest.raises(AttributeError, match="has no attribute 'name'"):
        (3 * N).name  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        evaluate(N, {"N": 1}) / 0


def test_sums_and_floors_are_sympys_until_they_are_monomials():
    total = as_size("N + 1")
    assert isinstance(total, sympy.Expr)
    assert isinstance(as_size(total - 1), Monomial)
    assert isinstance(as_size(sympy.Symbol("N", integer=True, positive=True)), Monomial)
    assert as_size("floor(4*N)") == 4 * N
    assert as_size("floor(N/2)*2") == 2 * quotient(N, 2) == as_size(2 * sympy.floor(twin(N) / 2))
    assert monomial_of(sympy.Symbol("N")) is None  # which may be anything
    assert monomial_of(sympy.sqrt(2)) is None
    assert as_scalar(Fraction(1, 3)) == sympy.Rational(1, 3)
    assert polynomial_text(twin(N) ** 2 + 3, {"N": "(x.shape[0])"}) == "(x.shape[0])**2 + 3"
    assert polynomial_text(sympy.floor(twin(N) / 2), {"N": "N"}) is None
    assert (
        polynomial_text(as_size("3*((N - 1)//2) + 1"), {"N": "(x.shape[0])"})
        == "3*(((x.shape[0]) - 1)//2) + 1"
    )
    assert polynomial_text(twin(N) / 2 + 1, {"N": "N"}) is None
