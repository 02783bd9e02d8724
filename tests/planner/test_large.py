"""Large networks: sets of leaves made of their parts, proposals, chunks; values that are known otherwise."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import random_tree

import tnconv
from benchmarks import large_convolutions as layered
from benchmarks import large_networks as plain
from tests.work import calls_of
from tnconv.errors import NetworkError, PlanError
from tnconv.ir import Index, Network, Tensor, group
from tnconv.planner import Search, effort, large, make_plan
from tnconv.planner.chunk_plan import cuts_of
from tnconv.planner.cost import Model, models_of
from tnconv.planner.prepare import Preparation
from tnconv.planner.trees import nodes
from tnconv.testing import networks, seeds

SMALL = {
    "graph": lambda: plain.even_subgraphs(12),
    "lattice": lambda: plain.lattice(4, 5),
    "cube": lambda: plain.ising((3, 2, 3)),
    "circuit": lambda: plain.circuit(2, 3, 6),
    "chain": lambda: layered.convolutions(7, 3, 9, stride_every=3),
    "dilated": lambda: layered.convolutions(5, 3, (7, 6), dilations=(1, 2)),
    "cp": lambda: layered.factorised(3, 4, 3, 6, joined=True),
    "tt": lambda: layered.factorised(3, 4, 3, 6),
    "norm": lambda: layered.squared_norm(6, 2, 7),
    "polynomials": lambda: layered.polynomials(14),
    "products": lambda: layered.products(3, 3, 8),
}
LARGE = {
    "graph": lambda: plain.even_subgraphs(52),
    "lattice": lambda: plain.lattice(8, 7),
    "circuit": lambda: plain.circuit(2, 4, 10),
    "chain": lambda: layered.convolutions(50, 2, 12, batch=1),
}


def assert_exact(example, value):
    want = example.exact()
    torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


def model_of(network):
    return models_of(Preparation(network, {}, {}).run(), {})


@settings(max_examples=60, deadline=None)
@given(networks(), seeds())
def test_a_set_made_of_two_is_the_set_as_a_whole(network, seed):
    """Whatever the tree: what is known of the parts is not found again, and leads to the same legs."""
    for late in (False, True):
        problem = Preparation(network, dict.fromkeys(network.symbols, 3), {}).run()
        values = dict.fromkeys(network.symbols, 3)
        count = len(problem.leaves)
        if count < 2:
            return
        tree = random_tree(random.Random(seed), count)
        parts, whole = (Model(problem, values, late=late) for _ in range(2))
        for _, both, left, right in nodes(tree):
            made, found = parts.joined(left, right), whole.state(both)
            assert (made.plain, made.absorbed, made.merged) == (found.plain, found.absorbed, found.merged)
            assert {r: (c.inside, c.size) for r, c in made.cuts.items()} == {
                r: (c.inside, c.size) for r, c in found.cuts.items()
            }


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_have_their_exact_value(name):
    example = SMALL[name]()
    assert_exact(example, tnconv.compile(example.network)(*example.arguments))


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_have_their_exact_value_also_in_chunks(name):
    example = LARGE[name]()
    function = tnconv.compile(example.network)
    assert_exact(example, function(*example.arguments))
    if name == "chain":  # its only index without a pattern that counts is that of channels
        return
    limit = function.cost.peak_elements * torch.get_default_dtype().itemsize // 2
    sliced = tnconv.compile(example.network, memory_limit=limit)
    assert sliced.plan.slices
    assert sliced.cost.peak_elements * torch.get_default_dtype().itemsize <= limit
    assert_exact(example, sliced(*example.arguments))
    assert len(sliced.jobs()) == 2 ** len(sliced.plan.slices)


def test_an_equation_of_hundreds_of_operands_with_names_of_many_letters():
    count = 200
    equation = ", ".join(f"bond{j} bond{j + 1}" for j in range(count)) + f" -> bond0 bond{count}"
    generator = torch.Generator().manual_seed(0)
    matrices = [
        torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] for _ in range(count)
    ]
    function = tnconv.einsum_expression(equation, *[(3, 3)] * count)
    torch.testing.assert_close(function(*matrices), torch.linalg.multi_dot(matrices))
    assert "return" in function.source and str(function.plan) and str(function.explain())


@pytest.mark.parametrize("name", ["lattice", "chain"])
def test_the_same_search_gives_the_same_plan(name):
    network = LARGE[name]().network
    search = Search(trials=2, seed=5)
    random.seed(1)
    first = make_plan(network, search=search)
    draw = random.random()
    random.seed(1)
    assert make_plan(network, search=search) == first
    assert random.random() == draw  # others' random numbers go on


def test_a_search_with_more_trials_is_no_worse_and_one_by_time_ends():
    network = plain.even_subgraphs(60).network
    least = make_plan(network).multiplications
    assert make_plan(network, search=Search(trials=3)).multiplications <= least
    hurried = make_plan(network, search=Search(seconds=0.1))
    assert hurried.multiplications <= make_plan(network, planner="left-to-right").multiplications


def test_others_are_searched_for_where_there_is_time_for_one(monkeypatch):
    """What is quickly found is improved first; how long that takes says whether there is."""
    network, asked = plain.even_subgraphs(50).network, []
    searched = large._searched
    monkeypatch.setattr(large, "_MORE", 1)
    monkeypatch.setattr(large, "_TRIALS", 1)
    quick = make_plan(network).multiplications
    monkeypatch.setattr(
        large, "_searched", lambda *given: asked.append(given[-1]) or searched(*given[:-1], 0.1)
    )
    for seconds, wanted in ((1.9, 0), (40.0, 1)):
        asked.clear()
        ticks = itertools.count(step=0.5)
        monkeypatch.setattr(large, "perf_counter", lambda ticks=ticks: next(ticks))
        plan = make_plan(network, search=Search(seconds=seconds))
        assert len(asked) == wanted
        assert all(0 < each < seconds for each in asked)
    assert plan.multiplications <= quick


def test_patterns_cost_less_than_dense_ones():
    """The plan of a chain multiplies about as often as its convolutions do one after the other."""
    example = layered.convolutions(60, 4, 16)
    plan = make_plan(example.network)
    each = 2 * 4 * 4 * 3 * 16
    assert plan.multiplications <= 60 * each


def test_what_is_cut_keeps_intermediates_small_with_little_more_work():
    plan = make_plan(plain.lattice(12, 6).network)
    names = [i.name for i in plan.indices]
    largest = max(step.elements_at({}) for step in plan.steps)
    cuts = cuts_of(plan, names, largest // 4, {})
    assert cuts is not None and 0 < len(cuts) <= 6
    assert cuts_of(plan, names[:1], 1, {}) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_graphs_of_any_symmetry_are_ordered_without_names(seed):
    """Another network of the same shape and other names has the same order up to names."""
    draw = random.Random(seed)
    count = draw.randrange(2, 9)
    edges = [(a, b) for a in range(count) for b in range(a) if draw.random() < 0.4]
    orders = []
    for names in (list(range(count)), draw.sample(range(100), count)):
        index = {edge: Index(f"e{draw.randrange(10**9)}_{n}", 2) for n, edge in enumerate(edges)}
        tensors = [
            Tensor(f"t{names[v]}", "input", tuple(group(index[e]) for e in edges if v in e))
            for v in range(count)
        ]
        try:
            network = Network("graph", tuple(tensors), ())
        except NetworkError:
            return
        place = {i: n for n, i in enumerate(network.ordered.indices)}
        orders.append([sorted(place[i] for i in t.indices) for t in network.ordered.tensors])
    assert orders[0] == orders[1]


@pytest.mark.parametrize("shape", ["chain", "star", "ring"])
def test_the_order_of_a_long_network_takes_little_work(shape):
    def made(count):
        bonds = [Index(f"b{j}", 2) for j in range(count + 1)]
        pairs = [(bonds[j], bonds[(j + 1) % count if shape == "ring" else j + 1]) for j in range(count)]
        legs = [(bonds[0], b) for b in bonds[1:]] if shape == "star" else pairs
        return Network(
            "long", tuple(Tensor(f"t{j}", "input", tuple(map(group, p))) for j, p in enumerate(legs)), ()
        )

    def work(network):
        return calls_of(lambda: network.ordered)

    assert work(made(400)) < 8 * work(made(100))  # linear: 4; quadratic: 16


def test_what_a_search_needs_is_said(monkeypatch):
    monkeypatch.setattr(effort, "_installed", lambda package: False)
    with pytest.raises(
        PlanError, match="needs the package optuna; pip install optuna, or use one of sbplx, sses"
    ):
        Search.read({"optlib": "optuna"})
    with pytest.raises(PlanError, match="progress=True, which needs tqdm; pip install tqdm, or leave it out"):
        Search.read({"progress": True})
    assert Search().heuristics == ("greedy", "labels")
    assert np.array_equal(Search.read({"methods": ["labels"]}).heuristics, ["labels"])
