"""KFAC of models: dense GGNs where it is exact, its definition by loops elsewhere, curvlinops, scales, options."""

from math import prod
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.curvature.curvature_models import (
    CLASSES,
    LOSSES,
    close,
    ggn,
    gradients,
    hessian,
    same,
    state,
    target,
)
from tnconv.curvature import Block, KroneckerFactors, kfac
from tnconv.curvature.losses import loss_of
from tnconv.errors import ArgumentError, CaptureError, OperationError

COUNTS = st.integers(1, 3)


def mlp(draw: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(draw(st.integers(0, 1000)))
    width, bias = draw(COUNTS), draw(st.booleans())
    layers = nn.Linear(2, width, bias=bias), nn.Tanh(), nn.Linear(width, CLASSES)
    return nn.Sequential(*layers).double(), torch.randn(1, 2, dtype=torch.float64)


def single_patch(draw: Any) -> tuple[nn.Module, Tensor]:
    """A convolution whose kernel covers its input: one position, so that KFAC of one example is exact."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    dims, groups = draw(COUNTS), draw(st.integers(1, 2))
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layers = (
        conv(2 * groups, 2 * groups, 2, groups=groups),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(2 * groups, CLASSES),
    )
    return nn.Sequential(*layers).double(), torch.randn(1, 2 * groups, *[2] * dims, dtype=torch.float64)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_example_is_exact(data: Any) -> None:
    """Of one example and one position a block is the GGN's, with a joint bias too; between groups there is nothing."""
    model, x = data.draw(st.sampled_from((mlp, single_patch)))(data.draw)
    kind = data.draw(st.sampled_from(LOSSES))
    loss = kind(reduction=data.draw(st.sampled_from(("mean", "sum"))))
    y, separate = target(kind, (1, CLASSES)), data.draw(st.booleans())
    approx = data.draw(st.sampled_from(("expand", "reduce")))
    found = kfac(model, loss, [(x, y)], separate_weight_and_bias=separate, kfac_approx=approx)
    for names, block in found.blocks.items():
        want = ggn(model, loss, x, y, list(names))
        vector = torch.randn(len(want), 2, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        place, sizes = block.place, [prod(shape) for shape in block.place.shapes]
        parts = [p.reshape(*shape, 2) for shape, p in zip(place.shapes, vector.split(sizes), strict=True)]
        got = torch.cat([t.reshape(-1, 2) for t in block.apply(parts)])
        # Rows of one group do not know those of another.
        group = torch.cat([torch.arange(size) // (size // place.groups) for size in sizes])
        close(got, (want * (group[:, None] == group[None])) @ vector)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_linear_layers_of_a_linear_net_are_exact_for_squared_loss(data: Any) -> None:
    """With a quadratic loss and no nonlinearity z does not depend on the example, so that KFAC is exact for a batch."""
    torch.manual_seed(data.draw(st.integers(0, 100)))
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, CLASSES)).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    y = torch.randn(5, CLASSES, dtype=torch.float64)
    reduction, separate = data.draw(st.sampled_from(("mean", "sum"))), data.draw(st.booleans())
    loss = nn.MSELoss(reduction=reduction)
    batches = [(x[:2], y[:2]), (x[2:], y[2:])]
    found = kfac(model, loss, batches, separate_weight_and_bias=separate)
    for names, block in found.blocks.items():
        want = ggn(model, loss, x, y, list(names))
        if len(names) == 1:
            close(block.diagonal()[0].reshape(-1), want.diagonal())


def test_the_dense_matrix_is_the_blocks_product() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, CLASSES)).double()
    x, y = torch.randn(3, 2, 4, 4).double(), torch.tensor([0, 1, 2])
    found = kfac(model, nn.CrossEntropyLoss(), [(x, y)], separate_weight_and_bias=False)
    dense = found.dense()
    close(dense, dense.T, 1e-14)
    head = found.blocks["2.weight", "2.bias"]
    assert isinstance(head, Block)
    assert head.A is not None
    start = sum(p.numel() for p in model[0].parameters())
    weight = torch.kron(head.G[0], head.A[0])  # rows (d, a) with the bias last in a
    columns = torch.arange(CLASSES * 17).view(CLASSES, 17)
    order = torch.cat([columns[:, :16].reshape(-1), columns[:, 16]])
    close(dense[start:, start:], weight[order][:, order])
    conv = found.blocks["0.weight", "0.bias"]
    assert conv.A.shape == (2, 10, 10)
    assert conv.G.shape == (2, 2, 2)


