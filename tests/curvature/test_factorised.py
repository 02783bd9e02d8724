"""Factorised and sampled layers of tnconv.nn: quantities of every factor, Kronecker factors against chains of torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tnconv
from tests.curvature.curvature_models import CLASSES, close, ggn, gradients, same, state
from tests.curvature.test_per_example import check
from tnconv.curvature import (
    KroneckerFactors,
    ekfac,
    ggn_diagonal,
    gradient_norms,
    kfac,
    per_example_gradients,
    projected_gradients,
)
from tnconv.errors import CaptureError

LOSS = nn.CrossEntropyLoss()
FACTORISED: dict[str, Any] = {
    "cp": lambda: tnconv.nn.CPConv1d(2, 3, 2, rank=2, padding=1),
    "tucker": lambda: tnconv.nn.TuckerConv1d(4, 6, 2, rank=2, groups=2, stride=2),
    "tt": lambda: tnconv.nn.TTConv1d(4, 4, 2, rank=2, in_shape=(2, 2), out_shape=(2, 2)),
    "tr": lambda: tnconv.nn.TRConv1d(2, 3, 2, rank=2, padding=1, padding_mode="circular", bias=False),
    "bt": lambda: tnconv.nn.BTConv1d(2, 3, 2, rank=2, blocks=2, dilation=2),
    "ht": lambda: tnconv.nn.HTConv1d(2, 3, 2, rank=2),
}


def net(layer: nn.Module, size: Any = 5) -> tuple[nn.Module, Tensor]:
    """A classifier on a layer, and three examples."""
    torch.manual_seed(0)
    sizes = (size,) if isinstance(size, int) else size
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, layer.in_channels, *sizes).double()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES)).double()
    model(x)
    return model, x


def test_all_quantities_of_factors() -> None:
    model, x = net(FACTORISED["tucker"]())
    check(model, x, nn.CrossEntropyLoss, "mean")


@pytest.mark.parametrize("family", ["cp", "tt", "bt", "ht"])
def test_gradients_of_factors(family: str) -> None:
    model, x = net(FACTORISED[family]())
    y, before = torch.tensor([0, 1, 2]), state(model)
    names = [name for name, _ in model.named_parameters()]
    want, got = gradients(model, LOSS, x, y, names), per_example_gradients(model, LOSS, x, y)
    assert list(got) == names
    for name in names:
        close(got[name], want[name], 1e-11)
    factor = names[0]
    close(
        ggn_diagonal(model, LOSS, [(x, y)], params=[factor])[factor].flatten(),
        ggn(model, LOSS, x, y, [factor]).diagonal(),
        1e-11,
    )
    assert same(before, state(model))


class Twice(nn.Module):
    """A factorised layer that is called twice, with two images for each example the second time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = tnconv.nn.TuckerConv1d(2, 2, 2, rank=2, padding=1)
        self.head = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x))
        h = self.layer(torch.cat([h, h.sin()], 1).view(2 * len(x), 2, -1))
        return self.head(h.view(len(x), 2, 2, -1).sum((1, 3)))


def test_several_calls_of_a_factorised_layer() -> None:
    model, y = Twice().double(), torch.tensor([0, 1, 2])
    x = torch.randn(3, 2, 3).double()
    names = [name for name, _ in model.named_parameters()]
    want, got = gradients(model, LOSS, x, y, names), per_example_gradients(model, LOSS, x, y)
    for name in names:
        close(got[name], want[name], 1e-11)
    assert set(kfac(model, LOSS, [(x, y)]).names) == set(names)
    with pytest.raises(
        CaptureError, match=r"layer.core: it is a factor of a weight with several calls or ima"
    ):
        kfac(model, LOSS, [(x, y)], kfac_approx="reduce")


