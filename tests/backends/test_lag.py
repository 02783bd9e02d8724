"""Lag correlations against unfolding cell by cell, and their counted multiplications against the real ones."""

import itertools
import warnings
from contextlib import nullcontext
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tnconv.backends.torch.lag_scheme import (
    Scheme,
    Work,
    buffers,
    choose,
    inputs_last,
    multiplications,
    predicted,
    ways,
)
from tnconv.backends.torch.numerics.lag import correlate
from tnconv.ir.shapes import ConvAxis

Axes = dict[str, tuple[int, ...]]


def axes_of(*axes: tuple[int, int, int, int, int, int]) -> Axes:
    """From one (size, kernel, stride, dilation, offset, positions) an axis."""
    names = ("sizes", "kernel_size", "stride", "dilation", "offset", "positions")
    return dict(zip(names, zip(*axes, strict=True), strict=True))


def square(size: int, kernel: int, stride: int, padding: int) -> Axes:
    positions = (size + 2 * padding - kernel) // stride + 1
    return axes_of(*[(size, kernel, stride, 1, -padding, positions)] * 2)


def accepted(axes: Axes) -> list[Scheme]:
    """Each variant that takes the axes, unfolded and with the largest tile but one."""
    positions, dims = axes["positions"][-1], len(axes["positions"])
    found = [Scheme("windows"), Scheme("lag1")]
    if dims > 1 and axes["stride"][-2:] == (1, 1):
        found.append(Scheme("lag2"))
    divisors = [tile for tile in range(2, positions + 1) if positions % tile == 0]
    for tile in divisors[-2:-1] or divisors:
        found += [Scheme("windows", tile)] + ([Scheme("lag1", tile)] if dims > 1 else [])
    return found


def numbers_of(batch: int, channels: int, groups: int, axes: Axes) -> Work:
    return Work(batch, channels, groups, tuple(itertools.starmap(ConvAxis, zip(*axes.values(), strict=True))))


def without_sizes(axes: Axes) -> Axes:
    return {name: values for name, values in axes.items() if name != "sizes"}


def dense(x: Tensor, groups: int, axes: Axes) -> Tensor:
    """Read each cell of each window by its position, then one einsum."""
    patches = x.new_zeros(*x.shape[:2], *axes["kernel_size"], *axes["positions"])
    for k in itertools.product(*map(range, axes["kernel_size"])):
        for o in itertools.product(*map(range, axes["positions"])):
            terms = zip(axes["stride"], o, axes["dilation"], k, axes["offset"], strict=True)
            cell = tuple(s * at + d * tap + p for s, at, d, tap, p in terms)
            if all(0 <= i < size for i, size in zip(cell, x.shape[2:], strict=True)):
                patches[(..., *k, *o)] = x[(..., *cell)]
    rows = patches.reshape(
        x.shape[0], groups, x.shape[1] // groups * prod(axes["kernel_size"]), prod(axes["positions"])
    )
    return torch.einsum("ngro,ngso->grs", rows, rows.conj())


class Products(TorchDispatchMode):
    """Counts the scalar multiplications of the matrix products that run inside."""

    def __init__(self, strict: bool = True) -> None:
        super().__init__()
        self.count, self.strict = 0, strict

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        assert not self.strict or name not in (
            "matmul",
            "einsum",
            "dot",
            "mv",
            "addmv",
            "convolution",
            "mul",
        ), name
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:]
            self.count += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@st.composite
def any_axes(draw: st.DrawFn) -> Axes:
    count = draw(st.integers(1, 3))
    unit = draw(st.booleans())  # else lag2 is seldom accepted
    axes = []
    for place in range(count):
        size = draw(st.integers(1, 8 if count < 3 else 4))
        stride = 1 if unit and place >= count - 2 else draw(st.integers(1, 4))
        kernel, dilation = draw(st.integers(1, 4 if count < 3 else 3)), draw(st.integers(1, 3))
        axes.append(
            (
                size,
                kernel,
                stride,
                dilation,
                draw(st.integers(-7, 5)),
                draw(st.integers(1, 7 if count < 3 else 4)),
            )
        )
    return axes_of(*axes)