# -- by definition ---------------------------------------------------------------------------------------


def layer_and_patches(draw: Any) -> tuple[nn.Module, Tensor, Any]:
    """A convolution of any number of dimensions, its input, and what makes `[n, g, t, (c k)]` of that."""
    dims, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    kernel, stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 1))
    mode = draw(st.sampled_from(("zeros", "circular", "replicate")))
    layer = conv(
        2 * groups,
        2 * groups,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )

    def patches(x: Tensor) -> Tensor:
        x = F.pad(x, (padding,) * (2 * dims), mode="constant" if mode == "zeros" else mode)
        if dims == 1:
            x = x.unsqueeze(3)
        columns = F.unfold(x, (kernel, kernel if dims > 1 else 1), dilation, 0, stride)
        return columns.unflatten(1, (groups, -1)).transpose(2, 3)

    return layer.double(), torch.randn(4, 2 * groups, *[4] * dims, dtype=torch.float64), patches


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_factors_are_their_definitions(data: Any) -> None:
    """`A` and `G` of a convolution by patches and by gradients at its output, one example and one column at a time."""
    torch.manual_seed(data.draw(st.integers(0, 100)))
    layer, x, patches = layer_and_patches(data.draw)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES).double())
    kind = data.draw(st.sampled_from(LOSSES))
    model(x)
    reduction, approx = (
        data.draw(st.sampled_from(("mean", "sum"))),
        data.draw(st.sampled_from(("expand", "reduce"))),
    )
    groups, separate = data.draw(st.sampled_from(("block", "average"))), data.draw(st.booleans())
    y = target(kind, (4, CLASSES))
    loss = kind(reduction=reduction)
    options = {"kfac_approx": approx, "groups": groups, "separate_weight_and_bias": separate}
    found = kfac(model, loss, [(x[:1], y[:1]), (x[1:], y[1:])], params=["0.weight", "0.bias"], **options)
    key = ("0.weight",) if separate else ("0.weight", "0.bias")
    block = found.blocks[key]
    a = patches(x)  # [n, g, t, r]
    a = a.mean(1, keepdim=True) if groups == "average" else a
    a = a if separate else torch.cat([a, torch.ones_like(a[..., :1])], 3)
    a = a.mean(2, keepdim=True) if approx == "reduce" else a
    close(block.A, torch.einsum("ngtr,ngts->grs", a, a) / (4 * a.shape[2]))
    total = torch.zeros_like(block.G)
    for n in range(4):
        h = layer(x[n : n + 1]).detach().requires_grad_()
        out = model[1:](h)
        H = torch.func.hessian(lambda o, n=n: kind(reduction=reduction)(o.view(1, -1), y[n : n + 1]))(
            out.detach()[0]
        )
        J = torch.stack([torch.autograd.grad(out[0, c], h, retain_graph=True)[0][0] for c in range(CLASSES)])
        J = J.flatten(2).unflatten(1, (block.G.shape[0], -1))  # [c, g, d, t]
        J = J.sum(3, keepdim=True) if approx == "reduce" else J
        total += torch.einsum("cgdt,ce,eght->gdh", J, H, J)
    close(block.G, total / (4 if reduction == "mean" else 1))


def test_a_layer_called_twice_has_the_positions_of_both_calls() -> None:
    """Reduce is exact for one example where both calls have one input: `J = (z1 + z2) aᵀ`."""
    torch.manual_seed(0)
    first, last = nn.Linear(2, 2).double(), nn.Linear(2, CLASSES).double()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x)) * self.first(x))

    model, x, y = Twice(), torch.randn(1, 2).double(), torch.tensor([1])
    loss = nn.CrossEntropyLoss()
    for separate in (True, False):
        found = kfac(model, loss, [(x, y)], kfac_approx="reduce", separate_weight_and_bias=separate)
        for names, block in found.blocks.items():
            want = ggn(model, loss, x, y, list(names)).diagonal()
            close(torch.cat([d.reshape(-1) for d in block.diagonal()]), want)


