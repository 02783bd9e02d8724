"""The example that trains with less memory, and the benchmark of sampling, shortened: no time or accuracy is asserted."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import sampled

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "train_with_less_memory.py"


def test_the_example_trains_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from examples import train_with_less_memory as example  # noqa: PLC0415

    monkeypatch.setattr(example, "WIDTH", 8)
    monkeypatch.setattr(example, "HELD_OUT", 1797 - 4 * example.BATCH)
    options = ["--epochs", "1", "--seeds", "1", "--threads", str(torch.get_num_threads())]
    with torch.random.fork_rng():
        rows = example.main([*options, "--out", str(tmp_path / "plot.svg")])
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert [(row.kind, row.kept) for row in rows[:2]] == [("all", "1"), ("channels", "1/2")] and len(
        rows
    ) == 7
    for kind in ("channels", "space"):
        stored = [row.stored for row in rows if row.kind in ("all", kind)]
        assert stored == sorted(stored, reverse=True) and stored[-1] < 0.7 * stored[0]


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn the example ends with one line for pip, and no traceback."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="needs: pip install tnconv matplotlib scikit-learn"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_the_benchmark_writes_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "layer": (lambda: torch.nn.Conv2d(8, 8, 3, padding=1), (8, 8, 8)),
        "depthwise": (lambda: torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 8, 8)),
    }
    monkeypatch.setattr(sampled, "LAYERS", small)
    options = [
        "--layers",
        *small,
        "--batch",
        "4",
        "--rounds",
        "1",
        "--seconds",
        "0",
        "--steps",
        "1",
        "--draws",
        "2",
    ]
    threads = str(torch.get_num_threads())
    with torch.random.fork_rng():
        rows, found = sampled.main([*options, "--threads", threads, "--out", str(tmp_path)])
    assert all(row.stored <= row.keep + 0.05 for row in rows) and len(rows) == 8
    assert len(found) == 22 and all(len(each.errors) == len(sampled.WAYS) for each in found)
    whole = [each for each in found if each.layer != "stem" and each.keep == 0.5]
    assert all(0.5 < each.errors["tnconv channels"] < 1.5 for each in whole)
    saved = json.loads((tmp_path / "sampled.json").read_text(encoding="utf-8"))
    assert len(saved["rows"]) == 8 and "| depthwise |" in (tmp_path / "SAMPLED.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("way", sampled.WAYS)
def test_ways_of_sampling_are_right_on_the_average(way: str) -> None:
    """Each cell within five standard errors of the mean over many draws."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 4, 4, generator=generator).abs()
    draws = torch.stack([sampled.WAYS[way](x, 0.5, generator) for _ in range(1500)])
    error = draws.std(0) / 1500**0.5
    assert float(((draws.mean(0) - x).abs() / (error + 1e-6)).max()) < 5
