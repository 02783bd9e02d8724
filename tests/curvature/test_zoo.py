"""Every module of torch with parameters: its per-example gradients are right, or all its parameters are named."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.curvature.curvature_models import CLASSES, close, gradients, same, state
from tnconv.curvature import kfac, per_example_gradients
from tnconv.errors import CaptureError

LOSS = nn.CrossEntropyLoss()
N = 3


def image(*sizes: int) -> Tensor:
    return torch.randn(N, *sizes, generator=torch.Generator().manual_seed(0)).double()


def rows_of(count: int) -> Tensor:
    return torch.randint(count, (N, 3), generator=torch.Generator().manual_seed(0))


def attention(module: Any, *inputs: Tensor) -> Tensor:
    return module(*inputs, need_weights=False)[0]


def first(module: Any, x: Tensor) -> Tensor:
    return module(x)[0]


# What makes a module, how it is called, and its input.
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], Tensor]] = {}


def entry(
    make: Callable[[], nn.Module], x: Tensor, call: Callable[..., Tensor] | None = None, name: str = ""
) -> None:
    with torch.random.fork_rng():
        made = make()
    ZOO[name or type(made).__name__] = (make, call or (lambda module, x: module(x)), x)


entry(lambda: nn.Linear(2, 3), image(2))
entry(lambda: nn.Bilinear(2, 2, 3), image(2), lambda m, x: m(x, x.sin()))
for dims in (1, 2, 3):
    entry(lambda d=dims: getattr(nn, f"Conv{d}d")(2, 3, 2), image(2, *[3] * dims))
    entry(lambda d=dims: getattr(nn, f"ConvTranspose{d}d")(2, 3, 2), image(2, *[2] * dims))
    entry(lambda d=dims: getattr(nn, f"BatchNorm{d}d")(2).eval(), image(2, *[2] * dims))
    entry(lambda d=dims: getattr(nn, f"InstanceNorm{d}d")(2, affine=True), image(2, *[3] * dims))
    entry(
        lambda d=dims: getattr(nn, f"InstanceNorm{d}d")(2, affine=True, track_running_stats=True).eval(),
        image(2, *[3] * dims),
        name=f"InstanceNorm{dims}d with statistics",
    )
entry(lambda: nn.SyncBatchNorm(2).eval(), image(2, 2))
entry(lambda: nn.LayerNorm((2, 3)), image(2, 3))
entry(lambda: nn.GroupNorm(2, 4), image(4, 2))
entry(lambda: nn.RMSNorm(3), image(2, 3))
entry(lambda: nn.Embedding(4, 2), rows_of(4))
entry(lambda: nn.EmbeddingBag(4, 2), rows_of(4))
entry(nn.PReLU, image(2, 3))
entry(lambda: nn.PReLU(2), image(2, 3), name="PReLU by channel")
for kind in ("RNN", "LSTM", "GRU"):
    entry(lambda k=kind: getattr(nn, k)(2, 3, batch_first=True), image(2, 2), first)
    entry(
        lambda k=kind: getattr(nn, k)(2, 3, 2, bidirectional=True),
        image(2, 2),
        lambda m, x: m(x.mT.transpose(0, 1))[0].transpose(0, 1),
        name=f"{kind} with layers",
    )
entry(lambda: nn.LSTM(2, 3, proj_size=2, batch_first=True), image(2, 2), first, name="LSTM with projections")
entry(lambda: nn.RNNCell(2, 3), image(2))
entry(lambda: nn.GRUCell(2, 3), image(2))
entry(lambda: nn.LSTMCell(2, 3), image(2), first)
entry(lambda: nn.MultiheadAttention(4, 2, batch_first=True), image(3, 4), lambda m, x: attention(m, x, x, x))
entry(
    lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    image(3, 4),
    lambda m, x: attention(m, x, x.sin(), x.sin()),
    name="cross attention",
)
entry(
    lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    image(3, 4),
    lambda m, x: attention(m, x, x.sin(), x.cos()),
    name="attention of three",
)
entry(
    lambda: nn.MultiheadAttention(4, 2, kdim=2, vdim=3, batch_first=True),
    image(3, 4),
    lambda m, x: attention(m, x, x[..., :2], x[..., 1:]),
    name="attention with kdim",
)
entry(
    lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True),
    image(3, 4),
    lambda m, x: attention(m, x, x, x),
    name="attention with bias_kv",
)
entry(
    lambda: nn.TransformerEncoderLayer(4, 2, 3, batch_first=True).eval(),
    image(3, 4),
    name="TransformerEncoderLayer in eval",
)
entry(lambda: nn.Transformer(4, 2, 1, 1, 3, 0.0, batch_first=True), image(2, 4), lambda m, x: m(x, x.sin()))
entry(lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 6, [2, 4]), image(16), lambda m, x: m.log_prob(x))
if hasattr(nn, "LinearCrossEntropyLoss"):
    entry(
        lambda: nn.LinearCrossEntropyLoss(2, 3, reduction="none"),
        image(2),
        lambda m, x: m(x, x.argmax(1)).unsqueeze(1),
    )

# These are named: what they compute of their parameters is not read.
NAMED = ("Bilinear", "EmbeddingBag", "RNN", "LSTM", "GRU", "cross", "three", "kdim", "EntropyLoss")


class Model(nn.Module):
    """A classifier on a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        make, self.call, x = ZOO[name]
        self.part = make().double()
        for parameter in self.part.parameters():
            nn.init.normal_(parameter)
        with torch.no_grad():
            self.head = nn.Linear(self.call(self.part, x)[0].numel(), CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.call(self.part, x)).flatten(1))


