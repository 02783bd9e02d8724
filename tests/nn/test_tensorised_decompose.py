"""From a dense weight to factors: exact forms are found again, and any finite weight has a decomposition."""

import copy
import io
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tnconv
from tnconv.errors import SpecError
from tnconv.nn.tensorised import KINDS, TensorisedConv, algebraic, fit, linalg, newton
from tnconv.nn.tensorised.budget import Budget
from tnconv.nn.tensorised.product import Product

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def conv_with(weight: torch.Tensor, **options: Any) -> Any:
    """A convolution with a weight."""
    out, ins, *kernel = weight.shape
    groups = options.get("groups", 1)
    conv = CONVS[len(kernel)](ins * groups, out, tuple(kernel), dtype=weight.dtype, **options)
    with torch.no_grad():
        conv.weight.copy_(weight)
    return conv


def off(layer: TensorisedConv, weight: torch.Tensor) -> float:
    """The relative error of a layer's weight."""
    with torch.no_grad():
        return float((layer.to_dense() - weight).norm() / weight.norm())


# -- exact forms -----------------------------------------------------------------------------------------

SHAPES: list[tuple[int, tuple[int, int, int], dict[str, Any]]] = [
    (1, (8, 10, 3), {}),
    (2, (8, 10, 3), {}),
    (3, (6, 8, 2), {}),
    (2, (8, 12, 3), {"groups": 2}),
    (2, (6, 8, 3), {"in_shape": (2, 3), "out_shape": (4, 2)}),
]


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_weight_of_the_form_is_found_again(kind: str, shape: Any, rank: int) -> None:
    dims, (ins, outs, kernel), options = shape
    more = options | ({"blocks": 2} if kind == "bt" else {})
    cls: Any = KINDS[kind][dims]
    torch.manual_seed(rank)
    source = cls(ins, outs, kernel, rank=rank, dtype=torch.float64, **more)
    weight = source.to_dense().detach()
    conv = conv_with(weight, groups=more.pop("groups", 1))
    assert off(cls.from_conv(conv, rank, **more), weight) < 1e-5


LARGER: list[tuple[str, int, Any, dict[str, Any]]] = [
    ("cp", 24, 24, {}),  # eigenvectors
    ("cp", 16, 20, {}),  # rank above the axes
    ("tt", 24, 6, {}),
    ("tucker", 24, 6, {}),
    ("ht", 24, 6, {}),
    ("tr", 24, 4, {}),
    ("tr", 10, 3, {}),  # bonds that are larger than the axis they make
    ("tr", 16, (2, 3, 3, 4), {}),
    ("bt", 24, 6, {"blocks": 4}),
    ("bt", 16, (4, 3), {"blocks": 2}),
]


@pytest.mark.parametrize(("kind", "channels", "rank", "options"), LARGER, ids=str)
def test_larger_weights_of_the_form_are(kind: str, channels: int, rank: Any, options: Any) -> None:
    torch.manual_seed(1)
    cls: Any = KINDS[kind][2]
    weight = cls(channels, channels, 3, rank=rank, dtype=torch.float64, **options).to_dense().detach()
    assert off(cls.from_conv(conv_with(weight), rank, **options), weight) < 1e-5


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_rounded_weight_of_the_form_is_found_to_its_precision(kind: str) -> None:
    torch.manual_seed(1)
    options, rank = ({"blocks": 4}, 4) if kind == "bt" else ({}, 4)
    cls: Any = KINDS[kind][2]
    weight = cls(20, 20, 3, rank=rank, **options).to_dense().detach()
    assert weight.dtype == torch.float32
    assert off(cls.from_conv(conv_with(weight), rank, **options), weight) < 1e-5


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_complex_weights_of_the_form_are(kind: str) -> None:
    torch.manual_seed(2)
    cls: Any = KINDS[kind][2]
    options = {"blocks": 2} if kind == "bt" else {}
    weight = cls(8, 8, 3, rank=2, dtype=torch.complex128, **options).to_dense().detach()
    made = cls.from_conv(conv_with(weight), 2, **options)
    assert off(made, weight) < 1e-5 and made.to_dense().dtype == torch.complex128


