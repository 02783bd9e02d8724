"""Rules that take steps apart: what their docstrings show, and on random layers the same value, exactly."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tnconv
from tnconv.errors import PlanError, TnconvError
from tnconv.planner import Plan, make_plan, parse_plan
from tnconv.planner.decompose import AT_ONCE, DECOMPOSITIONS, Decomposition, Setting, decomposition
from tnconv.testing import assert_rule, assert_same_plan

EVERY = (*DECOMPOSITIONS, *AT_ONCE)
RULES = {rule.name: rule for rule in EVERY}


@pytest.mark.parametrize("name", RULES)
def test_docstrings_show_what_rules_do(name: str) -> None:
    assert_rule(RULES[name])


def plan_of(layer: Any, op: str) -> Plan:
    """The plan of an operation, sizes as integers."""
    function = tnconv.compile(layer, op, backend="reference")
    return make_plan(function.network)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, str]:
    """A layer with any hyper-parameters, few or many channels on either side, and an operation of it."""
    dims = draw(st.sampled_from((1, 2, 2, 3)))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    turned = draw(st.booleans())
    groups = draw(st.sampled_from((1, 1, 1, 2)))
    channels = [groups * draw(st.integers(1, 3)) for _ in "cd"]
    options: dict[str, Any] = {
        "stride": each(1, 3),
        "padding": each(0, 2),
        "dilation": each(1, 2),
        "groups": groups,
        "batch_size": draw(st.integers(1, 2)),
    }
    kind = tnconv.ConvTransposeSpec if turned else tnconv.ConvSpec
    op = draw(st.sampled_from((
        "forward", "input_vjp", "weight_vjp", "unfold", "kfac_expand", "kfac_reduce", "gradient_norm"
    )))  # fmt: skip
    try:
        return kind(*channels, each(1, 4), each(3, 8), **options), op
    except TnconvError:
        assume(False)  # the kernel is larger than the input
        raise


@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_steps_that_are_taken_apart_have_the_same_value(case: tuple[Any, str]) -> None:
    plan = plan_of(*case)
    for rule in EVERY:
        made = rule.rewrite(plan)
        if made is None:
            continue
        assert made.results == plan.results
        assert (len(made.steps) < len(plan.steps)) is rule.merges
        assert len(made.steps) != len(plan.steps)
        assert parse_plan(str(made)) == parse_plan(str(parse_plan(str(made))))
        assert_same_plan(plan, made)


FIRES = {
    "mirrored gradient": (tnconv.ConvSpec(5, 2, (3, 2), (6, 7), padding=1, batch_size=2), "weight_vjp"),
    "product before fold": (tnconv.ConvSpec(2, 5, 3, (6, 7), stride=2, batch_size=2), "input_vjp"),
    "stride phases": (
        tnconv.ConvSpec(2, 5, (5, 3), (12, 7), stride=(3, 1), padding=2, batch_size=2),
        "input_vjp",
    ),
    "lag sums": (
        tnconv.ConvSpec(2, 5, 3, (6, 7), stride=(2, 1), padding=1, dilation=(1, 2), batch_size=2),
        "kfac_expand",
    ),
    "exchanged roles": (tnconv.ConvSpec(3, 3, 3, (6, 7), stride=2, groups=3, batch_size=2), "weight_vjp"),
    "cells apart": (tnconv.ConvTransposeSpec(2, 3, 3, (4, 5), stride=2, batch_size=2), "kfac_expand"),
    "streamed squares": (tnconv.ConvSpec(2, 3, 2, (9, 9), padding=1, batch_size=2), "gradient_norm"),
}


@pytest.mark.parametrize("name", FIRES)
def test_each_rule_applies_where_it_should(name: str) -> None:
    plan = plan_of(*FIRES[name])
    made = RULES[name].rewrite(plan)
    assert made is not None
    assert_same_plan(plan, made)


LEFT_ALONE = {
    "with groups": ("mirrored gradient", tnconv.ConvSpec(8, 2, 3, 6, groups=2, batch_size=2), "weight_vjp"),
    "strided": ("mirrored gradient", tnconv.ConvSpec(5, 2, 3, 6, stride=2, batch_size=2), "weight_vjp"),
    "few channels of the image": ("mirrored gradient", tnconv.ConvSpec(2, 5, 3, 6, batch_size=2), "weight_vjp"),
    "more padding than kernel": ("mirrored gradient", tnconv.ConvSpec(5, 2, 2, 6, padding=3, batch_size=2), "weight_vjp"),
    "in three dimensions": ("product before fold", tnconv.ConvSpec(2, 5, 2, (4, 4, 4), batch_size=2), "input_vjp"),
    "many channels": ("product before fold", tnconv.ConvSpec(16, 5, 3, 6, batch_size=2), "input_vjp"),
    "at stride 1": ("stride phases", tnconv.ConvSpec(2, 5, 3, 6, batch_size=2), "input_vjp"),
    "dilated as well": (
        "stride phases", tnconv.ConvSpec(2, 5, 3, 9, stride=2, dilation=2, batch_size=2), "input_vjp"
    ),
    "a strided convolution": ("cells apart", tnconv.ConvSpec(2, 5, 3, 9, stride=2, batch_size=2), "input_vjp"),
    "windows as they are": ("cells apart", tnconv.ConvSpec(2, 5, 3, 9, batch_size=2), "kfac_expand"),
}  # fmt: skip


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_other_steps_are_left_alone(why: str) -> None:
    name, layer, op = LEFT_ALONE[why]
    plan = plan_of(layer, op)
    assert len(plan.steps) > 0
    assert RULES[name].rewrite(plan) is None


SQUARES = """plan squares {
  argument x [4, 3, 8]
  argument y [4, 5, 8]
  index [n=4, c=3, d=5, o=8]
  t1[n, d, c] = x[n, c, o] * y[n, d, o]
  t2[d, c] = t1[n, d, c] * t1[n, d, c]
  return t2
}"""
NO_SQUARES = {
    "returned as well": ("return t2", "return t2, t1"),
    "read by another": ("return t2", "t3[c] = t1[n, d, c]\n  return t2, t3"),
    "with another": ("* t1[n, d, c]", "* x[n, c, o]"),
    "transposed": ("y [4, 5, 8]\n  index [n=4, c=3, d=5", "y [4, 3, 8]\n  index [n=4, c=3, d=3"),
    "scaled before": ("y[n, d, o]", "y[n, d, o] * scale(1/2)"),
}


@pytest.mark.parametrize("why", NO_SQUARES)
def test_what_is_wanted_besides_its_squares_is_made(why: str) -> None:
    rule, plan = RULES["streamed squares"], parse_plan(SQUARES)
    made = rule.rewrite(plan)
    assert made is not None
    assert [len(step.operands) for step in made.steps] == [4]
    assert made.multiplications == plan.multiplications  # of the product, and of each of its cells
    assert_same_plan(plan, made)
    old, new = NO_SQUARES[why]
    text = SQUARES.replace(old, new)
    text = (
        text.replace("= t1[n, d, c] * t1[n, d, c]", "= t1[n, d, c] * t1[n, c, d]")
        if why == "transposed"
        else text
    )
    assert rule.rewrite(parse_plan(text)) is None


def test_names_that_are_in_use_are_not_taken() -> None:
    rule = RULES["mirrored gradient"]
    text = rule.before.replace("grad_output", "w_mirrored").replace("n=4", "n=4, k_mirrored=4")
    text = text.replace("[n,", "[k_mirrored,").replace("n=4, ", "")
    plan = parse_plan(text)
    made = rule.rewrite(plan)
    assert made is not None
    assert made.steps[0].result == "w_mirrored_2"
    assert "k_mirrored_2" in {i.name for i in made.steps[0].indices}
    assert_same_plan(plan, made)


def test_a_rule_needs_an_example() -> None:
    with pytest.raises(PlanError, match="decomposition 'bare' needs a docstring"):

        @decomposition(accuracy="local")
        def bare(step: Any, writer: Any) -> None:
            """No example."""


def test_a_wrong_rule_is_caught() -> None:
    right = RULES["product before fold"]

    def other(step: Any, writer: Any) -> Any:
        made = right.function(step, writer)
        return made and (*made[:-1], replace(made[-1], relations=()))

    wrong = Decomposition(right.name, right.sentence, right.before, right.after, right.accuracy, other)
    with pytest.raises(AssertionError, match="but its docstring shows"):
        assert_rule(wrong)
    plan = parse_plan(right.before)
    with pytest.raises(AssertionError, match="values differ"):
        assert_same_plan(plan, replace(plan, steps=(replace(plan.steps[0], scale=plan.steps[0].scale * 2),)))
    assert Setting.of(plan).count(plan.indices) > 0