@pytest.mark.parametrize("kind", LOSSES)
def test_draws_of_labels_average_to_the_hessian(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, CLASSES).double()
    x, y, loss = torch.randn(3, 2).double(), target(kind, (3, CLASSES)), kind()
    exact = kfac(model, loss, [(x, y)]).blocks["weight",].G
    drawn = kfac(model, loss, [(x, y)], fisher_type="mc", mc_samples=1500).blocks["weight",].G
    close(drawn, exact, 0.1)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(classes=st.integers(1, 4), scale=st.sampled_from((0.0, 1.0, 30.0, 2000.0)), seed=st.integers(0, 99))
def test_columns_of_cross_entropy_are_a_root_of_its_hessian(classes: int, scale: float, seed: int) -> None:
    """One less than classes, with classes that are certain or out of the question too."""
    torch.manual_seed(seed)
    output, y = scale * torch.randn(2, classes, 2).double(), torch.randint(classes, (2, 2))
    weight = torch.rand(classes).double()
    loss = loss_of(nn.CrossEntropyLoss(weight, label_smoothing=0.2, reduction="sum"), True)
    count = loss.columns(output)
    assert count == 2 * max(1, classes - 1)
    root = torch.stack([loss.root(output, y, column) for column in range(count)])
    for n in range(2):
        one = output[n : n + 1]
        found = root[:, n].flatten(1)
        want = hessian(loss.given, one, y[n : n + 1])  # rounded where a class is certain
        torch.testing.assert_close(found.T @ found, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_options_of_cross_entropy(reduction: str) -> None:
    """Class weights, ignored labels, smoothing, probabilities, positions: the Hessian of what torch computes."""
    torch.manual_seed(0)
    model = nn.Conv1d(2, CLASSES, 1, bias=False).double()
    x = torch.randn(1, 2, 1).double()
    soft = torch.rand(1, CLASSES, 1).double().softmax(1)
    weight = torch.tensor([1.0, 2.0, 0.5]).double()
    cases = [({}, soft), ({"label_smoothing": 0.3, "weight": weight}, soft)]
    for options in ({"weight": weight}, {"label_smoothing": 0.3}, {"weight": weight, "label_smoothing": 0.2}):
        cases.append((options, torch.tensor([[1]])))
    for options, y in cases:
        loss = nn.CrossEntropyLoss(reduction=reduction, **options)
        found = kfac(model, loss, [(x, y)])
        close(found.dense(), ggn(model, loss, x, y, ["weight"]))
    x = torch.randn(2, 2, 3).double()
    y = torch.tensor([[1, -100, 0], [2, 2, -100]])
    loss = nn.CrossEntropyLoss(reduction=reduction, weight=weight)
    G = kfac(model, loss, [(x, y)]).blocks["weight",].G[0]
    H = torch.func.hessian(lambda o: loss(o, y))(model(x).detach())  # [n, c, t, n, c, t]
    close(G, torch.einsum("nctndt->cd", H))


def test_weights_of_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    model, x, y = (
        nn.Linear(2, CLASSES).double(),
        torch.randn(1, 2).double(),
        torch.tensor([[1.0, 0, 0.3]]).double(),
    )
    for reduction in ("mean", "sum"):
        loss = nn.BCEWithLogitsLoss(
            weight=torch.tensor([1.0, 2, 3]).double(),
            pos_weight=torch.tensor([0.5, 2, 1]).double(),
            reduction=reduction,
        )
        close(kfac(model, loss, [(x, y)], params=["weight"]).dense(), ggn(model, loss, x, y, ["weight"]))


def test_empirical_takes_any_loss() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(2, CLASSES).double(), torch.randn(3, 2).double(), torch.randn(3, CLASSES).double()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(output, target)

    found = kfac(model, loss, [(x, y)], fisher_type="empirical")
    g = gradients(model, loss, x, y, ["bias"])["bias"]
    close(found.blocks["bias",].G[0], g.T @ g / 3)
    with pytest.raises(OperationError, match=r"Hessian of loss 'loss' is not known; give nn.MSELoss"):
        kfac(model, loss, [(x, y)])


# -- scales and accumulation -----------------------------------------------------------------------------


def net() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, CLASSES)).double()
    return model, torch.randn(6, 1, 4).double(), torch.randint(CLASSES, (6,))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_do_not_matter(reduction: str) -> None:
    model, x, y = net()
    loss = nn.CrossEntropyLoss(reduction=reduction)
    whole = kfac(model, loss, [(x, y)])
    parts = kfac(model, loss, [(x[:1], y[:1]), (x[1:4], y[1:4]), (x[4:], y[4:])])
    close(parts.dense(), whole.dense())
    assert (whole.num_data, whole.loss_terms) == (6, 6)
    other = kfac(model, loss, [(x, y)], num_data=12, num_per_example_loss_terms=2)
    factor = 0.5 * (0.25 if reduction == "mean" else 1)
    close(other.blocks["3.weight",].A, whole.blocks["3.weight",].A / 2)
    assert whole.blocks["3.bias",].G is whole.blocks["3.weight",].G  # in memory once
    close(other.dense()[:4, :4], whole.dense()[:4, :4] * factor)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("approx", ["expand", "reduce"])
