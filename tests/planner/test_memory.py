"""Plans for less memory, limits, and the routes of a second-order network that they lead to."""

import random
from contextlib import suppress

import pytest
import torch
from random_networks import all_trees, random_network, random_tree
from test_plan import assert_right
from test_search import conv_chain

from tests.work import calls_of
from tnconv.backends.backend import How, backend_of
from tnconv.errors import NetworkError, PlanError
from tnconv.ir import Sum, evaluate
from tnconv.ir.quantities import format_memory
from tnconv.passes import Pipeline
from tnconv.planner import best_plans, candidate_plans, make_plan
from tnconv.planner.cost import models_of
from tnconv.planner.memory_limit import does_not_fit, parse_memory, program_peak
from tnconv.planner.prepare import Preparation
from tnconv.planner.trees import largest, price
from tnconv.spec import as_spec

V_ROUTE = (("x", "grad_output"), ("x", "grad_output"))
GRAM_ROUTE = (("x", "x"), ("grad_output", "grad_output"))


def some_networks(first, count, **options):
    found = []
    while len(found) < count:
        with suppress(NetworkError):
            found.append(random_network(first, **options))
        first += 1
    return found


def largest_of(plan):
    """The largest result of a pair of operands, that of the last pair left out."""
    pairs = [step.elements for step in plan.steps if len(step.operands) == 2]
    return max(pairs[:-1], default=0)


# -- candidates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", some_networks(0, 100, leaves=4), ids=lambda network: network.name)
def test_each_candidate_is_the_best_of_all_trees_under_its_cap_and_the_last_has_none_below(network):
    models = models_of(Preparation(network, {}, {}).run(), {})
    trees = all_trees((0, 1, 2, 3))
    every = [(largest(model, tree), price(model, tree)[0]) for model in models for tree in trees]
    plans = list(candidate_plans(network))
    assert str(plans[0]) == str(make_plan(network))
    cap = max(size for size, _ in every)
    for plan in plans:
        assert largest_of(plan) <= cap
        assert plan.multiplications == min(count for size, count in every if size <= cap)
        cap = largest_of(plan) - 1
    assert all(size > cap for size, _ in every)


def test_candidates_for_less_memory_have_the_value_of_the_network():
    count = 0
    for seed, network in enumerate(some_networks(0, 200, leaves=4, distinct=False)):
        for plan in list(candidate_plans(network))[1:]:
            assert_right(network, plan, seed)
            count += 1
    assert count > 10


def test_both_ways_to_sum_an_index_of_relations_alone_give_the_value_under_any_tree(monkeypatch):
    late = 0
    for seed, network in enumerate(some_networks(1000, 150)):
        models = models_of(Preparation(network, {}, {}).run(), {})
        if len(models) < 2:
            continue
        late += 1
        monkeypatch.setattr(best_plans, "models_of", lambda problem, values: models_of(problem, values)[1:])
        tree = random_tree(random.Random(seed), len(network.tensors))
        monkeypatch.setattr(
            best_plans, "find_orders", lambda models, planner, cap, search, tree=tree: [(models[0], tree)]
        )
        plan = make_plan(network)
        assert_right(network, plan, seed)
        assert plan.multiplications == price(models[1], tree)[0]
    assert late > 10


def test_the_terms_of_a_sum_share_one_cap():
    small, large = conv_chain(2), conv_chain(5)
    total = Sum("total", (small.rename("a"), large.rename("b")))
    sizes = [max(s.elements for s in p.steps if s.result not in p.results) for p in candidate_plans(total)]
    assert len(sizes) > 1
    assert sizes == sorted(set(sizes), reverse=True)


def test_large_networks_find_smaller_intermediates_too():
    plans = list(candidate_plans(conv_chain(14)))
    sizes = [largest_of(plan) for plan in plans]
    counts = [plan.multiplications for plan in plans]
    assert len(plans) > 2
    assert sizes == sorted(set(sizes), reverse=True)
    assert counts == sorted(counts)
    assert plans[-1].peak_elements < plans[0].peak_elements


def test_a_planner_that_knows_one_tree_ends_after_it():
    assert len(list(candidate_plans(conv_chain(6), planner="left-to-right"))) == 1


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        (512, 512),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        (" 0.1kB ", 100),
        ("7 B", 7),
    ],
)
def test_a_limit_is_read(limit, count):
    assert parse_memory(limit) == count


@pytest.mark.parametrize("limit", ["512", "MiB", "-1GB", "1 MiBs", "1.GB", "", True, 1.5, None])
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit):
    with pytest.raises(PlanError, match=r"memory_limit=.* is not a number of bytes; give an integer, or"):
        parse_memory(limit)


@pytest.mark.parametrize("limit", [0, -3, "0.2 B"])
def test_a_limit_below_a_byte_is_refused(limit):
    with pytest.raises(PlanError, match=r"memory_limit=.* is (0|-3) bytes; give at least 1"):
        parse_memory(limit)


def test_memory_is_written_so_that_it_is_enough_as_a_limit():
    assert [format_memory(n) for n in (1, 1023, 1024, 1536, 2**20 + 1)] == [
        "1 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "1.1 MiB",
    ]
    for count in (999, 12_345, 10**7 + 1, 10**13):
        assert parse_memory(format_memory(count)) >= count


