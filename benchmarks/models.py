"""Curvature and per-example quantities of whole models, in times of forward and backward, beside other packages.

    python -m benchmarks.models --models resnet18 --settings 32x32 --out results/

All calls of a case go in turn (`benchmarks.timing`), forward and backward among them, so that a ratio is of one machine
at one time. A peer that is not installed, or does not support a model, is left out. Every peer's numbers are compared
with ours first. Writes models.json and prints the table.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tnconv.curvature as tc
from benchmarks.machine import describe
from benchmarks.timing import race

try:
    from curvlinops import KFACLinearOperator
except ImportError:
    KFACLinearOperator = None
try:
    from opacus import GradSampleModule
except ImportError:
    GradSampleModule = None

CLASSES = 10
LOSS = nn.CrossEntropyLoss()
SETTINGS = {"32x32": (32, 32), "96x8": (96, 8), "64x4": (64, 4), "32x8": (32, 8)}  # image size, examples
Call = Callable[[], Any]


# -- models ----------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two 3×3 convolutions and a skip, as in ResNet-18."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def resnet18(_: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(channels, out, stride), Residual(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


class ConvNext(nn.Module):
    """A depthwise 7×7 convolution, a norm over channels, two linear layers, a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.down(F.gelu(self.up(h))) * self.scale).permute(0, 3, 1, 2)


def convnext(_: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), ConvNext(64), ConvNext(64), nn.Conv2d(64, 128, 2, 2), ConvNext(128), ConvNext(128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES),
    )  # fmt: skip


class Block(nn.Module):
    """Attention and two linear layers."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.first(x)).chunk(3, 2)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Vit(nn.Module):
    """Patches of 8×8, positions, four blocks."""

    def __init__(self, size: int, width: int = 128) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.positions = nn.Parameter(0.02 * torch.randn((size // 8) ** 2, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(4)], nn.LayerNorm(width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(h).mean(1))


MODELS: dict[str, Callable[[int], nn.Module]] = {"resnet18": resnet18, "convnext": convnext, "vit": Vit}


# -- quantities ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model with a batch.

    Args:
        name: of the model.
        setting: of the batch.
        model: in evaluation mode.
        x: `[n, 3, size, size]`.
        y: labels `[n]`.
    """

    name: str
    setting: str
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def matrices(self) -> list[str]:
        """The parameters of linear layers and convolutions."""
        kinds = nn.Linear, nn.Conv2d
        return [
            f"{prefix}.{name}"
            for prefix, part in self.model.named_modules()
            if isinstance(part, kinds)
            for name, _ in part.named_parameters()
        ]

    def step(self) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        LOSS(self.model(self.x), self.y).backward()


def kfac_of(approx: str) -> Callable[[Case], Iterator[tuple[str, Call]]]:
    def calls(case: Case) -> Iterator[tuple[str, Call]]:
        data, names = [(case.x, case.y)], case.matrices
        yield (
            "tnconv",
            lambda: tc.kfac(
                case.model, LOSS, data, params=names, fisher_type="mc", kfac_approx=approx, groups="average"
            ),
        )
        if KFACLinearOperator is None:
            return
        params = [dict(case.model.named_parameters())[name] for name in names]

        def theirs() -> Any:
            operator = KFACLinearOperator(
                case.model, LOSS, params, data, fisher_type="mc", kfac_approx=approx, check_deterministic=False,
                num_data=len(case.x), num_per_example_loss_terms=1,
            )  # fmt: skip
            operator.compute_kronecker_factors()
            return operator

        yield "curvlinops", theirs

    return calls


