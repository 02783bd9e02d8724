"""The laws for plug-ins: they pass what is right, and name what is wrong."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings

import tnconv
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.backends.torch.kernels.contract import Contract
from tnconv.backends.torch.kernels.window_views import Cells
from tnconv.errors import PassError
from tnconv.ir import Network, Scale, parse_network
from tnconv.passes import Pass, PassResult, RewritePass, Rule, get, rule
from tnconv.testing import assert_kernel, assert_pass, assert_rule, networks, seeds

CONV = tnconv.ConvSpec(2, 3, 2, 5, batch_size=2).network()
PRODUCT = parse_network("""network product {
  index [n=N, c=3, d=2]
  x = input     [n, c]
  w = parameter [d, c]
  output [n, d]
}""")


# -- rules -------------------------------------------------------------------------------------------


def scaling(factor: int, shown: int, sentence: str = "Doubles a scale of one.") -> Rule:
    """A rule that multiplies a scale of 1 by `factor`, and shows that it becomes `shown`."""

    def double(network: Network) -> Network | None:
        ones = [s for s in network.nodes if isinstance(s, Scale) and s.value == 1]
        if not ones:
            return None
        return network.with_nodes((*network.without(ones[0].name), Scale(ones[0].name, factor)))

    text = "network a {{\n  index []\n  s = scale [{}]\n  output []\n}}"
    double.__doc__ = f"{sentence}\n\nBefore:\n{text.format(1)}\nAfter:\n{text.format(shown)}\n"
    return rule(double)


def test_every_built_in_rule_is_what_its_docstring_shows() -> None:
    for each in get("absorb_deltas").rules:  # type: ignore[attr-defined]
        assert_rule(each)


def test_a_docstring_that_shows_something_else_is_named() -> None:
    with pytest.raises(AssertionError, match=r"rule 'double' makes\n(.|\n)*but its docstring shows"):
        assert_rule(scaling(2, 3))


def test_an_example_to_which_the_rule_does_not_apply() -> None:
    @rule
    def never(network: Network) -> Network | None:
        """Does nothing.

        Before:
            network a {
              index []
              output []
            }
        After:
            network a {
              index []
              output []
            }
        """

    with pytest.raises(AssertionError, match="rule 'never' does not apply to its own example"):
        assert_rule(never)


def test_an_example_that_changes_the_value() -> None:
    with pytest.raises(AssertionError, match="1 of 1 values differ"):
        assert_rule(scaling(2, 2))


def test_a_sentence_ends() -> None:
    @rule
    def drop_one(network: Network) -> Network | None:
        """Drops a scale of one

        Before:
            network a {
              index []
              s = scale [1]
              output []
            }
        After:
            network a {
              index []
              output []
            }
        """
        ones = [s.name for s in network.nodes if isinstance(s, Scale) and s.value == 1]
        return network.with_nodes(network.without(ones[0])) if ones else None

    with pytest.raises(AssertionError, match="end the first line 'Drops a scale of one' with a full stop"):
        assert_rule(drop_one)


# -- passes ------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(networks(max_volume=2000, selects=True), seeds())
def test_built_in_passes_obey_their_laws(network: Network, seed: int) -> None:
    assert_pass(get("absorb_deltas")(), network, seed)
    assert_pass(get("scale")(by=2), network, seed)  # type: ignore[call-arg]


def test_what_a_pass_made_comes_back() -> None:
    assert len(assert_pass(get("batch")(index="v", over=("x",)), CONV).output) == len(CONV.output) + 1  # type: ignore[call-arg]
    assert assert_pass(get("absorb_deltas")(), CONV) is CONV


@dataclass(frozen=True)
class Twice(Pass):
    """Doubles the value and says that it keeps it."""

    name: ClassVar[str] = "twice"
    preserves_value: ClassVar[bool] = True

    def apply(self, network: Network) -> PassResult:
        nodes = (*network.nodes, Scale(network.fresh_name("s"), 2))
        return PassResult(network.with_nodes(nodes), changed=True)


def test_a_wrong_value_is_named_by_its_pass() -> None:
    with pytest.raises(PassError, match="pass twice gives a wrong value on a small instance"):
        assert_pass(Twice(), CONV)
    assert_pass(Twice(), CONV, check=False)


@dataclass(frozen=True)
class Unknown(Twice):
    """Has no value to compare with."""

    name: ClassVar[str] = "unknown"
    preserves_value: ClassVar[bool] = False


def test_a_value_that_cannot_be_checked_is_not_passed() -> None:
    with pytest.raises(
        PassError, match="pass unknown cannot be checked: it keeps no value and has no oracle"
    ):
        assert_pass(Unknown(), CONV)


def test_a_rewriting_that_stops_too_early() -> None:
    class Lazy(RewritePass):
        name: ClassVar[str] = "lazy"

        def apply(self, network: Network) -> PassResult:
            ones = [s.name for s in network.nodes if isinstance(s, Scale) and s.value == 1]
            if not ones:
                return PassResult(network, changed=False)
            return PassResult(network.with_nodes(network.without(ones[0])), changed=True)

        def __str__(self) -> str:
            return self.name

    network = CONV.with_nodes((*CONV.nodes, Scale("a", 1), Scale("b", 1)))
    with pytest.raises(AssertionError, match="pass lazy finds more to do the second time"):
        assert_pass(dataclass(frozen=True)(Lazy)(), network)


# -- kernels -----------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(networks(max_tensors=2, max_volume=2000, symbolic=True, selects=True), seeds())
def test_the_last_resort_is_right_on_any_network(network: Network, seed: int) -> None:
    assert_kernel(Cells(), network, seed)


class Price(Contract):
    """A product at a price."""

    def __init__(self, price: float) -> None:
        self.price = price

    def cost(self, problem: Problem) -> float:
        return self.price


def test_a_kernel_that_accepts_and_one_that_does_not() -> None:
    assert assert_kernel(Price(1e9), PRODUCT)
    assert assert_kernel(Price(1), PRODUCT, hints={"N": 5})
    assert not assert_kernel(Contract(), parse_network("""network windows {
      index [i=5, k=2, o=4]
      x = input [i]
      p = pattern [i = o + k]
      output [k, o]
    }"""))  # fmt: skip


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_is_a_time(price: float) -> None:
    with pytest.raises(AssertionError, match=f"kernel 'matmul' costs {price}; give microseconds"):
        assert_kernel(Price(price), PRODUCT)


class Wrong(Contract):
    """A product and something else."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def emit(self, problem: Problem, em: Emitter) -> Value:
        value = super().emit(problem, em)
        operand = problem.operands[0].name
        text = self.expression.format(value=value.name, operand=operand)
        return em.assign("wrong", text, [value.name, operand], value.dims)


def test_a_wrong_value_shows_the_source() -> None:
    with pytest.raises(AssertionError, match=r"kernel 'matmul'(.|\n)*def product"):
        assert_kernel(Wrong("{value} + 1"), PRODUCT)
    with pytest.raises(AssertionError, match="kernel 'matmul' gives shape"):
        assert_kernel(Wrong("{value}[:, :1]"), PRODUCT, hints={"N": 2})


def test_a_kernel_leaves_its_operands_alone() -> None:
    with pytest.raises(AssertionError, match=r"kernel 'matmul' changed '[xw]'"):
        assert_kernel(Wrong("({value}, {operand}.zero_())[0]"), PRODUCT)


def test_a_kernel_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Kernel()  # type: ignore[abstract]
