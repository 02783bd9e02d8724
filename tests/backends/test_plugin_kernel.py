"""A kernel of another distribution competes by its price, found without being installed."""

from pathlib import Path

import torch

import tnconv
from tnconv import plugins

PLUGIN = Path(__file__).parent.parent / "plugin"
TEXT = """
network total {
  index [i=3, k=4]
  x = input [i, k]
  output []
}
"""


def test_a_kernel_of_a_plugin_is_found_and_wins_by_its_price(monkeypatch):
    network = tnconv.parse(TEXT)
    before = tnconv.compile(network)
    assert [c.kernel for c in before.program.choices] == ["matmul"]
    monkeypatch.syspath_prepend(str(PLUGIN))
    plugins.refresh()
    after = tnconv.compile(network)
    assert [c.kernel for c in after.program.choices] == ["total"]
    assert "x.sum()" in after.source
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(after(x), before(x))
