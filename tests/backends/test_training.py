"""Planned backward passes against autograd: values, what needs a gradient, what is left to autograd, and memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv
from tnconv.backends.torch.training import TrainedProgram, WithBackward
from tnconv.errors import LoweringError, PlanError
from tnconv.ir import evaluate
from tnconv.nn.tensorised import KINDS
from tnconv.spec import ConvSpec
from tnconv.testing import conv_specs
from tnconv.testing.memory import meta_arguments

CP = ("n c h+r-1 w+s-1, c k, r k, s k, d k -> n d h w", (2, 4, 8, 8), (4, 3), (3, 3), (3, 3), (5, 3))
SIZES = {"h": 8, "w": 8}


def cp(**options: Any) -> Any:
    return tnconv.einsum_expression(*CP, **SIZES, training=True, **options)


def operands(dtype: torch.dtype = torch.float64, frozen: tuple[int, ...] = ()) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in CP[1:]]
    return [tensor.requires_grad_(place not in frozen) for place, tensor in enumerate(made)]


def assert_gradients(function: Any, tensors: list[Tensor]) -> None:
    """Of all that need one, as autograd computes them from the same program."""
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    planned, plain = function(*tensors), function.program.function
    value = plain(*[tensors[list(function.arguments).index(name)] for name in function.program.arguments])
    torch.testing.assert_close(planned, value, rtol=0, atol=0)
    cotangent = torch.randn_like(value)
    got = torch.autograd.grad(planned, wanted, cotangent)
    for ours, theirs in zip(got, torch.autograd.grad(value, wanted, cotangent), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def is_planned(value: Tensor) -> bool:
    return "Planned" in type(value.grad_fn).__name__


@settings(max_examples=50)
@given(conv_specs(), st.integers(0, 7))
def test_gradients_of_random_layers(spec: tnconv.ConvSpec, frozen: int) -> None:
    function = tnconv.compile(spec, training=True)
    arrays = dict(function._signature.axes)
    tensors = []
    for place, name in enumerate(function.arguments):
        shape = [evaluate(axis.size, {"N": 2}) for axis in arrays[name]]
        tensors.append(torch.randn(shape, dtype=torch.float64).requires_grad_(not frozen >> place & 1))
    if not any(tensor.requires_grad for tensor in tensors):
        assert function(*tensors).grad_fn is None
        return
    assert_gradients(function, tensors)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"groups": 2, "bias": False}, {"padding": 2, "dilation": 2, "padding_mode": "reflect"}],
    ids=str,
)
def test_gradients_of_factorised_layers(kind: str, options: dict[str, Any]) -> None:
    layer: Any = KINDS[kind][2](8, 8, 3, rank=0.3, **options).double()
    function = layer.compiled(9, training=True)
    given_: dict[str, Tensor] = dict(layer.named_parameters()) | {"x": torch.randn(2, 8, 9, 9).double()}
    assert_gradients(function, [given_[name].requires_grad_() for name in function.arguments])
    value = layer(given_["x"])
    assert is_planned(value)
    layer.zero_grad()
    layer(given_["x"].detach()[:0]).sum().backward()
    assert all(not parameter.grad.any() for parameter in layer.factors.values())


def test_only_what_is_asked_for_is_computed() -> None:
    function = cp()
    tensors = operands(frozen=(0, 2))
    assert_gradients(function, tensors)
    made = function.backward
    assert made is not None and set(made.trained.needed) == set(function.program.arguments)
    value = function(*operands())
    assert is_planned(value)
    alone = made.backward_of(["x1"])
    assert len(alone.choices) < len(made.backward.choices)
    tensors = operands()
    value = function(*tensors)
    (first,) = torch.autograd.grad(value, [tensors[0]], torch.ones_like(value))
    torch.testing.assert_close(first, torch.autograd.grad(function(*tensors).sum(), tensors)[0])


def test_gradients_of_gradients_go_by_autograd() -> None:
    function, tensors = cp(), operands()
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_transforms_go_by_autograd() -> None:
    function, tensors = cp(), operands()
    value = function(*tensors)
    want = torch.autograd.grad(value.sum(), tensors)

    def total(*given_: Tensor) -> Tensor:
        assert not is_planned(function(*given_))
        return function(*given_).sum()

    got = torch.func.grad(total, argnums=tuple(range(5)))(*tensors)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    _, tangent = torch.func.jvp(total, tuple(tensors), tuple(torch.ones_like(t) for t in tensors))
    torch.testing.assert_close(tangent, sum(g.sum() for g in want))
    with torch.autocast("cpu", torch.bfloat16):  # by a planned pass of converted arguments
        half = function(*operands(torch.float32))
    assert is_planned(half) and half.dtype == torch.bfloat16
    assert is_planned(function(*operands(torch.complex128)))
    with torch.no_grad():
        assert function(*tensors).grad_fn is None


def test_what_cannot_be_asked_for_alone_is_taken_from_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    function, tensors = cp(), operands()
    value = function(*tensors)
    want = torch.autograd.grad(value, tensors, torch.ones_like(value), retain_graph=True)

    def refuse(*_: Any) -> Any:
        raise LoweringError("no")

    monkeypatch.setattr(TrainedProgram, "_with_backward", refuse)
    first, last = torch.autograd.grad(value, [tensors[0], tensors[4]], torch.ones_like(value))
    torch.testing.assert_close((first, last), (want[0], want[4]))


def test_many_cotangents_at_once() -> None:
    function, tensors = cp(), operands()
    value = function(*tensors)
    many = torch.randn(3, *value.shape, dtype=torch.float64)
    got = torch.autograd.grad(value, tensors, many, is_grads_batched=True, retain_graph=True)
    for place, cotangent in enumerate(many):
        want = torch.autograd.grad(value, tensors, cotangent, retain_graph=True)
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours[place], theirs)


def test_tensors_without_cells() -> None:
    function = cp()
    assert function(*(tensor.to("meta") for tensor in operands())).shape == (2, 5, 8, 8)


def test_no_two_results_share_memory() -> None:
    x, y = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    function = tnconv.einsum_expression("n c, n c, -> n c", (3, 4), (3, 4), (), training=True)
    one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert_gradients(function, [x, y, one])
    copied = tnconv.einsum_expression("n c -> n c", (3, 4), training=True)
    cotangent = torch.ones(3, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(copied(x), [x], cotangent)
    assert gradient.data_ptr() != cotangent.data_ptr()


def test_changing_what_is_saved_is_an_error_and_no_wrong_number() -> None:
    function, tensors = cp(), operands()
    value = function(*tensors)
    with torch.no_grad():
        tensors[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_cotangents_of_any_layout() -> None:
    function, tensors = cp(), operands()
    value = function(*tensors)
    want = torch.autograd.grad(function.program.function(*tensors).sum(), tensors)
    for cotangent in (
        torch.ones(()).double().expand_as(value),
        torch.ones_like(value).to(memory_format=torch.channels_last),
        torch.ones(8, 8, 5, 2).double().permute(3, 2, 1, 0),
    ):
        got = torch.autograd.grad(value, tensors, cotangent, retain_graph=True)
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_limit_on_memory_is_kept_by_computing_again() -> None:
    free = cp()
    assert free.backward is not None and free.backward.trained.saved
    limits = []
    for size in (free.backward.peak_at({}) - 1, 4 * 8 * 8 * 8):
        limits.append(size * torch.get_default_dtype().itemsize)
    tight = cp(memory_limit=limits[0])
    assert tight.backward is not None
    assert evaluate(tight.backward.peak, {}) < evaluate(free.backward.peak, {})
    assert_gradients(tight, operands())
    with pytest.raises(PlanError, match=r"the program needs at least .* but memory_limit is"):
        cp(memory_limit=limits[1] // 16)


def test_what_cannot_be_planned_is_left_to_autograd() -> None:
    square = tnconv.compile(
        torch.nn.Conv2d(2, 3, 3, bias=False), "kfac_reduce", input_size=(6, 6), training=True
    )
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert square.backward is None
    assert torch.autograd.gradcheck(square, [x], fast_mode=True)
    with pytest.raises(
        PlanError, match="backend 'reference' has no training=True: it plans no backward pass"
    ):
        cp(backend="reference")


def test_autotuning_times_both_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path))
    tuned = cp(autotune=True)
    assert tuned.trials and tuned.trials != cp(autotune=True, frozen={"x1"}).trials
    assert_gradients(tuned, operands())
    with pytest.raises(LoweringError, match="cannot be planned; leave it to autograd"):
        tnconv.compile(
            torch.nn.Conv2d(2, 3, 3, bias=False), "kfac_reduce", input_size=6, autotune=True, training=True
        )


def test_verify_compares_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Conv2d(2, 3, 3, bias=False)
    tnconv.compile(layer, input_size=(6, 6), training=True, verify="exact")
    plain: Callable[..., Any] = WithBackward.__call__
    monkeypatch.setattr(
        WithBackward, "__call__", lambda self, *t: plain(self, *t) * 2 - self.program.function(*t)
    )
    tnconv.compile(layer, input_size=(6, 6), training=True, verify="exact")
    monkeypatch.setattr(
        WithBackward, "__call__", lambda self, *t: plain(self, *t) * 2 - self.program.function(*t).detach()
    )
    with pytest.raises(LoweringError, match="a planned gradient of a small instance differs from autograd's"):
        tnconv.compile(layer, input_size=(6, 6), training=True, verify="exact")


@pytest.mark.parametrize(
    ("spec", "op", "options"),
    [
        (ConvSpec(2, 2, 1, 2, padding="same", groups=2), "weight_vjp", {"planner": "dp"}),
        (
            ConvSpec(2, 2, 2, 4, padding=1, dilation=3, groups=2, padding_mode="circular"),
            "ggn_mini_block",
            {},
        ),
        (
            ConvSpec(2, 2, (3, 2), (12, 1), stride=(3, 2), padding=((0, 0), (0, 3)), dilation=(3, 2)),
            "ggn_gram",
            {"passes": "none", "planner": "dp", "training": True},
        ),
    ],
)
def test_gradients_of_no_examples_are_there(spec: ConvSpec, op: str, options: dict[str, Any]) -> None:
    """Empty or zero, whatever native calls refuse or leave undefined."""
    function = tnconv.compile(spec, op, **options)
    tensors = [x.requires_grad_() for x in tensors_of(function, {"N": 0, "V": 2})]
    for x, found in zip(tensors, torch.autograd.grad(function(*tensors).sum(), tensors), strict=True):
        torch.testing.assert_close(found, torch.zeros_like(x))


def tensors_of(function: Any, sizes: dict[str, int]) -> list[Tensor]:
    meta = meta_arguments(function.network, sizes, torch.float64)
    return [torch.randn(x.shape, dtype=torch.float64) for x in meta]
