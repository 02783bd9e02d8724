"""Every example runs as its docstring says."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.docs.docs_code import folder
from tnconv import plugins

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ARGUMENTS = {
    "curvature_of_a_layer.py": ["--out", "curvature.svg"],
    "kfac_digits.py": ["--out", "digits.svg", "--steps", "2"],
    "compress_digits.py": ["--quick", "--out", "compressed.svg"],
    "chirps.py": ["--quick", "--out", "chirps.svg"],
    "large_networks.py": ["--quick"],
    "moving_digits.py": ["--quick", "--out", "films.svg"],
}
MADE = {name: given[given.index("--out") + 1] for name, given in ARGUMENTS.items() if "--out" in given}


NEEDS = {
    "compress_digits.py": ("sklearn",),
    "moving_digits.py": ("sklearn",),
    "kfac_digits.py": ("sklearn",),
    "laplace_digits.py": ("laplace", "sklearn"),
    "private_digits.py": ("opacus", "sklearn"),
}
NAMES = [
    "any_size.py",
    "chirps.py",
    "custom_pass.py",
    "curvature_of_a_layer.py",
    "large_networks.py",
    "per_example_gradients.py",
    *NEEDS,
]


@pytest.mark.parametrize("name", NAMES)
def test_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python FILE` in an empty folder, but in this process: to start another one takes seconds."""
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(EXAMPLES))  # for compressing.py
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *ARGUMENTS.get(name, [])])
    monkeypatch.setattr(plugins, "_registered", {g: dict(n) for g, n in plugins._registered.items()})
    with folder(tmp_path), torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    if name in MADE:
        assert (tmp_path / MADE[name]).read_text().startswith("<?xml")


@pytest.mark.parametrize("name", NEEDS)
def test_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package that it needs an example ends with a line for pip."""
    package = NEEDS[name][0]
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for module in [package, *(each for each in sys.modules if each.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match="This example needs: pip install"):
        runpy.run_path(str(EXAMPLES / name))
