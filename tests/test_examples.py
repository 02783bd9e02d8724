"""Every example runs as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {"curvature_of_a_layer.py": ["--out", "curvature.svg"]}
MADE = {"curvature_of_a_layer.py": "curvature.svg"}


@pytest.mark.parametrize("name", ["custom_pass.py", "curvature_of_a_layer.py", "per_example_gradients.py"])
def test_runs(name: str, tmp_path: Path) -> None:
    """As a user would run it, in an empty folder."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    if name in MADE:
        assert (tmp_path / MADE[name]).read_text().startswith("<?xml")
