"""Every example runs as its docstring says."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.docs_code import folder
from tnconv import plugins

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {"curvature_of_a_layer.py": ["--out", "curvature.svg"]}
MADE = {"curvature_of_a_layer.py": "curvature.svg"}


@pytest.mark.parametrize("name", ["custom_pass.py", "curvature_of_a_layer.py", "per_example_gradients.py"])
def test_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python FILE` in an empty folder, but in this process: to start another one takes seconds."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *ARGUMENTS.get(name, [])])
    monkeypatch.setattr(plugins, "_registered", {g: dict(n) for g, n in plugins._registered.items()})
    with folder(tmp_path), torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    if name in MADE:
        assert (tmp_path / MADE[name]).read_text().startswith("<?xml")
