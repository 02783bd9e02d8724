"""Sizes, expressions, indices and axes."""

import contextlib
import copy
import pickle
import warnings
from dataclasses import replace

import pytest
import sympy
from hypothesis import example, given
from hypothesis import strategies as st

from tests.work import calls_of
from tnconv.errors import NetworkError
from tnconv.ir import Axis, Index, as_size, evaluate, group, parse_expression, product, symbol
from tnconv.ir.index import format_affine, natural_key
from tnconv.ir.monomial import Monomial
from tnconv.ir.quotient import quotient
from tnconv.ir.size import symbol_names

N, M = symbol("N"), symbol("M")
A, B, C = Index("a", 2), Index("b", 3), Index("c", 4)


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "_a",
        "a b",
        "a-b",
        "a.b",
        "é",
        "a\n",
        "x" * 65,
        "a٣",
        None,
        3,
        "__import__('os')",
        "a;b",
        "(a)",
    ],
)
def test_names_outside_the_alphabet(name):
    with pytest.raises(NetworkError, match=r"name .* is not a name; use ASCII letters"):
        Index(name, 2)


def test_names_of_the_alphabet():
    assert [Index(name, 1).name for name in ("a", "Z_9", "x" * 64)] == ["a", "Z_9", "x" * 64]


def test_natural_order():
    assert sorted(["k10", "k2", "k", "a3"], key=natural_key) == ["a3", "k", "k2", "k10"]
    names = ["i2", "c_2", "d", "k1", "n", "i10", "v", "c", "g"]
    ordered = sorted((Index(name, 1) for name in names), key=lambda i: i.sort_key)
    assert [i.name for i in ordered] == ["v", "n", "g", "c", "c_2", "d", "i2", "i10", "k1"]


# -- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (3, 3),
        ("3", 3),
        (sympy.Integer(4), 4),
        ("N", N),
        ("2*N + 1", 2 * N + 1),
        ("floor(N/2)", quotient(N, 2)),
        (sympy.floor(N / 2 + sympy.Rational(1, 2)), quotient(N - 1, 2) + 1),
        ("N/2", N / 2),
        (2**62, 2**62),
        ("N - 1", N - 1),
    ],
)
def test_sizes(value, size):
    assert as_size(value) == size
    assert type(as_size(value)) is (int if isinstance(size, int) else type(size))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, r"size 0 is not between 1 and 2\*\*62"),
        (-3, r"size -3 is not between"),
        (2**62 + 1, r"is not between"),
        ("0", r"size 0 is not between"),
        ("N - N", r"size 0 is not between"),
        (True, r"size True is not an integer or a sympy expression"),
        (2.0, r"size 2.0 is not an integer or a sympy expression"),
        (None, r"size None is not"),
        ([2], r"size \[2\] is not"),
        ("-N", r"size -N is never positive"),
        ("N + 1/2", r"size N \+ 1/2 is not known to be an integer; build its symbols"),
        (sympy.Rational(1, 2), r"size 1/2 is not known to be an integer"),
        (sympy.Symbol("N"), r"size N is not known to be an integer"),
        (sympy.Symbol("N", integer=True), r"size N cannot be written in the text of a network"),
        (sympy.Symbol("N+1", integer=True, positive=True), r"size name 'N\+1' is not a name"),
        (sympy.Max(N, 3), r"size Max\(3, N\) cannot be written in the text"),
        (N**65, r"size N\*\*65 cannot be written in the text"),
        (sympy.Integer(2) ** 513 * N, r"cannot be written in the text"),
        (sympy.Mul(2, N + 1, evaluate=False), r"size 2\*\(N \+ 1\) cannot be written in the text"),
    ],
)
def test_bad_sizes(value, message):
    with pytest.raises(NetworkError, match=message):
        Index("i", value)


def test_product_is_an_int_unless_a_symbol_is_in_it():
    assert type(product([2, sympy.Integer(3)])) is int
    assert product([2, N]) == 2 * N
    assert product([]) == 1


def test_symbol_names():
    assert symbol_names(3) == ()
    assert symbol_names(N * symbol("B10") + symbol("B2")) == ("B10", "B2", "N")


def test_evaluate():
    assert evaluate(3, {}) == 3
    assert evaluate(2 * N + M**2, {"N": 3, "M": 4}) == 22
    assert evaluate(symbol("lambda") + 1, {"lambda": 2}) == 3


