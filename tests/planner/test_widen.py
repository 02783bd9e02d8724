"""Bonds are widened with zeros: the value stays, its derivatives do, and every step is wider that has the bond."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnconv.backends.backend import How
from tnconv.backends.reference import evaluate_plan
from tnconv.backends.torch.training import TrainedProgram
from tnconv.nn.tensorised import KINDS
from tnconv.planner import make_plan, parse_plan
from tnconv.planner.widen import widened

BEFORE = """
plan example {
  argument x [N, 8, 6]
  argument a [8, 7]
  argument w [7, 3, 4]
  index [n=N, c=8, d=4, i=6, k=3, o=6, r=7]
  t[n, i, r] = x[n, c, i] * a[c, r]
  result[n, d, o] = t[n, i, r] * w[r, k, d] * [i = o + k - 1]
  return result
}
"""


def test_arguments_that_a_bond_joins_get_zeros_and_steps_between_them_are_wider() -> None:
    made = widened(parse_plan(BEFORE), 4)
    assert made is not None
    text = str(made)
    for line in (
        "a_wide[c, r_wide] = a[c, r] * [r_wide = r]   # 0 multiplications, 64 elements",
        "t[n, i, r_wide] = x[n, c, i] * a_wide[c, r_wide]   # 384*N multiplications, 48*N elements",
        "w_wide[r_wide, k, d] = w[r, k, d] * [r_wide = r]   # 0 multiplications, 96 elements",
        "result[n, d, o] = t[n, i, r_wide] * w_wide[r_wide, k, d] * [i = o + k - 1]",
    ):
        assert line in text
    assert parse_plan(text) == made


def test_what_is_whole_far_from_it_or_no_bond_is_left_alone() -> None:
    plan = parse_plan(BEFORE)
    assert widened(plan, 7) is None  # 8 channels are in the input, of which the size is open
    assert widened(plan, 16) is None  # more than twice as many cells


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_values_and_gradients_stay(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    dims = data.draw(st.integers(1, 2))
    groups = data.draw(st.sampled_from([1, 2]))
    options: dict[str, Any] = {
        "stride": data.draw(st.integers(1, 2)),
        "padding": data.draw(st.integers(0, 2)),
        "dilation": data.draw(st.integers(1, 2)),
        "padding_mode": data.draw(st.sampled_from(["zeros", "circular"])),
    }
    layer = KINDS[kind][dims](
        4 * groups,
        6,
        3,
        groups=groups,
        rank=data.draw(st.integers(2, 7)),
        bias=data.draw(st.booleans()),
        **options,
    ).double()
    size = (7, 6)[:dims]
    network = layer.compiled(size).network
    plan = make_plan(network, minimize="time")
    made = widened(plan, data.draw(st.integers(2, 8)))
    if made is None:
        return
    given: dict[str, Any] = dict(layer.named_parameters())
    given["x"] = torch.randn(2, 4 * groups, *size, dtype=torch.float64)
    tensors = [given[name].requires_grad_() for name in plan.arguments]
    arrays = {name: given[name].detach().numpy() for name in plan.arguments}
    want = evaluate_plan(plan, arrays)
    np.testing.assert_allclose(evaluate_plan(made, arrays), want, atol=1e-12)
    program = TrainedProgram(made, list(plan.arguments), How({"N": 2}))
    value, saved = program.run(*(tensor.detach() for tensor in tensors))
    cotangent = torch.randn_like(value)
    got = program.gradients([t.detach() for t in tensors], saved, cotangent, tuple(plan.arguments))
    np.testing.assert_allclose(value.numpy(), want, atol=1e-12)
    expected = torch.autograd.grad(layer(given["x"]), tensors, cotangent)
    torch.testing.assert_close(list(got), list(expected))


def test_ranks_that_fill_no_vector_are_widened_where_products_gain() -> None:
    made: Any = KINDS["tucker"][2]
    layer = made(64, 64, 3, padding=1, rank=14, bias=False, batch_hint=8)
    assert "r_in_wide" in str(layer.compiled(56).plan)
