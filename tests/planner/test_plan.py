"""Plans: their value, their text, shared steps, symbols, memory."""

import random
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from random_networks import all_trees, plan_with_tree, random_network, random_tree

from tnconv.backends.reference import evaluate, evaluate_plan
from tnconv.errors import ArgumentError, NetworkError, ParseError, PlanError
from tnconv.ir import Index, Sum, group, parse, parse_network, symbol
from tnconv.planner import Operand, Plan, Step, make_plan, parse_plan
from tnconv.testing import networks, random_arguments, random_symbols, seeds, sums

N = symbol("N")

VJP = parse_network("""network conv2d.weight_vjp {
    index [n=N, g=1, c=3, d=64, i1=224, i2=224, k1=7, k2=7, o1=112, o2=112]
    x = input [n, (g c), i1, i2]
    p1 = pattern [i1 = 2*o1 + k1 - 3]
    p2 = pattern [i2 = 2*o2 + k2 - 3]
    grad_output = cotangent [n, (g d), o1, o2]
    output [(g d), c, k1, k2]
}""")

REDUCE = parse_network("""network kfac_reduce {
    index [n=N, g=1, c=3, c_2=3, i1=12, i1_2=12, i2=12, i2_2=12, k1=3, k1_2=3, k2=3, k2_2=3, o1=12, o1_2=12, o2=12, o2_2=12]
    x = input [n, (g c), i1, i2]
    p1 = pattern [i1 = o1 + k1 - 1]
    p2 = pattern [i2 = o2 + k2 - 1 mod 12]
    x_2 = input{of=x} [n, (g c_2), i1_2, i2_2]
    p1_2 = pattern [i1_2 = o1_2 + k1_2 - 1]
    p2_2 = pattern [i2_2 = o2_2 + k2_2 - 1 mod 12]
    s = scale [1/(144*N)]
    output [g, (c k1 k2), (c_2 k1_2 k2_2)]
}""")


def assert_right(expression, plan, seed):
    """The plan has the value of the expression, exactly, and its text parses back."""
    rng = np.random.default_rng(seed)
    symbols = random_symbols(expression, rng)
    arguments = random_arguments(expression, rng, symbols=symbols)
    try:
        got = evaluate_plan(plan, arguments)
    except ArgumentError as error:  # a symbol that no argument tells
        assert "N" in str(error) and "value" in str(error), plan
    else:
        want = evaluate(expression, arguments, symbols)
        assert got.shape == want.shape, plan
        assert np.array_equal(got, want), f"{expression}\n{plan}"
    assert parse_plan(str(plan)) == plan
    assert str(parse_plan(str(plan))) == str(plan)


@settings(max_examples=150)
@given(networks(symbolic=True, selects=True, max_tensors=5), seeds())
def test_the_best_and_any_other_tree_give_the_value_of_the_network(network, seed):
    assert_right(network, make_plan(network), seed)
    tree = random_tree(random.Random(seed), len(network.tensors))
    assert_right(network, plan_with_tree(network, tree, hints={"N": 1 + seed % 5}), seed)


@settings(max_examples=40)
@given(sums(), seeds())
def test_a_sum_has_its_value(total, seed):
    assert_right(total, make_plan(total), seed)


@pytest.mark.parametrize("block", range(10))
def test_random_relations_of_every_kind_under_any_tree(block):
    checked = 0
    for seed in range(block * 30, block * 30 + 30):
        try:
            network = random_network(seed, symbol=N if seed % 4 == 0 else None, distinct=seed % 5 != 0)
        except NetworkError:
            continue
        assert_right(network, make_plan(network), seed)
        for attempt in range(2):
            tree = random_tree(random.Random(seed + attempt), len(network.tensors))
            assert_right(network, plan_with_tree(network, tree), seed)
        checked += 1
    assert checked > 10


def test_a_wrong_step_is_noticed():
    plan = make_plan(REDUCE)
    broken = parse_plan(str(plan).replace("i1 = o1 + k1 - 1", "i1 = o1 + k1 - 2"))
    x = {"x": np.random.default_rng(0).integers(-3, 4, (2, 3, 12, 12))}
    assert np.array_equal(evaluate_plan(plan, x), evaluate(REDUCE, x))
    assert not np.array_equal(evaluate_plan(broken, x), evaluate(REDUCE, x))


