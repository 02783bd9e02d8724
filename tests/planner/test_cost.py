"""The cost function against counts by hand: formulas, not the code that is tested."""

import numpy as np
import pytest
from random_networks import plan_with_tree

from tnconv.backends.reference import evaluate, evaluate_plan
from tnconv.ir import parse_network, symbol
from tnconv.planner import make_plan
from tnconv.planner.count import determined

N = symbol("N")


def conv(output, *tensors, dims="i1=12, i2=12, k1=3, k2=5, o1=10, o2=4", p2="i2 = 2*o2 + k2 - 1"):
    lines = "\n".join(tensors)
    return parse_network(f"""network conv2d.test {{
        index [n=N, g=2, c=3, d=4, {dims}]
        p1 = pattern [i1 = o1 + k1]
        p2 = pattern [{p2}]
        {lines}
        output [{output}]
    }}""")


X = "x = input [n, (g c), i1, i2]"
W = "w = parameter [(g d), c, k1, k2]"
DY = "dy = cotangent [n, (g d), o1, o2]"


@pytest.mark.parametrize(
    ("output", "tensors"),
    [
        ("n, (g d), o1, o2", (X, W)),
        ("(g d), c, k1, k2", (X, DY)),
        ("n, (g c), i1, i2", (W, DY)),
    ],
)
def test_forward_and_both_vjps_count_n_c_d_o_k_for_each_group(output, tensors):
    plan = make_plan(conv(output, *tensors))
    assert plan.multiplications == N * 2 * 3 * 4 * (10 * 4) * (3 * 5)
    assert len(plan.steps) == 1


def test_forward_where_the_output_is_larger_than_the_input_drops_the_output():
    # full padding: i = o + k - 2 with I=4, O=6, K=3 has 4*3 pairs that matter, not 6*3
    network = parse_network("""network full {
        index [i=4, k=3, o=6]
        x = input [i]
        p = pattern [i = o + k - 2]
        w = parameter [k]
        output [o]
    }""")
    assert make_plan(network).multiplications == 4 * 3


def test_a_one_by_one_kernel_costs_what_a_matmul_costs():
    plan = make_plan(
        conv("n, (g d), o1, o2", X, W, dims="i1=10, i2=9, k1=1, k2=1, o1=10, o2=5", p2="i2 = 2*o2 + k2")
    )
    assert plan.multiplications == N * 2 * 3 * 4 * 10 * 5


def test_kfac_expand_pays_for_every_position_and_pair_of_taps():
    network = parse_network("""network kfac_expand {
        index [n=N, c=3, c_2=3, i=12, i_2=12, k=3, k_2=3, o=12]
        x = input [n, c, i]
        x_2 = input{of=x} [n, c_2, i_2]
        p = pattern [i = o + k - 1]
        p_2 = pattern [i_2 = o + k_2 - 1]
        output [(c k), (c_2 k_2)]
    }""")
    plan = make_plan(network)
    assert plan.multiplications == N * 3**2 * 12 * 3**2
    assert len(plan.steps) == 1  # unfolding first would only cost memory


REDUCE = """network kfac_reduce {
    index [n=N, c=3, c_2=3, i=12, i_2=12, k=3, k_2=3, o=12, o_2=12]
    x = input [n, c, i]
    x_2 = input{of=x} [n, c_2, i_2]
    p = pattern [i = o + k - 1]
    p_2 = pattern [i_2 = o_2 + k_2 - 1]
    s = scale [1/(144*N)]
    output [(c k), (c_2 k_2)]
}"""


def test_kfac_reduce_sums_windows_first_and_only_once():
    plan = make_plan(parse_network(REDUCE))
    assert plan.multiplications == N * (3 * 3) ** 2
    assert [step.multiplications for step in plan.steps] == [0, N * 81]
    assert [o.source for o in plan.steps[1].operands] == ["t1", "t1"]


