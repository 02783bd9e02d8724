"""The exact programme: its two writers, the bound that leaves out sets, and brute force over six and seven tensors."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import all_trees, random_network
from test_search import conv_chain, deep_chain, matrices, random_problem

from tnconv.errors import NetworkError
from tnconv.ir import Index, Network, Tensor, group, parse_network
from tnconv.planner import make_plan
from tnconv.planner.cost import models_of
from tnconv.planner.near import Near
from tnconv.planner.objective import Objective
from tnconv.planner.prepare import Preparation
from tnconv.planner.set_arrays import fits
from tnconv.planner.table import fill, fill_by_size, fill_plain, greedy
from tnconv.planner.trees import price

OBJECTIVES = [
    Objective(),
    Objective(elements=32),
    Objective(elements=32, training=True),
    Objective(training=True, frozen=frozenset("xz")),
]


def models(network, objective=None):
    values = dict.fromkeys(network.symbols, 7)
    found = models_of(Preparation(network, values, {}).run(), values)
    return [model.judged(objective or Objective()) for model in found]


def plain(model):
    return fill_plain(model, [1 << place for place in range(model.count_leaves)])


def hypergraph(seed, leaves, indices):
    rng = random.Random(seed)
    legs = [[] for _ in range(leaves)]
    output = []
    for number in range(indices):
        index = Index(f"e{number}", rng.choice((2, 3, 4)))
        for place in rng.sample(range(leaves), rng.choice((1, 2, 2, 3, 4))):
            legs[place].append(index)
        if rng.random() < 0.2:
            output.append(index)
    tensors = (Tensor(f"t{place}", "input", tuple(map(group, found))) for place, found in enumerate(legs))
    return Network(f"hyper{seed}", tuple(tensors), tuple(map(group, output)))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 6),
    st.sampled_from(OBJECTIVES),
    st.sampled_from([None, "N"]),
)
def test_both_writers_fill_the_same_table(seed, leaves, objective, symbol):
    try:
        network = random_network(seed, leaves=leaves, symbol=symbol)
    except NetworkError:
        return
    for model in models(network, objective):
        assert fits(model)
        slow, fast = plain(model), fill_by_size(model, slack=1e9)
        assert fast.costs == [float(cost) for cost in slow.costs]
        assert fast.elements == [float(count) for count in slow.elements]
        assert fast.lefts == slow.lefts


@pytest.mark.parametrize("objective", OBJECTIVES, ids=range(len(OBJECTIVES)))
@pytest.mark.parametrize(
    "network",
    [conv_chain(8, dims=2), deep_chain(8), matrices(8), hypergraph(0, 8, 14), hypergraph(1, 8, 26)],
    ids=["conv", "deep", "matrices", "hyperedges", "dense"],
)
def test_the_bound_leaves_out_no_set_of_the_best_tree(network, objective):
    for model in models(network, objective):
        slow, fast = plain(model), fill_by_size(model)
        whole = model.everything
        assert fast.costs[whole] == slow.costs[whole] <= greedy(model)
        assert fast.tree(whole) == slow.tree(whole)
        assert price(model, fast.tree(whole)) == fast.price(whole)
        kept = [chosen for chosen in range(1, whole + 1) if chosen in fast]
        assert all(fast.costs[chosen] == slow.costs[chosen] for chosen in kept)
        assert all(slow.costs[chosen] > greedy(model) for chosen in range(1, whole + 1) if chosen not in fast)


@pytest.mark.parametrize(("leaves", "seed"), [(6, seed) for seed in range(12)] + [(7, 100), (7, 101)])
def test_the_optimum_is_that_of_all_trees_outer_products_among_them(leaves, seed):
    network = random_problem(5000 + seed, leaves) if seed % 2 else hypergraph(seed, leaves, 10)
    every = all_trees(tuple(range(leaves)))
    assert len(every) == {6: 945, 7: 10395}[leaves]
    for objective in OBJECTIVES[:1] if leaves == 7 else OBJECTIVES:
        for model in models(network, objective):
            assert fill(model).costs[-1] == min(price(model, tree)[0] for tree in every)
    assert make_plan(network).multiplications == min(price(m, t)[0] for m in models(network) for t in every)


def test_an_outer_product_is_taken_where_it_saves_work():
    # (a b) z: 12 + 1200 multiplications; a z first: 1200 + 400
    network = parse_network("""network outer {
        index [a=3, b=4, c=100]
        x = input [a]
        y = input [b]
        z = input [a, b, c]
        output [c]
    }""")
    assert make_plan(network).tree == ("z", ("x", "y"))
    assert make_plan(network).multiplications == 12 + 1200


def test_counts_that_float64_cannot_hold_are_exact():
    sizes = [10**6 + 3, 10**6 + 33, 10**6 + 37, 10**6 + 39, 10**6 + 81, 10**6 + 99, 10**6 + 117, 10**6 + 121]
    legs = [Index(f"b{place}", size) for place, size in enumerate(sizes)]
    tensors = [Tensor(f"m{place}", "input", tuple(map(group, legs[place : place + 2]))) for place in range(7)]
    network = Network("large", tuple(tensors), (group(legs[0]), group(legs[-1])))
    (model,) = models(network)
    assert fill(model).costs[-1] == plain(model).costs[-1] > 2**53
    assert make_plan(network).multiplications == plain(model).costs[-1]


def test_relations_that_do_not_fit_in_a_mask_are_left_to_the_plain_writer():
    (model,) = models(conv_chain(7))
    assert fits(model)
    assert not any(map(fits, models(deep_chain(40))))


def test_twelve_tensors_take_the_fast_writer_and_a_part_of_the_sets():
    (model,) = models(conv_chain(12, dims=2))
    table = fill(model)
    assert sum(chosen in table for chosen in range(1, 1 << 12)) < 3000
    assert price(model, table.tree(model.everything)) == table.price(model.everything)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=range(len(OBJECTIVES)))
@pytest.mark.parametrize("seed", range(6))
def test_near_trees_are_the_cheapest_of_all_up_to_three_times_the_best(seed, objective):
    network = random_problem(7000 + seed, 5)
    model = models(network, objective)[0]
    every = sorted(price(model, tree)[0] for tree in all_trees((0, 1, 2, 3, 4)))
    found = Near(model).trees(20)
    assert [cost for cost, _ in found] == [cost for cost in every if cost <= 3 * every[0]][:20]
    assert all(price(model, tree)[0] == cost for cost, tree in found)


def test_last_steps_are_the_best_tree_for_each():
    model = models(conv_chain(5, dims=2))[0]
    near = Near(model)
    best = {}
    for tree in all_trees((0, 1, 2, 3, 4)):
        key = frozenset(str(sorted(map(int, filter(str.isdigit, str(half))))) for half in tree)
        best[key] = min(best.get(key, float("inf")), price(model, tree)[0])
    found = [cost for cost, _ in near.last_steps()]
    assert found == sorted(cost for cost in best.values() if cost <= 3 * near.best)
