"""What trees are judged by: multiplications, traffic, backward; and the candidates among which time decides."""

import random

import pytest
import torch
from random_networks import all_trees, plan_with_tree
from test_search import conv_chain, random_problem

import tnconv
from tnconv.backends.backend import How
from tnconv.backends.torch.training import TrainedProgram
from tnconv.compiler.candidate import Task
from tnconv.compiler.choose import choose
from tnconv.errors import PlanError
from tnconv.ir import evaluate, parse_network
from tnconv.notation import convolution_network
from tnconv.passes import Pipeline
from tnconv.planner import fast_plans, make_plan
from tnconv.planner.objective import Objective
from tnconv.planner.plan import varying_operands

# Two ways to take x from r to u: by a merged kernel of 3x3, or by three taps along each axis.
DEPTHWISE = parse_network("""network depthwise {
    index [n=8, r=16, i1=32, i2=32, k1=3, k2=3, o1=30, o2=30]
    x = input [n, r, i1, i2]
    p1 = pattern [i1 = o1 + k1]
    p2 = pattern [i2 = o2 + k2]
    a = parameter [r, k1]
    b = parameter [r, k2]
    output [n, r, o1, o2]
}""")


def cost(plan, elements=0, training=False, frozen=()):
    """By the steps, not by the search: f·multiplications + elements·2·(cells of products that are read again)."""
    gradients = varying_operands(plan.steps, frozen)
    total = 0
    products = [step for step in plan.steps if len(step.operands) == 2]
    for step in products:
        total += step.multiplications * (1 + gradients[step.result] if training else 1)
    return total + sum(2 * elements * step.elements for step in products[:-1])


def test_by_multiplications_two_small_kernels_and_by_time_one_merged():
    assert make_plan(DEPTHWISE).tree in ((("x", "b"), "a"), (("x", "a"), "b"))
    merged = make_plan(DEPTHWISE, minimize="time")
    assert merged.tree == ("x", ("a", "b"))
    assert merged.multiplications > make_plan(DEPTHWISE).multiplications
    assert merged.multiplications == 16 * 9 + 8 * 16 * 30 * 30 * 9


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize(
    "options",
    [
        {"minimize": "time"},
        {"minimize": "multiplications", "training": True},
        {"minimize": "time", "training": True, "frozen": ("y",)},
        {"training": True, "frozen": ("x", "y", "z")},
    ],
    ids=str,
)
def test_the_plan_is_the_best_of_all_trees_by_the_cost_of_its_steps(seed, options):
    network = random_problem(9000 + seed, 4)
    elements = 32 if options.get("minimize") == "time" else 0
    judged = {"elements": elements, "training": "training" in options, "frozen": options.get("frozen", ())}
    best = min(cost(plan_with_tree(network, tree, **options), **judged) for tree in all_trees((0, 1, 2, 3)))
    assert cost(make_plan(network, **options), **judged) == best


def test_training_counts_once_more_for_each_operand_that_needs_a_gradient():
    network = parse_network("""network matrices {
        index [n=20, a=30, b=10, c=22]
        x = input [n, a]
        u = parameter [a, b]
        v = parameter [b, c]
        output [n, c]
    }""")
    left, right = 20 * 30 * 10 + 20 * 10 * 22, 30 * 10 * 22 + 20 * 30 * 22
    assert make_plan(network).multiplications == min(left, right)
    plan = make_plan(network, training=True, frozen=["x"])
    assert varying_operands(plan.steps, ["x"]) == {"t1": 1, "result": 2}
    assert varying_operands(plan.steps, ["x", "u", "v"]) == {"t1": 0, "result": 0}
    assert varying_operands(plan.steps, []) == {"t1": 2, "result": 2}


def test_what_needs_no_gradient_can_turn_the_order():
    network = parse_network("""network turned {
        index [n=11, a=10, b=10, c=10]
        x = input [n, a]
        u = parameter [a, b]
        v = parameter [b, c]
        output [n, c]
    }""")
    assert make_plan(network).tree == ("x", ("u", "v"))  # 1000 + 1100 against 1100 + 1100
    assert make_plan(network, training=True).tree == ("x", ("u", "v"))
    # 3·1000 + 2·1100 against 2·1100 + 3·1100
    assert make_plan(network, training=True, frozen=("x",)).tree == ("x", ("u", "v"))
    # only v is trained: 2·1000 + 2·1100 against 1·1100 + 2·1100
    assert make_plan(network, training=True, frozen=("x", "u")).tree == (("x", "u"), "v")


def test_an_objective_that_is_not_known_is_refused():
    with pytest.raises(PlanError, match="minimize='speed' is not known; use 'multiplications' or 'time'"):
        make_plan(DEPTHWISE, minimize="speed")


