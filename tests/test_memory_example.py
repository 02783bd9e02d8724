"""The example that trains with less memory, shortened: figures of time and accuracy are never asserted."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_with_less_memory.py"


def test_the_example_trains_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from examples import train_with_less_memory as example  # noqa: PLC0415

    options = ["--epochs", "1", "--seeds", "1", "--threads", str(torch.get_num_threads())]
    with torch.random.fork_rng():
        rows = example.main([*options, "--out", str(tmp_path / "plot.svg")])
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert [(row.kind, row.kept) for row in rows[:2]] == [("all", "1"), ("channels", "1/2")] and len(
        rows
    ) == 7
    for kind in ("channels", "space"):
        stored = [row.stored for row in rows if row.kind in ("all", kind)]
        assert stored == sorted(stored, reverse=True) and stored[-1] < 0.55 * stored[0]


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn the example ends with one line for pip, and no traceback."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="needs: pip install tnconv matplotlib scikit-learn"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
