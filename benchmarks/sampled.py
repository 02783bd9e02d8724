"""Sampled weight gradients: time and stored bytes beside the exact ones, errors beside other ways of sampling.

    python -m benchmarks.sampled --rounds 5 --steps 20 --out results/

First, layers of ResNet-18 and of a ConvNeXt block: the weight gradient alone, with and without sampling, in turn
(`benchmarks.timing`), and the bytes that autograd stores for the layer. Then, for the 11 kinds of convolutions of a
narrow ResNet-18 that was trained for a moment, the error of the weight gradient where all ways store as many
bytes of the input: the root of the mean squared error over draws, over the norm of the exact gradient.
Writes SAMPLED.md and sampled.json.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import tnconv
from benchmarks.machine import describe
from benchmarks.timing import race
from examples.train_tensorised_resnet import Block, images, resnet

SAMPLES: dict[str, tuple[float, dict[str, Any]]] = {
    "channels 1/2": (1 / 2, {"in_channels": 0.5}),
    "channels 1/4": (1 / 4, {"in_channels": 0.25}),
    "space 1/2": (1 / 2, {"space": (0.5, 1)}),
    "space 1/4": (1 / 4, {"space": (0.5, 0.5)}),
    "batch 1/2": (1 / 2, {"batch": 0.5}),
}
LIMITS = {"channels": 0.15, "space": 0.3}  # of time, beside the fraction

# name -> (layer, input without the batch)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18 layer1 3x3": (lambda: nn.Conv2d(64, 64, 3, padding=1, bias=False), (64, 56, 56)),
    "ResNet-18 layer2 3x3 /2": (lambda: nn.Conv2d(64, 128, 3, 2, 1, bias=False), (64, 56, 56)),
    "ResNet-18 layer2 1x1 /2": (lambda: nn.Conv2d(64, 128, 1, 2, bias=False), (64, 56, 56)),
    "ResNet-18 layer2 3x3": (lambda: nn.Conv2d(128, 128, 3, padding=1, bias=False), (128, 28, 28)),
    "ResNet-18 layer3 3x3 /2": (lambda: nn.Conv2d(128, 256, 3, 2, 1, bias=False), (128, 28, 28)),
    "ResNet-18 layer3 3x3": (lambda: nn.Conv2d(256, 256, 3, padding=1, bias=False), (256, 14, 14)),
    "ResNet-18 layer4 3x3 /2": (lambda: nn.Conv2d(256, 512, 3, 2, 1, bias=False), (256, 14, 14)),
    "ResNet-18 layer4 3x3": (lambda: nn.Conv2d(512, 512, 3, padding=1, bias=False), (512, 7, 7)),
    "ConvNeXt depthwise 7x7": (lambda: nn.Conv2d(96, 96, 7, padding=3, groups=96), (96, 56, 56)),
    "ConvNeXt up": (lambda: nn.Linear(96, 384), (56, 56, 96)),
    "ConvNeXt down": (lambda: nn.Linear(384, 96), (56, 56, 384)),
}


@dataclass(frozen=True)
class Row:
    """A layer and a sampling; times are ratios over the exact weight gradient, bytes over the exact ones."""

    layer: str
    sampling: str
    keep: float
    milliseconds: float  # of the exact weight gradient
    time: float
    stored: float


@dataclass(frozen=True)
class Errors:
    """Relative errors of one layer at one fraction, by way of sampling."""

    layer: str
    keep: float
    errors: dict[str, float]


# -- time and bytes --------------------------------------------------------------------------------------


def stored(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd stores for a layer besides its parameters."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(found.values())


def exact(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    """PyTorch's weight gradient alone."""
    if isinstance(layer, nn.Linear):
        return lambda: gradient.flatten(0, -2).T @ x.flatten(0, -2)
    options: Any = (
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        (0, 0),
        layer.groups,
        (False, True, False),
    )
    return lambda: torch.ops.aten.convolution_backward(gradient, x, layer.weight, None, *options)[1]  # type: ignore[attr-defined]


