"""The example that trains, and the benchmark of factorised layers, shortened: figures are never asserted."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import tensorised
from examples import train_tensorised_resnet as example


def test_the_example_trains_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "WIDTHS", (16, 16, 16, 16))
    threads = str(torch.get_num_threads())
    options = ["--steps", "2", "--batch", "2", "--baseline-steps", "1", "--threads", threads]
    dense, factorised, slow = example.main([*options, "--out", str(tmp_path / "loss.svg")])
    assert "<svg" in (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert factorised.parameters < dense.parameters / 2
    assert len(dense.losses) == len(factorised.losses) == 2
    torch.testing.assert_close(slow.losses[0], factorised.losses[0], rtol=1e-3, atol=1e-3)


def test_images_of_a_seed_are_the_same_and_show_something() -> None:
    (x, labels), (again, _) = (example.images(64, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(x, again)
    assert x.shape == (64, 3, 32, 32) and labels.unique().numel() == example.CLASSES
    assert x.amax((1, 2, 3)).min() > 0.5


def test_the_benchmark_writes_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorised, "LAYERS", {12: 6})
    threads = str(torch.get_num_threads())
    options = [
        "--kinds",
        "cp",
        "tr",
        "--compressions",
        "0.3",
        "--batch",
        "1",
        "--rounds",
        "1",
        "--seconds",
        "0",
    ]
    rows = tensorised.main([*options, "--threads", threads, "--out", str(tmp_path)])
    assert [row.fewest for row in rows] == [row.planned for row in rows]
    saved = json.loads((tmp_path / "tensorised.json").read_text(encoding="utf-8"))
    assert [row["kind"] for row in saved["rows"]] == ["cp", "tr"]
    page = (tmp_path / "TENSORISED.md").read_text(encoding="utf-8")
    assert "reached by the planner in 2 of 2 cases" in page
