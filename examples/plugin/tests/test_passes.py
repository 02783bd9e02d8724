"""The laws of the passes, on random networks; and that the laws notice a pass that is broken."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tnconv_template.repeated_patterns import RepeatedPatterns, drop_repeated_pattern
from tnconv_template.select import Select

import tnconv
from tnconv.errors import PassError
from tnconv.ir import Network
from tnconv.passes import PassResult, RewritePass, Rule, rule
from tnconv.testing import assert_pass, assert_rule, networks, seeds

CONV = tnconv.ConvSpec(4, 6, 3, 9, stride=2, padding=1, batch_size=2).network()


# -- the rule ----------------------------------------------------------------------------------------


def test_the_docstring_of_the_rule_is_what_it_does():
    assert_rule(drop_repeated_pattern)


@st.composite
def repeating(draw):
    """Networks on which the rule fires: one in a hundred random ones would, so a pattern is repeated on purpose."""
    network = draw(networks(max_volume=4000).filter(lambda n: n.patterns))
    chosen = draw(st.sampled_from(network.patterns))
    return network.with_nodes((*network.nodes, replace(chosen, name=network.fresh_name("again"))))


@settings(max_examples=40, deadline=None)
@given(repeating(), seeds())
def test_repeated_patterns_keeps_the_value(network, seed):
    after = assert_pass(RepeatedPatterns(), network, seed)
    assert len(after.patterns) < len(network.patterns)


@rule
def drop_similar_pattern(network: Network) -> Network | None:
    """Broken on purpose: it looks at the left side only.

    Before:
        network example {
          index [i=8, o=6]
          p = pattern [i = o]
          q = pattern [i = o]
          output [o]
        }
    After:
        network example {
          index [i=8, o=6]
          p = pattern [i = o]
          output [o]
        }
    """
    first = {}
    for node in network.patterns:
        if first.setdefault(node.left, node) is not node:
            return network.with_nodes(network.without(node.name))
    return None


@dataclass(frozen=True)
class SimilarPatterns(RewritePass):
    name: ClassVar[str] = "similar_patterns"
    rules: ClassVar[tuple[Rule, ...]] = (drop_similar_pattern,)


def test_a_broken_rule_is_caught():
    assert_rule(drop_similar_pattern)  # the one example of its docstring does not show it
    network = tnconv.parse("""network two_windows {
      index [i=6, k=2, o=5, o_2=3]
      x = input   [i]
      p = pattern [i = o + k]
      q = pattern [i = 2*o_2 + k]
      output [k, o, o_2]
    }""")
    with pytest.raises(PassError, match="pass similar_patterns gives a wrong value on a small instance"):
        assert_pass(SimilarPatterns(), network)


# -- the pass ----------------------------------------------------------------------------------------


@st.composite
def selections(draw):
    """A network with an index alone on an axis of its output, and a value of it."""
    network = draw(networks(max_volume=2000).filter(_lonely))
    index = draw(st.sampled_from(_lonely(network)))
    return Select(index.name, draw(st.integers(0, index.size - 1))), network


def _lonely(network):
    return [axis.indices[0] for axis in network.output if axis.is_group and len(axis.indices) == 1]


@settings(max_examples=40, deadline=None)
@given(selections(), seeds())
def test_select_has_the_value_of_a_slice(selection, seed):
    each, network = selection
    after = assert_pass(each, network, seed)
    assert len(after.output) == len(network.output) - 1


@dataclass(frozen=True)
class OffByOne(Select):
    name: ClassVar[str] = "off_by_one"

    def apply(self, network: Network) -> PassResult:
        return Select(self.index, self.at + 1).apply(network)


def test_a_broken_pass_is_caught():
    with pytest.raises(
        PassError, match=r"pass off_by_one\{index=o1\} gives a wrong value on a small instance"
    ):
        assert_pass(OffByOne("o1"), CONV)


def test_what_select_refuses():
    with pytest.raises(PassError, match="at=5 is no value of index 'o1' of size 5; count from 0"):
        assert_pass(Select("o1", 5), CONV)
    with pytest.raises(PassError, match=r"'k1' is not alone on an axis .*, which has n, \(g d\), o1"):
        assert_pass(Select("k1"), CONV)


def test_select_in_a_pipeline_checked_at_every_pass():
    """`verify="exact"` tries small instances, and `at` must be a value that they have."""
    one = tnconv.compile(CONV, passes="select{index=o1} | default", verify="exact")
    every = tnconv.compile(CONV)
    assert one.cost.multiplications < every.cost.multiplications