@pytest.mark.parametrize("call", [make_plan, fast_plans])
def test_frozen_arguments_without_training_and_unknown_ones_are_refused(call):
    with pytest.raises(PlanError, match=r"frozen=\['x'\] is given without training=True"):
        call(DEPTHWISE, frozen=["x"])
    with pytest.raises(PlanError, match="frozen has 'y', which is no argument of 'depthwise'; it has "):
        call(DEPTHWISE, training=True, frozen=["y"])
    with pytest.raises(PlanError, match=r"frozen='x' is a str; give the names of arguments, as in \('x',\)"):
        call(DEPTHWISE, training=True, frozen="x")


# -- candidates ----------------------------------------------------------------------------------------


def layer(text, *shapes):
    options = {"mode": "same", "stride": 1, "padding": 0, "dilation": 1}
    return Pipeline.parse("default").run(convolution_network(text, shapes, **options))[0]


LAYERS = {
    "cp": layer(
        "b s h w, s r, t r, h r, w r -> b t h w|h w",
        (8, 64, 28, 28), (64, 16), (64, 16), (3, 16), (3, 16),
    ),
    "tt": layer(
        "b s h w, s r, r h q, q w p, p t -> b t h w|h w",
        (8, 64, 28, 28), (64, 9), (9, 3, 9), (9, 3, 9), (9, 64),
    ),
    "reshaped": layer(
        "b s u h w, s a, a u c, c t e, e v f, f h w -> b t v h w|h w",
        (8, 8, 8, 14, 14), (8, 4), (4, 8, 4), (4, 8, 4), (4, 8, 4), (4, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("network", LAYERS.values(), ids=list(LAYERS))
def test_the_best_by_multiplications_and_by_time_are_among_the_candidates(network):
    candidates = fast_plans(network)
    trees = [plan.tree for plan in candidates]
    assert str(candidates[0]) == str(make_plan(network))
    assert make_plan(network, minimize="time").tree in trees
    assert 2 <= len({str(plan) for plan in candidates}) == len(candidates) <= 8
    limit = 3 * cost(make_plan(network, minimize="time"), 32)
    assert all(cost(plan, 32) <= limit for plan in candidates[1:])


def test_every_candidate_has_the_value_of_the_network():
    network = LAYERS["cp"]
    generator = torch.Generator().manual_seed(0)
    shapes = {t.argument: [a.size for a in t.axes] for t in network.tensors}
    tensors = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()
    }
    values = []
    for candidate in Task(network).candidates():
        program = candidate.program
        values.append(program.function(*(tensors[name] for name in program.arguments)))
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_nine_to_twelve_tensors_have_candidates_too():
    candidates = fast_plans(conv_chain(9))
    assert len(candidates) > 1
    assert candidates[0].multiplications == make_plan(conv_chain(9)).multiplications


# -- compile -------------------------------------------------------------------------------------------


def test_compile_takes_an_objective_and_training():
    text = "b s h w, s r, t r, h r, w r -> b t h w|h w"
    shapes = (4, 8, 10, 10), (8, 5), (7, 5), (3, 5), (3, 5)
    fewest = tnconv.conv_einsum_expression(text, *shapes, minimize="multiplications")
    trained = tnconv.conv_einsum_expression(text, *shapes, training=True, frozen=("x1",))
    network = fewest.network
    assert fewest.plan.multiplications == make_plan(network).multiplications
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    torch.testing.assert_close(fewest(*tensors), trained(*tensors))
    torch.testing.assert_close(tnconv.conv_einsum(text, *tensors), trained(*tensors))
    with pytest.raises(PlanError, match="minimize='flops' is not known"):
        tnconv.conv_einsum_expression(text, *shapes, minimize="flops")


def test_training_takes_the_plan_whose_passes_together_are_predicted_to_be_fastest():
    task = Task(LAYERS["tt"], objective=Objective.of("time", training=True))
    chosen = choose(task)
    both = [TrainedProgram(each.plan, each.plan.arguments, How()).predicted for each in task.candidates()]
    assert chosen.executable.backward.made.predicted == min(both)
    assert chosen.program.predicted < min(both)


def test_random_trees_never_beat_the_best():
    network, rng = LAYERS["reshaped"], random.Random(0)
    best = evaluate(make_plan(network).multiplications, {})
    for _ in range(20):
        parts = list(range(6))
        while len(parts) > 1:
            a, b = rng.sample(range(len(parts)), 2)
            parts = [p for n, p in enumerate(parts) if n not in (a, b)] + [(parts[a], parts[b])]
        assert plan_with_tree(network, parts[0]).multiplications >= best
