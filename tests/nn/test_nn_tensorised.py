"""Factorised convolutions: PyTorch's convolution with the dense weight judges them."""

import copy
import pickle
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tnconv
from tnconv.errors import ArgumentError, SpecError
from tnconv.nn.tensorised import KINDS, TensorisedConv

FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MODES = ("zeros", "circular", "reflect", "replicate")


def build(kind: str, dims: int, *args: Any, **options: Any) -> TensorisedConv:
    cls: Any = KINDS[kind][dims]
    return cls(*args, **options)


def dense(layer: TensorisedConv, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The convolution with the dense weight, by PyTorch."""
    pairs = layer.description.spec.paddings
    mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)
    padded = F.pad(x, [side for pair in reversed(pairs) for side in pair], mode=mode)
    weight = layer.to_dense() if weight is None else weight
    function: Any = FUNCTIONS[len(pairs)]
    return function(padded, weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TensorisedConv, torch.Tensor]:
    """A layer with random hyper-parameters and an input that it fits into."""
    kind, dims = draw(st.sampled_from(sorted(KINDS))), draw(st.integers(1, 3))
    ints = st.integers(1, 3)
    kernel = draw(st.tuples(*[ints] * dims))
    padding = draw(
        st.one_of(
            st.just("same"), st.integers(0, 1), st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * dims)
        )
    )
    stride = 1 if padding == "same" else draw(st.tuples(*[st.integers(1, 2)] * dims))
    groups, reshaped = draw(st.integers(1, 2)), draw(st.booleans())
    ins, outs = (2, draw(ints)), (2 * groups, draw(ints))
    options: dict[str, Any] = {"in_shape": ins, "out_shape": outs} if reshaped else {}
    if kind == "bt":
        options["blocks"] = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(MODES[:2] if isinstance(padding, int) and padding < 1 else MODES))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = build(
        kind, dims, prod(ins) * groups, prod(outs), kernel, stride, padding,
        draw(st.integers(1, 2)), groups, draw(st.booleans()), mode,
        rank=draw(st.integers(1, 2)), dtype=torch.float64, **options,
    )  # fmt: skip
    sizes = draw(st.tuples(*[st.integers(6, 8)] * dims))
    return layer, torch.randn(2, prod(ins) * groups, *sizes, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_the_value_is_that_of_the_dense_convolution(case: tuple[TensorisedConv, torch.Tensor]) -> None:
    layer, x = case
    want = dense(layer, x)
    torch.testing.assert_close(layer(x), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer(x[0]), want[0], rtol=1e-9, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(cases())
def test_gradients_are_those_through_the_dense_weight(case: tuple[TensorisedConv, torch.Tensor]) -> None:
    layer, x = case
    x.requires_grad_()
    arguments = [x, *layer.parameters()]
    got, want = layer(x), dense(layer, x)
    cotangent = torch.randn_like(want)
    for mine, theirs in zip(
        torch.autograd.grad(got, arguments, cotangent),
        torch.autograd.grad(want, arguments, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


# What a factorisation says, by torch.einsum on the parameters.
FORMULAS = {
    "cp": "cr,ar,br,dr->dcab",
    "tucker": "oiab,do,ci->dcab",
    "tt": "cr,ras,sbt,td->dcab",
    "tr": "qcr,ras,sbt,tdq->dcab",
    "bt": "zoiab,zdo,zci->dcab",
    "ht": "oir,do,ci,abr,xa,yb->dcxy",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_dense_weight_is_what_the_formula_says(kind: str) -> None:
    layer = build(kind, 2, 4, 6, (3, 2), rank=2, dtype=torch.float64)
    order = {
        "tucker": ("core", "factor_out", "factor_in"),
        "bt": ("core", "factor_out", "factor_in"),
        "ht": ("transfer_1", "factor_out", "factor_in", "transfer_2", "factor_k1", "factor_k2"),
    }.get(kind, ("factor_in", "factor_k1", "factor_k2", "factor_out"))
    want = torch.einsum(FORMULAS[kind], *(layer.factors[name] for name in order))
    torch.testing.assert_close(layer.to_dense(), want, rtol=1e-10, atol=1e-12)
    assert set(layer.state_dict()) == {*order, "bias"}


def test_reshaped_channels_are_row_major() -> None:
    layer = build(
        "tt", 1, 6, 8, 3, rank=3, in_shape=(2, 3), out_shape=(4, 2), bias=False, dtype=torch.float64
    )
    a, b, k = (layer.factors[name] for name in ("factor_1", "factor_2", "factor_kernel"))
    want = torch.einsum("dcr,rets,sk->dectk", a, b, k).reshape(8, 6, 3)
    torch.testing.assert_close(layer.to_dense(), want, rtol=1e-10, atol=1e-12)


# -- ranks -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.booleans(), st.floats(0.15, 1.0), st.integers(1, 3))
def test_a_fraction_bounds_the_parameters(kind: str, reshaped: bool, fraction: float, dims: int) -> None:
    options: Any = {"in_shape": (4, 3), "out_shape": (2, 8)} if reshaped else {}
    options |= {"blocks": 1} if kind == "bt" else {}
    layer = build(kind, dims, 12, 16, 3, rank=fraction, bias=False, **options)
    count, whole = sum(p.numel() for p in layer.parameters()), 12 * 16 * 3**dims
    assert count <= fraction * whole
    assert layer.compression == count / whole
    limits = layer.family.limits(layer.description.shape)
    highest = max(layer.ranks.values())
    if highest < max(limits.values()):
        larger = build(kind, dims, 12, 16, 3, rank=highest + 1, bias=False, **options)
        assert sum(p.numel() for p in larger.parameters()) > fraction * whole


def test_an_int_is_cut_where_a_bond_uses_less() -> None:
    assert build("tt", 2, 4, 16, 3, rank=10).ranks == {"r1": 4, "r2": 10, "r3": 10}
    assert build("tucker", 2, 3, 16, 3, rank=8).ranks == {"r_out": 8, "r_in": 3}
    assert build("tr", 1, 4, 16, 3, rank=(2, 3, 5)).ranks == {"r0": 2, "r1": 3, "r2": 5}
    assert build("cp", 2, 6, 8, 3, rank=1000).ranks == {"r": 54}


RAISES: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, r"rank is 0 but must be at least 1"),
    ({"rank": True}, r"rank is True; give an int, a fraction"),
    ({"rank": "3"}, r"rank is '3'; give an int"),
    ({"rank": 0.0}, r"rank is 0.0, a fraction of the dense parameters, but not in \(0, 1\]"),
    ({"rank": 1.5}, r"rank is 1.5, a fraction"),
    ({"rank": 0.01}, r"at most 4 of 432 parameters, but rank 1 takes 20; give at least 0.0463"),
    ({"rank": (3, 3)}, r"rank \(3, 3\) has 2 entries but there are 1 bonds, r"),
    ({"rank": (55,)}, r"rank of bond 'r' is 55; give an int from 1 to 54"),
    ({"rank": 2, "in_shape": (2, 2), "out_shape": (4, 2)}, r"in_shape \(2, 2\) makes 4 channels but there are 6"),
    ({"rank": 2, "in_shape": (2, 3), "out_shape": (8,)}, r"in_shape \(2, 3\) has 2 sizes but out_shape \(8,\) has 1"),
    ({"rank": 2, "in_shape": 6}, r"in_shape is 6; give a tuple of positive ints whose product is 6"),
    ({"rank": 2, "groups": 2, "in_shape": (3, 2), "out_shape": (4, 2)}, r"in_channels 6 over groups 2"),
    ({"rank": 2, "groups": 2, "in_shape": (3, 1), "out_shape": (1, 8)}, r"begins with 1, which groups 2 does not divide"),
    ({"rank": 2, "blocks": 2}, r"blocks=2 is for block terms, but this is 'cp'"),
    ({"rank": 2, "groups": 4}, r"groups 4 does not divide in_channels 6"),
    ({"rank": 2, "padding": "same", "stride": 2}, r"padding 'same' needs stride 1"),
    ({"rank": 2, "padding_mode": "jam"}, r"padding_mode 'jam' is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), RAISES, ids=[message[:40] for _, message in RAISES])
def test_what_does_not_fit_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        tnconv.nn.CPConv2d(6, 8, 3, **options)


def test_other_arguments_that_raise() -> None:
    with pytest.raises(SpecError, match="blocks is 0; give the number of terms"):
        tnconv.nn.BTConv2d(6, 8, 3, rank=2, blocks=0)
    with pytest.raises(SpecError, match="N is 4; factorised convolutions have 1 to 3"):
        tnconv.nn.CPConv(4, 6, 8, 3, rank=2)
    layer = tnconv.nn.CPConv2d(6, 8, 3, rank=2)
    with pytest.raises(ArgumentError, match="has 5 channels but the layer takes 6"):
        layer(torch.ones(1, 5, 4, 4))
    with pytest.raises(ArgumentError, match="input has 5 axes"):
        layer(torch.ones(1, 1, 6, 4, 4))
    with pytest.raises(ArgumentError, match="not a tensor"):
        layer([1.0])
    with pytest.raises(ArgumentError, match="dtype"):
        layer(torch.ones(1, 6, 4, 4, dtype=torch.float64))
    with pytest.raises(SpecError, match="dilated kernel has 3 cells"):
        layer(torch.ones(1, 6, 2, 4))


# -- initialisation, copies --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_dense_weight_begins_with_the_variance_of_torch(kind: str) -> None:
    torch.manual_seed(0)
    layer = build(kind, 2, 8, 12, 3, rank=6)
    drawn = []
    for _ in range(80):
        layer.reset_parameters()
        drawn.append(layer.to_dense().detach().flatten())
    weights = torch.stack(drawn)
    assert weights.var().item() == pytest.approx(1 / (3 * 8 * 9), rel=0.2)
    assert abs(weights.mean().item()) < 0.1 * weights.std().item()
    assert layer.bias is not None and layer.bias.abs().max() <= (8 * 9) ** -0.5


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("reshaped", [False, True])
def test_a_state_dict_a_copy_and_a_pickle_are_the_same_layer(kind: str, reshaped: bool) -> None:
    options: Any = {"in_shape": (2, 3), "out_shape": (4, 2)} if reshaped else {}
    layer, other = (build(kind, 2, 6, 8, 3, rank=2, padding=1, **options) for _ in range(2))
    x = torch.randn(2, 6, 5, 5)
    want = layer(x)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(same(x), want)


def test_the_representation_says_what_the_layer_is() -> None:
    layer = tnconv.nn.TuckerConv2d(64, 128, 3, 2, 1, rank=16)
    assert repr(layer) == (
        "TuckerConv2d(64, 128, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), rank=16, "
        "parameters=5376 (7.29% of dense))"
    )
    other = tnconv.nn.TTConv(
        1, 4, 8, 3, dilation=2, groups=2, bias=False, padding_mode="circular", rank=(2, 3), in_shape=(2, 1), out_shape=(4, 2)
    )  # fmt: skip
    for part in ("groups=2", "bias=False", "'circular'", "in_shape=(2, 1), out_shape=(4, 2)", "rank=(2, 3)"):
        assert part in repr(other)


def test_one_network_a_size_and_any_batch() -> None:
    layer = tnconv.nn.CPConv2d(4, 4, 3, rank=2, padding=1)
    function = layer.compiled(6)
    assert function is layer.compiled((6, 6)) is not layer.compiled(7)
    assert "N" in function.network.symbols
    assert {"x", "bias", *layer.factors} == set(function.arguments)
    for batch in (1, 5):
        torch.testing.assert_close(layer(torch.ones(batch, 4, 6, 6))[0], layer(torch.ones(4, 6, 6)))


def test_left_to_right_is_an_option() -> None:
    layer = tnconv.nn.CPConv2d(8, 8, 3, rank=4, in_shape=(4, 2), out_shape=(4, 2), planner="left-to-right")
    best = copy.deepcopy(layer)
    best.description = tnconv.nn.CPConv2d(8, 8, 3, rank=4, in_shape=(4, 2), out_shape=(4, 2)).description
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(layer(x), best(x), rtol=1e-4, atol=1e-5)
    costs = [made.compiled(9).cost.at(N=32).multiplications for made in (best, layer)]
    assert costs[0] < costs[1]


def test_autotune_is_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    layer = tnconv.nn.TTConv1d(4, 6, 3, rank=2, autotune=True, batch_hint=2)
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(layer(x), dense(layer, x), rtol=1e-4, atol=1e-5)
    assert layer.compiled(9).trials and (tmp_path / "autotune.json").exists()


def test_under_autocast_and_torch_compile() -> None:
    layer = tnconv.nn.TTConv2d(4, 6, 3, rank=3, padding=1)
    x = torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    fast = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(fast(x), layer(x))


# -- from dense layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dims", [1, 2])
def test_full_rank_reproduces_a_convolution(kind: str, dims: int) -> None:
    torch.manual_seed(1)
    cls: Any = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
    conv = cls(4, 6, 3, stride=2, padding=1, dilation=1, groups=2, padding_mode="circular").double().eval()
    for options in ({}, {"in_shape": (2, 1), "out_shape": (2, 3)}):
        blank: Any = build(kind, dims, 4, 6, 3, groups=2, rank=1, **options)
        limits = list(blank.family.limits(blank.description.shape).values())
        rank = (1, *limits[1:]) if kind == "tr" else tuple(limits)
        made = KINDS[kind][dims].from_conv(conv, rank, **options)
        x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
        torch.testing.assert_close(made(x), conv(x), rtol=1e-6, atol=1e-6)
        assert not made.training and made.to_dense().dtype == torch.float64


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_weight_of_low_rank_is_found_again(kind: str) -> None:
    torch.manual_seed(3)
    options: Any = {"blocks": 2} if kind == "bt" else {}
    source = build(kind, 2, 8, 10, 3, rank=2, dtype=torch.float64, **options)
    conv = nn.Conv2d(8, 10, 3, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(source.to_dense())
    made = KINDS[kind][2].from_conv(conv, 2, iterations=150, **options)
    error = (made.to_dense() - conv.weight).norm() / conv.weight.norm()
    assert error < 1e-5
    scales = [factor.square().mean().sqrt().item() for factor in made.factors.values()]
    assert max(scales) == pytest.approx(min(scales))


def test_new_factors_in_place_of_a_decomposition() -> None:
    conv = nn.Conv2d(4, 6, 3)
    made = tnconv.nn.CPConv2d.from_conv(conv, 2, decompose=False)
    assert made.bias is not None and conv.bias is not None and torch.equal(made.bias, conv.bias)
    assert made.ranks == {"r": 2}


class Doubled(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_what_cannot_be_taken_over_raises() -> None:
    with pytest.raises(SpecError, match="is not represented"):
        tnconv.nn.CPConv2d.from_conv(nn.Linear(2, 2), 1)
    with pytest.raises(SpecError, match="computes something else"):
        tnconv.nn.CPConv2d.from_conv(Doubled(2, 2, 3), 1)
    with pytest.raises(SpecError, match="CPConv1d has 1 spatial"):
        tnconv.nn.CPConv1d.from_conv(nn.Conv2d(2, 2, 3), 1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.again = self.body[0]
        self.head = tnconv.nn.ConvNd(2, 8, 4, 3, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.body(self.stem(x))))


def test_tensorize_replaces_the_convolutions_of_a_model() -> None:
    model = Small().double().eval()
    model.body[0].weight.requires_grad_(False)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    found = tnconv.nn.tensorize(model, "tucker", 8, skip=("stem",))
    assert found is model and type(model.stem) is nn.Conv2d and type(model.body[2]) is nn.Conv2d
    assert isinstance(model.body[0], tnconv.nn.TuckerConv2d) and model.again is model.body[0]
    assert isinstance(model.head, tnconv.nn.TuckerConv2d)
    assert (
        not model.body[0].training and not model.body[0].core.requires_grad and model.head.core.requires_grad
    )
    assert model(x).dtype == torch.float64
    whole = tnconv.nn.tensorize(nn.Conv1d(4, 4, 3), "ht", 2)
    assert isinstance(whole, tnconv.nn.HTConv1d)
    assert isinstance(tnconv.nn.tensorize(nn.Conv1d(4, 4, 1), "ht", 2, pointwise=True), tnconv.nn.HTConv1d)


def test_tensorize_keeps_the_value_at_full_rank() -> None:
    model = Small().double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    want = model(x)
    tnconv.nn.tensorize(model, "tucker", 8)
    torch.testing.assert_close(model(x), want, rtol=1e-8, atol=1e-8)


def test_tensorize_says_which_layer_does_not_fit_and_leaves_the_model() -> None:
    model = Small()
    with pytest.raises(SpecError, match="head: rank of bond 'r_in' is 6; give an int from 1 to 4"):
        tnconv.nn.tensorize(nn.ModuleDict({"head": nn.Conv2d(4, 4, 3)}), "tucker", (4, 6))
    with pytest.raises(SpecError, match="there is no kind 'svd'"):
        tnconv.nn.tensorize(model, "svd", 2)
    with pytest.raises(SpecError, match="skip has 'neck', which is no module"):
        tnconv.nn.tensorize(model, "cp", 2, skip=("neck",))
    with pytest.raises(SpecError, match=r"stem: rank is 0\.0001"):
        tnconv.nn.tensorize(model, "cp", 0.0001)
    assert type(model.stem) is nn.Conv2d