def measure(name: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """A layer with every sampling that it has."""
    make, size = LAYERS[name]
    torch.manual_seed(0)
    plain, x = make(), torch.randn(batch, *size)
    gradient = torch.randn_like(plain(x).detach())
    calls: dict[str, Callable[[], object]] = {"exact": exact(plain, x, gradient)}
    bytes_of: dict[str, int] = {}
    for sampling, (_, indices) in SAMPLES.items():
        try:
            layer: Any = tnconv.nn.sample(make(), indices=indices)
        except tnconv.SpecError:  # a depthwise layer has one channel a group
            continue
        bytes_of[sampling] = stored(layer, x)
        spec = layer.spec(size[:-1] if isinstance(plain, nn.Linear) else size[1:])
        function = tnconv.compile(spec, "weight_vjp", sample=indices, preselect=True)
        rows = function.draw_rows(torch.Generator().manual_seed(0), N=batch)
        kept = function.preselected(x, rows)
        tables = [rows[table] for table in function.arguments[2:]]
        calls[sampling] = lambda f=function, k=kept, t=tables: f(k, gradient, *t)
    for call in calls.values():
        call()
    found = race(calls, options.rounds, seconds=options.seconds)
    whole, milliseconds = stored(plain, x), 1e3 * statistics.median(found.seconds("exact"))
    return [
        Row(
            name, sampling, SAMPLES[sampling][0], milliseconds,
            statistics.median(found.ratios(sampling, "exact")), bytes_of[sampling] / whole,
        )
        for sampling in bytes_of
    ]  # fmt: skip


# -- errors ------------------------------------------------------------------------------------------------

Estimate = Callable[[Tensor, float, torch.Generator], Tensor]  # an input in place of x, right on the average


def uniform(*axes: int) -> Estimate:
    """Values along axes without replacement, of equal probability (tnconv); no more bytes than the fraction says."""

    def estimate(x: Tensor, keep: float, generator: torch.Generator) -> Tensor:
        left = keep
        for place, axis in enumerate(axes):
            size, part = x.shape[axis], left ** (1 / (len(axes) - place))
            kept = max(1, int(part * size + (0.5 if place == 0 else 0)))
            left *= size / kept
            mask = torch.zeros(size).index_fill_(
                0, torch.randperm(size, generator=generator)[:kept], size / kept
            )
            x = x * mask.view(-1, *[1] * (x.ndim - 1 - axis))
        return x

    return estimate


def by_norm(axis: int) -> Estimate:
    """Values along an axis with replacement, by the norm of what is there (arXiv 1805.08079)."""

    def estimate(x: Tensor, keep: float, generator: torch.Generator) -> Tensor:
        norms = x.transpose(0, axis).flatten(1).norm(dim=1) + 1e-12
        p, kept = norms / norms.sum(), max(1, round(keep * x.shape[axis]))
        rows = torch.multinomial(p, kept, replacement=True, generator=generator)
        weights = torch.zeros_like(p).index_add_(0, rows, 1 / (kept * p[rows]))
        return x * weights.view(-1, *[1] * (x.ndim - 1 - axis))

    return estimate


def probed(axes: tuple[int, ...]) -> Estimate:
    """Orthogonal random probes along axes, as one (arXiv 2106.06998): `x Z Zᵀ`, of which `x Z` is stored."""

    def estimate(x: Tensor, keep: float, generator: torch.Generator) -> Tensor:
        moved = x.movedim(axes, tuple(range(-len(axes), 0)))
        flat = moved.flatten(-len(axes))
        size = flat.shape[-1]
        kept = max(1, round(keep * size))
        probes = torch.linalg.qr(torch.randn(size, kept, generator=generator))[0] * (size / kept) ** 0.5
        found = ((flat @ probes) @ probes.T).reshape(moved.shape)
        return found.movedim(tuple(range(-len(axes), 0)), axes)

    return estimate


WAYS: dict[str, Estimate] = {
    "tnconv channels": uniform(1),
    "tnconv space, rows": uniform(2),
    "tnconv space": uniform(2, 3),
    "tnconv batch": uniform(0),
    "Adelman channels": by_norm(1),
    "Adelman batch": by_norm(0),
    "XConv space": probed((2, 3)),
    "XConv batch": probed((0,)),
}
OURS = tuple(name for name in WAYS if name.startswith("tnconv"))


def trained(steps: int, batch: int, generator: torch.Generator) -> nn.Sequential:
    """A narrow ResNet-18 after some steps."""
    torch.manual_seed(0)
    model = resnet()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in track(range(steps), "training", transient=True):
        x, labels = images(batch, generator)
        loss = F.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def layers_of(model: nn.Sequential) -> dict[str, nn.Conv2d]:
    """The 11 kinds of convolutions: the stem, and of each stage the first two, and the one around if there is one."""
    blocks = [module for module in model if isinstance(module, Block)]
    found: dict[str, Any] = {"stem": model[0], "layer1 3x3": blocks[0].conv1}
    for stage, block in enumerate(blocks[2::2], 2):
        found |= {
            f"layer{stage} 3x3 /2": block.conv1,
            f"layer{stage} 3x3": block.conv2,
            f"layer{stage} 1x1 /2": block.around,
        }
    return found


def errors(model: nn.Sequential, keeps: Sequence[float], options: argparse.Namespace) -> list[Errors]:
    """The errors of all ways for each layer, of a batch that the model has not seen."""
    generator = torch.Generator().manual_seed(1)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    inputs: dict[str, Tensor] = {}
    layers = layers_of(model)
    for name, layer in layers.items():
        layer.register_forward_hook(lambda m, given, y, name=name: inputs.update({name: given[0].detach()}))
        layer.register_full_backward_hook(
            lambda m, gi, go, name=name: seen.update({name: (inputs[name], go[0].detach())})
        )
    x, labels = images(options.batch, generator)
    F.cross_entropy(model(x.requires_grad_()), labels).backward()
    found = []
    for name, layer in track(layers.items(), "errors", transient=True):
        x, gradient = seen[name]
        if layer.kernel_size == (1, 1):  # cells that it steps over are neither stored nor sampled
            x = x[:, :, :: layer.stride[0], :: layer.stride[1]].contiguous()
        want = _weight_gradient(layer, x, gradient)
        for keep in keeps:
            of_all = {}
            for way, estimate in WAYS.items():
                draws = [
                    (_weight_gradient(layer, estimate(x, keep, generator), gradient) - want).square().sum()
                    for _ in range(options.draws)
                ]
                of_all[way] = float((torch.stack(draws).mean() / want.square().sum()).sqrt())
            found.append(Errors(name, keep, of_all))
    return found


def _weight_gradient(layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> Tensor:
    stride = layer.stride if x.shape[-1] != gradient.shape[-1] else (1, 1)
    return torch.nn.grad.conv2d_weight(x, layer.weight.shape, gradient, stride, layer.padding)  # type: ignore[no-any-return]


# -- the report --------------------------------------------------------------------------------------------


def report(rows: Sequence[Row], found: Sequence[Errors], machine: dict[str, Any], batch: int) -> str:
    """The Markdown page."""
    lines = ["# Sampled weight gradients", ""]
    lines += [f"Batch {batch}.", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", "## Time and bytes", ""]
    lines += [
        "Over the exact layer: the time of the weight gradient alone, and what autograd stores for the layer besides "
        "its parameters. A number of rows is rounded, halves up, so that odd sizes keep a little more or less. The "
        "depthwise layer has one channel a group; of a 1x1 layer with stride only the cells that are read are stored.",
        "",
        f"| layer | exact, ms | {' | '.join(f'{s}: time, bytes' for s in SAMPLES)} |",
        "|---|---|" + "---|" * len(SAMPLES),
    ]
    for layer in dict.fromkeys(row.layer for row in rows):
        own = {row.sampling: row for row in rows if row.layer == layer}
        cells = [f"{own[s].time:.2f}, {own[s].stored:.3f}" if s in own else "–" for s in SAMPLES]
        lines.append(f"| {layer} | {next(iter(own.values())).milliseconds:.2f} | {' | '.join(cells)} |")
    lines.append("")
    for kind, more in LIMITS.items():
        chosen = [row for row in rows if row.sampling.startswith(kind)]
        quick = sum(row.time <= row.keep + more for row in chosen)
        small = sum(row.stored <= row.keep + 0.01 for row in chosen)
        within = f"time at most keep + {more} in {quick} of {len(chosen)} cases, bytes at most keep + 1% in {small}"
        lines.append(f"- {kind}: {within}.")
    lines += ["", "## Errors at equal bytes", ""]
    lines += [
        "Root of the mean squared error of the weight gradient over its norm. tnconv draws without replacement, of "
        "equal probability; *Adelman* with replacement, by the norm of the input (arXiv 1805.08079); *XConv* stores "
        "products with orthogonal random probes (arXiv 2106.06998). *rows* are whole rows of the image, *space* is "
        "rows and columns. Of the three channels of the stem two are kept, or one.",
        "",
        "XConv's probes are dense: with r of them, `x Z` takes `H W r` multiplications for each example and channel, "
        "and `(x Z) Zᵀ` as many again. For layer1 of ResNet-18 at 1/2 that is 5.4 times the whole weight gradient, "
        "besides making the probes orthogonal. Sampling multiplies nothing.",
    ]
    for keep in dict.fromkeys(each.keep for each in found):
        chosen_errors = [each for each in found if each.keep == keep]
        lines += ["", f"Kept: {keep:g}", "", f"| layer | {' | '.join(WAYS)} | smallest |"]
        lines.append("|---|" + "---|" * (len(WAYS) + 1))
        for each in chosen_errors:
            best = min(each.errors, key=lambda way: each.errors[way])
            cells = " | ".join(f"{each.errors[way]:.2f}" for way in WAYS)
            lines.append(f"| {each.layer} | {cells} | {best} |")
        lines.append("")
        for peer in ("Adelman", "XConv"):
            others = [way for way in WAYS if way.startswith(peer)]
            wins = sum(
                min(e.errors[w] for w in OURS) <= min(e.errors[w] for w in others) for e in chosen_errors
            )
            lines.append(
                f"- tnconv's smallest error is below {peer}'s in {wins} of {len(chosen_errors)} layers."
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> tuple[list[Row], list[Errors]]:
    """Measure, and write or print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="a layer ends after this long and 7 rounds"
    )
    parser.add_argument("--steps", type=int, default=60, help="of training before errors are taken")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for sampled.json and SAMPLED.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rows = [
        row
        for name in track(options.layers, "measuring", transient=True)
        for row in measure(name, options.batch, options)
    ]
    model = trained(options.steps, options.batch, torch.Generator().manual_seed(0))
    found = errors(model, (0.5, 0.25), options)
    machine = describe("cpu", torch.float32)
    page = report(rows, found, machine, options.batch)
    if options.out is None:
        Console().print(page, markup=False)
        return rows, found
    options.out.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine, "batch": options.batch, "rows": [asdict(r) for r in rows]}
    whole["errors"] = [asdict(e) for e in found]
    (options.out / "sampled.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    (options.out / "SAMPLED.md").write_text(page + "\n", encoding="utf-8")
    return rows, found


if __name__ == "__main__":
    main()
