"""Products by oneDNN, on CPUs where the BLAS leaves half of the registers idle: values, layouts, and when not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import tnconv
from tnconv.backends.torch import profile
from tnconv.backends.torch.numerics import inner
from tnconv.errors import LoweringError
from tnconv.ir import evaluate

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda x: x.clone(),
    "columns": lambda x: x.t().contiguous().t(),
    "rows of a wider one": lambda x: torch.cat((x, x[:, :3]), 1)[:, : x.shape[1]],
    "columns of a wider one": lambda x: torch.cat((x.t(), x.t()[:, :5]), 1).t()[: len(x)],
    "every other row": lambda x: torch.stack((x, x), 1).flatten(0, 1)[::2],
    "every other column": lambda x: torch.stack((x, x), 2).flatten(1)[:, ::2],
    "behind another cell": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
    "one row": lambda x: x[:1].expand_as(x),
    "one column": lambda x: x[:, :1].expand_as(x),
    "windows": lambda x: (
        x.flatten()[: sum(x.shape) - 1].unfold(0, x.shape[1], 1) if x.numel() >= sum(x.shape) - 1 else x
    ),
}


class Calls:
    """Counts the calls of oneDNN's inner product."""

    def __init__(self) -> None:
        found = inner._linear()
        assert found is not None, "this build of PyTorch has no inner products of oneDNN"
        self.count, self._found = 0, found

    def __call__(self, *args: Any) -> Tensor:
        self.count += 1
        return self._found(*args)


def leave_all(patch: pytest.MonkeyPatch) -> None:
    """All products of float32 are left to oneDNN, as on such a machine, however small."""
    patch.setattr(inner, "is_wide", lambda: True)
    for name, value in (("LEAST_WORK", 1), ("_LEAST_SUM", 1), ("_STRIP", 8), ("_STRIP_ROWS", 2)):
        patch.setattr(inner, name, value)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """All products are left to oneDNN, and the calls are counted."""
    counted = Calls()
    leave_all(monkeypatch)
    monkeypatch.setattr(inner, "_linear", lambda: counted)
    with torch.no_grad():
        yield counted