class Chain(nn.Module):
    """A Tucker layer by three convolutions of torch, with the parameters of its factors."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        (r_out, r_in, *kernel), dims = layer.core.shape, len(layer.kernel_size)
        conv: Any = (nn.Conv1d, nn.Conv2d)[dims - 1]
        self.factor_in = conv(layer.in_channels, r_in, 1, bias=False)
        self.core = conv(r_in, r_out, tuple(kernel), layer.stride, layer.padding, bias=False)
        self.factor_out = conv(r_out, layer.out_channels, 1)
        ones = (1,) * dims
        with torch.no_grad():
            self.factor_in.weight.copy_(layer.factor_in.T.reshape(r_in, -1, *ones))
            self.core.weight.copy_(layer.core)
            self.factor_out.weight.copy_(layer.factor_out.reshape(-1, r_out, *ones))
            self.factor_out.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor_out(self.core(self.factor_in(x)))


@pytest.mark.parametrize(
    ("approx", "fisher"), [("expand", "type-2"), ("reduce", "type-2"), ("reduce", "forward-only")]
)
def test_kronecker_factors_are_those_of_a_chain(approx: str, fisher: str) -> None:
    model, x = net(tnconv.nn.TuckerConv2d(3, 4, (2, 3), rank=(2, 3), stride=(1, 2), padding=1), (3, 4))
    chain = nn.Sequential(Chain(model[0]), *model[1:]).double()
    y = torch.tensor([0, 1, 2])
    close(chain(x), model(x))
    options: dict[str, Any] = {"kfac_approx": approx, "fisher_type": fisher}
    found, want = (kfac(each, LOSS, [(x, y)], **options) for each in (model, chain))
    for name in ("core", "factor_in", "factor_out"):
        ours, theirs = found.blocks[f"0.{name}",], want.blocks[f"0.{name}.weight",]
        close(ours.A, theirs.A, 1e-11)
        close(ours.G, theirs.G, 1e-11)
    close(found.blocks["0.bias",].G, want.blocks["0.factor_out.bias",].G, 1e-11)
    turned = torch.randn(3, 3).double()  # factor_in has its channels in front, the chain behind
    close(
        found.blocks["0.factor_in",].apply([turned[..., None]])[0][..., 0],
        want.blocks["0.factor_in.weight",].apply([turned.T[..., None, None, None]])[0].squeeze().T,
        1e-11,
    )
    close(KroneckerFactors.from_state_dict(found.state_dict()).dense(), found.dense())


@pytest.mark.parametrize(
    ("layer", "size", "exact"),
    [
        (lambda: tnconv.nn.TuckerConv1d(3, 2, 2, rank=2), 2, ["factor_out", "core"]),
        (FACTORISED["tucker"], 2, ["factor_out"]),
        (FACTORISED["bt"], 3, ["factor_out", "core"]),
    ],
)
def test_one_position_is_exact(layer: Any, size: int, exact: list[str]) -> None:
    """With one example and one position of a factor the product is the GGN's block, and so is EKFAC's."""
    model, x = net(layer(), size)
    names, data = [f"0.{name}" for name in exact], [(x[:1], torch.tensor([1]))]
    for make in (kfac, ekfac):
        found = make(model, LOSS, data, params=names)
        for name in names:
            block, dense = found.blocks[name,], ggn(model, LOSS, *data[0], [name])
            p, groups = len(dense), block.place.groups
            got = block.apply([torch.eye(p).double().view(*block.place.shapes[0], p)])[0].reshape(p, p)
            own = torch.block_diag(*[torch.ones(p // groups, p // groups)] * groups)  # groups lead
            close(got, dense * own, 1e-10)


def test_factors_without_a_kronecker_product_are_named() -> None:
    (ring, x), y = net(FACTORISED["tr"]()), torch.tensor([0, 1, 2])
    with pytest.raises(
        CaptureError, match=r"0.factor_k1: it is a factor of a weight, which no Kron.*behind it"
    ):
        kfac(ring, LOSS, [(x, y)])
    assert set(kfac(ring, LOSS, [(x, y)], unsupported="skip").left) == {"0.factor_k1"}
    diagonal = kfac(ring, LOSS, [(x, y)], unsupported="diagonal").blocks["0.factor_k1",]
    close(diagonal.values.flatten(), ggn(ring, LOSS, x, y, ["0.factor_k1"]).diagonal(), 1e-11)


def test_projections_are_those_of_the_gradients() -> None:
    model, x = net(FACTORISED["tucker"]())
    y = torch.tensor([0, 1, 2])
    ours = projected_gradients(model, LOSS, x, y, 7, params=["0.core"])
    assert ours.shape == (3, 7)
    generator = torch.Generator().manual_seed(2147483647)
    flat = gradients(model, LOSS, x, y, ["0.core"])["0.core"].flatten(1)
    place = torch.randint(7, flat.shape[1:], generator=generator)
    sign = torch.randint(2, flat.shape[1:], generator=generator) * 2 - 1
    close(ours, torch.zeros(3, 7).double().index_add_(1, place, flat * sign))


SAMPLED: dict[str, Any] = {
    "conv": lambda: tnconv.nn.SampledConv1d(2, 3, 2, padding=1, padding_mode="circular", keep=0.5),
    "linear": lambda: nn.Sequential(nn.Flatten(2), tnconv.nn.SampledLinear(5, 4)),
    "factorised": lambda: tnconv.nn.sample(FACTORISED["tucker"](), 0.5),
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_sampled_layers_are_exact(kind: str) -> None:
    """What is computed of a sampled layer in training is of the layer itself, which keeps its input while captured."""
    torch.manual_seed(0)
    layer = SAMPLED[kind]()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES)).double()
    x, y = torch.randn(3, 4 if kind == "factorised" else 2, 5).double(), torch.tensor([0, 1, 2])
    model(x)
    names = [name for name, _ in model.named_parameters()]
    want = gradients(model.eval(), LOSS, x, y, names)
    got = per_example_gradients(model.train(), LOSS, x, y)
    for name in names:
        close(got[name], want[name], 1e-11)
    flat = torch.cat([g.flatten(1) for g in want.values()], 1)
    close(gradient_norms(model, LOSS, x, y), flat.norm(dim=1))
    found = kfac(model, LOSS, [(x, y)], check_deterministic=False, unsupported="skip")
    close(found.dense(), kfac(model.eval(), LOSS, [(x, y)], unsupported="skip").dense())
    with pytest.raises(
        CaptureError, match=r"draws random numbers \(a dropout or a sampled layer in training"
    ):
        kfac(model.train(), LOSS, [(x, y)], unsupported="skip")


# -- linear layers and transposed convolutions -----------------------------------------------------------


class Sequences(nn.Module):
    """A factorised linear layer on sequences, which are the first axis where asked for."""

    def __init__(self, layer: nn.Module, first: bool) -> None:
        super().__init__()
        self.layer, self.first = layer, first
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x.transpose(0, 1)).transpose(0, 1) if self.first else self.layer(x)
        return self.head(torch.tanh(h).mean(1))


class LinearChain(nn.Module):
    """A Tucker linear layer by three of torch."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        (outs, inside), bias = layer.core.shape, layer.bias is not None
        self.factor_in = nn.Linear(layer.in_features, inside, bias=False)
        self.core = nn.Linear(inside, outs, bias=False)
        self.factor_out = nn.Linear(outs, layer.out_features, bias=bias)
        with torch.no_grad():
            self.factor_in.weight.copy_(layer.factor_in.T)
            self.core.weight.copy_(layer.core)
            self.factor_out.weight.copy_(layer.factor_out)
            self.factor_out.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor_out(self.core(self.factor_in(x)))


