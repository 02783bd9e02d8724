"""The search: as good as trying every tree; large problems; planners by name."""

import random
from math import inf

import pytest
from random_networks import all_trees, plan_with_tree, random_network, random_tree

from tests.work import calls_of
from tnconv import plugins
from tnconv.errors import NetworkError, PlanError
from tnconv.ir import Index, Network, Tensor, group, parse_network, pattern
from tnconv.planner import Problem, make_plan
from tnconv.planner.cost import Model, models_of
from tnconv.planner.large import reconfigure
from tnconv.planner.prepare import Preparation
from tnconv.planner.search import problem_of
from tnconv.planner.trees import price


def random_problem(seed, leaves):
    """The next random network from a seed on that is valid."""
    for attempt in range(seed * 100, seed * 100 + 100):
        try:
            return random_network(attempt, leaves=leaves)
        except NetworkError:
            continue
    raise AssertionError("no valid network")


@pytest.mark.parametrize("seed", range(60))
def test_the_programme_equals_brute_force_over_all_trees(seed):
    leaves = 3 + seed % 3 if seed % 6 == 0 else 4
    network = random_problem(seed, leaves)
    best = inf
    for tree in all_trees(tuple(range(leaves))):
        best = min(best, plan_with_tree(network, tree).multiplications)
    assert make_plan(network, planner="dp").multiplications == best


def test_there_are_105_trees_over_five_tensors():
    assert len(set(all_trees((0, 1, 2, 3, 4)))) == 105


@pytest.mark.parametrize("seed", range(40))
def test_the_price_of_a_tree_is_the_count_of_its_steps(seed):
    network = random_problem(1000 + seed, 5)
    models = models_of(Preparation(network, {}, {}).run(), {})
    tree = random_tree(random.Random(seed), 5)
    assert problem_of(models).price(tree)[0] == plan_with_tree(network, tree).multiplications


def test_ties_go_to_the_tree_with_smaller_intermediates():
    network = parse_network("""network tie {
        index [a=2, b=3, e=6]
        x = input [a]
        y = input [b]
        z = input [e]
        output [(a b e)]
    }""")
    # (x y) z and the other two cost 36 + 6, 36 + 12 and 36 + 18
    assert make_plan(network).tree == (("x", "y"), "z")
    assert make_plan(network).multiplications == 42


def conv_chain(length, dims=1):
    n, c = Index("n", 8), [Index(f"c{j}", 4 + j % 3) for j in range(length)]
    kernels = [[c[j], c[j + 1]] for j in range(length - 1)]
    legs, output, nodes = [n, c[0]], [n, c[-1]], []
    for dim in range(1, dims + 1):
        i, o = Index(f"i{dim}", 32), Index(f"o{dim}", 32)
        taps = [Index(f"k{dim}_{j}", 3) for j in range(2, length + 1)]
        legs.append(i)
        output.append(o)
        nodes.append(pattern(f"p{dim}", i, ((1, o), *((1, k) for k in taps)), 1 - length))
        for kernel, k in zip(kernels, taps, strict=True):
            kernel.append(k)
    nodes.append(Tensor("x", "input", tuple(map(group, legs))))
    nodes += [Tensor(f"w{j}", "parameter", tuple(map(group, legs))) for j, legs in enumerate(kernels)]
    return Network("chain", tuple(nodes), tuple(map(group, output)))


def test_eight_tensors_are_little_work():
    network = conv_chain(8, dims=2)
    make_plan(network)
    assert calls_of(lambda: make_plan(network)) < 300_000  # measured: 31,000


def deep_chain(length):
    nodes = [Tensor("x", "input", (group(Index("c0", 3)), group(Index("h0", 40))))]
    for j in range(length - 1):
        legs = (Index(f"c{j}", 3 + j % 3), Index(f"c{j + 1}", 3 + (j + 1) % 3), Index(f"k{j}", 3))
        nodes.append(Tensor(f"w{j}", "parameter", tuple(map(group, legs))))
        before, after = Index(f"h{j}", 40), Index(f"h{j + 1}", 40)
        nodes.append(pattern(f"p{j}", before, ((1, after), (1, legs[2])), -1))
    last = length - 1
    return Network(
        "deep", tuple(nodes), (group(Index(f"c{last}", 3 + last % 3)), group(Index(f"h{last}", 40)))
    )