def norms(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: tc.gradient_norms(case.model, LOSS, case.x, case.y)
    yield "torch.func", lambda: _stacked(_by_vmap(case)).norm(dim=1)
    if GradSampleModule is not None:
        yield "opacus", lambda: _stacked(_by_opacus(case)).norm(dim=1)


def clipped(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: list(tc.clipped_gradients(case.model, LOSS, case.x, case.y, 1.0).values())

    def theirs(made: Callable[[Case], list[Tensor]]) -> list[Tensor]:
        grads = made(case)
        factor = (1 / _stacked(grads).norm(dim=1)).clamp_max(1)
        return [torch.tensordot(factor, g, 1) for g in grads]

    yield "torch.func", lambda: theirs(_by_vmap)
    if GradSampleModule is not None:
        yield "opacus", lambda: theirs(_by_opacus)


def ntk(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: tc.ntk(case.model, case.x)

    def theirs() -> Tensor:
        J = torch.cat([j.flatten(2) for j in _jacobian(case)], 2)
        return torch.einsum("nip,mjp->nimj", J, J)

    yield "torch.func", theirs


def diagonal(case: Case) -> Iterator[tuple[str, Call]]:
    yield "tnconv", lambda: list(tc.ggn_diagonal(case.model, LOSS, [(case.x, case.y)]).values())

    def theirs() -> list[Tensor]:
        p = case.model(case.x).detach().softmax(1)
        H = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        return [
            torch.einsum("nip,nij,njp->p", j.flatten(2), H, j.flatten(2)).view(j.shape[2:]) / len(p)
            for j in _jacobian(case)
        ]

    yield "torch.func", theirs


def _by_vmap(case: Case) -> list[Tensor]:
    params = {name: p.detach() for name, p in case.model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return LOSS(torch.func.functional_call(case.model, params, (x[None],)), y[None])

    return list(torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, case.x, case.y).values())


def _jacobian(case: Case) -> list[Tensor]:
    """`[n, c, *parameter]` for each, as Laplace's functorch backend makes it."""
    params = {name: p.detach() for name, p in case.model.named_parameters()}

    def output(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(case.model, params, (x[None],))[0]

    return list(torch.func.vmap(torch.func.jacrev(output), (None, 0))(params, case.x).values())


def _by_opacus(case: Case) -> list[Tensor]:
    module = GradSampleModule(case.model, loss_reduction="mean")
    try:
        LOSS(module(case.x), case.y).backward()
        return [p.grad_sample for p in case.model.parameters()]
    finally:
        module.to_standard_module()
        for p in case.model.parameters():
            p.grad_sample = None


def _stacked(grads: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten(1) for g in grads], 1)


QUANTITIES: dict[str, Callable[[Case], Iterator[tuple[str, Call]]]] = {
    "KFAC expand": kfac_of("expand"),
    "KFAC reduce": kfac_of("reduce"),
    "norms": norms,
    "clipped": clipped,
    "GGN diagonal": diagonal,
    "NTK": ntk,
}


# -- measuring -------------------------------------------------------------------------------------------


def differ(ours: Any, theirs: Any, tolerance: float = 2e-3) -> bool:
    """Whether results are not equal in single precision; factors are compared by a product."""
    if isinstance(ours, tc.KroneckerFactors):
        vector = torch.randn(ours.shape[1], generator=torch.Generator().manual_seed(0))
        ours, theirs = ours @ vector, theirs @ vector
    if isinstance(ours, list):
        return any(differ(a, b) for a, b in zip(ours, theirs, strict=True))
    return float((ours - theirs).norm()) > tolerance * float(theirs.norm())


def measure(case: Case, quantity: str, rounds: int) -> dict[str, Any]:
    """Ratios of all calls of a quantity to forward and backward."""
    calls: dict[str, Call] = {}
    for name, call in QUANTITIES[quantity](case):
        try:
            result = call()
        except Exception as error:  # a peer does not support the model
            if name == "tnconv":
                raise
            print(f"{case.name} {case.setting} {quantity}: {name} fails: {str(error).splitlines()[0][:100]}")
            continue
        if name == "tnconv":
            ours = result
        elif differ(ours, result):
            raise AssertionError(f"{quantity} of {case.name}: {name} computes other numbers")
        calls[name] = call
    made = race({"step": case.step, **calls}, rounds, least=0.0)
    ratios = {name: statistics.median(made.ratios(name, "step")) for name in calls}
    seconds = statistics.median(made.seconds("step"))
    return {
        "model": case.name,
        "setting": case.setting,
        "quantity": quantity,
        "step": seconds,
        "ratios": ratios,
    }


def cases(models: list[str], settings: list[str]) -> Iterator[Case]:
    for name in models:
        for setting in settings:
            size, n = SETTINGS[setting]
            torch.manual_seed(0)
            model = MODELS[name](size).eval()
            yield Case(name, setting, model, torch.randn(n, 3, size, size), torch.randint(CLASSES, (n,)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--settings", nargs="*", default=["32x32", "96x8"], choices=SETTINGS)
    parser.add_argument("--quantities", nargs="*", default=list(QUANTITIES), choices=QUANTITIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        measure(case, quantity, options.rounds)
        for case in cases(options.models, options.settings)
        for quantity in options.quantities
    ]
    table = Table("model", "setting", "quantity", "tnconv", "best peer", "of the best", "others")
    for row in rows:
        peers = {name: ratio for name, ratio in row["ratios"].items() if name != "tnconv"}
        best = min(peers.values(), default=float("nan"))
        others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in peers.items())
        ours = row["ratios"]["tnconv"]
        table.add_row(
            row["model"],
            row["setting"],
            row["quantity"],
            f"{ours:.2f}",
            f"{best:.2f}",
            f"{ours / best:.2f}",
            others,
        )
    Console().print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {"machine": describe("cpu", torch.float32), "threads": options.threads, "rows": rows}
        (options.out / "models.json").write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