@given(any_axes(), st.integers(0, 2), st.integers(1, 3), st.integers(1, 3), st.booleans())
@settings(max_examples=40)
def test_every_variant_is_unfolding(axes: Axes, batch: int, groups: int, width: int, gradient: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, groups * width, *axes["sizes"], dtype=torch.float64, requires_grad=gradient)
    want = dense(x.detach(), groups, axes)
    numbers = numbers_of(batch, groups * width, groups, axes)
    for scheme in accepted(axes):
        arguments = {
            **without_sizes(axes),
            **scheme._asdict(),
            "inputs_last": not gradient,
            **ways(scheme, numbers).options,
        }
        with Products() if scheme.tile == 1 else nullcontext(Products()) as products:
            got = correlate(x, groups=groups, **arguments)
        assert got.requires_grad == gradient
        torch.testing.assert_close(
            got.detach(), want, rtol=1e-11, atol=1e-11, msg=lambda m, s=scheme: f"{s}: {m}"
        )
        scaled = correlate(x, groups=groups, **arguments, scale=-0.25)
        torch.testing.assert_close(scaled.detach(), -0.25 * want, rtol=1e-11, atol=1e-11)
        there = torch.randn(len(want), *(n + 1 for n in want.shape[1:]), dtype=torch.float64)
        out = there.clone()[:, 1:, 1:]  # a part of a matrix that is not Hermitian
        assert correlate(x.detach(), groups=groups, **arguments, scale=-0.25, out=out, beta=0.5) is out
        torch.testing.assert_close(out, 0.5 * there[:, 1:, 1:] - 0.25 * want, rtol=1e-11, atol=1e-11)
        assert scheme.tile > 1 or products.count == multiplications(scheme, numbers), scheme
        assert predicted(scheme, numbers) > 0
        assert all(size >= 0 for _, *sizes in buffers(scheme, numbers) for size in sizes)
    chosen = choose(numbers)
    assert Scheme(chosen.variant) in accepted(axes)
    assert axes["positions"][-1] % chosen.tile == 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("variant", ["windows", "lag1"])
def test_many_inputs_at_few_positions_are_innermost(variant: Any, stride: int) -> None:
    """As where positions and kernel are exchanged: each example is a group, its channels are the inputs."""
    axes = square(6, 3, stride, 1)
    assert inputs_last(Scheme(variant), numbers_of(24, 2, 2, axes))
    assert not inputs_last(Scheme(variant), numbers_of(2, 24, 2, axes))
    x = torch.randn(2, 24, 6, 6, dtype=torch.float64).transpose(0, 1)
    for last in (False, True):
        got = correlate(x, groups=2, **without_sizes(axes), variant=variant, inputs_last=last)
        torch.testing.assert_close(got, dense(x, 2, axes), rtol=1e-11, atol=1e-11)


EDGES = {
    "same": axes_of((5, 3, 1, 1, -1, 5), (6, 3, 1, 1, -1, 6)),
    "one position": axes_of((4, 3, 1, 1, 0, 1), (4, 3, 1, 1, 1, 1)),
    "kernel larger than input": axes_of((2, 5, 1, 1, -3, 4), (2, 5, 1, 2, -4, 3)),
    "crop on both sides": axes_of((9, 2, 1, 1, 2, 4), (9, 3, 1, 1, 3, 3)),
    "no cell above": axes_of((3, 2, 1, 1, 7, 2), (3, 2, 1, 1, 0, 2)),
    "no cell below": axes_of((3, 2, 1, 1, -9, 2), (3, 2, 1, 1, -9, 2)),
    "positions far beyond the input": axes_of((3, 2, 1, 3, -8, 14), (2, 3, 1, 2, -6, 13)),
    "stride and dilation share a factor": axes_of((7, 3, 1, 1, -1, 7), (16, 5, 4, 6, -9, 6)),
    "dilation longer than the line": axes_of((4, 3, 1, 5, -5, 4), (4, 3, 1, 5, -5, 4)),
}


@pytest.mark.parametrize("case", EDGES)
def test_borders(case: str) -> None:
    torch.manual_seed(0)
    axes = EDGES[case]
    x = torch.randn(2, 4, *axes["sizes"], dtype=torch.float64)
    for scheme in accepted(axes):
        got = correlate(x, groups=2, **without_sizes(axes), **scheme._asdict())
        torch.testing.assert_close(got, dense(x, 2, axes), rtol=1e-12, atol=1e-12)