# -- any weight ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tt", "tucker"])
def test_it_comes_as_near_as_tensorly(kind: str) -> None:
    tensorly = pytest.importorskip("tensorly")
    decomposition = pytest.importorskip("tensorly.decomposition")
    torch.manual_seed(0)
    weight = torch.randn(10, 8, 3, 3, dtype=torch.float64)
    made = KINDS[kind][2].from_conv(conv_with(weight), 4)
    with tensorly.backend_context("numpy", local_threadsafe=True):
        if kind == "tt":
            train = decomposition.tensor_train(weight.permute(1, 2, 3, 0).numpy(), [1, 4, 4, 4, 1])
            want = torch.from_numpy(train.to_tensor()).permute(3, 0, 1, 2)
        else:
            parts = decomposition.partial_tucker(weight.numpy(), [4, 4], modes=[0, 1], n_iter_max=50)
            (core, factors), _ = parts
            want = torch.einsum("abkl,da,cb->dckl", *map(torch.from_numpy, (core, *factors)))
    assert off(made, weight) <= float((want - weight).norm() / weight.norm()) * (1 + 1e-4)


@pytest.mark.parametrize("kind", ["cp", "tr", "bt"])
def test_more_iterations_come_nearer_and_the_result_is_always_the_same(kind: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 8, 3, 3, dtype=torch.float64)
    errors = [off(KINDS[kind][2].from_conv(conv_with(weight), 0.3, iterations=n), weight) for n in (0, 4, 20)]
    assert errors[0] > errors[1] > errors[2]
    torch.manual_seed(5)
    one = KINDS[kind][2].from_conv(conv_with(weight), 0.3, iterations=9)
    torch.manual_seed(6)
    other = KINDS[kind][2].from_conv(conv_with(weight), 0.3, iterations=9)
    assert all(torch.equal(one.factors[name], other.factors[name]) for name in one.factors)


def _blurred(w: torch.Tensor) -> torch.Tensor:
    return w.mean((0, 1), keepdim=True).expand_as(w)


DEGENERATE: dict[str, Any] = {
    "zero": torch.zeros_like,
    "constant": torch.ones_like,
    "dirac": lambda w: nn.init.dirac_(w.clone()),
    "blurred": _blurred,
    "pruned": lambda w: w * (w.abs() > 2),
    "one channel": lambda w: w * (torch.arange(8) == 3).reshape(8, 1, 1, 1),
    "rank 1": lambda w: torch.einsum(
        "a,b,c,d->abcd", w[:, 0, 0, 0], w[0, :, 0, 0], w[0, 0, :, 0], w[0, 0, 0]
    ),
    "tiny": lambda w: w * 1e-30,
    "huge": lambda w: w * 1e30,
}


@pytest.mark.parametrize("name", sorted(DEGENERATE))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_degenerate_weight_has_factors_that_can_be_trained(kind: str, name: str) -> None:
    torch.manual_seed(0)
    weight = DEGENERATE[name](torch.randn(8, 8, 3, 3))
    few: dict[str, Any] = {"iterations": 10} | ({"blocks": 2} if kind == "bt" else {})
    for rank in (1, 3):
        layer = KINDS[kind][2].from_conv(conv_with(weight), rank, **few)
        dense = layer.to_dense()
        assert dense.isfinite().all()
        assert (dense - weight).double().norm() <= weight.double().norm() * (1 + 1e-5)
        if name in ("zero", "constant", "rank 1"):
            torch.testing.assert_close(dense, weight, rtol=1e-4, atol=1e-5)
        if name not in ("tiny", "huge"):
            layer(torch.randn(1, 8, 4, 4)).sum().backward()
            grads = [factor.grad for factor in layer.factors.values()]
            assert any(grad is not None and grad.abs().max() > 0 for grad in grads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_not_finite_is_an_error_that_names_the_layer(kind: str, bad: float) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3))
    weight: Any = model[1].weight
    weight.data[1, 2, 0, 1] = bad
    with pytest.raises(
        SpecError,
        match=r"^1: weight \(6, 4, 3, 3\) has 1 cells that are NaN or infinite, the first at \(1, 2, 0, 1\)",
    ):
        tnconv.nn.tensorize(model, kind, 2)
    assert type(model[1]) is nn.Conv2d
    tnconv.nn.tensorize(model, kind, 2, decompose=False)
    assert model(torch.ones(1, 4, 5, 5)).isfinite().all()


