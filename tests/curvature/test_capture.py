"""Capture: which layers are seen, which are named and refused, in every way that people call modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import tnconv
from tests.curvature.curvature_models import CLASSES, Tokens, close, gradients, same, state
from tests.processes import in_two
from tnconv import ConvSpec, LinearSpec
from tnconv.curvature import capture, gradient_norms, kfac, per_example_gradients
from tnconv.errors import CaptureError

LOSS = nn.CrossEntropyLoss()


class Net(nn.Module):
    """A module of one weight that is used by a function."""

    def __init__(self, use: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
        self.head = nn.Linear(2, CLASSES).double()
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.use(x, self.weight)))


class Hidden(torch.autograd.Function):
    """A linear layer that no mode sees into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.T @ grad


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 2).double(), torch.randint(CLASSES, (3,))


def agrees(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> None:
    """Per-example gradients are those of a loop, and the model is as before."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    want, before = gradients(model, LOSS, x, y, names), state(model)
    got = per_example_gradients(model, LOSS, x, y, **options)
    assert list(got) == names
    for name in names:
        close(got[name], want[name], 1e-11)
    assert same(before, state(model))


def test_what_is_recorded() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(True),
        nn.Flatten(),
        nn.Linear(16, 3, False),
    )
    x = torch.randn(5, 2, 4, 4)
    with capture(model) as captured:
        output = model(x)
    conv, linear = captured.calls
    assert (conv.op, conv.weight, conv.bias) == ("conv", "0.weight", "0.bias")
    assert conv.spec == ConvSpec(
        2, 4, (3, 3), (4, 4), stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=2
    )
    assert (linear.op, linear.spec, linear.weight, linear.bias) == (
        "linear",
        LinearSpec(16, 3),
        "3.weight",
        None,
    )
    assert torch.equal(conv.input(), x)
    # The edge is that of the convolution, whatever writes to its output.
    grads = torch.autograd.grad(output.sum(), [conv.edge, linear.edge])
    assert [tuple(g.shape) for g in grads] == [(5, 4, 2, 2), (5, 3)]
    assert captured.missing() == {}
    with capture(model, ["3.weight"]) as captured:
        model(x)
    assert [call.names for call in captured.calls] == [("3.weight",)]


@pytest.mark.parametrize(
    "use",
    [
        F.linear,
        lambda x, w: F.linear(torch.tanh(F.linear(x, w)), w),
        lambda x, w: F.linear(input=x, weight=w),
        lambda x, w: (x.unsqueeze(1) + w.view(1, 4).reshape(2, 2)[None].unsqueeze(0).squeeze(0)).prod(1),
        lambda x, w: F.conv1d(x.unsqueeze(2), w.unsqueeze(2)).squeeze(2),
        lambda x, w: (x.unsqueeze(2) * w).sum(1),
        lambda x, w: (w + x.unsqueeze(1)).sum(1).relu_(),
        lambda x, w: torch.add(x.unsqueeze(1), w).prod(1),
        lambda x, w: F.layer_norm(x.unsqueeze(1) * x.unsqueeze(2), (2, 2), w).sum(1),
        lambda x, w: torch.cat([w.expand(len(x), 2, 2), x.unsqueeze(1)], 1).cos().sum(1),
        lambda x, w: w.unsqueeze(0).repeat(len(x), 1, 1).sin().sum(1) * x,
        lambda x, w: torch.cat([F.linear(x, w)[:2], F.linear(x, w)[2:]]),
        lambda x, w: F.linear(x, w) if w.shape[0] == 2 and w.requires_grad and w.device == x.device else None,
        lambda x, w: F.linear(x, w) * w.detach().norm(),
        lambda x, w: checkpoint(F.linear, x, w, use_reentrant=False),
    ],
)  # fmt: skip
def test_ways_of_using_a_parameter(use: Any) -> None:
    agrees(Net(use), *data())


def _centred(h: Tensor) -> Tensor:
    return h - h.mean(0)


def _no_grad(x: Tensor, w: Tensor) -> Tensor:
    with torch.no_grad():
        return F.linear(x, w)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x, w: x @ w, r"weight: it is used by torch.Tensor.matmul, which is not read"),
        (lambda x, w: F.linear(x, w.T), r"weight: it is used by torch.Tensor.T.__get__, which is not read"),
        (lambda x, w: F.linear(x, w) + F.linear(x, w.exp()), r"weight: it is used by torch.Tensor.exp"),
        (lambda x, w: F.linear(w, x).T[:2].T, r"weight: it is used by torch(.nn.functional|._C._nn).linear"),
        (lambda x, w: torch.cat([x, w]), r"weight: it is used by torch.cat"),
        (lambda x, w: F.embedding(x.long() * 0, w, max_norm=1.0).sum(1), r"used by torch.nn.functional.embedding"),
        (lambda x, w: x.mul_(1).mul(w[0]), r"weight: it is used by torch.Tensor.__getitem__"),
        (lambda x, w: w * w + x.unsqueeze(1).sum(1)[:2], r"weight: it is used by torch.Tensor.mul"),
        (Hidden.apply, r"weight: it is used by 1 function\(s\) hidden from torch, as in torch.autograd.Function"),
        (lambda x, w: Hidden.apply(F.linear(x, w), w), r"weight: it is used by 1 function\(s\) hidden from torch"),
        (lambda x, w: x, r"weight: no function of the forward pass uses it"),
        (_no_grad, r"weight: it is used by a function where gradients are off"),
        (lambda x, w: checkpoint(F.linear, x, w, use_reentrant=True), r"weight: it is used by a function where gradients are off"),
        (lambda x, w: _centred(F.linear(x, w)), r"linear layer of 'weight' has an output of shape \(3, 2\) in which no"),
        (lambda x, w: F.linear(x, 2 * w), r"the scale layer of 'weight' has an output of shape|weight: it is used by"),
        (lambda x, w: x + F.linear(x.new_ones(2, 2), w).sum(0), r"an output of shape \(2, 2\) in which no axis is"),
    ],
)  # fmt: skip
def test_what_is_named_and_raised(use: Any, message: str) -> None:
    model, (x, y) = Net(use), data()
    with pytest.raises(CaptureError, match=message):
        gradient_norms(model, LOSS, x, y)
    with pytest.raises(CaptureError, match=message):
        kfac(model, LOSS, [(x, y)])


def test_what_is_not_captured_may_be_left_out() -> None:
    model, (x, y) = Net(lambda x, w: x @ w), data()
    assert list(per_example_gradients(model, LOSS, x, y, unsupported="skip")) == ["head.weight", "head.bias"]
    found = kfac(model, LOSS, [(x, y)], unsupported="skip")
    assert list(found.left) == ["weight"]
    assert found.names == ("head.weight", "head.bias")
    with pytest.raises(CaptureError, match=r"weight: it is used by torch.Tensor.matmul"):
        kfac(model, LOSS, [(x, y)], unsupported="diagonal")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: tnconv.nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", groups=2),
        lambda: tnconv.nn.Conv2d(2, 3, 1, stride=2),
        lambda: tnconv.nn.ConvTranspose2d(2, 3, 3, padding=1, bias=False),
    ],
)
def test_layers_of_our_own(layer: Any) -> None:
    """Drop-ins are seen: their programs call functions of torch that are read."""
    torch.manual_seed(0)
    model = nn.Sequential(layer(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES)).double()
    x, y = torch.randn(3, 2, 5, 5).double(), torch.tensor([0, 1, 2])
    model(x)
    agrees(model, x, y)


def test_parametrisations_are_named() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3)), nn.Linear(3, CLASSES)).double()
    with pytest.raises(
        CaptureError, match=r"0.parametrizations.weight.original0: it is used by _weight_norm"
    ):
        gradient_norms(model, LOSS, *data())


def test_inputs_that_are_changed_in_place() -> None:
    def use(x: Tensor, w: Tensor) -> Tensor:
        h = x + 1
        y = F.linear(h, w)
        h.data.mul_(2)
        h.detach().mul_(2)
        return y.clone()

    with pytest.raises((CaptureError, RuntimeError), match=r"changed in place|modified by an inplace"):
        gradient_norms(Net(use), LOSS, *data())


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [1, "same"])
def test_padding_modes(mode: str, padding: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=padding, padding_mode=mode)
    model = nn.Sequential(conv, nn.ReLU(True), nn.Flatten(), nn.Linear(32, CLASSES)).double()
    agrees(model, torch.randn(2, 2, 4, 4).double(), torch.tensor([0, 1]))


def test_tied_parameters() -> None:
    """An embedding and a head of one weight, and one module in two places."""
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.layer = nn.Embedding(CLASSES, 2), nn.Linear(2, 2)
            self.head = nn.Linear(2, CLASSES)
            self.head.weight = self.tokens.weight
            self.again = self.layer

        def forward(self, x: Tensor) -> Tensor:
            h = self.tokens(x).cumsum(1)
            return self.head(self.again(torch.tanh(self.layer(h)))).sum(1)

    model, x, y = Tied().double(), torch.randint(CLASSES, (4, 5)), torch.randint(CLASSES, (4,))
    agrees(model, x, y)
    with pytest.raises(
        CaptureError, match=r"tokens.weight: it is a parameter of embedding and linear, which no"
    ):
        kfac(model, LOSS, [(x, y)])


def test_torch_transformer_layers() -> None:
    """The fused path of inference is off while layers are captured; attention is seen from within."""
    torch.manual_seed(0)
    for batch_first in (True, False):
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=batch_first, norm_first=True).eval()

        class Model(nn.Module):
            def __init__(self, layer: nn.Module, axis: int) -> None:
                super().__init__()
                self.layer, self.head, self.axis = layer, nn.Linear(4, CLASSES), axis

            def forward(self, x: Tensor) -> Tensor:
                h = x if self.axis else x.transpose(0, 1)
                return self.head(self.layer(h).mean(self.axis))

        agrees(
            Model(layer, int(batch_first)).double(), torch.randn(3, 3, 4).double(), torch.tensor([0, 1, 2])
        )


def test_cross_attention_is_named() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(2, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(x[:, None], x[:, None].sin(), x[:, None].sin())[0].sum(1))

    with pytest.raises(CaptureError, match=r"mix.in_proj_weight: it is used by torch.Tensor.chunk"):
        gradient_norms(Cross().double(), LOSS, *data())


def test_recurrent_layers_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(2, CLASSES, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x[:, None])[0][:, 0]

    with pytest.raises(CaptureError, match=r"cell.weight_ih_l0: it is used by torch.*lstm"):
        gradient_norms(Recurrent().double(), LOSS, *data())


def test_compiled_modules_run_as_written() -> None:
    model = nn.Sequential(nn.Linear(2, 3), torch.compile(nn.Linear(3, 3)), nn.Linear(3, CLASSES)).double()
    x, y = data()
    for each in (model, torch.compile(model)):
        got = per_example_gradients(each, LOSS, x, y)
        assert len(got) == 6
        want = gradients(nn.Sequential(model[0], model[1]._orig_mod, model[2]), LOSS, x, y, ["0.weight"])[
            "0.weight"
        ]
        close(next(iter(got.values())), want)


def test_single_examples_and_other_sizes_of_the_batch() -> None:
    """Where the examples are is found once, and holds for other batches."""
    model = Tokens(4, batch_first=False).double()
    for n in (3, 1, 5, 4):
        agrees(model, torch.randint(1, 5, (n, 4)), torch.randint(CLASSES, (n,)))
    alone = Tokens(4, batch_first=False).double()
    agrees(alone, torch.randint(1, 5, (1, 4)), torch.randint(CLASSES, (1,)))


def test_a_batch_as_long_as_the_sequence() -> None:
    for batch_first in (True, False):
        model = Tokens(4, batch_first=batch_first).double()
        agrees(model, torch.randint(1, 5, (5, 4)), torch.randint(CLASSES, (5,)))


def test_models_and_parameters_that_are_refused() -> None:
    model, (x, y) = Net(F.linear), data()
    cases: list[tuple[Any, Any, str]] = [
        (lambda p, x: x, None, r"the model is a function, no module"),
        (model, ["bias"], r"'bias' is no parameter of the model, which has 'weight', 'head.weight'"),
        (model, [torch.zeros(3)], r"a tensor of shape \(3,\) is no parameter"),
        (model, {"bias": torch.zeros(3)}, r"'bias' is no parameter of the model"),
        (
            model,
            {"weight": torch.zeros(3)},
            r"parameter 'weight' has shape \(3,\) but that of the model has \(2, 2\)",
        ),
        (model, {"weight": 3}, r"parameter 'weight' is a int; give a tensor"),
        (model, [], r"there are no parameters"),
        (nn.Identity(), None, r"there are no parameters"),
        (lambda p, x: {"y": x}, {"w": torch.zeros(3)}, r"the model returns a dict; wrap it"),
        (lambda p, x: x.sum(), {"w": torch.zeros(3)}, r"the model returns a number"),
    ]
    for given, params, message in cases:
        with pytest.raises(CaptureError, match=message):
            gradient_norms(given, LOSS, x, y, params=params)
    complex_ = nn.Linear(2, CLASSES, dtype=torch.complex128)
    with pytest.raises(CaptureError, match=r"is complex, but curvature of models is of real values"):
        gradient_norms(
            lambda p, x: F.linear(x.to(torch.complex128), p["w"]).real,
            LOSS,
            x,
            y,
            params={"w": complex_.weight},
        )


def wrapped(_: int) -> Any:
    inner = nn.Linear(2, CLASSES).double()
    model, (x, y) = DistributedDataParallel(inner), data()
    for _ in range(2):
        found = kfac(model, LOSS, [(x, y)])
        LOSS(model(x), y).backward()
    return found.names, found.dense(), kfac(inner, LOSS, [(x, y)]).dense()


def test_a_wrapper_for_several_processes(tmp_path: Path) -> None:
    """The module inside is called, so that gradients are not awaited by the wrapper.

    In processes of its own: where a group dies with the wrapper that holds it, torch may wait for ever.
    """
    for names, found, want in in_two(tmp_path, wrapped):
        assert names == ("module.weight", "module.bias")
        close(found, want)
