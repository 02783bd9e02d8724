"""Ranks that choose themselves: what is promised of errors and budgets holds, and tables say what is."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tnconv
from tnconv.errors import SpecError
from tnconv.nn.tensorised import KINDS, TensorisedLayer
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.budget_shares import Choice, choices_within
from tnconv.nn.tensorised.from_dense import Target
from tnconv.nn.tensorised.rank_search import Ladder

CUTS = ("ht", "tt", "tucker")


def conv_with_decay(seed: int, outs: int = 8, ins: int = 6, dims: int = 2) -> Any:
    """A convolution whose weight is of low rank and noise."""
    torch.manual_seed(seed)
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](ins, outs, 3, dtype=torch.float64)
    low = torch.randn(outs, 2).double() @ torch.randn(2, ins * 3**dims).double()
    with torch.no_grad():
        conv.weight.copy_(low.reshape(conv.weight.shape) + 0.4 * torch.randn_like(conv.weight))
    return conv


def off(layer: TensorisedLayer, weight: torch.Tensor) -> float:
    with torch.no_grad():
        return float((layer.to_dense() - weight).norm() / weight.norm())


# -- error and energy ------------------------------------------------------------------------------------


@settings(max_examples=7, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)), st.integers(1, 3), st.floats(0.1, 0.9), st.booleans(), st.integers(0, 99)
)
def test_the_error_is_kept(kind: str, dims: int, error: float, energy: bool, seed: int) -> None:
    if kind not in CUTS:  # a fit takes long where it needs large ranks
        dims, error = min(dims, 2), max(error, 0.3)
    outs, ins = (8, 6) if dims < 3 and kind in CUTS else (4, 3)
    conv = conv_with_decay(seed, outs, ins, dims)
    rank = {"energy": 1 - error**2} if energy else {"error": error}
    options = {"blocks": 2} if kind == "bt" else {}
    try:
        layer = KINDS[kind][dims].from_conv(conv, rank, iterations=2, **options)
    except SpecError as refused:  # CP, rings and block terms may need more than their largest ranks
        assert kind not in CUTS and "comes to" in str(refused)
        return
    assert off(layer, conv.weight) <= error * (1 + 1e-9)
    assert layer.error == pytest.approx(off(layer, conv.weight), abs=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fewer_ranks_are_not_enough(kind: str) -> None:
    conv = conv_with_decay(1)
    options = {"blocks": 2} if kind == "bt" else {}
    layer = KINDS[kind][2].from_conv(conv, {"error": 0.5}, iterations=2, **options)
    target = Target.of(layer.description.family, conv.weight, layer.description.shape)
    ladder = Ladder.of(target)
    place = next(step for step in range(ladder.steps) if ladder.at(step) == layer.ranks)
    assert place > 0
    below = target.with_ranks(ladder.at(place - 1), Budget(2))
    assert below.error is not None and below.error > 0.5 >= target.with_ranks(layer.ranks, Budget(2)).error


def test_a_ladder_climbs_from_ones_to_all() -> None:
    conv = conv_with_decay(0)
    for kind in sorted(KINDS):
        blank = KINDS[kind][2](6, 8, 3, rank=1)
        family, shape = blank.description.family, blank.description.shape
        ladder = Ladder.of(Target.of(family, conv.weight, shape))
        steps = [ladder.at(step) for step in range(ladder.steps)]
        assert steps[0] == dict.fromkeys(family.limits(shape), 1) and steps[-1] == family.limits(shape)
        assert all(low[b] <= high[b] for low, high in itertools.pairwise(steps) for b in low)
        counts = [family.parameters(shape, ranks) for ranks in steps]
        step = ladder.largest(lambda ranks: family.parameters(shape, ranks) <= 200)  # noqa: B023
        assert counts[step] <= 200 < counts[step + 1]
        assert ladder.largest(lambda ranks: False) == -1


def test_weights_of_nothing_and_of_one_rank_need_one() -> None:
    conv = nn.Conv2d(4, 6, 3)
    nn.init.zeros_(conv.weight)
    assert tnconv.nn.TTConv2d.from_conv(conv, {"error": 0.01}).ranks == {"r1": 1, "r2": 1, "r3": 1}
    nn.init.ones_(conv.weight)
    for kind in sorted(KINDS):
        made = KINDS[kind][2].from_conv(conv, {"energy": 0.9999}, **({"blocks": 1} if kind == "bt" else {}))
        assert set(made.ranks.values()) == {1} and made.error is not None and made.error < 1e-6


NEAR: list[tuple[Any, str]] = [
    ({"error": 0}, r"rank is \{'error': 0\}, whose error is 0; give a number between 0 and 1"),
    ({"energy": 1.0}, r"whose energy is 1.0; give a number"),
    ({"error": True}, r"whose error is True"),
    ({"error": "small"}, r"whose error is 'small'"),
    ({"error": 0.1, "energy": 0.9}, r"has both 'error' and 'energy'"),
    ({"err": 0.1}, r"rank is \{'err': 0.1\}; give an int, a fraction"),
    ("vb", r"rank is 'vb'; give an int, a fraction .* or 'vbmf'"),
]  # fmt: skip


@pytest.mark.parametrize(("rank", "message"), NEAR, ids=[message[:30] for _, message in NEAR])
def test_ranks_that_say_nothing_raise(rank: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        tnconv.nn.TuckerConv2d.from_conv(nn.Conv2d(4, 6, 3), rank)


def test_what_no_rank_reaches_and_what_has_no_values_raise() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    with pytest.raises(
        SpecError, match=r"an error of at most 0.01, but 'cp' with the ranks \(72,\) comes to [0-9.]+;"
    ):
        tnconv.nn.CPConv2d.from_conv(conv, {"error": 0.01}, iterations=0)
    with pytest.raises(SpecError, match="but the weight is on the meta device and has no values"):
        tnconv.nn.TTConv2d.from_conv(conv.to("meta"), {"error": 0.1})
    with pytest.raises(SpecError, match=r"rank is \{'error': 0.1\}, which is said of a weight"):
        tnconv.nn.TTConv2d(4, 4, 3, rank={"error": 0.1})


# -- budgets ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A small model with all kinds of layers; its body is of low rank, its head is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = conv_with_decay(0, 12, 6).float()
        self.one = nn.Conv2d(12, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.up(self.one(torch.relu(self.body(torch.relu(self.stem(x)))))))
        return self.head(y.mean((2, 3)))


ALL: dict[str, Any] = {"pointwise": True, "linear": True, "transposed": True}


def losses(model: nn.Module) -> float:
    return sum((layer.error or 0) ** 2 for layer in model.modules() if isinstance(layer, TensorisedLayer))


@pytest.mark.parametrize("kind", ["cp", "tt", "tucker"])
def test_a_budget_of_parameters_is_kept_and_shared_out_by_error(kind: str) -> None:
    options: dict[str, Any] = {"iterations": 1}
    torch.manual_seed(0)
    dense = nn.Sequential(conv_with_decay(0), conv_with_decay(3, 4, 8), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    whole = sum(p.numel() for p in dense.parameters())
    even = tnconv.nn.tensorize(copy.deepcopy(dense), kind, 0.4, **options)
    allowed = sum(p.numel() for p in even.parameters())
    model = tnconv.nn.tensorize(dense, kind, budget=allowed, **options)
    count = sum(p.numel() for p in model.parameters())
    assert 0.8 * allowed < count <= allowed < whole / 2
    assert losses(model) <= losses(even) * (1.05 if kind == "cp" else 1.0)  # of CP fewer ranks are tried


def test_tied_weights_and_lazy_layers_are_no_way_around_a_budget() -> None:
    model = nn.Sequential(conv_with_decay(0, 6, 6), conv_with_decay(1, 6, 6), nn.LazyLinear(4))
    model[1].weight = model[0].weight
    dense = nn.Sequential(*model[:2])
    whole = sum(p.numel() for p in dense.parameters())
    tnconv.nn.tensorize(dense, "tucker", budget=0.6)
    assert sum(p.numel() for p in dense.parameters()) <= 0.6 * whole
    assert [row.name for row in tnconv.nn.tensorised_layers(model).rows] == ["0", "1"]


def test_a_budget_of_multiplications_is_kept() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 9, 9)
    stats = model.norm.running_mean.clone()
    before = tnconv.nn.tensorised_layers(model, x)
    whole = sum(row.cost.multiplications for row in before.rows if row.cost)
    assert whole == 2 * (81 * 6 * 3 * 9 + 49 * (12 * 6 * 9 + 96) + 49 * 8 * 6 * 16 + 60)
    tnconv.nn.tensorize(model, "tucker", budget={"multiplications": 0.5}, example=(x,), **ALL)
    assert isinstance(model.body, TensorisedLayer) and isinstance(model.up, TensorisedLayer)
    rows = tnconv.nn.tensorised_layers(model, x).rows
    count = sum(row.cost.multiplications for row in rows if row.cost)
    assert 0.4 * whole < count <= 0.5 * whole
    assert [row.dense_cost for row in rows] == [row.cost for row in before.rows]
    assert model.training and torch.equal(model.norm.running_mean, stats)
    assert not any(module._forward_pre_hooks for module in model.modules())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_choices_are_the_best(data: st.DataObject) -> None:
    cell = st.tuples(st.integers(0, 30), st.floats(0, 1))
    layers = [
        [Choice(cost, loss, step) for step, (cost, loss) in enumerate(cells)]
        for cells in data.draw(st.lists(st.lists(cell, min_size=1, max_size=4), min_size=1, max_size=3))
    ]
    least = sum(min(choice.cost for choice in choices) for choices in layers)
    limit = data.draw(st.integers(least, least + 60))
    found = choices_within(layers, limit)
    assert all(choice in choices for choice, choices in zip(found, layers, strict=True))
    assert sum(choice.cost for choice in found) <= limit
    every = [c for c in itertools.product(*layers) if sum(choice.cost for choice in c) <= limit]
    best = min(sum(choice.loss for choice in c) for c in every)
    assert sum(choice.loss for choice in found) == pytest.approx(best)
    large = [[Choice(10**6 * choice.cost, choice.loss, 0) for choice in choices] for choices in layers]
    rounded = choices_within(large, 10**6 * limit)
    assert sum(choice.cost for choice in rounded) <= 10**6 * limit
    ample = [choice.loss for choice in choices_within(large, 10**6 * (limit + 1))]
    assert sum(ample) <= best + 1e-12
    with pytest.raises(SpecError, match=f"{least} is the least, but {least - 1} is allowed"):
        choices_within(layers, least - 1)


BUDGETS: list[tuple[dict[str, Any], str]] = [
    ({}, "rank is None and budget is None; give one of them"),
    ({"rank": 2, "budget": 0.5}, "rank is 2 and budget is 0.5; give one of them"),
    ({"budget": 1.5}, "budget is 1.5 parameters; give a fraction"),
    ({"budget": 0}, "budget is 0 parameters; give a fraction"),
    ({"budget": {"flops": 0.5}}, r"budget is \{'flops': 0.5\}; give a number, or one of"),
    ({"budget": {"multiplications": True}}, "budget is True multiplications"),
    ({"budget": {"multiplications": 0.5}}, "depend on the input; give example="),
    ({"budget": 0.5, "example": [1]}, "example is a list; give an input of the model"),
    ({"budget": {"multiplications": 0.5}, "example": torch.ones(2, 99, 9)},
     r"example is \(2, 99, 9\), with which the model fails in or behind Conv2d\(.*is given \(2, 99, 9\) and takes "
     r"\[n, \d+, i1, i2\]: .*; give what the model is called with"),
    ({"budget": 10}, r"budget is 10, at most 10 of \d+ parameters, but with the least ranks it is \d+, \d+ of them outside"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BUDGETS, ids=[message[:30] for _, message in BUDGETS])
def test_budgets_that_cannot_be_kept_raise(options: dict[str, Any], message: str) -> None:
    model = Net()
    with pytest.raises(SpecError, match=message):
        tnconv.nn.tensorize(model, "tt", **options)
    assert type(model.body) is nn.Conv2d


# -- by layer, tables ------------------------------------------------------------------------------------


def test_ranks_by_layer() -> None:
    model = nn.ModuleDict({name: nn.Conv2d(6, 6, 3) for name in ("stem", "a1", "a2", "b")})
    tnconv.nn.tensorize(model, "tucker", {"stem": None, "a2": {"error": 0.6}, "a*": 2})
    assert type(model["stem"]) is type(model["b"]) is nn.Conv2d
    assert model["a1"].ranks == {"r_out": 2, "r_in": 2} != model["a2"].ranks and model["a2"].error <= 0.6
    with pytest.raises(
        SpecError, match="rank has 'fc', which matches no layer that is replaced; they are stem, b"
    ):
        tnconv.nn.tensorize(model, "tucker", {"fc": 2})


def test_a_criterion_leaves_dense_what_has_more_parameters() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"low": conv_with_decay(0), "noise": nn.Conv2d(6, 8, 3)})
    tnconv.nn.tensorize(model, "tucker", {"error": 0.3})
    assert isinstance(model["low"], TensorisedLayer) and type(model["noise"]) is nn.Conv2d


def test_nothing_replaced_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 3))
    with pytest.warns(
        UserWarning,
        match="replaced nothing in Sequential: 0: pointwise=False; 1: linear=False; 2: transposed=False",
    ):
        tnconv.nn.tensorize(model, "cp", 2)
    with pytest.warns(UserWarning, match="replaced nothing in ReLU: it has no convolution"):
        tnconv.nn.tensorize(nn.ReLU(), "cp", 2)
    attention = nn.MultiheadAttention(4, 2)
    with pytest.warns(UserWarning, match="out_proj: a NonDynamicallyQuantizableLinear"):
        tnconv.nn.tensorize(attention, "cp", 2, linear=True)


def test_the_table_says_what_layers_are(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 9, 9)
    tnconv.nn.tensorize(model, "tucker", {"body": (3, 2)}, example=x, table=True)
    printed = capsys.readouterr()
    assert printed.out == "" and "tucker" in printed.err and "pointwise=False" in printed.err
    found = tnconv.nn.tensorised_layers(model, x)
    body = next(row for row in found.rows if row.name == "body")
    assert (body.kind, body.parameters, body.dense_parameters) == (
        "tucker",
        3 * 2 * 9 + 12 * 3 + 6 * 2,
        12 * 6 * 9,
    )
    assert body.error == model.body.error and body.ranks == {"r_out": 3, "r_in": 2}
    assert body.cost is not None and body.dense_cost is not None and body.cost.microseconds > 0
    assert body.cost.multiplications < body.dense_cost.multiplications == 2 * 49 * 12 * 6 * 9
    text = str(found)
    assert all(word in text for word in ("multiplications", "predicted time", "(3, 2)", "102 (16%)", "all"))
    assert "multiplications" not in str(tnconv.nn.tensorised_layers(model))
    drawn = tnconv.nn.tensorised_layers(tnconv.nn.TTConv1d(4, 4, 3, rank=2))
    assert drawn.rows[0].error is None and "the model" in str(drawn)
