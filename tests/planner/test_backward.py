"""The plan of a backward pass: its gradients are those of the differentiated network, exactly, whatever it saves."""

import numpy as np
import pytest
from random_networks import random_network
from test_search import conv_chain

from tnconv.backends import reference
from tnconv.errors import NetworkError, PassError
from tnconv.ir import evaluate, parse_network
from tnconv.passes.differentiate import Differentiate
from tnconv.planner import make_plan, parse_plan
from tnconv.planner.backward import with_backward

SHARED = parse_network("""network shared {
    index [n=2, c=3, d=3]
    x = input [n, c]
    w = parameter [c, d]
    output [n, d]
}""")


def arrays_of(network, rng):
    tensors = {t.argument: t for term in network.terms for t in term.tensors}
    return {name: rng.integers(-3, 4, [a.size for a in t.axes]) for name, t in tensors.items()}


def values_of(plan, arrays):
    """Every result of a plan by name."""
    found = dict(arrays)
    for step in plan.steps:
        found[step.result] = reference.evaluate(step.network, found)
    return found


def gradients(made, arrays, cotangent):
    """What a pair of plans returns: the gradients, by name."""
    saved = values_of(made.forward, arrays)
    given = {name: saved[name] for name in made.backward.arguments if name != made.cotangent}
    found = values_of(made.backward, {**given, made.cotangent: cotangent})
    returned = (made.backward.results, *made.backward.also)
    return {
        name: sum(found[result] for result in results)
        for name, results in zip(made.needed, returned, strict=True)
    }


def differentiated(network, name, arrays, cotangent):
    derived = Differentiate(wrt=name, cotangent="cotangent").apply(network).network
    if not derived.terms:
        return np.zeros_like(arrays[name])
    return reference.evaluate(derived, {**arrays, "cotangent": cotangent})


@pytest.mark.parametrize("seed", range(150))
def test_gradients_are_those_of_the_network_whatever_is_saved(seed):
    rng = np.random.default_rng(seed)
    try:
        network = random_network(seed, distinct=seed % 4 > 0)
    except NetworkError:
        pytest.skip("no network")
    plan = make_plan(network)
    arrays = arrays_of(network, rng)
    needed = [name for name in network.arguments if rng.random() < 0.8]
    made = with_backward(plan, needed)
    if made is None:
        pytest.skip("a gradient would have to be summed or broadcast first")
    assert parse_plan(str(made.backward)) == made.backward and parse_plan(str(made.forward)) == made.forward
    cotangent = rng.integers(-3, 4, [axis.size for axis in network.output])
    want = {}
    for name in made.needed:
        try:
            want[name] = differentiated(network, name, arrays, cotangent)
        except PassError:
            pytest.skip("the network as a whole cannot be differentiated")
    again = with_backward(plan, needed, [step.result for step in plan.steps])
    some = with_backward(plan, needed, made.saved[::2])
    assert not again.saved and not set(some.saved) & set(made.saved[::2])
    for pair in (made, again, some):
        got = gradients(pair, arrays, cotangent)
        assert set(got) == set(needed)
        for name in needed:
            np.testing.assert_array_equal(got[name], want[name])


def test_most_random_networks_have_a_planned_backward_pass():
    found = 0
    for seed in range(60):
        try:
            plan = make_plan(random_network(seed))
        except NetworkError:
            continue
        found += with_backward(plan, plan.arguments) is not None
    assert found >= 30


def test_each_step_has_an_adjoint_for_each_operand_that_moves():
    plan = make_plan(conv_chain(4), minimize="time")
    everything = with_backward(plan, plan.arguments)
    image_alone = with_backward(plan, ["x"])
    forward = evaluate(plan.multiplications, {})
    assert evaluate(everything.backward.multiplications, {}) == pytest.approx(2 * forward, rel=0.15)
    assert len(image_alone.backward.steps) < len(everything.backward.steps)
    assert image_alone.needed == ("x",) and "x" not in image_alone.backward.arguments


def test_what_is_not_saved_is_computed_again_once():
    plan = make_plan(conv_chain(4))
    made = with_backward(plan, plan.arguments)
    again = with_backward(plan, plan.arguments, [step.result for step in plan.steps])
    steps = [step.result for step in again.backward.steps]
    assert made.saved and len(set(steps)) == len(steps)
    assert set(made.saved) <= set(steps)
    assert evaluate(again.backward.multiplications, {}) > evaluate(made.backward.multiplications, {})


def test_names_do_not_collide():
    network = SHARED.rename("shared")
    text = str(network).replace("x =", "grad =").replace("w =", "cotangent =")
    plan = make_plan(parse_network(text))
    made = with_backward(plan, plan.arguments)
    assert made.cotangent not in plan.arguments
    arrays = arrays_of(parse_network(text), np.random.default_rng(0))
    cotangent = np.arange(6).reshape(2, 3)
    got = gradients(made, arrays, cotangent)
    np.testing.assert_array_equal(got["grad"], cotangent @ arrays["cotangent"].T)
    np.testing.assert_array_equal(got["cotangent"], arrays["grad"].T @ cotangent)


def test_nothing_is_planned_where_nothing_is_needed():
    assert with_backward(make_plan(SHARED), []) is None
