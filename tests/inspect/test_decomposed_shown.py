"""A step that was taken apart is seen: in the plan, in its tree, in tables, in the report and in JSON."""

import json
from pathlib import Path

import pytest

import tnconv
from tnconv.inspect import snapshot
from tnconv.planner import format_step, parse_plan


@pytest.fixture(scope="module")
def function() -> tnconv.CompiledFunction:
    spec = tnconv.ConvSpec(3, 64, 7, (64, 64), stride=2, padding=3, batch_size=2)
    return tnconv.compile(spec, "input_vjp")


def test_the_plan_has_the_steps_that_are_computed(function: tnconv.CompiledFunction) -> None:
    (apart,) = function.program.decomposed
    assert apart.rule == "stride phases"
    assert function.plan.steps == apart.steps
    assert len(parse_plan(str(function.plan)).steps) == len(apart.steps)
    assert [choice.step for choice in function.program.choices] == [step.result for step in apart.steps]
    assert function.program.lowered(function.plan) is not None
    assert function.program.lowered(function.plan).steps == apart.steps
    prices = dict(apart.candidates)
    assert prices["stride phases"] == pytest.approx(function.program.predicted)
    assert min(prices, key=lambda name: prices[name]) == "stride phases" != "convolution" in prices


def test_people_see_it(function: tnconv.CompiledFunction, tmp_path: Path) -> None:
    (apart,) = function.program.decomposed
    text = " ".join(str(function.explain()).split())
    assert "decompositions: one step as several" in text
    assert "stride phases" in text
    function.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "stride phases" in page
    assert apart.steps[0].result in page
    (found,) = json.loads(json.dumps(snapshot(function)))["decomposed"]
    assert (found["rule"], found["step"]) == ("stride phases", format_step(apart.step))
    assert found["steps"] == [format_step(step) for step in apart.steps]


def test_other_functions_show_none() -> None:
    function = tnconv.compile(tnconv.ConvSpec(2, 3, 3, 5), "forward")
    assert function.program.decomposed == ()
    assert "decompositions:" not in str(function.explain())
    assert snapshot(function)["decomposed"] == []


AT_ONCE = {
    "lag sums": (tnconv.ConvSpec(32, 32, 3, (28, 28), padding=1, batch_size=8), "kfac_expand"),
    "exchanged roles": (
        tnconv.ConvSpec(96, 96, 7, (28, 28), padding=3, groups=96, batch_size=8),
        "weight_vjp",
    ),
}


@pytest.mark.parametrize("rule", AT_ONCE)
def test_what_a_kernel_takes_apart_at_once_is_shown_too(rule: str) -> None:
    function = tnconv.compile(*AT_ONCE[rule])
    assert function.program.decomposed == ()
    (found,) = snapshot(function)["decomposed"]
    assert found["rule"] == f"{rule}, at once"
    assert len(found["steps"]) == 2
    assert rule in str(function.explain())