def test_a_relation_is_not_absorbed_twice_by_way_of_a_position_that_both_sides_have():
    # l is a sum of a and b on the one side, and of e and f on the other; [i = l + z] needs both sides
    network = parse_network("""network both {
        index [a=2, b=3, e=3, f=2, i=5, l=4, z=3]
        p1 = pattern [l = a + b]
        p2 = pattern [l = e + f]
        p3 = pattern [i = l + z]
        v = input [a, i]
        w = input [b]
        x = input [e, z]
        y = input [f]
        output []
    }""")
    for tree in all_trees((0, 1, 2, 3)):
        assert_right(network, plan_with_tree(network, tree), 0)


# -- text --------------------------------------------------------------------------------------------


def test_the_text_of_a_plan():
    assert str(make_plan(VJP)) == (
        "plan conv2d.weight_vjp {\n"
        "  argument x [N, 3, 224, 224]\n"
        "  argument grad_output [N, 64, 112, 112]\n"
        "  index [n=N, g=1, c=3, d=64, i1=224, i2=224, k1=7, k2=7, o1=112, o2=112]\n"
        "  result[(g d), c, k1, k2] = x[n, (g c), i1, i2] * grad_output[n, (g d), o1, o2]"
        " * [i1 = 2*o1 + k1 - 3] * [i2 = 2*o2 + k2 - 3]   # 118013952*N multiplications, 9408 elements\n"
        "  return result\n"
        "}"
    )


def test_comments_and_counts_are_not_read_but_hints_are():
    plan = make_plan(VJP, hints={"N": 7})
    assert "  hints [N=7]\n" in str(plan)
    text = "\n".join(line.split("#")[0] for line in str(plan).splitlines())
    assert parse_plan(text) == plan
    assert parse_plan(text) != make_plan(VJP)


TEXT = """plan p {
  argument x [2, 3]
  index [a=2, b=3]
  result[a] = x[a, b] * scale(1/2)
  return result
}"""


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("plan p {", "network p {", ParseError, "expected 'plan NAME {'"),
        ("plan p {", "plan p-q {", ParseError, "'p-q' is not a name"),
        ("argument x [2, 3]", "argument x [2, ?]", ParseError, "is not an arithmetic expression"),
        (
            "argument x [2, 3]",
            "argument x [2, 3]\n  hints [N=two]",
            ParseError,
            r"expected 'hints \[N=64, ...\]'",
        ),
        ("x[a, b] * ", "x[a, c] * ", ParseError, "index 'c' is not declared"),
        ("x[a, b] * ", "x[a, b] ", ParseError, r"expected '\*' before"),
        ("x[a, b] * ", "x(a) * ", ParseError, "cannot read"),
        ("result[a] =", "result(a) =", ParseError, r"expected 'result\[axes\] = operand"),
        ("x[a, b] * ", "y[a, b] * ", PlanError, "step 'result' reads 'y', which is not computed before it"),
        ("result[a] =", "x[a] =", PlanError, "step 'x' has the name of an argument or an earlier step"),
        (
            "x[a, b] * ",
            "x[a] * ",
            PlanError,
            r"reads 'x' with sizes \[2\], but it has \[2, 3\]; give it those axes",
        ),
        ("x[a, b] * ", "x[b, a] * ", PlanError, r"reads 'x' with sizes \[3, 2\], but it has \[2, 3\]"),
        ("x[a, b] * ", "x[a, b] * x[a, b] * x[a, b] * ", ParseError, "step 'result' has 3 operands"),
        ("return result", "return other", PlanError, "result 'other' is not computed by any step"),
        ("\n}", "\n} more", ParseError, "expected '}'"),
        ("\n}", "\n}\nmore", ParseError, "text behind the closing"),
        ("  return result\n}", "", ParseError, "ends too early"),
    ],
)
def test_a_text_that_is_no_plan_is_refused(old, new, error, message):
    assert old in TEXT
    with pytest.raises(error, match=message):
        parse_plan(TEXT.replace(old, new, 1))


def test_what_is_no_text_is_refused():
    with pytest.raises(ParseError, match="give the text of a plan"):
        parse_plan(3)


def test_a_scale_survives_and_is_applied():
    plan = parse_plan(TEXT)
    assert plan.steps[0].scale == sympy.Rational(1, 2)
    assert list(evaluate_plan(plan, {"x": np.ones((2, 3), np.int64)})) == [Fraction(3, 2)] * 2


# -- sharing and scales ------------------------------------------------------------------------------