def test_dtypes_and_devices_are_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.complex64):
        weight = torch.ones(6, 4, 3, 3, dtype=dtype)
        made = tnconv.nn.CPConv2d.from_conv(conv_with(weight), 2)
        assert {p.dtype for p in made.parameters()} == {dtype}
        torch.testing.assert_close(made.to_dense(), weight, rtol=2e-2, atol=2e-2)
    conv = nn.Conv2d(4, 6, 3)
    conv.weight = nn.Parameter(torch.ones(6, 4, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(SpecError, match=r"weight has dtype torch.int8, which cannot be factorised"):
        tnconv.nn.CPConv2d.from_conv(conv, 2)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_meta_convolution_gives_a_meta_layer(kind: str) -> None:
    made = KINDS[kind][2].from_conv(nn.Conv2d(4, 6, 3, device="meta"), 2)
    assert all(p.is_meta for p in made.parameters()) and made.bias is not None
    made.to_empty(device="cpu").reset_parameters()
    assert made(torch.ones(1, 4, 5, 5)).isfinite().all()


# -- budgets and tensorize ---------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(11)))


def kinds_of(model: Model) -> list[bool]:
    return [isinstance(layer, TensorisedConv) for layer in model.layers]


def test_a_string_in_skip_is_one_name() -> None:
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(11)))
    tnconv.nn.tensorize(model, "tt", 0.5, skip="10")
    assert [isinstance(layer, TensorisedConv) for layer in model] == [True] * 10 + [False]
    model = Model()
    tnconv.nn.tensorize(model, "tt", 0.5, skip=(name for name in ("layers.0", "layers.10")))
    assert kinds_of(model) == [False] + [True] * 9 + [False]
    with pytest.raises(SpecError, match=r"skip has 'layers\.1x', which is no module"):
        tnconv.nn.tensorize(model, "tt", 0.5, skip="layers.1x")
    for kind in ("svd", None, ["tt"]):
        with pytest.raises(SpecError, match="there is no kind"):
            tnconv.nn.tensorize(model, kind, 0.5)  # type: ignore[arg-type]


def test_integers_of_numpy_are_integers_and_a_rank_is_cut() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3))
    tnconv.nn.tensorize(model, "tucker", np.int64(6), iterations=np.int32(3))
    first, second = model
    assert isinstance(first, TensorisedConv) and first.ranks == {"r_out": 4, "r_in": 2}
    assert isinstance(second, TensorisedConv) and second.ranks == {"r_out": 6, "r_in": 4}
    assert all(type(rank) is int for rank in second.ranks.values())
    layer = tnconv.nn.BTConv2d(4, 8, 3, rank=(np.int64(2), np.int64(3)), blocks=np.int8(2))
    assert layer.ranks == {"r_out": 2, "r_in": 3} and layer.core.shape == (2, 2, 3, 3, 3)
    shaped = tnconv.nn.CPConv2d(
        4, 8, 3, rank=np.float32(0.5), in_shape=(np.int64(2), 2), out_shape=[4, np.int64(2)]
    )
    assert shaped.description.shape.outs == (4, 2) and shaped.compression <= 0.5
    with pytest.raises(SpecError, match="rank is True"):
        tnconv.nn.tensorize(nn.Conv2d(2, 4, 3), "tucker", True)


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = []
    sweep = fit.Descent.sweep
    monkeypatch.setattr(fit.Descent, "sweep", lambda self: (swept.append(1), sweep(self)))
    conv = nn.Conv2d(8, 8, 3)
    for kind in KINDS:
        assert KINDS[kind][2].from_conv(conv, 0.5, seconds=0, **({"blocks": 2} if kind == "bt" else {})).ranks
    tnconv.nn.tensorize(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)), "cp", 0.3, seconds=0.0)
    assert not swept
    tnconv.nn.CPConv2d.from_conv(conv, 0.3, seconds=1000)
    assert swept
    assert Budget.of(3, None) == Budget(3) and not Budget(3).over and Budget(3, time.monotonic()).over
    options: list[tuple[dict[str, Any], str]] = [
        ({"iterations": -1}, "iterations is -1; give the number of sweeps"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"iterations": True}, "iterations is True"),
        ({"seconds": -1}, "seconds is -1; give the time to stop after"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": "3"}, "seconds is '3'"),
        ({"seconds": [1]}, r"seconds is \[1\]"),
    ]
    for given, message in options:
        with pytest.raises(SpecError, match=message):
            tnconv.nn.CPConv2d.from_conv(conv, 2, **given)
        with pytest.raises(SpecError, match=message):
            tnconv.nn.tensorize(nn.Sequential(conv), "cp", 2, **given)


def test_a_bar_is_shown_on_a_terminal_or_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return self.terminal

    for terminal, progress, shown in (
        (True, None, True),
        (False, None, False),
        (False, True, True),
        (True, False, False),
    ):
        Terminal.terminal = terminal  # type: ignore[attr-defined]
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        tnconv.nn.tensorize(Model(), "ht", 2, progress=progress)
        assert ("100%" in stream.getvalue()) == ("layers.10" in stream.getvalue()) == shown


# -- parts -----------------------------------------------------------------------------------------------


def ring_of(seed: int) -> tuple[Product, list[torch.Tensor], torch.Tensor]:
    """A ring of three factors, complex, and its tensor."""
    product = Product(("qar", "rbs", "scq"), "abc", (("q", 2), ("r", 3), ("s", 2)))
    values = fit.drawn(product, seed)(torch.zeros(4, 5, 6, dtype=torch.complex128))
    return product, values, product.dense(values)