def test_into_adds_data_or_decays(reduction: str, approx: str) -> None:
    model, x, y = net()
    loss, options = nn.CrossEntropyLoss(reduction=reduction), {"kfac_approx": approx}
    slices = slice(0, 2), slice(2, 3), slice(3, 6)
    batches = [(x[s], y[s]) for s in slices]
    whole = kfac(model, loss, [(x, y)], **options)
    first, second = kfac(model, loss, batches[:1], **options), kfac(model, loss, batches[1:], **options)
    olds = {k: {n: t.clone() for n, t in b.tensors.items()} for k, b in first.blocks.items()}
    owners = [t for block in first.blocks.values() for t in block.tensors.values()]
    merged = kfac(model, loss, batches[1:], into=first, **options)
    close(merged.dense(), whole.dense())
    assert [id(t) for b in merged.blocks.values() for t in b.tensors.values()] == list(map(id, owners))
    assert (merged.num_data, merged.loss_terms) == (6, 6)
    for data in (batches[1:], [(x[2:], y[2:])], iter([(x[2:], y[2:])])):  # what is one batch goes in place
        start = kfac(model, loss, batches[:1], **options)
        decayed = kfac(model, loss, data, into=start, decay=0.75, **options)
        for key, block in decayed.blocks.items():
            for name, tensor in block.tensors.items():
                assert tensor is start.blocks[key].tensors[name]
                close(tensor, 0.75 * olds[key][name] + 0.25 * second.blocks[key].tensors[name])
    with pytest.raises(
        ArgumentError, match=r"into has no block \('0.weight', '0.bias'\) with a Kronecker product"
    ):
        kfac(model, loss, [(x, y)], into=first, separate_weight_and_bias=False)
    with pytest.raises(ArgumentError, match=r"into has the blocks .* but the model has"):
        kfac(model, loss, [(x, y)], into=first, params=["0.weight"])
    with pytest.raises(OperationError, match=r"decay is 0.5 but into is left out"):
        kfac(model, loss, [(x, y)], decay=0.5)
    with pytest.raises(OperationError, match=r"decay is 1.0; give a number of at least 0 and below 1"):
        kfac(model, loss, [(x, y)], decay=1.0, into=first)
    with pytest.raises(ArgumentError, match=r"data has no examples"):
        kfac(model, loss, [(x[:0], y[:0])])


def test_seeds() -> None:
    model, x, y = net()
    made = [kfac(model, nn.CrossEntropyLoss(), [(x, y)], fisher_type="mc", seed=s).dense() for s in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_forward_only_has_the_identity() -> None:
    model, x, y = net()
    found = kfac(model, nn.CrossEntropyLoss(), [(x, y), (x, y)], fisher_type="forward-only")
    for key, rows in (("0.weight", 2), ("0.bias", 2), ("3.weight", CLASSES)):
        close(found.blocks[key,].G, torch.eye(rows).double()[None])


def test_single_precision_and_autocast() -> None:
    model, x, y = net()
    want = kfac(model, nn.CrossEntropyLoss(), [(x, y)]).dense()
    model.float()
    close(kfac(model, nn.CrossEntropyLoss(), [(x.float(), y)]).dense().double(), want, 1e-5)
    with torch.autocast("cpu"):
        found = kfac(model, nn.CrossEntropyLoss(), [(x.float(), y)])
    assert found.blocks["0.weight",].A.dtype == torch.float32
    close(found.dense().double(), want, 0.1)


# -- what is left as it is, and what is refused ----------------------------------------------------------


@pytest.mark.parametrize("fisher", ["type-2", "mc", "empirical", "forward-only"])
def test_the_model_is_left_as_it_is(fisher: str) -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.ReLU(True), nn.Flatten(), nn.Linear(6, CLASSES)
    )
    x, y = torch.randn(4, 1, 4), torch.randint(CLASSES, (4,))
    before = state(model)
    kfac(
        model,
        nn.CrossEntropyLoss(),
        [(x, y)],
        fisher_type=fisher,
        unsupported="skip",
        check_deterministic=False,
    )
    assert same(before, state(model))
    with pytest.raises(
        CaptureError, match=r"examples depend on each other through batch_norm in training mode"
    ):
        kfac(model, nn.CrossEntropyLoss(), [(x, y)], fisher_type=fisher)
    assert same(before, state(model))