# -- routes of the squared norm of per-example gradients ---------------------------------------------


def squared_norms(inputs, outputs, size, kernel, **options):
    """|V_n|², V the gradient of the weight for an example n."""
    layer = torch.nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
    keep = "differentiate{wrt=weight, cotangent=grad_output} | arrange{output=[n, (g d), c, k1, k2]}"
    pipeline = f"{keep} | square{{over=[g, d, c, k1, k2], keep=[n]}} | default"
    return layer, Pipeline.parse(pipeline).run(as_spec(layer, size).network(bias=False))[0]


def compile_within(network, limit, hints, itemsize=4):
    """What `tnconv.compile(..., memory_limit=limit)` is to do."""
    values = {name: hints.get(name, 32) for name in network.symbols}

    allowed, peaks = parse_memory(limit), []
    for plan in candidate_plans(network, hints=hints):
        program = backend_of("torch").lower(plan, network, How(values))
        peaks.append(evaluate(program_peak(plan, program.workspace), values))
        if peaks[-1] * itemsize <= allowed:
            return plan, program
    raise does_not_fit(min(peaks), len(peaks), allowed, itemsize, network.symbols)


def test_few_positions_take_the_gram_route():
    _, network = squared_norms(512, 512, 7, 3, padding=1)
    plan = make_plan(network)
    assert plan.tree == GRAM_ROUTE
    positions, batch = 49, plan.steps[0].output[0].size
    # x xᵀ by pixels, ȳ ȳᵀ, and their product with the 9 shifts that both pairs of relations leave
    assert plan.multiplications == batch * positions**2 * (512 + 512 + 9)


def test_many_positions_take_the_route_through_per_example_gradients():
    _, network = squared_norms(3, 64, 224, 7, stride=2, padding=3)
    plan = make_plan(network)
    assert plan.tree == V_ROUTE
    batch = plan.steps[0].output[0].size
    assert plan.multiplications == batch * (3 * 64 * 49 * 112**2 + 3 * 64 * 49)


def test_planning_a_second_order_network_is_little_work():
    _, network = squared_norms(64, 64, 56, 3, padding=1)
    assert calls_of(lambda: make_plan(network)) < 100_000  # measured: 11,000


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 2, "stride": 2}, {"dilation": 2}])
@pytest.mark.parametrize(("channels", "size"), [(6, 5), (2, 9)])
def test_every_route_has_the_value_that_torch_computes_an_example_at_a_time(channels, size, options):
    layer, network = squared_norms(channels, channels, size, 3, **options)
    layer = layer.double()
    x = torch.randn(4, channels, size, size, dtype=torch.float64)
    grad_output = torch.randn_like(layer(x))
    want = []
    for one, cotangent in zip(x, grad_output, strict=True):
        (gradient,) = torch.autograd.grad(layer(one), layer.weight, cotangent)
        want.append(gradient.square().sum())
    for plan in candidate_plans(network):
        got = backend_of("torch").lower(plan, network, How({"N": 4})).function(x, grad_output)
        torch.testing.assert_close(got, torch.stack(want))


def test_a_limit_between_the_peaks_takes_the_dearer_route():
    _, network = squared_norms(64, 64, 14, 3, padding=1)
    free, _ = compile_within(network, "1TB", {})
    assert free.tree == GRAM_ROUTE
    cheap = evaluate(free.peak_elements, {"N": 32}) * 4
    small, program = compile_within(network, 32 * 40_000 * 4, {})
    assert small.tree == V_ROUTE
    assert evaluate(small.multiplications - free.multiplications, {"N": 32}) > 0
    assert evaluate(program_peak(small, program.workspace), {"N": 32}) * 4 <= 32 * 40_000 * 4 < cheap


def test_symbols_count_at_the_hints():
    _, network = squared_norms(64, 64, 14, 3, padding=1)
    limit = 32 * 40_000 * 4
    assert compile_within(network, limit, {"N": 1})[0].tree == GRAM_ROUTE
    assert compile_within(network, limit, {"N": 32})[0].tree == V_ROUTE


def test_bytes_are_elements_times_their_size():
    _, network = squared_norms(64, 64, 14, 3, padding=1)
    assert compile_within(network, 32 * 40_000 * 4, {}, itemsize=1)[0].tree == GRAM_ROUTE


def test_a_limit_below_every_peak_is_refused_with_the_least():
    _, network = squared_norms(64, 64, 14, 3, padding=1)
    # V has 64·64·9 elements and the result one, for each of 32 examples: 4718720 bytes
    message = (
        r"needs at least 4\.6 MiB besides its arguments \(the least peak of 2 contraction orders, 1179680 "
        r"elements of 4 bytes\), but memory_limit is 2 MiB; raise the limit, or plan for smaller sizes with "
        r"hints= \(symbols N\)"
    )
    with pytest.raises(PlanError, match=message):
        compile_within(network, "2MiB", {})
    compile_within(network, "4.6MiB", {})


def test_without_symbols_the_advice_is_another():
    with pytest.raises(PlanError, match="raise the limit, or compile a smaller batch or layer"):
        compile_within(conv_chain(4), 64, {})