GRADIENT_CASES = {
    "plane": (1, 1, axes_of((3, 2, 1, 1, -1, 3), (4, 2, 1, 1, -1, 4))),
    "strided groups": (2, 2, axes_of((3, 1, 2, 1, -1, 2), (5, 3, 2, 1, -1, 3))),
    "dilated line": (2, 1, axes_of((6, 3, 2, 3, -2, 3))),
    "crop, space": (1, 1, axes_of((2, 2, 1, 1, -1, 2), (3, 2, 1, 1, 1, 2), (3, 2, 1, 2, -1, 3))),
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients(case: str) -> None:
    torch.manual_seed(0)
    channels, groups, axes = GRADIENT_CASES[case]
    x = torch.randn(2, channels, *axes["sizes"], dtype=torch.float64, requires_grad=True)
    for scheme in accepted(axes):
        assert torch.autograd.gradcheck(
            lambda x, s=scheme: correlate(x, groups=groups, **without_sizes(axes), **s._asdict()),
            (x,),
            fast_mode=True,
        )


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_input_has_a_gradient(batch: int) -> None:
    axes = axes_of((3, 2, 1, 1, 8, 2), (3, 2, 1, 1, 8, 2))
    x = torch.ones(batch, 2, 3, 3, requires_grad=True)
    for scheme in accepted(axes):
        got = correlate(x, groups=1, **without_sizes(axes), **scheme._asdict())
        assert got.shape == (1, 8, 8)
        assert not got.detach().any()
        assert not torch.autograd.grad(got.sum(), x)[0].any()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.complex128, 1e-12)]
)
def test_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    """Of complex values the second factor is conjugated."""
    torch.manual_seed(0)
    for axes in (square(7, 3, 1, 1), square(7, 3, 2, 1)):
        x = torch.randn(2, 4, 7, 7, dtype=dtype)
        want = dense(x.to(torch.complex128 if dtype.is_complex else torch.float64), 2, axes)
        for scheme in accepted(axes):
            got = correlate(x, groups=2, **without_sizes(axes), **scheme._asdict())
            assert got.dtype == dtype
            error = (got.to(want.dtype) - want).abs().max() / want.abs().max()
            assert error < tolerance, scheme


def test_vectorised_over_a_leading_axis() -> None:
    torch.manual_seed(0)
    axes = square(5, 3, 1, 1)
    x = torch.randn(3, 2, 2, 5, 5, dtype=torch.float64)
    for scheme in accepted(axes):
        got = torch.vmap(lambda x, s=scheme: correlate(x, groups=1, **without_sizes(axes), **s._asdict()))(x)
        torch.testing.assert_close(got, torch.stack([dense(one, 1, axes) for one in x]))


@pytest.mark.parametrize("gradient", [False, True])
def test_many_channels_are_put_together_piece_by_piece(gradient: bool) -> None:
    """Written into views where nothing is recorded; else stacked."""
    torch.manual_seed(0)
    for axes in (square(5, 3, 1, 1), square(5, 3, 2, 1), axes_of((3, 2, 1, 1, 0, 2), (4, 3, 2, 1, -1, 2))):
        x = torch.randn(1, 64, *axes["sizes"], dtype=torch.float64, requires_grad=gradient)
        want = dense(x, 2, axes)
        for scheme in accepted(axes):
            with torch.profiler.profile() as profile:
                got = correlate(x, groups=2, **without_sizes(axes), **scheme._asdict())
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            out = torch.ones_like(want)
            correlate(x.detach(), groups=2, **without_sizes(axes), **scheme._asdict(), out=out, beta=2)
            torch.testing.assert_close(out, want + 2, rtol=1e-12, atol=1e-12)
            written = "aten::new_empty" in {event.key for event in profile.key_averages()}
            pieces = scheme.variant != "windows" and scheme.tile == 1
            assert written == (not gradient and pieces) or (not gradient and scheme.variant == "windows"), (
                scheme
            )
            if gradient:
                cotangent = torch.randn_like(got)
                (one,) = torch.autograd.grad(got, x, cotangent)
                (two,) = torch.autograd.grad(want, x, cotangent, retain_graph=True)
                torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_compiles_as_a_whole() -> None:
    """Without a compiler behind it: what `torch.compile` reads is one graph, and it warns of nothing."""
    axes = square(6, 3, 1, 1)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    options = {**without_sizes(axes), "groups": 2, "scale": 0.5}

    def by_all(x: torch.Tensor) -> list[torch.Tensor]:
        return [correlate(x, **options, **scheme._asdict()) for scheme in accepted(axes)]

    torch._dynamo.reset()
    torch._dynamo.utils.warn_once_cache.clear()  # each is given once a process
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.compile(by_all, backend="eager", fullgraph=True)(x)
    for got in found:
        torch.testing.assert_close(got, dense(x, 2, axes) * 0.5)