def test_both_halves_of_a_square_are_computed_once():
    plan = make_plan(REDUCE)
    assert [s.result for s in plan.steps] == ["t1", "t2", "result"]  # wrap, window sum, product
    assert [o.source for o in plan.steps[2].operands] == ["t2", "t2"]
    first, second = plan.steps[2].operands
    assert [str(a) for a in first.axes] == ["n", "g", "c", "k1", "k2"]
    assert [str(a) for a in second.axes] == ["n", "g", "c_2", "k1_2", "k2_2"]


DIAGONAL = """network ggn_diagonal {
    index [v=4, n=8, c=3, d=5, i=12, i_2=12, k=3, o=12, o_2=12]
    x = input [n, c, i]
    p = pattern [i = o + k - 1]
    x_2 = input{of=x} [n, c, i_2]
    p_2 = pattern [i_2 = o_2 + k - 1]
    z = cotangent [v, n, d, o]
    z_2 = cotangent{of=z} [v, n, d, o_2]
    output [d, c, k]
}"""


@pytest.mark.parametrize(
    "text",
    [
        # other legs are kept
        "index [a=3, b=3, c=3, d=3]\n x = input [a, b]\n y = input{of=x} [c, d]\n output [b, c]",
        # other sizes of a summed position
        "index [i=6, i_2=6, k=3, k_2=3, o=3, o_2=4]\n x = input [i]\n p = pattern [i = o + k]\n"
        " y = input{of=x} [i_2]\n p_2 = pattern [i_2 = o_2 + k_2]\n output [k, k_2]",
        # another offset
        "index [i=6, i_2=6, k=3, k_2=3, o=3, o_2=3]\n x = input [i]\n p = pattern [i = o + k]\n"
        " y = input{of=x} [i_2]\n p_2 = pattern [i_2 = o_2 + k_2 - 1]\n output [k, k_2]",
        # other axes
        "index [a=2, b=3, c=3, d=2]\n x = input [(a b)]\n y = input{of=x} [(c d)]\n output [a, c]",
    ],
)
def test_steps_that_only_look_alike_are_not_shared(text):
    network = parse_network(f"network alike {{\n {text}\n}}")
    plan = make_plan(network)
    assert len(plan.steps) == 3
    assert_right(network, plan, 0)


def test_a_square_whose_half_is_a_product_is_planned_as_one():
    network = parse_network(DIAGONAL)
    plan = make_plan(network)
    half, square = plan.steps
    assert [o.source for o in square.operands] == ["t1", "t1"]
    assert half.multiplications == 4 * 8 * 5 * 3 * 12 * 3
    assert square.multiplications == 4 * 8 * 5 * 3 * 3
    assert_right(network, plan, 0)


def test_a_square_is_not_forced_where_another_order_is_cheaper():
    # |x y|^2 with x [a, b], y [b, c]: halves cost a*b*c, the Gram matrices 2*a*b^2 or so
    text = """network norm {
        index [a=50, b=2, b_2=2, c=50]
        x = input [a, b]
        x_2 = input{of=x} [a, b_2]
        y = input [b, c]
        y_2 = input{of=y} [b_2, c]
        output []
    }"""
    plan = make_plan(parse_network(text))
    assert plan.multiplications == 50 * 4 + 50 * 4 + 4
    assert_right(parse_network(text), plan, 0)


def test_halves_that_differ_are_not_shared():
    other = parse_network(str(REDUCE).replace("i1_2 = o1_2 + k1_2 - 1", "i1_2 = o1_2 + k1_2"))
    assert len(make_plan(other).steps) == len(make_plan(REDUCE).steps) + 1


def test_a_scale_never_goes_to_a_shared_step():
    plan = make_plan(REDUCE, hints={"N": 1})
    assert plan.steps[1].elements == 27 * N  # smaller than the result, but used twice
    assert [s.scale for s in plan.steps] == [1, 1, sympy.sympify(1) / (144 * N)]


SCALED = """network scaled {
    index [n=8, c=6, d=5, e=7]
    x = input [n, c]
    a = parameter [c, d]
    b = parameter [d, e]
    s = scale [3]
    output [n, e]
}"""


def test_a_scale_goes_to_the_smallest_step():
    plan = plan_with_tree(parse_network(SCALED), ((0, 1), 2))
    assert [(s.elements, s.scale) for s in plan.steps] == [(40, 3), (56, 1)]
    plan = plan_with_tree(parse_network(SCALED.replace("e=7", "e=5")), ((0, 1), 2))
    assert [(s.elements, s.scale) for s in plan.steps] == [(40, 1), (40, 3)]


