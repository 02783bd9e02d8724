"""The kernel against the reference on random windows, its price, and that a broken one is caught."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tnconv_template.moving_sum import MovingSum

import tnconv
from tnconv.ir import Index, Network, Pattern, Tensor, group
from tnconv.testing import assert_kernel, networks, seeds


@st.composite
def windows(draw):
    """Sums over windows of one or two axes, most of them inside of the input; axes in any order."""
    small = st.integers(1, 3)
    legs, results, patterns = [Index("n", draw(small)), Index("c", draw(small))], [], []
    for place in range(1, draw(st.integers(1, 2)) + 1):
        stride, dilation = draw(small), draw(small)
        o, k = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        offset, rest = draw(st.sampled_from((0, 0, 1, 2, -1))), draw(st.sampled_from((0, 1, 2, -1)))
        size = max(1, stride * (o - 1) + dilation * (k - 1) + 1 + offset + rest)
        i, k, o = (Index(f"{letter}{place}", size) for letter, size in (("i", size), ("k", k), ("o", o)))
        patterns.append(Pattern(f"p{place}", i, ((stride, o), (dilation, k)), offset))
        legs.append(i)
        results.append(o)
    x = Tensor("x", "input", tuple(map(group, draw(st.permutations(legs)))))
    return Network("moving_sum", (x, *patterns), (group(*legs[:2]), *map(group, results)))


def test_it_computes_what_it_accepts():
    accepted = []

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(windows(), seeds())
    def law(network, seed):
        accepted.append(assert_kernel(MovingSum(), network, seed))

    law()
    assert sum(accepted) > len(accepted) / 8  # one that accepts nothing is never wrong


@settings(max_examples=40, deadline=None)
@given(networks(max_tensors=2, max_volume=1000, symbolic=True), seeds())
def test_it_is_right_or_refuses_on_any_step(network, seed):
    assert_kernel(MovingSum(), network, seed)


class Forgetful(MovingSum):
    """Broken on purpose: a sum that is one too small."""

    name: ClassVar[str] = "forgetful"

    def emit(self, problem, em):
        value = super().emit(problem, em)
        return em.derive(value, "less", f"{value.name} - 1", value.dims, copied=True)


def test_a_broken_kernel_is_caught():
    network = tnconv.parse(TEXT.format(k=5, o=20))
    with pytest.raises(AssertionError, match="kernel 'forgetful'"):
        assert_kernel(Forgetful(), network)


TEXT = """network moving_sum {{
  index [n=2, c=3, i1=24, i2=24, k1={k}, k2={k}, o1={o}, o2={o}]
  x  = input   [n, c, i1, i2]
  p1 = pattern [i1 = o1 + k1]
  p2 = pattern [i2 = o2 + k2]
  output [n, c, o1, o2]
}}"""


def test_it_wins_by_its_price():
    """tnconv has found it by its entry point: nothing in this test hands it over."""
    function = tnconv.compile(tnconv.parse(TEXT.format(k=5, o=20)), verify="exact")
    (choice,) = function.program.choices
    assert choice.kernel == "moving_sum"
    assert choice.predicted == min(cost for _, cost in choice.candidates)
    assert len(choice.candidates) > 1
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    expected = F.avg_pool2d(x, 5, 1, divisor_override=1)
    torch.testing.assert_close(function(x), expected)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, x, weights) for y in (function(x), expected))
    torch.testing.assert_close(ours, theirs)


def test_it_leaves_to_others_what_they_do_better():
    layer = tnconv.ConvSpec(3, 3, 3, 8, batch_size=2)
    assert all(choice.kernel != "moving_sum" for choice in tnconv.compile(layer).program.choices)