def test_the_equations_of_a_fit_are_those_of_least_squares() -> None:
    product, values, _ = ring_of(0)
    tensor = ring_of(1)[2]
    pairs = [product.pair(value, place) for place, value in enumerate(values)]
    for place in range(3):
        shape = product.matrix(values[place], place).shape
        columns = []
        for cell in torch.eye(shape.numel(), dtype=torch.complex128):
            changed = [*values[:place], product.factor(cell, values[place], place), *values[place + 1 :]]
            columns.append(product.dense(changed).flatten())
        design = torch.stack(columns, 1)
        other = (place + 1) % 3
        target = product.target(*product.partial(tensor, values, other), values, place, other)
        torch.testing.assert_close(target.flatten(), design.mH @ tensor.flatten())
        vector = torch.randn(shape, dtype=torch.complex128)
        want = (design.mH @ (design @ vector.flatten())).reshape(shape)
        for known in (pairs, [None] * 3):
            torch.testing.assert_close(product.gram(values, known, place) @ vector, want)
            torch.testing.assert_close(product.times_gram(values, known, place, vector), want)


def test_conjugate_gradients_and_newton_steps_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    product, values, _ = ring_of(0)
    tensor = ring_of(1)[2]
    pairs = [product.pair(value, place) for place, value in enumerate(values)]
    target = product.target(*product.partial(tensor, values, 1), values, 0, 1)
    direct, _ = fit.solution(product, values, pairs, 0, target)
    monkeypatch.setattr(fit, "_DIRECT", 0)
    found, image = fit.solution(product, values, pairs, 0, target, steps=200)
    torch.testing.assert_close(found, direct, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(image, product.gram(values, pairs, 0) @ found)
    near = [value + 0.01 * torch.randn_like(value) for value in ring_of(1)[1]]
    refined, error = newton.refined(product, tensor, near, 20, Budget())
    assert error < 1e-9
    torch.testing.assert_close(product.dense(refined), tensor)


def test_algebraic_starts_are_exact_or_none() -> None:
    product, values, tensor = ring_of(3)
    product = Product(("qar", "rbs", "scq"), "abc", (("q", 2), ("r", 2), ("s", 2)))
    values = fit.drawn(product, 1)(torch.zeros(4, 3, 5, dtype=torch.float64))
    tensor = product.dense(values)
    ring = algebraic.ring(tensor, (2, 2, 2))
    assert ring is not None
    torch.testing.assert_close(product.dense(ring), tensor)
    assert algebraic.ring(tensor, (2, 3, 2)) is None and algebraic.ring(tensor, (3, 2, 2)) is None
    assert algebraic.cp(torch.randn(3, 3, 2, dtype=torch.float64), 4) is None
    assert algebraic.cp(torch.randn(4, 4, 1, dtype=torch.float64), 2) is None
    zeros = torch.zeros(4, 4, 3, dtype=torch.float64)
    assert algebraic.cp(zeros, 2) is None and algebraic.ring(zeros, (1, 2, 2)) is None
    assert algebraic.block_frames(zeros, 2, 2) is None


def test_linear_algebra_of_singular_matrices() -> None:
    for matrix in (torch.zeros(3, 4), torch.ones(4, 3), torch.eye(3)):
        wide = matrix.double()
        u, s, v = linalg.singular(wide)
        torch.testing.assert_close(u * s @ v, wide)
        gram = wide @ wide.mT
        start = torch.randn(len(gram), 2, dtype=torch.float64)
        found = linalg.normal_solution(gram, gram @ start, torch.zeros_like(start))
        torch.testing.assert_close(gram @ found, gram @ start)
        assert linalg.span(wide, 1e-7).shape[1] == torch.linalg.matrix_rank(wide)
    assert linalg.solved(torch.zeros(2, 2), torch.ones(2, 1)) is None


def test_singular_values_where_the_fast_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    matrices = [torch.randn(5, 3).double(), torch.randn(3, 5).double()]
    monkeypatch.setattr(torch.linalg, "svd", fails)
    for matrix in matrices:
        u, s, v = linalg.singular(matrix)
        torch.testing.assert_close(u * s @ v, matrix)
        torch.testing.assert_close(s, torch.linalg.svdvals(matrix))


def test_a_decomposed_layer_is_copied_and_saved() -> None:
    layer = tnconv.nn.BTConv2d.from_conv(nn.Conv2d(8, 8, 3), 2)
    other = copy.deepcopy(layer)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.to_dense(), layer.to_dense())