TERM = """network {name} {{
    index [n=8, c=6, c_2=6, d=5, d_2=5]
    x = input [n, c]
    y = input{{of=x}} [n, c_2]
    {inner}
    s = scale [{scale}]
    output [{output}]
}}"""


def test_terms_of_a_sum_share_steps_but_not_scales():
    inner = "a = parameter [c, d]\n    a_2 = parameter{of=a} [c_2, d_2]"
    terms = [parse_network(TERM.format(name=f"t{k}", inner=inner, scale=k, output="d, d_2")) for k in (2, 3)]
    total = Sum("total", tuple(terms))
    plan = make_plan(total)
    assert plan.results == ("result", "result_2")
    assert [s.scale for s in plan.steps if s.result in plan.results] == [2, 3]
    assert all(s.scale == 1 for s in plan.steps if s.result not in plan.results)
    assert len(plan.steps) < len(make_plan(terms[0]).steps) * 2
    assert_right(total, plan, 0)


def test_equal_names_of_different_size_in_two_terms_are_kept_apart():
    first = parse_network("network a { \n index [n=2, k=3]\n x = input [n, k]\n output [n]\n}")
    second = parse_network("network b { \n index [n=2, k=5]\n y = input [n, k]\n output [n]\n}")
    plan = make_plan(Sum("total", (first, second)))
    assert sorted(i.size for i in plan.indices) == [2, 3, 5]
    assert_right(Sum("total", (first, second)), plan, 0)


def test_names_of_results_give_way_to_arguments():
    network = parse_network("network names {\n index [a=2, b=3]\n result = input [a, b]\n output [a]\n}")
    assert make_plan(network).results == ("result_2",)


def test_a_network_without_tensors():
    network = parse_network(
        "network ones {\n index [a=2, b=4, k=3]\n p = pattern [b = a + k]\n s = scale [2]\n output [a, b]\n}"
    )
    plan = make_plan(network)
    assert plan.steps[0].operands == ()
    assert plan.multiplications == 0
    assert_right(network, plan, 0)


def test_a_summed_index_on_nothing_but_a_trivial_relation_still_multiplies():
    network = parse_network(
        "network times {\n index [a=2, i=1, k=3]\n x = input [a]\n p = pattern [i = k mod 1]\n output [a]\n}"
    )
    assert list(evaluate_plan(make_plan(network), {"x": np.array([1, 2])})) == [3, 6]


# -- symbols -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 3, 32])
def test_symbolic_counts_equal_integer_counts_after_bind(value):
    for seed in range(0, 60, 4):
        try:
            network = random_network(seed, symbol=N)
        except NetworkError:
            continue
        plan = make_plan(network, hints={"N": value})
        bound = make_plan(network.bind({"N": value}))
        assert plan.tree == bound.tree
        for what in ("multiplications", "peak_elements"):
            assert int(sympy.sympify(getattr(plan, what)).subs(N, value)) == getattr(bound, what)
            assert isinstance(getattr(bound, what), int)


def test_a_hint_decides():
    network = parse_network("""network chain {
        index [n=N, a=10, b=10, c=10]
        x = input [n, a]
        y = parameter [a, b]
        z = parameter [b, c]
        output [n, c]
    }""")
    assert make_plan(network, hints={"N": 2}).tree == (("x", "y"), "z")
    assert make_plan(network, hints={"N": 200}).tree == ("x", ("y", "z"))
    assert make_plan(network, hints={"N": 200}).multiplications == 100 * N + 1000


def test_symbolic_positions_merge_without_halos_that_depend_on_them():
    text = """network chain {
        index [n=2, i=S + 4, a=3, b=3, o=S]
        x = input [n, i]
        p = pattern [i = o + a + b]
        u = parameter [a]
        v = parameter [b]
        output [n, o]
    }"""
    network = parse_network(text)
    for tree in ((0, (1, 2)), ((0, 1), 2)):
        plan = plan_with_tree(network, tree)
        x = {"x": np.arange(22).reshape(2, 11), "u": np.array([1, 2, 3]), "v": np.array([4, 5, 6])}
        assert np.array_equal(evaluate_plan(plan, x), evaluate(network, x))
    assert plan.steps[0].elements == 2 * symbol("S") + 4
    assert make_plan(network, planner="dp").multiplications == 9 + 10 * symbol("S")


