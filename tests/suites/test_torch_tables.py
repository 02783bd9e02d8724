"""A few of PyTorch's tables in every run of the tests; `make suites` runs all of them. Most of the time is their import."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from outcomes import ACCEPTED, FAILED, REFUSED, Outcome, assert_near, summary

pytest.importorskip("expecttest", reason="PyTorch's tables need it: pip install '.[suites]'")

import torch_modules
import torch_operators

DTYPES = (torch.complex128, torch.bfloat16)
REASONS = {each.reason for each in torch_operators.REFUSALS}


def assert_none_failed(outcomes: Iterator[Outcome]) -> Counter[str]:
    found = list(outcomes)
    assert not [each for each in found if each.state == FAILED], summary(found)
    assert {each.text for each in found if each.state == REFUSED} <= REASONS
    return Counter(each.state for each in found)


@pytest.mark.parametrize("name", torch_operators.FUNCTIONS)
def test_operators(name: str) -> None:
    every = 60 if name.endswith("unfold") else 7
    dtypes = (torch.float64,) if "pool" in name else DTYPES
    counts = assert_none_failed(torch_operators.run([name], dtypes, every))
    assert counts[ACCEPTED] >= 6


@pytest.mark.parametrize("name", torch_modules.MODULES)
def test_modules(name: str) -> None:
    counts = assert_none_failed(torch_modules.run([name], (torch.float64,), every=5))
    assert counts == {ACCEPTED: counts.total()} and counts.total() >= 10


def test_an_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is off in the last digits, one of another dtype, and an exception of another package."""
    right = torch_operators.FUNCTIONS["nn.functional.linear"]

    def off(*given: torch.Tensor) -> torch.Tensor:
        return right(*given) * (1 + 1e-12)

    def foreign(*_: torch.Tensor) -> torch.Tensor:
        raise KeyError("jam")

    for wrong in (off, lambda *given: right(*given).float(), foreign):
        monkeypatch.setitem(torch_operators.FUNCTIONS, "nn.functional.linear", wrong)
        found = list(torch_operators.run(["nn.functional.linear"], (torch.float64,), every=3))
        values = [each for each in found if each.check.startswith("value float64")]
        assert any(each.state == FAILED for each in values)  # some samples are empty


def test_a_tolerance_follows_from_the_arithmetic() -> None:
    want, bound = torch.tensor([1.0, 1e-6]), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert_near(
        want + torch.tensor([0.0, 2e-6]), want, bound
    )  # what cancels may be off by roundings of its terms
    with pytest.raises(AssertionError, match=r"0\.001 off, 3\.81e-06 allowed"):
        assert_near(want + torch.tensor([0.001, 0.0]), want, bound)
    with pytest.raises(AssertionError, match="shape"):
        assert_near(want[:1], want, bound)
    with pytest.raises(AssertionError, match=r"dtype torch\.float64, PyTorch has torch.float32"):
        assert_near(want.double(), want, bound)


def test_the_summary_counts() -> None:
    text = summary(
        [Outcome("f", "a", ACCEPTED), Outcome("f", "b", REFUSED, "why"), Outcome("g", "c", FAILED, "how")]
    )
    assert text.splitlines()[1].split() == ["f", "1", "1", "0"]
    assert text.splitlines()[3].split() == ["all", "1", "1", "1"]
    assert text.splitlines()[4:] == ["refused 1: why", "FAILED g, c: how"]
