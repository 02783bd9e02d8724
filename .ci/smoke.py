"""What an installed tnconv has to do: compile, compute, draw, report, and be called from a shell.

Run it outside of the repository, which would be found in place of what is installed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import tnconv


def check_values() -> None:
    """Gradients and a factor of a layer are PyTorch's."""
    conv, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(5, 4, 9, 9)
    y = conv(x)
    grad_output = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, conv.weight, grad_output)
    torch.testing.assert_close(
        tnconv.compile(conv, "weight_vjp", input_size=(9, 9))(x, grad_output), expected
    )
    columns = nn.functional.unfold(x, 3, padding=1, stride=2)
    mean = columns.mean(-1)
    factor = tnconv.compile(conv, "kfac_reduce", input_size=(9, 9), verify="exact")(x)
    torch.testing.assert_close(factor[0], mean.T @ mean / len(x))


def check_the_rest() -> None:
    """Equations, layers, models, pictures."""
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    torch.testing.assert_close(
        tnconv.einsum("n c h+r-1, d c r -> n d h", x, w), nn.functional.conv1d(x, w, padding=1)
    )
    model = nn.Sequential(tnconv.nn.CPConv2d(3, 4, 3, rank=2), nn.Flatten(), nn.Linear(64, 5))
    images, labels = torch.randn(7, 3, 6, 6), torch.randint(5, (7,))
    assert tnconv.curvature.gradient_norms(model, nn.CrossEntropyLoss(), images, labels).shape == (7,)
    function = tnconv.compile(tnconv.ConvSpec("C", "D", 3, ("H", "W"), padding=1), "kfac_expand")
    assert function(torch.randn(2, 3, 8, 8)).shape == (1, 27, 27)
    assert str(function.at(H=8, W=8).explain())
    with tempfile.TemporaryDirectory() as folder:
        fixed = tnconv.compile(tnconv.ConvSpec(3, 4, 3, 8), "ntk")
        fixed.draw(f"{folder}/network.svg")
        fixed.report(f"{folder}/report.html")
        assert "</html>" in Path(folder, "report.html").read_text(encoding="utf-8")


def check_the_shell() -> None:
    """The program is on the path, and the package runs."""
    program = str(Path(sys.executable).with_name("tnconv"))
    for command in ([program], [sys.executable, "-m", "tnconv"]):
        shown = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True).stdout
        assert shown == f"tnconv {tnconv.__version__}\n"
    layer = "Conv2d(4, 6, 3, padding=1, input_size=(9, 9))"
    for arguments in (["compile", layer, "--op", "kfac_reduce"], ["ops"], ["passes"], ["compile", "--help"]):
        made = subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
        assert made.strip()
    wrong = subprocess.run(
        [program, "compile", layer, "--op", "kfac_redcue"], check=False, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "did you mean 'kfac_reduce'?" in " ".join(wrong.stderr.split())


if __name__ == "__main__":
    assert "site-packages" in tnconv.__file__, f"{tnconv.__file__} is not the installed package"
    check_values()
    check_the_rest()
    check_the_shell()
    print(f"tnconv {tnconv.__version__} runs with torch {torch.__version__}")