def test_second_derivative() -> None:
    torch.manual_seed(0)
    axes = square(3, 2, 1, 1)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for scheme in accepted(axes):
        assert torch.autograd.gradgradcheck(
            lambda x, s=scheme: correlate(x, groups=1, **without_sizes(axes), **s._asdict(), scale=0.5), (x,)
        )


def test_mean_over_nothing_is_no_number() -> None:
    axes = square(3, 2, 1, 1)
    for scheme in accepted(axes):
        got = correlate(
            torch.ones(0, 2, 3, 3), groups=1, **without_sizes(axes), **scheme._asdict(), scale=float("nan")
        )
        assert got.isnan().all()
        out, x = torch.ones(1, 8, 8), torch.ones(0, 2, 3, 3)
        correlate(x, groups=1, **without_sizes(axes), **scheme._asdict(), scale=float("nan"), out=out, beta=1)
        assert out.isnan().all()


def test_function_transforms() -> None:
    """Forward mode and functional reverse mode, whichever assembly they take."""
    torch.manual_seed(0)
    axes = square(4, 3, 1, 1)
    x, tangent = torch.randn(2, 1, 2, 4, 4, dtype=torch.float64)
    for scheme in accepted(axes):

        def loss(x: Tensor, s: Scheme = scheme) -> Tensor:
            return correlate(x, groups=1, **without_sizes(axes), **s._asdict()).square().sum()

        def plain(x: Tensor) -> Tensor:
            return dense(x, 1, axes).square().sum()

        (want,) = torch.autograd.grad(plain(leaf := x.clone().requires_grad_()), leaf)
        torch.testing.assert_close(torch.func.grad(loss)(x), want)
        torch.testing.assert_close(torch.func.jvp(loss, (x,), (tangent,))[1], (want * tangent).sum())


def test_stays_on_the_device() -> None:
    axes = square(6, 3, 1, 1)
    x = torch.empty(2, 4, 6, 6, device="meta")
    for scheme in accepted(axes):
        got = correlate(x, groups=2, **without_sizes(axes), **scheme._asdict())
        assert (got.device.type, got.shape) == ("meta", (2, 18, 18))


def every(batch: int, channels: int, axes: Axes) -> int:
    """Multiplications of one product of all windows."""
    return batch * prod(axes["positions"]) * (channels * prod(axes["kernel_size"])) ** 2


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
def test_lag1_takes_one_in_kernel_width(kernel: int) -> None:
    """K whole products of the K² an axis, and for each other pair at most 2 positions at the border."""
    size, padding = 56, (kernel - 1) // 2
    axes = square(size, kernel, 1, padding)
    numbers = numbers_of(4, 8, 1, axes)
    unfolded = every(4, 8, axes)
    border = unfolded // (kernel**2 * axes["positions"][1]) * kernel * (kernel - 1)
    count = multiplications(Scheme("lag1"), numbers)
    assert unfolded // kernel * 9 // 10 < count <= unfolded // kernel + border
    assert multiplications(Scheme("lag2"), numbers) < count


def test_lag1_of_a_line_without_padding_by_hand() -> None:
    """Chains of 3, 2 and 1 pairs: interiors of 6, 7 and 8 positions, then one each, then 2 + 1 and 1 of their own."""
    numbers = numbers_of(2, 5, 1, axes_of((10, 3, 1, 1, 0, 8)))
    assert multiplications(Scheme("lag1"), numbers) == 2 * 5**2 * ((6 + 1 + 1 + 2 + 1) + (7 + 1 + 1) + 8)
    assert multiplications(Scheme("windows"), numbers) == 2 * 15**2 * 8