def test_sizes_that_cannot_be_compared_are_not():
    network = parse_network("""network chain {
        index [n=2, i=S, a=3, b=3, o=T]
        x = input [n, i]
        p = pattern [i = o + a + b - 2]
        u = parameter [a]
        v = parameter [b]
        y = cotangent [o]
        output [n]
    }""")
    rng = np.random.default_rng(0)
    arguments = {
        name: rng.integers(-3, 4, shape) for name, shape in zip("xuvy", [(2, 9), 3, 3, 4], strict=True)
    }
    for tree in all_trees((0, 1, 2, 3)):
        plan = plan_with_tree(network, tree)
        assert np.array_equal(evaluate_plan(plan, arguments), evaluate(network, arguments))


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "8"])
def test_a_hint_that_is_no_size_is_refused(value):
    with pytest.raises(PlanError, match=f"hint N={value!r} is not a positive integer"):
        make_plan(VJP, hints={"N": value})


def test_a_size_that_the_hints_make_negative_is_refused():
    text = "network odd {\n index [a=N - 40]\n x = input [a]\n output []\n}"
    with pytest.raises(PlanError, match=r"size N - 40 is -8 for \{'N': 32\}; give hints"):
        make_plan(parse_network(text))
    assert make_plan(parse_network(text), hints={"N": 50}).multiplications == 0


# -- memory and structure ----------------------------------------------------------------------------


def simulate(plan, values):
    """Peak by running the plan with names only."""
    live, peak = {}, 0
    for place, step in enumerate(plan.steps):
        live[step.result] = int(sympy.sympify(step.elements).subs(values))
        peak = max(peak, sum(live.values()))
        later = {o.source for s in plan.steps[place + 1 :] for o in s.operands} | set(plan.results)
        live = {name: size for name, size in live.items() if name in later}
    return peak


@settings(max_examples=60)
@given(networks(symbolic=True, selects=True, max_tensors=5), seeds())
def test_the_peak_is_that_of_a_simulation(network, seed):
    tree = random_tree(random.Random(seed), len(network.tensors))
    plan = plan_with_tree(network, tree, hints={"N": 3})
    assert int(sympy.sympify(plan.peak_elements).subs(N, 3)) == simulate(plan, {N: 3})


def test_the_subtree_that_needs_more_memory_runs_first():
    network = parse_network("""network order {
        index [a=50, b=40, e=2]
        p = input [a]
        q = input [b]
        r = input [b]
        u = input [a, e]
        z = input [e]
        output []
    }""")
    assert network.arguments == ("u", "p", "q", "r", "z")
    plan = plan_with_tree(network, ((0, 4), ((1, 2), 3)))
    assert [s.operands[0].source for s in plan.steps] == ["p", "t1", "u", "t3"]
    assert plan.peak_elements == 50 * 40 + 50


def test_a_lone_index_is_summed_before_it_is_multiplied():
    network = parse_network(
        "network lone {\n index [a=3, b=4, c=5]\n x = input [a, b]\n y = input [b, c]\n output [c]\n}"
    )
    first, second = make_plan(network).steps
    assert (first.operands[0].source, first.multiplications, first.elements) == ("x", 0, 4)
    assert second.multiplications == 20


def test_a_delta_is_no_step():
    network = parse_network(
        "network delta {\n index [a=3, b=3, c=5]\n x = input [a]\n p = delta [a = b]\n y = input [b, c]\n output [c]\n}"
    )
    (step,) = make_plan(network).steps
    assert step.relations == ()
    assert step.multiplications == 15


def test_steps_that_do_not_fit_together_are_refused():
    a = Index("a", 2)
    step = Step("t1", (Operand("x", (group(a),)),), (), (group(a),))
    with pytest.raises(PlanError, match=r"step 't1' reads 'x' with sizes \[2\], but it has \[3\]"):
        Plan("p", {"x": (3,)}, (step,), ("t1",))
    with pytest.raises(PlanError, match="step 't1' reads 'x', which is not computed before it"):
        Plan("p", {}, (step,), ("t1",))
    with pytest.raises(PlanError, match="step 't1' has the name of an argument or an earlier step"):
        Plan("p", {"x": (2,)}, (step, step), ("t1",))
    with pytest.raises(PlanError, match="result 't2' is not computed by any step"):
        Plan("p", {"x": (2,)}, (step,), ("t2",))


def test_the_trees_of_a_sum():
    text = "sum both {\n network a {\n index [n=2, k=3]\n x = input [n, k]\n w = parameter [k]\n output [n]\n }\n network b {\n index [n=2]\n b = parameter [n]\n output [n]\n }\n}"
    plan = make_plan(parse(text))
    assert plan.tree == plan.trees == (("x", "w"), "b")
    assert [s.result for s in plan.steps] == ["result", "result_2"]
