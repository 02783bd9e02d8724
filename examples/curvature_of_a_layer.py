"""All curvature of one convolution: Kronecker factors, GGN diagonal and blocks, NTK, and a picture of a factor.

    python examples/curvature_of_a_layer.py [--out curvature.svg]

Only the input of the layer and the gradient of its output are needed: no hooks, no attributes on modules.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import tnconv

EXAMPLES, CLASSES = 16, 10
FACTORS = ("kfac_expand", "kfac_reduce", "kfac_grad_expand", "kfac_grad_reduce")
BLOCKS = ("ggn_diagonal", "ggn_mini_block", "ggn_mini_block_kernel", "ggn_gram", "ntk", "gradient_norm")


def tensors() -> tuple[nn.Conv2d, dict[str, Tensor]]:
    """A small layer inside a small network, and what an optimiser sees of it."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    head = nn.Linear(8 * 4 * 4, CLASSES)
    steps = torch.linspace(0, 6.28, 8)
    waves = torch.sin(steps[:, None] + steps[None, :])
    x = waves + 0.5 * torch.randn(EXAMPLES, 6, 8, 8)
    y = conv(x).detach().requires_grad_()
    logits = head(torch.relu(y).flatten(1))
    labels = torch.randint(CLASSES, (EXAMPLES,))
    (grad_output,) = torch.autograd.grad(
        nn.functional.cross_entropy(logits, labels, reduction="sum"), y, retain_graph=True
    )
    # Rows of the square root of the softmax's Hessian, pulled back to the layer's output: z[v, n, d, o1, o2].
    p = logits.detach().softmax(1)
    root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    rows = [torch.autograd.grad(logits, y, root[:, :, v], retain_graph=True)[0] for v in range(CLASSES)]
    return conv, {
        "x": x, "weight": conv.weight.detach(), "bias": conv.bias.detach(), "grad_output": grad_output,
        "z": torch.stack(rows),
    }  # fmt: skip


def main() -> None:
    """Compute everything, say what it costs, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("curvature.svg"), help="the picture; .svg, .png or .pdf"
    )
    out = parser.parse_args().out
    conv, values = tensors()
    table = Table(title=f"{conv}, batch {EXAMPLES}")
    for name, justify in (
        ("operation", "left"),
        ("axes", "left"),
        ("shape", "left"),
        ("multiplications", "right"),
    ):
        table.add_column(name, justify=justify)
    results: dict[str, Tensor] = {}
    for op in track((*FACTORS, *BLOCKS), "computing"):
        function = tnconv.compile(conv, op, input_size=(8, 8))
        results[op] = function(**{name: values[name] for name in function.arguments})
        sizes = {name: {"N": EXAMPLES, "V": CLASSES}[name] for name in function.network.symbols}
        shape = "×".join(map(str, results[op].shape))
        table.add_row(op, tnconv.ops.get(op).legs, shape, f"{function.cost.at(**sizes).multiplications:,}")
    Console(width=110).print(table)
    draw(results, out)
    print(f"wrote {out}")


def draw(results: dict[str, Tensor], out: Path) -> None:
    """The blocks of the input factor, and the scale that separates expand from reduce."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    figure.suptitle("Kronecker factors, block of the first group")
    shown = (
        ("kfac_expand", results["kfac_expand"][0]),
        ("kfac_reduce", results["kfac_reduce"][0]),
        ("kfac_grad_expand", results["kfac_grad_expand"][0]),
    )
    for axis, (name, factor) in zip(axes, shown, strict=True):
        limit = factor.abs().max().item()
        image = axis.imshow(factor.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(name)
        axis.set_xlabel("(c' k1' k2')" if "grad" not in name else "d'")
        axis.set_ylabel("(c k1 k2)" if "grad" not in name else "d")
        figure.colorbar(image, ax=axis, shrink=0.8)
    figure.savefig(out)


if __name__ == "__main__":
    main()
