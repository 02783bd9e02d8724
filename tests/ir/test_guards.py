"""Guards: what is proved, what is assumed and recorded, and how it is printed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnconv.errors import NetworkError
from tnconv.ir import as_size, evaluate, parse_expression, symbol
from tnconv.ir.guards import Guard, Guards, assuming, at_most, below, check, equal, impossible, refuted, whole
from tnconv.ir.monomial import Monomial
from tnconv.ir.provable import bounds_of, never_negative
from tnconv.ir.size import normal

C, G, H, K, N = map(symbol, "CGHKN")


def size_guards(sizes):
    """What has to hold for sizes to be integers of at least 1."""
    with assuming() as found:
        for size in sizes:
            whole(size)
            if not isinstance(size, Monomial):  # an integer above zero
                refuted(1, size)
    return found.guards


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1, "H"),
        ("H", "N*H"),
        ("2*(H//2)", "H"),
        ("H - 1", "2*(H//2)"),
        ("16*((H - 16)//16 + 1) - 1", "H - 1"),
        ("H*(N - 1)", "H*N - 1"),
        ("2*((H - 1)//2)", "H - 1"),
    ],
)
def test_what_holds_for_all_sizes_is_proved(low, high):
    assert at_most(parse_expression(str(low)), parse_expression(high))
    assert not impossible(parse_expression(str(low)), parse_expression(high))


def test_sizes_of_indices_are_at_least_one():
    assert not at_most(K, H + 2)
    with assuming(known=[as_size("(H - K + 2)//2 + 1")]):
        assert at_most(K, H + 2)
        assert at_most(2 * parse_expression("(H - K)//2") + K, H)
        assert not at_most(K, H + 1)


values = st.integers(-6, 6)


@settings(max_examples=30)
@given(st.tuples(values, values, values, values), st.integers(1, 4), st.integers(1, 4))
def test_what_is_proved_holds_at_all_sizes(numbers, bottom, other):
    a, b, c, d = numbers
    floors = parse_expression(f"({b}*H + K)//{bottom} + {c}*((H + {d})//{other})".replace("+ -", "- "))
    value = normal(a * H + floors + d)
    bounds = bounds_of([as_size("H - K + 3")])
    if never_negative(value, bounds):
        for h in range(1, 12):
            for k in range(1, h + 3):
                assert (value if isinstance(value, int) else evaluate(value, {"H": h, "K": k})) >= 0


@settings(max_examples=25)
@given(values, values, st.integers(1, 5), st.integers(1, 14), st.integers(1, 14))
def test_a_guard_holds_where_its_question_has_the_answer_that_was_taken(a, c, bottom, there, here):
    high = parse_expression(f"{a}*(H//{bottom}) + {c}".replace("+ -", "- "))
    with assuming({"H": there}) as found:
        answers = at_most(high, H), equal(high, H), below(1, high)
    assert found.guards.same({"H": there})
    if found.guards.same({"H": here}):
        with assuming({"H": here}):
            assert answers == (at_most(high, H), equal(high, H), below(1, high))
    for guard in (*found.guards.needed, *found.guards.chosen):
        assert guard.holds({"H": here}) is not guard.negated().holds({"H": here})


def test_what_is_open_is_not_so_unless_it_is_assumed():
    assert not equal(2 * as_size("H//2"), H)
    with assuming({"H": 56}) as found:
        assert equal(2 * as_size("H//2"), H)
        assert equal(8 * as_size("H//8"), H)
        assert not equal(16 * as_size("H//16"), H)
        assert at_most(5, H)
        assert at_most(3, H)
        assert not equal(N, 1)  # nothing is assumed of it
    assert str(found.guards) == "H % 8 == 0, H >= 5"
    assert [str(guard) for guard in found.guards.chosen] == ["H % 16 != 0"]
    assert found.guards.hold({"H": 8}) and found.guards.same({"H": 8})
    assert found.guards.hold({"H": 16}) and not found.guards.same({"H": 16})
    assert not found.guards.hold({"H": 4})


def test_blocks_add_up():
    with assuming({"H": 4}) as outer:
        with assuming({"K": 3}) as inner:
            assert at_most(K, H)
        assert not at_most(K, H - 1)  # nothing is assumed of K any more
    assert str(inner.guards) == str(outer.guards) == "K <= H"


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (["C/G", "9*C/G", "C/2", "9*C/2 + 1"], "C % G == 0, C % 2 == 0"),
        (["(H - 1)//2 + 1", "(H - 5)//2 + 1", "N"], "H >= 5"),
        (["(H - K + 2)//2 + 1", "H - K + 3"], "K <= H + 2"),
        (["3*H + 2*K - 8"], "3*H + 2*K >= 9"),
    ],
)
def test_what_sizes_need(sizes, text):
    assert str(size_guards(map(as_size, sizes))) == text


@pytest.mark.parametrize(
    ("value", "says", "text"),
    [
        ("H - 2*(H//2)", "== 0", "H % 2 == 0"),
        ("H - 2*((H - 1)//2) - 2", ">= 0", "H % 2 == 0"),
        ("H - 3*((H - 1)//3) - 2", ">= 0", "(H - 1) % 3 >= 1"),
        ("2*((H - 1)//2) - H + 1", ">= 0", "H % 2 == 1"),
        ("H - 4*(H//4) - 1", "!= 0", "H % 4 != 1"),
        ("C - G", "== 0", "C == G"),
        ("4 - H", ">= 0", "H <= 4"),
        ("H + 2 - K", ">= 0", "K <= H + 2"),
    ],
)
def test_texts(value, says, text):
    assert str(Guard(parse_expression(value), says)) == text


def test_sizes_that_break_a_guard_are_refused():
    guards = size_guards([as_size("H - K + 3")])
    assert guards.symbols == ("H", "K")
    check(guards, {"H": 3, "K": 5}, "layer")
    with pytest.raises(NetworkError, match=r"layer needs K <= H \+ 2, but H=3, K=6 was given; give sizes"):
        check(guards, {"H": 3, "K": 6}, "layer")
    assert len(guards + guards) == 1
    assert list(Guards()) == []