def test_random_passes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, CLASSES))
    data = [(torch.randn(4, 2), torch.randint(CLASSES, (4,)))]
    before = state(model)
    with pytest.raises(
        CaptureError,
        match=r"draws random numbers \(a dropout or a sampled layer in training mode\?\); call model.eval\(\)",
    ):
        kfac(model, nn.CrossEntropyLoss(), data)
    assert same(before, state(model))
    kfac(model, nn.CrossEntropyLoss(), data, check_deterministic=False)
    kfac(model.eval(), nn.CrossEntropyLoss(), data)


def test_layers_without_a_kronecker_product() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, CLASSES)).double()
    x, y = torch.randn(4, 2).double(), torch.randint(CLASSES, (4,))
    loss = nn.CrossEntropyLoss()
    with pytest.raises(
        CaptureError, match=r"1.weight: it is a parameter of a norm or another scale, which no"
    ):
        kfac(model, loss, [(x, y)])
    skipped = kfac(model, loss, [(x, y)], unsupported="skip")
    assert set(skipped.left) == {"1.weight", "1.bias"}
    assert skipped.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    diagonal = kfac(model, loss, [(x[:1], y[:1]), (x[1:], y[1:])], unsupported="diagonal")
    assert diagonal.names == tuple(n for n, _ in model.named_parameters())
    for name in ("1.weight", "1.bias"):
        close(diagonal.diagonal()[name], ggn(model, loss, x, y, [name]).diagonal())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fisher_type": "type-3"},
            r"'type-3' is not known \(did you mean 'type-2'\?\); use 'type-2', 'mc', 'empirical', 'forward-only'",
        ),
        ({"kfac_approx": "shrink"}, r"kfac_approx='shrink' is not known"),
        ({"groups": "mean"}, r"groups='mean' is not known; use 'block', 'average'"),
        ({"unsupported": "ignore"}, r"unsupported='ignore' is not known"),
        ({"mc_samples": 2}, r"mc_samples is 2 with fisher_type='type-2'; leave it out"),
        ({"fisher_type": "mc", "mc_samples": 0}, r"mc_samples is 0; give an int of at least 1"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    model, x, y = net()
    with pytest.raises(OperationError, match=message):
        kfac(model, nn.CrossEntropyLoss(), [(x, y)], **options)


def test_losses_and_data_that_are_refused() -> None:
    model, x, y = net()
    with pytest.raises(OperationError, match=r"reduction='none'; give one with reduction='mean'"):
        kfac(model, nn.CrossEntropyLoss(reduction="none"), [(x, y)])
    with pytest.raises(OperationError, match=r"the loss is a int; give a function"):
        kfac(model, 3, [(x, y)])  # type: ignore[arg-type]
    with pytest.raises(OperationError, match=r"output has shape \(6, 3\) but the target \(6, 2\)"):
        kfac(model, nn.MSELoss(), [(x, torch.zeros(6, 2))], fisher_type="empirical")
    with pytest.raises(
        OperationError, match=r"output has shape \(6, 3\) but the target \(5,\); give labels of shape"
    ):
        kfac(model, nn.CrossEntropyLoss(), [(x, y[:5])])
    with pytest.raises(ArgumentError, match=r"data has no batches"):
        kfac(model, nn.CrossEntropyLoss(), [])
    with pytest.raises(ArgumentError, match=r"data is a int; give an iterable of batches"):
        kfac(model, nn.CrossEntropyLoss(), 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"a batch of data is of 3; give pairs"):
        kfac(model, nn.CrossEntropyLoss(), [(x, y, y)])  # type: ignore[list-item]


def test_functions_of_torch_are_the_losses_of_the_same_name() -> None:
    model, x, y = net()
    want = kfac(model, nn.CrossEntropyLoss(), [(x, y)]).dense()
    close(kfac(model, F.cross_entropy, [(x, y)]).dense(), want, 0)


# -- curvlinops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("fisher", ["type-2", "mc", "empirical", "forward-only"])
def test_equals_curvlinops(kind: Any, fisher: str) -> None:
    operator = pytest.importorskip("curvlinops").KFACLinearOperator
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, CLASSES),
    ).double()  # fmt: skip
    x, y = torch.randn(6, 2, 6, 6).double(), target(kind, (6, CLASSES))
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    samples = 2 if fisher == "mc" else 1
    for reduction in ("mean", "sum"):
        for approx in ("expand", "reduce"):
            for separate in (True, False):
                loss = kind(reduction=reduction)
                options: dict[str, Any] = {
                    "fisher_type": fisher, "kfac_approx": approx, "separate_weight_and_bias": separate, "mc_samples": samples,
                }  # fmt: skip
                theirs = operator(
                    model, loss, list(model.parameters()), data, check_deterministic=False, **options
                )
                vector = torch.randn(theirs.shape[1]).double()
                close(kfac(model, loss, data, groups="average", **options) @ vector, theirs @ vector)


