"""Affine arithmetic against all values of the indices: what sums reach, and relations solved, reversed, rewritten."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnconv.ir import (
    Delta,
    Index,
    Network,
    Pattern,
    Select,
    eliminate,
    fits,
    injective,
    pattern,
    reach,
    solve,
    substitute,
    symbol,
)
from tnconv.ir.affine import Reach, reach_of_sizes, reverse
from tnconv.ir.nodes import MODES, fold

I, J, K, O = (Index(name, size) for name, size in (("i", 5), ("j", 5), ("k", 2), ("o", 3)))  # noqa: E741
POOL = (I, J, K, O)
ROWS = (4, 0, 4, 2, 1)  # what the table of a selection holds

COEFFICIENTS = st.integers(-3, 3)
INDICES = st.sampled_from(POOL)
TERMS = st.lists(st.tuples(COEFFICIENTS, INDICES), max_size=3, unique_by=lambda t: t[1]).map(tuple)


@st.composite
def relations(draw):
    """A relation of any kind."""
    left = draw(INDICES)
    others = [x for x in POOL if x != left]
    terms = tuple((draw(COEFFICIENTS), x) for x in draw(st.lists(st.sampled_from(others), max_size=3)))
    kind = draw(st.sampled_from(("plain", "plain", "select", *MODES)))
    if kind == "select":
        return Select("p", left, draw(st.sampled_from(others)), "rows")
    if kind == "plain":
        return pattern("p", left, terms, draw(st.integers(-4, 4)))
    return Pattern("p", left, terms, draw(st.integers(-4, 4)), left.size, kind)


def holds(relation, at):
    """Whether a relation holds for the values of its indices."""
    if isinstance(relation, Select):
        return at[relation.left] == ROWS[at[relation.right]] % relation.left.size
    right = sum(a * at[x] for a, x in relation.terms) + relation.offset
    if relation.modulus is not None:
        right = fold(right, relation.modulus, relation.mode)
    return at[relation.left] == right


def points(indices=POOL):
    for values in itertools.product(*(range(x.size) for x in indices)):
        yield dict(zip(indices, values, strict=True))


@given(TERMS, st.integers(-4, 4), INDICES)
def test_reach_is_the_least_and_the_greatest_value(terms, offset, index):
    values = {sum(a * at[x] for a, x in terms) + offset for at in points()}
    found = reach(terms, offset)
    assert found == (min(values), max(values))
    assert found.length == max(values) - min(values) + 1
    assert reach_of_sizes([(a, x.size) for a, x in terms], offset) == found
    assert fits(terms, offset, index) == all(0 <= value < index.size for value in values)


def test_reach_of_symbols():
    n = symbol("N")
    assert reach([(1, Index("n", n))]) is None
    assert reach_of_sizes([(2, n), (-1, 3)], 1) == Reach(-1, 2 * n - 1)
    assert fits((), 0, Index("n", n))  # every index has the value 0
    assert not fits((), 1, Index("n", n))


@given(st.lists(st.tuples(COEFFICIENTS, st.sampled_from((1, 2, 3))), max_size=3))
def test_injective_means_that_sums_differ(terms):
    values = [
        sum(a * v for (a, _), v in zip(terms, at, strict=True))
        for at in itertools.product(*(range(size) for _, size in terms))
    ]
    if injective(terms):
        assert len(set(values)) == len(values)
    elif all(a > 0 for a, _ in terms) and len(terms) < 3:
        # With two strides the test misses none but those of one modulus, as 2*a + 3*b with three values of a.
        assert len(set(values)) < len(values) or len({a for a, size in terms if size > 1}) == 2


def test_a_symbolic_size_is_safe_on_the_largest_stride():
    n = symbol("N")
    assert injective([(3, n), (1, 3)])
    assert not injective([(1, n), (3, 3)])
    assert not injective([(3, n), (3, n)])


@given(relations(), INDICES)
def test_solve_keeps_any_relation(relation, index):
    made = solve(relation, index)
    if made is None:
        assert abs(relation.zero_form.get(index, 0)) != 1 or relation.modulus is not None
    else:
        assert made.left == index
        assert all(holds(made, at) == holds(relation, at) for at in points())


def test_solve_a_delta_for_either_index():
    delta = Delta("d", I, J)
    assert solve(delta, I) is delta
    turned = solve(delta, J)
    assert turned is not None
    assert turned.left == J
    assert Network("n", (turned,), ()) == Network("n", (delta,), ())


def test_solve_where_it_cannot():
    assert solve(Pattern("p", I, ((2, O), (1, K))), O) is None
    assert solve(Pattern("p", I, ((1, O), (1, K)), 0, 5), O) is None
    assert solve(Pattern("p", I, ((1, O),)), K) is None
    assert solve(Select("p", I, O, "rows"), O) is None


@given(relations(), INDICES)
def test_reverse_reads_an_index_backwards(relation, index):
    if relation.modulus is not None or index not in relation.indices:
        return
    made = reverse(relation, index)
    assert made.left == relation.left
    for at in points():
        assert holds(made, at) == holds(relation, at | {index: index.size - 1 - at[index]})


@given(relations(), INDICES, TERMS, st.integers(-4, 4))
def test_substitute_holds_where_the_relation_does_at_the_sum(relation, index, terms, offset):
    terms = tuple((a, x) for a, x in terms if x != index)
    if index not in relation.indices:
        return
    found = substitute(relation, index, terms, offset)
    assert found is None or all(index not in made.indices for made in found)
    for at in points():
        value = sum(a * at[x] for a, x in terms) + offset
        if found is not None and 0 <= value < index.size:
            assert all(holds(made, at) for made in found) == holds(relation, at | {index: value})


@given(relations(), relations())
def test_a_rewritten_relation_holds_for_the_same_values_as_the_pair(relation, by):
    found = eliminate(relation, by)
    if found is None:
        assert by.left in relation.indices
        return
    assert by.left not in relation.indices or all(by.left not in made.indices for made in found)
    for at in points():
        pair = holds(relation, at) and holds(by, at)
        assert (all(holds(made, at) for made in found) and holds(by, at)) == pair


def test_what_substitute_can_say():
    assert substitute(Pattern("p", I, ((2, O), (1, K)), -1), K, ((1, J),), 2) == (
        Pattern("p", I, ((2, O), (1, J)), 1),
    )
    assert substitute(Pattern("p", I, ((1, O),), 1), I, ((1, O),), 1) == ()  # always true
    assert substitute(Pattern("p", I, ((1, O),), 1), I, ((1, O),), 0) is None  # never true
    assert substitute(Pattern("p", I, ((2, O),)), I, ((2, J),), 0) is None  # no coefficient is 1
    assert substitute(Pattern("p", I, ((1, O),), 0, 5), I, ((1, J),), 0) == (
        Pattern("p", J, ((1, O),), 0, 5),
    )
    assert substitute(Pattern("p", I, ((1, O),), 0, 5), I, ((1, J),), 1) is None  # left of a modulus
    assert substitute(Select("s", I, O, "rows"), I, ((1, J),), 0) == (Select("s", J, O, "rows"),)
    assert substitute(Select("s", I, O, "rows"), I, ((1, J),), 1) is None
    one = Index("one", 1)
    assert substitute(Pattern("p", one, ((1, O),), 0, 1), O, ((1, J),), 0) == ()


@pytest.mark.parametrize("by", [Pattern("q", I, ((1, J),), 0, 5), Select("q", I, J, "rows")])
def test_an_index_that_folds_is_no_sum(by):
    assert eliminate(Pattern("p", I, ((1, O),)), by) is None
    assert eliminate(Pattern("p", O, ((1, K),)), by) == (Pattern("p", O, ((1, K),)),)