@settings(max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    layouts=st.tuples(*[st.sampled_from(sorted(LAYOUTS))] * 2),
    seed=st.integers(0, 2**20),
)
def test_values(sizes: tuple[int, int, int], layouts: tuple[str, str], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        leave_all(patch)
        torch.manual_seed(seed)
        rows, length, columns = sizes
        a, b = (
            LAYOUTS[layouts[0]](torch.randn(rows, length)),
            LAYOUTS[layouts[1]](torch.randn(length, columns)),
        )
        want = (a.double() @ b.double()).float()
        got = inner.inner_product(a, b)
        assert got.is_contiguous()
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        batch = inner.inner_products(a.expand(3, -1, -1), torch.stack((b, -b, 2 * b)))
        torch.testing.assert_close(batch, torch.stack((want, -want, 2 * want)), atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(inner.scaled_product(a, b, 0.5), want / 2, atol=1e-5, rtol=1e-5)
        for beta, alpha in ((0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (1.0, -0.5), (0.5, 0.5)):
            out = torch.randn(rows, columns + 2)[:, 1:-1]
            added = beta * out + alpha * want
            inner.add_product(out, a, b, beta=beta, alpha=alpha)
            torch.testing.assert_close(out, added, atol=2e-5, rtol=1e-5)


def test_one_call_a_product(calls: Calls) -> None:
    a, b = torch.randn(2, 6, 5), torch.randn(2, 5, 3)
    inner.inner_product(a[0], b[0])
    assert calls.count == 1
    inner.inner_products(a, b)
    assert calls.count == 1 + 2 * 3  # of 6 rows, two at a time
    inner.inner_products(a[:1], b[:1])
    assert calls.count == 1 + 2 * 3 + 1


@pytest.mark.parametrize("way", ["float64", "gradients", "vmap", "forward mode", "fake", "off", "small"])
def test_not_where_somebody_looks_on(way: str, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(4, 5), torch.randn(5, 3)
    want = a @ b
    if way == "float64":
        got = inner.inner_product(a.double(), b.double()).float()
    elif way == "gradients":
        with torch.enable_grad():
            got = inner.inner_product(a.requires_grad_(), b)
        assert got.requires_grad
    elif way == "vmap":
        got = torch.vmap(lambda x: inner.inner_product(x, b))(a[None])[0]
    elif way == "forward mode":
        got, tangent = torch.func.jvp(lambda x: inner.inner_product(x, b), (a,), (a,))
        torch.testing.assert_close(tangent, want)
    elif way == "fake":
        with FakeTensorMode() as mode:
            fake = inner.inner_product(mode.from_tensor(a), mode.from_tensor(b))
        got = torch.zeros(fake.shape) + want
    elif way == "off":
        with torch.backends.mkldnn.flags(enabled=False):
            got = inner.inner_product(a, b)
    else:
        monkeypatch.setattr(inner, "LEAST_WORK", 4 * 5 * 3 + 1)
        got = inner.inner_product(a, b)
    assert calls.count == 0
    torch.testing.assert_close(got, want)


LAYERS = {
    "3x3": tnconv.ConvSpec(4, 6, 3, (8, 8), padding=1),
    "1x1 / 2": tnconv.ConvSpec(6, 4, 1, (7, 7), stride=2),
    "groups": tnconv.ConvSpec(4, 4, 2, (6, 6), stride=2, groups=2),
    "depthwise": tnconv.ConvSpec(4, 4, 3, (8, 8), groups=4, padding=1),
    "conv1d": tnconv.ConvSpec(3, 5, 4, (19,), stride=2, padding=2, dilation=2),
}
OPS = (
    "forward", "input_vjp", "weight_vjp", "kfac_expand", "kfac_reduce", "per_example_weight_vjp", "gradient_norm",
    "ggn_diagonal", "ggn_gram", "ntk",
)  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@pytest.mark.usefixtures("anew")
def test_operations_as_on_such_a_machine(op: str, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all products left to oneDNN, however small, float32 is as near to float64 as it is."""
    rates = msgspec.structs.replace(profile.shipped()[inner.WIDE], inner_product=1e9, inner_calls=1e-3)
    monkeypatch.setattr(profile, "LEAST_WORK", 1)
    monkeypatch.setattr("tnconv.backends.torch.lower.profile_of", lambda _: rates)
    for name, layer in LAYERS.items():
        function = tnconv.compile(layer, op, hints={"N": 3} | ({"V": 2} if op.startswith("ggn") else {}))
        torch.manual_seed(0)
        shapes = [
            [evaluate(s, {"N": 3, "V": 2}) for s in function.plan.arguments[n]] for n in function.arguments
        ]
        tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        got, want = function(*(t.float() for t in tensors)), function(*tensors)
        torch.testing.assert_close(
            got.double(), want, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert calls.count > 0


@pytest.mark.usefixtures("anew")
def test_the_source_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the rates of such a machine, and where a product is large."""
    rates = profile.shipped()
    layer = tnconv.ConvSpec(128, 128, 1, (1, 1))
    for kind, written in (("cpu", "torch.mm("), (inner.WIDE, "rt.inner_product(")):
        monkeypatch.setattr("tnconv.backends.torch.lower.profile_of", lambda _, kind=kind: rates[kind])
        source = tnconv.compile(layer, "weight_vjp", hints={"N": 512}, accuracy="local").source
        assert written in source
        assert "rt.inner_product(" not in tnconv.compile(layer, "weight_vjp", hints={"N": 8}).source


@pytest.mark.parametrize(
    ("named", "rate"), [("cpu", 1.0), (inner.WIDE, profile.shipped()[inner.WIDE].inner_product)]
)
def test_profile_by_name(named: str, rate: float) -> None:
    """`TNCONV_PROFILE` says which of the rates of a CPU are taken, so that sources are the same on all machines."""
    text = (
        "from tnconv.backends.torch.profile import profile_of\n"
        "from tnconv.backends.torch.numerics.inner import is_wide\n"
        "print(profile_of('cpu').inner_product, is_wide())"
    )
    made = subprocess.run(
        [sys.executable, "-c", text], env=os.environ | {inner.PROFILE: named, "TNCONV_CACHE": os.devnull},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout.split() == [str(rate), str(named == inner.WIDE)]


def test_no_such_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(inner.PROFILE, "fast")
    with pytest.raises(
        LoweringError, match="TNCONV_PROFILE is 'fast', but the profiles are cpu, cpu-wide, cuda"
    ):
        profile.shipped_for("cpu")


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("size", "stride"), [((13, 24), (2, 3)), ((12, 25), (3, 1)), ((31,), (4,)), ((12, 12, 13), (2, 1, 3))]
)
def test_cells_some_steps_apart_are_read_by_a_stride(
    size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a native call with a stride takes less than a copy before it, by the rates; the view is not written."""
    rates = msgspec.structs.replace(profile.shipped()["cpu"], dense_strides=0.1, matmul=1.0)
    monkeypatch.setattr("tnconv.backends.torch.lower.profile_of", lambda _: rates)
    layer = tnconv.ConvSpec(8, 16, 1, size, stride=stride)
    x, weight = torch.randn(3, 8, *size, dtype=dtype), torch.randn(16, 8, *(1,) * len(size), dtype=dtype)
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]
    weight.requires_grad_()
    want = convolution(x, weight, stride=stride)
    grad_output = torch.randn_like(want)
    (gradient,) = torch.autograd.grad(want, weight, grad_output)
    for op, arguments, value in (("forward", (x, weight), want), ("weight_vjp", (x, grad_output), gradient)):
        function = tnconv.compile(layer, op, hints={"N": 3}, accuracy="local")
        assert [c.kernel for c in function.program.choices] == ["dense convolution"]
        assert f"stride={stride}" in function.source
        assert "::" not in function.source
        torch.testing.assert_close(function(*(t.detach() for t in arguments)), value.detach())


@pytest.mark.parametrize(("blas", "onednn", "wide"), [(2.0, 1.0, True), (1.2, 1.0, False), (1.0, 2.0, False)])
def test_a_machine_is_told_by_time(
    blas: float, onednn: float, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(inner.PROFILE, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    times = iter([blas] * inner._TURNS + [onednn] * inner._TURNS)
    monkeypatch.setattr(inner, "_seconds", lambda _: next(times))
    assert inner.is_wide.__wrapped__() is wide


def test_another_processor_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(inner.PROFILE, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(inner, "_seconds", lambda _: pytest.fail("nothing is timed"))
    assert not inner.is_wide.__wrapped__()


def test_a_build_with_another_call_goes_on_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise RuntimeError("expected at most 5 arguments")

    monkeypatch.delenv(inner.PROFILE, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(inner, "_linear", lambda: refuse)
    assert not inner.is_wide.__wrapped__()