def test_images_of_several_sizes_are_accumulated() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    data = [
        (torch.randn(2, 2, *size).double(), torch.randint(0, 2, (2, *size)))
        for size in ((4, 5), (6, 3), (5, 5))
    ]
    options: Any = {"fisher_type": "empirical", "check_deterministic": False}
    loss = nn.CrossEntropyLoss(reduction="sum")
    whole = kfac(model, loss, data, **options)
    found = None
    for batch in data:
        found = kfac(model, loss, [batch], into=found, **options)
    assert found is not None
    for key, block in whole.blocks.items():
        for name, tensor in block.tensors.items():
            assert torch.allclose(found.blocks[key].tensors[name], tensor), (key, name)
    other = nn.Sequential(nn.Conv2d(2, 3, 5, padding=2), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    with pytest.raises(ArgumentError, match="into has no block"):
        kfac(other, loss, data[:1], into=found, **options)


def test_packed_sums_give_the_same_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint and shared biases, groups, several calls, several batches; processes send lower triangles alone."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 2, groups=2)
            self.again = nn.Linear(4, 4)
            self.last = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            flat = self.conv(x).flatten(2).mean(2)
            return self.last(torch.tanh(self.again(torch.tanh(self.again(flat)))))

    torch.manual_seed(0)
    model = Twice().double()
    data = [(torch.randn(n, 2, 3, 3, dtype=torch.float64), torch.randint(CLASSES, (n,))) for n in (3, 2)]
    sent: list[int] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group: sent.append(tensor.numel()))
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    plain = {"fisher_type": "empirical"}
    for options in (
        plain | {"separate_weight_and_bias": False, "kfac_approx": "reduce"},
        {"fisher_type": "forward-only"},
        plain | {"groups": "average", "kfac_approx": "reduce"},
        plain | {"process_group": object()},
    ):
        found = [
            kfac(model, nn.CrossEntropyLoss(), data, packed=each, **options)  # type: ignore[arg-type]
            for each in (False, True)
        ]
        assert_same_factors(*found)
    middle = len(sent) // 2
    whole, lower = sent[: middle - 1], sent[middle:-1]  # then a few counts
    assert [count * 2 for count in lower] == [
        count + next(g * r for g in (1, 2) for r in range(1, 20) if g * r * r == count) for count in whole
    ]
    into = kfac(model, nn.CrossEntropyLoss(), data[:1], packed=True, **plain)  # type: ignore[arg-type]
    again = kfac(model, nn.CrossEntropyLoss(), data[1:], packed=True, into=into, **plain)  # type: ignore[arg-type]
    assert_same_factors(again, kfac(model, nn.CrossEntropyLoss(), data, **plain))  # type: ignore[arg-type]


def assert_same_factors(got: KroneckerFactors, want: KroneckerFactors) -> None:
    """All factors of all blocks."""
    assert got.blocks.keys() == want.blocks.keys()
    for key, block in want.blocks.items():
        assert block.tensors.keys() == got.blocks[key].tensors.keys()
        for name, tensor in block.tensors.items():
            close(got.blocks[key].tensors[name], tensor)