@pytest.mark.parametrize("divisor", [2, 3, 7, 49, 107])
def test_evaluate_floors_exactly(divisor):
    size = sympy.floor((N + 1) / divisor) + 1
    for value in [*range(1, 200), 2**53 + 1, 10**18 - 1, 10**30]:
        assert evaluate(size, {"N": value}) == (value + 1) // divisor + 1


def test_evaluate_nested_and_symbolic_divisors():
    size = as_size("floor((floor(N/M) - M)/3) + floor(1/(N + 1)**2)")
    for n in range(1, 40):
        for m in range(1, 6):
            assert evaluate(size, {"N": n, "M": m}) == (n // m - m) // 3


def test_evaluate_needs_every_symbol():
    with pytest.raises(NetworkError, match=r"size M\*N needs a value for M; got \{'N': 2\}"):
        evaluate(M * N, {"N": 2})


def test_evaluate_refuses_division_by_zero_and_fractions():
    with pytest.raises(NetworkError, match=r"divides by zero for \{'N': 1\}"):
        evaluate(sympy.floor(3 / (N - 1)), {"N": 1})
    with pytest.raises(NetworkError, match=r"size N/2 is 3/2 for \{'N': 3\}, not an integer"):
        evaluate(N / 2, {"N": 3})
    with pytest.raises(NetworkError, match="which has no exact integer value"):
        evaluate(sympy.Min(N, 2), {"N": 3})
    assert evaluate(sympy.Max(N, 5), {"N": 3}) == 5


@given(st.recursive(
    st.sampled_from(["N", "M", "1", "2", "7"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("floor({})".format, inner),
        st.builds("({})**{}".format, inner, st.sampled_from((2, 3, -1))),
        st.builds("-{}".format, inner),
    ),
    max_leaves=6,
), st.integers(1, 9), st.integers(1, 9))  # fmt: skip
def test_compiled_value_is_sympys_value(text, n, m):
    try:
        size = as_size(text)
        value = evaluate(size, {"N": n, "M": m})
    except NetworkError:
        return
    assert value == (size if isinstance(size, int) else size.subs({N: n, M: m}))
    assert as_size(str(size)) == size


# -- expressions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 2*N - 3 ", 2 * N - 3),
        ("1/(N*M**2)", 1 / (N * M**2)),
        ("-N + 7", 7 - N),
        ("N**-2", N**-2),
        ("floor(N/2)", quotient(N, 2)),
        ("(N + 1)//2", quotient(N - 1, 2) + 1),
        ("6/4", sympy.Rational(3, 2)),
        ("Truely", symbol("Truely")),
    ],
)
def test_expressions(text, value):
    assert parse_expression(text) == value


BOMBS = [
    "9**9**9",
    "2**8**8**8",
    "N**(9**99999999)",
    "(" * 20 + "9" + "**8)" * 20,
    "(" * 20 + "(N+1)" + "**8)" * 20,
    "(" * 199 + "1" + ")" * 199,
    "-" * 399 + "1",
    "~" * 399 + "1",
    "floor(" * 50 + "N" + ")" * 50,
    "9" * 400,
    "floor(" + "/".join(f"(N+{i})" for i in range(10, 60)) + ")",
    "floor(" + "+".join(f"1/(N+{i})" for i in range(10, 45)) + ")",
    "floor((floor(900)**3-(N/(900+N))**64))",
    "*".join(["(N+1)**8"] * 40),
    "1/(" * 60 + "N" + "+1)" * 60,
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_a_short_text_never_means_long_work(text):
    def work() -> None:
        with contextlib.suppress(NetworkError):
            evaluate(as_size(text), {"N": 3})

    calls_of(work, most=10_000_000)  # measured: 3,000, and 2.7 million for the last


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "(", "N +", "N M", "1.5", "1j", "True", "None", "'N'", "N.real", "N[0]", "N(1)", "floor(N, M)",
        "floor(x=N)", "floor()", "floor(*N)", "N % 2", "N // 0", "N << 1", "not N", "+N", "N if N else 1", "lambda: 1",
        "[1]", "(1, 2)", "N := 3", "N; M", "N\nM", "1/0", "0**-1", "1/(N-N)", "2**N", "2**65", "2**0.5", "٢", "Ｎ", "N\x00",
        "__import__('os').system('true')", "().__class__", "exec('1')", "_x", "N" * 65, "9" * 200, "(10**100)**6",
        "await N", "yield", "f'{N}'", "...", "*N", "#",
    ],
)  # fmt: skip
def test_what_is_not_arithmetic(text):
    with pytest.raises(NetworkError, match=r"is not an arithmetic expression|is not a name"):
        parse_expression(text)