LAYERS = {
    "stem 3@224": (3, 1, square(224, 7, 2, 3), "lag1"),
    "64@56": (64, 1, square(56, 3, 1, 1), "lag2"),
    "128@28": (128, 1, square(28, 3, 1, 1), "lag2"),
    "256@14": (256, 1, square(14, 3, 1, 1), "lag2"),
    "256@14 stride 2": (256, 1, square(14, 3, 2, 1), "windows"),
    "shortcut": (64, 1, square(56, 1, 2, 0), "windows"),
    "patches": (3, 1, square(224, 16, 16, 0), "windows"),
    "depthwise": (128, 128, square(128, 3, 1, 1), "lag1"),
    "depthwise 7": (128, 128, square(64, 7, 1, 3), "lag1"),
    "wide kernel": (8, 1, axes_of((500, 31, 1, 1, -15, 500)), "windows"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_choice(layer: str) -> None:
    channels, groups, axes, want = LAYERS[layer]
    numbers = numbers_of(4, channels, groups, axes)
    got = choose(numbers)
    assert got.variant == want
    unfolded = Scheme("windows")
    assert predicted(got, numbers) <= predicted(unfolded, numbers)
    if channels // groups >= 16:
        assert multiplications(got, numbers) <= multiplications(unfolded, numbers)


def test_few_channels_are_taken_in_tiles() -> None:
    for channels, groups, axes, _ in (LAYERS["depthwise"], LAYERS["depthwise 7"], LAYERS["stem 3@224"]):
        assert choose(numbers_of(4, channels, groups, axes)).tile > 1


def test_refusals() -> None:
    x = torch.zeros(1, 1, 4, 4)
    strided, plain = axes_of(*[(4, 2, 2, 1, 0, 2)] * 2), axes_of(*[(4, 2, 1, 1, 0, 3)] * 2)
    with pytest.raises(ValueError, match="no variant 'lag3'; pass one of lag2, lag1, windows"):
        correlate(x, groups=1, **without_sizes(strided), variant="lag3")
    with pytest.raises(ValueError, match="argument 6 is shorter"):
        correlate(x, groups=1, **{**without_sizes(strided), "positions": (2,)})
    line = axes_of((16, 2, 1, 1, 0, 3))
    for axes, scheme, match in (
        (
            strided,
            Scheme("lag2"),
            r"'lag2' needs two axes, the last two of stride 1, but the stride is \(2, 2\)",
        ),
        (line, Scheme("lag2"), r"'lag2' needs two axes, the last two of stride 1, .* stride is \(1,\)"),
        (
            plain,
            Scheme("windows", 2),
            r"3 positions along the last of 2 axes takes no tile of 2; .* \[1, 3\]",
        ),
        (plain, Scheme("lag2", 3), r"'lag2' with 3 positions .* takes no tile of 3; pass one of \[1\]"),
        (line, Scheme("lag1", 3), r"'lag1' with 3 positions along the last of 1 axes takes no tile of 3"),
    ):
        with pytest.raises(ValueError, match=match):
            correlate(
                x.view(1, 1, *([4] * 2 if len(axes["sizes"]) == 2 else [16])),
                groups=1,
                **without_sizes(axes),
                **scheme._asdict(),
            )
        with pytest.raises(ValueError, match=match):
            multiplications(scheme, numbers_of(1, 1, 1, axes))


@pytest.mark.parametrize("side", ["first row", "last row", "first column", "last column"])
@pytest.mark.parametrize(
    ("scheme", "stride", "kernel"),
    [
        (Scheme("lag2"), 1, 3),
        (Scheme("lag1"), 1, 3),
        (Scheme("lag1", 8), 1, 3),
        (Scheme("windows", 4), 1, 3),
        (Scheme("lag1"), 2, 3),
        (Scheme("lag1", 4), 2, 3),
    ],
)
def test_a_large_border_costs_no_digits(scheme: Scheme, stride: int, kernel: int, side: str) -> None:
    """Nothing is subtracted: the error relative to the diagonal is that of unfolding, whatever the border holds."""
    x = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    place = 0 if side.startswith("first") else -1
    x.select(2 if side.endswith("row") else 3, place).mul_(1e3)
    axes = without_sizes(square(16, kernel, stride, 1))
    single = correlate(x, groups=1, **scheme._asdict(), **axes).double()
    double = correlate(x.double(), groups=1, **scheme._asdict(), **axes)
    size = double.diagonal(dim1=1, dim2=2).sqrt()
    # A cell sums one product a window, and by Cauchy and Schwarz their sizes are at most those of the diagonal.
    terms = len(x) * prod(axes["positions"])
    eps = torch.finfo(x.dtype).eps
    assert ((single - double).abs() / (size[:, :, None] * size[:, None])).max() < 4 * eps * terms**0.5