def matrices(length):
    nodes = [
        Tensor(
            f"m{j}", "input", (group(Index(f"b{j}", 3 + j % 5)), group(Index(f"b{j + 1}", 3 + (j + 1) % 5)))
        )
        for j in range(length)
    ]
    return Network(
        "matrices", tuple(nodes), (group(Index("b0", 3)), group(Index(f"b{length}", 3 + length % 5)))
    )


@pytest.mark.parametrize("network", [deep_chain(100), matrices(300)], ids=["convolutions", "matrices"])
def test_hundreds_of_tensors_are_planned(network):
    plan = make_plan(network)
    assert len(plan.steps) == len(network.tensors) - 1
    assert plan.multiplications <= make_plan(network, planner="left-to-right").multiplications


def test_large_problems_get_the_same_plan_twice():
    network = matrices(40)
    assert str(make_plan(network)) == str(make_plan(network))


def test_cotengra_and_reconfiguration_find_the_optimum_of_a_matrix_chain():
    count = 30
    sizes = [3 + j % 5 for j in range(count + 1)]
    best = [[0] * count for _ in range(count)]
    for width in range(1, count):
        for a in range(count - width):
            b = a + width
            best[a][b] = min(
                best[a][m] + best[m + 1][b] + sizes[a] * sizes[m + 1] * sizes[b + 1] for m in range(a, b)
            )
    assert make_plan(matrices(count)).multiplications == best[0][-1]


def test_reconfiguration_never_makes_a_tree_worse():
    network = conv_chain(9)
    model = Model(Preparation(network, {}, {}).run(), {})
    optimum = make_plan(network, planner="dp").multiplications
    for seed in range(5):
        tree = random_tree(random.Random(seed), 9)
        better = reconfigure(model, tree, 5)
        assert optimum <= price(model, better)[0] <= price(model, tree)[0]


NETWORK = parse_network("""network three {
    index [a=2, b=3, c=6, i=4, k=2]
    x = input [a, b, i]
    y = input [b, c]
    p = pattern [i = k + a]
    z = input [c, k]
    output []
}""")


def test_a_planner_of_a_plug_in_sees_the_problem_and_is_obeyed():
    seen = []

    def backwards(problem):
        seen.append(problem)
        return ((2, 1), 0)

    plugins.register(plugins.PLANNERS, "backwards", backwards)
    try:
        plan = make_plan(NETWORK, planner="backwards")
    finally:
        plugins.unregister(plugins.PLANNERS, "backwards")
    assert plan.tree == ("x", ("z", "y"))
    (problem,) = seen
    assert isinstance(problem, Problem)
    assert problem.names == ("x", "y", "z")
    assert problem.legs == (("a", "b", "i"), ("b", "c"), ("c", "k"))
    assert problem.relations == (({"i": -1, "a": 1, "k": 1}, 0),)
    assert problem.price(((2, 1), 0))[0] == plan.multiplications


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ((0, 1), r"planner 'given' returned a tree over positions \[0, 1\]; use each of 0 to 2 once"),
        (((0, 1), 1), r"positions \[0, 1, 1\]"),
        ((0, 1, 2), r"returned \(0, 1, 2\) in a tree; return nested pairs"),
        (((0, True), 2), "returned True in a tree"),
        (None, "returned None in a tree"),
    ],
)
def test_what_is_no_tree_is_refused(tree, message):
    with pytest.raises(PlanError, match=message):
        plan_with_tree(NETWORK, tree)


def test_an_unknown_planner_is_refused_with_the_names_there_are():
    with pytest.raises(
        PlanError, match="there is no planner 'best'; the planners are auto, dp, cotengra, left-to-right"
    ):
        make_plan(NETWORK, planner="best")