@given(
    st.text(max_size=12)
    | st.text("0123456789NMaxfloriesd_ +-*/().,x'\\#\n", max_size=24)
    | st.lists(
        st.sampled_from(["9", "0x1", "1_0", "07", "N", "floor", "if", "or", "else", "is", "in", "for", "+", "-", "*", "/", "(", ")", " "]),
        max_size=9,
    ).map("".join)
)  # fmt: skip
@example("9N")
@example("9if N else 1")
@example("0x1for x in N")
@example("9or N")
@example("'\\d'")
@example("(1)(2)")
@example("1 is 1")
def test_any_text_is_a_size_or_refused_without_a_warning(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(NetworkError):
            size = as_size(text)
            assert isinstance(size, int | Monomial | sympy.Expr)
            assert as_size(str(size)) == size


def test_long_expressions_are_refused():
    with pytest.raises(NetworkError, match="expression of 401 characters is too long; at most 400"):
        parse_expression("N" * 401)


# -- axes --------------------------------------------------------------------------------------------


def test_groups():
    axis = group(A, B)
    assert (axis.strides, axis.start, axis.size, axis.is_group) == ((3, 1), 0, 6, True)
    assert str(axis) == "(a b)"
    assert str(group(A)) == "a"
    assert str(group()) == "1"
    assert group().size == 1
    assert group(Index("n", N), B).strides == (3, 1)
    assert group(A, Index("n", N)).strides == (N, 1)
    assert group(A, Index("n", N)).size == 2 * N


def test_affine_axes():
    axis = Axis((A, B), (4, 1), 1, 9)
    assert not axis.is_group
    assert axis.reach == 1 * 4 + 2 + 1 + 1
    assert str(axis) == "4*a + b + 1 < 9"
    assert Axis((A,), (1,), 2).size == 4
    assert str(Axis((A,), (1,), 0, 5)) == "a < 5"
    assert str(Axis((), (), 2, 5)) == "2 < 5"
    assert str(Axis((), (), 0, 5)) == "0 < 5"
    assert Axis((A, B), (3, 1), 0, 6) == group(A, B)
    assert Axis((B, A), (1, 3), 0, 6) != group(A, B)


def test_a_group_stays_a_group_under_substitution():
    wide = Index("b", 5)
    assert group(A, B).substitute({B: wide}) == group(A, wide)
    assert Axis((A, B), (4, 1), 0, 9).substitute({B: C}) == Axis((A, C), (4, 1), 0, 9)


def test_axes_bind():
    n = Index("n", N)

    def three(size):
        return evaluate(size, {"N": 3})

    assert group(A, n).resized(three) == group(A, Index("n", 3))
    assert Axis((n,), (1,), 2, N + 2).resized(three) == Axis((Index("n", 3),), (1,), 2, 5)


def test_one_stride_an_index():
    with pytest.raises(NetworkError, match="axis has 2 indices but 1 strides; give one each"):
        Axis((A, B), (1,))


def test_format_affine():
    assert format_affine(((2, A), (-1, B)), -3) == "2*a - b - 3"
    assert format_affine(((-2, A),), 0) == "-2*a"
    assert format_affine((), -4) == "-4"
    assert format_affine((), 0) == "0"


@pytest.mark.parametrize("size", [3, N, 2 * N, quotient(N, 2)])
def test_equal_indices_are_one_object(size):
    index = Index("n", size)
    same = (Index("n", size, index.kind), Index("n", sympy.sympify(str(size)) if size == 3 else size))
    for other in (*same, pickle.loads(pickle.dumps(index)), copy.deepcopy(index), replace(index, name="n")):
        assert other is index
    others = {index.named("m"), index.sized(5), Index("n", size, Index("c", 2).kind)}
    assert len(others | {index}) == 4


@pytest.mark.parametrize("size", [True, 1.0, 2.0])
def test_what_equals_a_size_is_no_size(size):
    Index("n", int(size))
    with pytest.raises(NetworkError, match="not an integer"):
        Index("n", size)