CHAIN = """network chain {
    index [n=2, c=4, r=5, s=3, d=7, i=32, a=3, b=3, e=3, o=15]
    x = input [n, c, i]
    p = pattern [i = 2*o + a + 2*b + e - 1]
    u = parameter [c, r, a]
    v = parameter [r, s, b]
    w = parameter [s, d, e]
    output [n, d, o]
}"""


def test_a_chain_of_three_kernels_step_by_step():
    # left to right; tensors are u, v, w after x. Halo of x*u: 2*o + 2*b + e - 1 in [-1, 33], and i - a in
    # [-2, 31]: 33 cells. Behind x*u*v: 2*o + e - 1 in [-1, 29], i - a - 2*b reaches all of it: 31 cells.
    # The stride is applied by the last step.
    plan = make_plan(parse_network(CHAIN), planner="left-to-right")
    assert [s.elements for s in plan.steps] == [2 * 5 * 33, 2 * 3 * 31, 2 * 7 * 15]
    assert [s.multiplications for s in plan.steps] == [
        2 * 4 * 5 * 32 * 3,  # i (32) and q (33) are joined: the larger goes
        2 * 5 * 3 * 31 * 3,
        2 * 3 * 7 * 15 * 3,
    ]


def test_two_kernels_merge_into_the_number_of_their_distinct_sums():
    # a + 2*b of 3 and 3 taps: 7 cells, not 9; then + e: 9 cells
    plan = plan_with_tree(parse_network(CHAIN), (0, (1, (2, 3))))
    merge_vw, merge_u, last = plan.steps
    assert (merge_vw.elements, merge_vw.multiplications) == (5 * 7 * 7, 5 * 3 * 7 * 3 * 3)
    assert (merge_u.elements, merge_u.multiplications) == (4 * 7 * 9, 4 * 5 * 7 * 3 * 7)
    assert last.multiplications == 2 * 4 * 7 * 15 * 9


def test_equal_dilations_are_compressed_before_they_merge():
    network = parse_network(CHAIN.replace("2*o + a + 2*b + e", "o + a + 4*b + 4*e"))
    plan = plan_with_tree(network, (0, (1, (2, 3))))
    assert plan.steps[0].elements == 5 * 7 * 5  # b + e, not 4*b + 4*e
    assert "[q = e + b]" in str(plan) or "[q = b + e]" in str(plan)


def test_a_stride_is_applied_early_where_all_that_is_left_is_divisible():
    # what x*u waits for is 2*o + 2*b + 2*e, so only every second cell is kept: 15 + 3 + 3 - 2 = 19 cells
    network = parse_network(CHAIN.replace("+ 2*b + e - 1", "+ 2*b + 2*e - 1"))
    plan = make_plan(network, planner="left-to-right")
    assert plan.steps[0].elements == 2 * 5 * 17  # of the 19 cells, x reaches those from -1 to 31
    assert plan.steps[0].multiplications == 2 * 4 * 5 * 17 * 3


CP = """network cp {
    index [n=N, c=16, d=16, r=8, i1=32, i2=32, k1=3, k2=3, o1=30, o2=30]
    x = input [n, c, i1, i2]
    p1 = pattern [i1 = o1 + k1]
    p2 = pattern [i2 = o2 + k2]
    a = parameter [c, r]
    b = parameter [k1, r]
    e = parameter [k2, r]
    f = parameter [d, r]
    output [n, d, o1, o2]
}"""


def test_a_cp_layer_is_a_chain_of_four_cheap_steps():
    plan = make_plan(parse_network(CP))
    pointwise = N * 16 * 8 * 32 * 32
    vertical = N * 8 * 30 * 32 * 3
    horizontal = N * 8 * 30 * 30 * 3
    assert plan.multiplications == pointwise + vertical + horizontal + N * 16 * 8 * 30 * 30
    assert plan.tree == (((("x", "a"), "b"), "e"), "f")


