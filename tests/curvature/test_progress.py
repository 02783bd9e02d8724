"""The bar of what is done: only where it is wanted, and gone afterwards."""

import io
import sys
from contextlib import closing
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tnconv.curvature import ekfac, fisher_diagonal, ggn_diagonal, kfac
from tnconv.curvature.data import batches, length


class Terminal(io.StringIO):
    """A place to write to that may be a terminal."""

    def __init__(self, is_one: bool) -> None:
        super().__init__()
        self.is_one = is_one

    def isatty(self) -> bool:
        return self.is_one


PAIR = (torch.ones(2, 2), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("progress", "terminal", "seconds", "shown"),
    [
        (None, True, 1.0, True),  # a batch takes a second: the third is due
        (None, True, 0.1, False),
        (None, False, 1.0, False),
        (False, True, 1.0, False),
        (True, False, 0.0, True),
    ],
)
def test_when_it_is_shown(
    monkeypatch: Any, progress: bool | None, terminal: bool, seconds: float, shown: bool
) -> None:
    out = Terminal(terminal)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    for place, _ in enumerate(batches([PAIR] * 4, progress, lambda: now[0])):
        if terminal:
            assert bool(out.getvalue()) == (shown and place >= 2)
        now[0] += seconds
    assert ("batches" in out.getvalue()) == shown
    if shown:
        assert "4/4" in out.getvalue()
        assert sys.stderr is out


def test_it_goes_where_the_caller_fails(monkeypatch: Any) -> None:
    out = Terminal(True)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(ZeroDivisionError), closing(batches(iter([PAIR] * 3), True)) as pairs:
        for _ in pairs:
            assert sys.stderr is not out  # what is printed meanwhile goes above the bar
            1 / 0  # noqa: B018
    assert sys.stderr is out
    assert out.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_all_functions_of_data_have_it(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    model = nn.Linear(2, 1)
    for function in (kfac, ekfac, ggn_diagonal, fisher_diagonal):
        for progress in (True, False):
            out = Terminal(True)
            monkeypatch.setattr(sys, "stderr", out)
            function(model, nn.MSELoss(), [PAIR, PAIR], progress=progress)
            assert ("batches" in out.getvalue()) == progress


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.ones(2), torch.zeros(1))] * 4)


def test_data_of_unknown_length() -> None:
    loader = DataLoader(Stream(), batch_size=2)
    assert length(loader) is None
    assert kfac(nn.Linear(2, 1), nn.MSELoss(), loader).num_data == 4
