"""Small models for curvature, and what torch.func says of them."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Draw = Callable[[st.SearchStrategy[Any]], Any]
CLASSES = 3


def jacobian(model: nn.Module, x: Tensor, names: list[str] | None = None) -> dict[str, Tensor]:
    """The Jacobian of the output, `[*output, *parameter]`, by name."""
    params = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    return torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(params)


def rows(model: nn.Module, x: Tensor, names: list[str]) -> Tensor:
    """The Jacobian as `[n, cells, p]`, parameters in the order of names."""
    found = jacobian(model, x, names)
    n = len(x)
    with torch.no_grad():
        out = model(x).shape
    return torch.cat([found[name].reshape(n, out[1:].numel(), -1) for name in names], 2)


def hessian(loss: Callable[[Tensor, Any], Tensor], output: Tensor, y: Any) -> Tensor:
    """The Hessian of a loss of the whole output, `[cells, cells]`."""
    return torch.func.hessian(lambda o: loss(o.view(output.shape), y))(output.detach().reshape(-1))


def ggn(
    model: nn.Module, loss: Callable[[Tensor, Any], Tensor], x: Tensor, y: Any, names: list[str]
) -> Tensor:
    """The dense GGN of `loss(model(x), y)`, which may be a mean, `[p, p]`."""
    with torch.no_grad():
        output = model(x)
    J = rows(model, x, names).flatten(0, 1)
    return J.T @ hessian(loss, output, y) @ J


def gradients(
    model: nn.Module, loss: Callable[[Tensor, Any], Tensor], x: Tensor, y: Any, names: list[str]
) -> dict[str, Tensor]:
    """Per-example gradients by a loop, `[n, *parameter]`, by name."""
    known = dict(model.named_parameters())
    found = []
    for n in range(len(x)):
        value = loss(model(x[n : n + 1]), y[n : n + 1])
        each = torch.autograd.grad(value, [known[name] for name in names], allow_unused=True)
        found.append(
            [torch.zeros_like(known[m]) if g is None else g for m, g in zip(names, each, strict=True)]
        )
    return {name: torch.stack([g[i] for g in found]) for i, name in enumerate(names)}


class Scale(nn.Module):
    """A scale and a shift for each channel, as in ConvNeXt."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(channels, *[1] * dims))
        self.beta = nn.Parameter(torch.randn(1, channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x + self.beta


class Tokens(nn.Module):
    """A small transformer over indices: embeddings, a class token, positions, norms, attention, twice one layer."""

    def __init__(self, length: int = 4, width: int = 4, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.tokens = nn.Embedding(5, width, padding_idx=0)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(length + 1, width))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.up = nn.Linear(width, 6)
        self.down = nn.Linear(6, width, bias=False)
        self.last = nn.RMSNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.first.expand(len(x), -1, -1), self.tokens(x)], 1) + self.position
        if not self.batch_first:
            h = h.transpose(0, 1)
        a = self.norm(h)
        h = h + self.mix(a, a, a, need_weights=False)[0]
        for _ in range(2):
            h = h + self.down(torch.tanh(self.up(self.last(h))))
        return self.head(h[:, 0] if self.batch_first else h[0])


class Windows(nn.Module):
    """Four images of each example in one convolution, behind each other or in turn."""

    def __init__(self, in_turn: bool) -> None:
        super().__init__()
        self.in_turn = in_turn
        self.conv = nn.Conv2d(2, 3, 2, stride=1)
        self.norm = nn.GroupNorm(1, 3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        parts = torch.stack(
            [x[..., i : i + 3, j : j + 3] for i in (0, 3) for j in (0, 3)], 0 if self.in_turn else 1
        )
        h = torch.tanh(self.norm(self.conv(parts.flatten(0, 1))))
        h = h.mean((2, 3))
        h = h.view(4, n, 3).sum(0) if self.in_turn else h.view(n, 4, 3).sum(1)
        return self.head(h)


@st.composite
def mixed(draw: Draw, pooled: bool = False) -> tuple[nn.Module, tuple[int, ...]]:
    """A model of layers of all kinds in one or two dimensions, and the shape of an example."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    dims = draw(st.integers(1, 2))
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dims - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1]
    groups = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(("zeros", "circular", "reflect", "replicate")))
    size = draw(st.integers(4, 6))
    layers: list[nn.Module] = [
        conv(
            2,
            2 * groups,
            draw(st.integers(1, 3)),
            stride=draw(st.integers(1, 2)),
            padding=draw(st.integers(0, 1)),
            dilation=draw(st.integers(1, 2)) if mode != "reflect" else 1,
            groups=groups,
            bias=draw(st.booleans()),
            padding_mode=mode,
        ),
        nn.GELU() if draw(st.booleans()) else nn.Softplus(),
    ]
    layers += draw(
        st.sampled_from(
            (
                [norm(2 * groups).eval()],
                [nn.GroupNorm(1, 2 * groups)],
                [Scale(2 * groups, dims), nn.ReLU(inplace=True)],
                [],
            )
        )
    )
    layers += [transposed(2 * groups, 2, 2, stride=draw(st.integers(1, 2)), groups=draw(st.integers(1, 2)))]
    x = torch.randn(2, 2, *[size] * dims)
    model = nn.Sequential(*layers)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    with torch.no_grad():
        shape = model(x).shape
    layers += (
        [nn.Tanh(), nn.Flatten(1)]
        if not pooled
        else [nn.Tanh(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(1)]
    )
    features = shape[1:].numel() if not pooled else shape[1]
    layers += [nn.Linear(features, 4), nn.LayerNorm(4), nn.Linear(4, CLASSES, bias=draw(st.booleans()))]
    made = nn.Sequential(*layers).double().train(draw(st.booleans()))
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()
    return made, (2, *[size] * dims)


LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss)


def target(loss: type[nn.Module], shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random targets for an output of a shape."""
    generator = torch.Generator().manual_seed(seed)
    if loss is nn.CrossEntropyLoss:
        return torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.gt(0).double() if loss is nn.BCEWithLogitsLoss else values


def state(model: nn.Module) -> dict[str, Any]:
    """All that a function must leave as it is."""
    return {
        "modes": [m.training for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "hooks": [
            len(getattr(m, name)) for m in model.modules() for name in vars(m) if name.endswith("_hooks")
        ],
        "grads": [p.grad for p in model.parameters()],
        "ids": [id(p) for p in model.parameters()],
        "values": [t.clone() for t in model.state_dict().values()],
        "random": torch.get_rng_state(),
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two states are equal."""
    equal = [first[k] == second[k] for k in ("modes", "attributes", "hooks", "ids", "grads")]
    tensors = zip((*first["values"], first["random"]), (*second["values"], second["random"]), strict=True)
    return all(equal) and all(torch.equal(a, b) for a, b in tensors)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    """Refuse a difference that is large against the largest cell."""
    got, want = got.detach(), want.detach()
    assert got.shape == want.shape, (got.shape, want.shape)
    scale = max(float(want.abs().max()), 1e-30) if want.numel() else 1.0
    assert float((got - want).abs().max() if want.numel() else 0.0) <= tolerance * scale, (got, want)