@pytest.mark.parametrize("word", ["mod", "reflect", "replicate"])
def test_a_wrap_prepares_the_leaf_or_finishes_the_result(word):
    forward = f"""network padded {{
        index [n=2, c=3, d=4, i1=12, k1=3, o1=12]
        x = input [n, c, i1]
        p1 = pattern [i1 = o1 + k1 - 1 {word} 12]
        w = parameter [d, c, k1]
        output [n, d, o1]
    }}"""
    vjp = forward.replace("x = input [n, c, i1]", "dy = cotangent [n, d, o1]").replace(
        "output [n, d, o1]", "output [n, c, i1]"
    )
    first, second = make_plan(parse_network(forward)).steps
    assert (first.elements, first.multiplications) == (2 * 3 * 14, 0)
    assert [r.relation_text() for r in second.relations] == ["j1 = o1 + k1"]
    assert second.multiplications == 2 * 3 * 4 * 12 * 3
    first, second = make_plan(parse_network(vjp)).steps
    assert first.multiplications == 2 * 3 * 4 * 12 * 3
    assert [r.relation_text() for r in second.relations] == [f"i1 = j1 - 1 {word} 12"]
    assert second.output == parse_network(vjp).output


@pytest.mark.parametrize(
    ("relation", "plain"),
    [
        ("i = 2*o + k + 1 reflect 10", "i = 2*o + k + 1"),
        ("i = 2*o + k + 2 replicate 10", "i = 2*o + k + 2"),
        ("i = 2*o + k + 11 mod 10", "i = 2*o + k + 1"),
        ("i = 2*o + k - 8 reflect 10", "i = -2*o - k + 8"),
        ("i = 2*o + k + 10 reflect 10", "i = -2*o - k + 8"),
        ("i = 2*o + k + 9 replicate 10", "i = 9"),
        ("i = 2*o + k - 8 replicate 10", "i = 0"),
    ],
)
def test_what_stays_within_one_run_is_plain(relation, plain):
    text = f"network n {{\n index [i=10, o=4, k=2]\n x = input [i]\n p = pattern [{relation}]\n output [o, k]\n}}"
    network = parse_network(text)
    plan = make_plan(network)
    assert [r.relation_text() for r in plan.steps[0].relations] == [plain]
    x = np.arange(1, 11)
    assert (evaluate_plan(plan, {"x": x}) == evaluate(network, {"x": x})).all()


def test_positions_that_two_relations_share_are_summed_where_both_signals_are():
    # S = {x, x_2} owns o: what is left for the weights is [k, k_2], not [i, i_2]
    network = parse_network("""network quadratic {
        index [n=2, c=3, i=20, i_2=20, k=3, k_2=3, o=18]
        x = input [n, c, i]
        x_2 = input [n, c, i_2]
        p = pattern [i = o + k]
        p_2 = pattern [i_2 = o + k_2]
        w = parameter [k, k_2, c]
        output [c]
    }""")
    plan = plan_with_tree(network, ((0, 1), 2))
    assert plan.steps[0].elements == 3 * 3 * 3
    assert plan.steps[0].multiplications == 2 * 3 * 18 * 3 * 3


def test_positions_that_two_relations_share_are_not_summed_where_only_one_signal_is():
    network = parse_network("""network quadratic {
        index [n=2, c=3, e=3, i=20, i_2=20, k=3, k_2=3, o=18]
        x = input [n, c, i]
        p = pattern [i = o + k]
        p_2 = pattern [i_2 = o + k_2]
        y = input [n, e, i_2]
        w = parameter [c, e]
        output [k, k_2]
    }""")
    for tree in (((0, 2), 1), ((1, 2), 0)):
        assert plan_with_tree(network, tree).steps[0].elements == 2 * 3 * 20


def test_relations_that_determine_one_index_count_once():
    rows = [{"i": -1, "o": 1, "k": 1}, {"i": -1, "o": 1, "k": 1}]
    assert determined(rows, "iok") == ["i"]
    rows = [{"i": -1, "o": 1, "k": 1}, {"i": -1, "p": 1, "k": 1}]
    assert determined(rows, "iopk") == ["i", "o"]