@pytest.mark.parametrize("first", [False, True])
def test_linear_factors_are_those_of_a_chain(first: bool) -> None:
    torch.manual_seed(0)
    model = Sequences(tnconv.nn.TuckerLinear(5, 4, rank=(3, 2)), first).double()
    chain = Sequences(LinearChain(model.layer), first).double()
    chain.head.load_state_dict(model.head.state_dict())
    x, y = torch.randn(3, 6, 5).double(), torch.tensor([0, 1, 2])
    check(model, x, nn.CrossEntropyLoss, "mean")
    for approx in ("expand", "reduce"):
        found, want = (kfac(each, LOSS, [(x, y)], kfac_approx=approx) for each in (model, chain))
        for name in ("core", "factor_in", "factor_out"):
            ours, theirs = found.blocks[f"layer.{name}",], want.blocks[f"layer.{name}.weight",]
            close(ours.A, theirs.A, 1e-11)
            close(ours.G, theirs.G, 1e-11)
        close(found.blocks["layer.bias",].G, want.blocks["layer.factor_out.bias",].G, 1e-11)
    assert ekfac(model, LOSS, [(x, y)]).names == found.names


def test_transposed_factors_are_those_of_a_chain() -> None:
    torch.manual_seed(0)
    model, x = net(tnconv.nn.TuckerConvTranspose(1, 3, 4, 3, rank=(2, 3), stride=2, padding=1), 4)
    layer, y = model[0], torch.tensor([0, 1, 2])
    steps = nn.ModuleDict(
        {
            "factor_in": nn.ConvTranspose1d(3, 3, 1, bias=False),
            "core": nn.ConvTranspose1d(3, 2, 3, 2, 1, bias=False),
            "factor_out": nn.ConvTranspose1d(2, 4, 1),
        }
    ).double()
    with torch.no_grad():
        steps["factor_in"].weight.copy_(layer.factor_in.unsqueeze(-1))
        steps["core"].weight.copy_(layer.core.transpose(0, 1))
        steps["factor_out"].weight.copy_(layer.factor_out.T.unsqueeze(-1))
        steps["factor_out"].bias.copy_(layer.bias)
    chain = nn.Sequential(nn.Sequential(*steps.values()), *model[1:])
    close(chain(x), model(x))
    check(model, x, nn.CrossEntropyLoss, "sum")
    found, want = (kfac(each, LOSS, [(x, y)]) for each in (model, chain))
    for place, name in enumerate(steps):
        close(found.blocks[f"0.{name}",].A, want.blocks[f"0.{place}.weight",].A, 1e-11)
        close(found.blocks[f"0.{name}",].G, want.blocks[f"0.{place}.weight",].G, 1e-11)
