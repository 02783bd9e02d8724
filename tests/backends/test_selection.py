"""Kernels are chosen, and priced, before anything is written: the programs that are written then are those."""

from typing import Any

import pytest
from hypothesis import given, settings

import tnconv
from tnconv import ConvSpec
from tnconv.backends.backend import How, Slower
from tnconv.backends.torch import lowering
from tnconv.backends.torch.lower import table_of
from tnconv.backends.torch.lowering import Lowering
from tnconv.ir import Network
from tnconv.planner import fast_plans
from tnconv.testing import networks

LAYER = ConvSpec(8, 12, 3, (9, 10), padding=1, stride=2)
OPERATIONS = (
    "forward",
    "input_vjp",
    "weight_vjp",
    "kfac_reduce",
    "gradient_norm",
    "ggn_diagonal",
    "ggn_gram",
)


def assert_as_chosen(network: Any) -> None:
    """Of each plan: results lie as they were thought to, whether found out anew or known from another plan."""
    known: dict[Any, Any] = {}
    for plan in fast_plans(network):
        written = Lowering(plan, table_of(How(known=known)))
        price = written.predicted()
        assert not written.em.statements
        program = written.program()
        assert program.predicted == price == Lowering(plan, table_of(How())).predicted()
        for name, (value, axes) in written.values.items():
            thought, same = written.selection.layout(name)
            assert (thought.dims, thought.contiguous, same) == (value.dims, value.contiguous, axes)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(network=networks(selects=True))
def test_results_lie_as_they_were_thought_to(network: Network) -> None:
    assert_as_chosen(network)


@pytest.mark.parametrize("op", OPERATIONS)
def test_results_of_layers_lie_as_they_were_thought_to(op: str) -> None:
    assert_as_chosen(tnconv.compile(LAYER, op, backend="reference").network)


def test_what_is_not_chosen_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several plans, one is printed as source."""
    printed = []
    print_one = lowering.format_python

    def counted(program: Any) -> str:
        printed.append(program.name)
        return print_one(program)

    monkeypatch.setattr(lowering, "format_python", counted)
    function = tnconv.compile(LAYER, "gradient_norm", hints={"N": 29})
    assert len(list(fast_plans(function.network))) > 1
    assert len(printed) == 1


def test_a_price_that_is_too_high_is_given_up() -> None:
    plan = next(iter(fast_plans(tnconv.compile(LAYER, "ggn_diagonal", backend="reference").network)))
    price = Lowering(plan, table_of(How())).predicted()
    with pytest.raises(Slower):
        Lowering(plan, table_of(How())).predicted(price)