def test_the_zoo_is_complete() -> None:
    """Every class of `torch.nn` that makes parameters is here, but for bases, containers and lazy ones."""
    known = {type(part).__name__ for make, _, _ in ZOO.values() for part in make().modules()}
    for name, kind in vars(nn).items():
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)) or name.startswith("Lazy"):
            continue
        own = [vars(base).get("__init__") for base in kind.__mro__ if base not in nn.Module.__mro__]
        used = {word for each in own if each is not None for word in each.__code__.co_names}
        if used & {"Parameter", "register_parameter", "Linear"}:
            assert name in known | {"ParameterList", "ParameterDict", "RNNBase", "RNNCellBase"}, name


@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_right_or_parameters_are_named(name: str) -> None:
    model, x, y = Model(name), ZOO[name][2], torch.tensor([0, 1, 2])
    names = [name for name, _ in model.named_parameters()]
    want, before, named = gradients(model, LOSS, x, y, names), state(model), set[str]()
    try:
        per_example_gradients(model, LOSS, x, y)
    except CaptureError as error:
        lines = re.findall(r"\n  ([\w.]+): .* \(of (\w+)\)", str(error))
        named = {parameter for parameter, _ in lines}
        assert all(kind == type(model.get_submodule(n.rpartition(".")[0])).__name__ for n, kind in lines)
    got = per_example_gradients(model, LOSS, x, y, unsupported="skip")
    assert (set(got) | named, set(got) & named) == (set(names), set())
    for parameter, rows in got.items():
        close(rows, want[parameter], 1e-11)
    assert same(before, state(model))
    assert bool(named) == (name == "Transformer" or any(word in name for word in NAMED))
    factors = kfac(model, LOSS, [(x, y)], fisher_type="empirical", unsupported="skip")
    assert set(factors.names) | set(factors.left) == set(names)
    assert named <= set(factors.left)


def test_all_that_have_no_kronecker_product_are_named() -> None:
    model = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, CLASSES)).double()
    with pytest.raises(
        CaptureError, match=r"^2 of the parameters have no.*\n  0.weight: it is .*\n  0.bias: it is"
    ):
        kfac(model, LOSS, [(image(2), torch.tensor([0, 1, 2]))])
