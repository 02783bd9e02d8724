"""Joint plans: each value is that of its plan, shared steps are there once, and the text is read back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tnconv import ConvSpec, ops
from tnconv.backends import reference
from tnconv.errors import PlanError
from tnconv.ir import evaluate
from tnconv.planner import Plan, fast_plans, parse_plan
from tnconv.planner.joint_plan import joined
from tnconv.testing.strategies import conv_specs

NAMES = (
    "weight_vjp", "per_example_weight_vjp", "gradient_norm", "ggn_diagonal", "ggn_gram", "ggn_block", "kfac_expand",
    "kfac_reduce", "kfac_grad_expand", "unfold", "hessian_diagonal_bl89_weight", "bias_vjp",
)  # fmt: skip
SMALL = {"N": 2, "V": 2}


def plan_of(spec: ConvSpec, name: str, number: int = 0) -> Plan:
    """One of the candidates for an operation."""
    derivation = ops.derive(ops.get(name), spec.network(bias=ops.get(name).bias), ops.Options())
    plans = fast_plans(derivation.run(None)[0])
    return plans[number % len(plans)]


def values_of(plan: Plan, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Each value of a plan by the reference, as of a plan that has no other."""
    found = []
    for names, real in zip((plan.results, *plan.also), plan.reals, strict=True):
        steps = plan.leading_to(names)
        alone = Plan(plan.name, plan.arguments, steps, names, plan.hints, real=real, tables=plan.tables)
        found.append(reference.evaluate_plan(alone, arrays))
    return found


@settings(max_examples=15)
@given(st.data())
def test_each_value_is_that_of_its_plan_and_the_text_is_read_back(data: st.DataObject) -> None:
    spec = data.draw(conv_specs(max_dims=1, max_output=3))
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True))
    plans = [plan_of(spec, name, data.draw(st.integers(0, 5))) for name in names]
    joint = joined("joint", plans, sums=data.draw(st.booleans()))
    assert parse_plan(str(joint)) == joint
    assert len(joint.steps) <= sum(len(plan.steps) for plan in plans)
    rng = np.random.default_rng(0)

    def draw(shape: list[int]) -> np.ndarray:
        return rng.integers(-3, 4, shape) + 1j * rng.integers(-3, 4, shape)

    arrays = {
        name: draw([evaluate(size, SMALL) for size in sizes]) for name, sizes in joint.arguments.items()
    }
    for plan, got in zip(plans, values_of(joint, arrays), strict=True):
        np.testing.assert_allclose(got, reference.evaluate_plan(plan, arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "names", [("gradient_norm", "per_example_weight_vjp"), ("per_example_weight_vjp", "gradient_norm")]
)
def test_gradients_that_are_also_squared_are_made_once_and_laid_out_as_they_are_returned(
    names: tuple[str, ...],
) -> None:
    spec = ConvSpec(2, 3, 3, (16, 16), bias=False)
    plans = [plan_of(spec, name) for name in names]
    norm = plans[names.index("gradient_norm")]
    assert len(norm.steps) == 2
    joint = joined("joint", plans)
    assert joint.multiplications == norm.multiplications
    assert [len(joint.steps), len(joint.returned)] == [2, 2]


def test_a_sum_over_examples_is_one_of_what_there_is_unless_that_is_not_wanted() -> None:
    plans = [
        plan_of(ConvSpec(2, 3, 3, (6, 6), bias=False), n) for n in ("weight_vjp", "per_example_weight_vjp")
    ]
    assert joined("joint", plans).multiplications == plans[1].multiplications
    apart = joined("joint", plans, sums=False)
    assert apart.multiplications == plans[0].multiplications + plans[1].multiplications


def test_a_scale_that_only_one_of_two_has_is_applied_behind_what_they_share() -> None:
    spec = tnconv.LinearSpec(3, 2, bias=False)
    raw = ops.derive(ops.get("kfac_reduce"), spec.network(), ops.Options(), convention="sum").run(None)[0]
    plans = [*fast_plans(raw)[:1], plan_of(spec, "kfac_expand")]
    joint = joined("joint", plans)
    assert [len(step.operands) for step in joint.steps] == [2, 1]
    assert joint.multiplications == plans[0].multiplications
    arrays = {"x": np.arange(12.0).reshape(4, 3)}
    for plan, got in zip(plans, values_of(joint, arrays), strict=True):
        np.testing.assert_allclose(got, reference.evaluate_plan(plan, arrays))


def test_indices_of_one_name_and_two_sizes_are_told_apart() -> None:
    short, long = (plan_of(ConvSpec(2, 3, 1, (6,), stride=s, bias=False), "unfold") for s in (2, 1))
    joint = joined("joint", [short, long])
    assert parse_plan(str(joint)) == joint
    assert len({index.name for index in joint.indices}) == len(joint.indices)
    arrays = {"x": np.arange(24.0).reshape(2, 2, 6)}
    for plan, got in zip((short, long), values_of(joint, arrays), strict=True):
        np.testing.assert_array_equal(got, reference.evaluate_plan(plan, arrays))


def test_two_shapes_of_one_argument_are_refused() -> None:
    plans = [plan_of(ConvSpec(2, 3, 3, (6, size), bias=False), "unfold") for size in (6, 7)]
    with pytest.raises(
        PlanError, match=r"argument 'x' has shape \[N, 2, 6, 6\] in one operation but \[N, 2, 6, 7\] in"
    ):
        joined("joint", plans)
