"""Convolutions by Fourier transforms: values, gradients, and when they are chosen."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import tnconv
from tnconv.backends.torch.numerics import fourier

NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def calls(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    groups, inner, outer, batch = (draw(st.integers(1, 3)) for _ in range(4))
    kernel = [draw(st.integers(1, 9 if rank == 1 else 4)) for _ in range(rank)]
    padding = tuple(draw(st.integers(0, 4)) for _ in range(rank))
    size = [draw(st.integers(max(1, k - 2 * p), 9)) for k, p in zip(kernel, padding, strict=True)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    bias = random(groups * outer) if draw(st.booleans()) else None
    options = {"stride": (1,) * rank, "padding": padding, "dilation": (1,) * rank, "groups": groups}
    return random(batch, groups * inner, *size), random(groups * outer, inner, *kernel), bias, options


@given(calls())
def test_the_value_is_that_of_the_native_call(call: Any) -> None:
    image, weight, bias, options = call
    want = NATIVE[len(options["stride"])](image, weight, bias, **options)
    torch.testing.assert_close(
        fourier.convolution(image, weight, bias, **options), want, rtol=1e-9, atol=1e-9
    )


@given(st.integers(1, 5000))
def test_lengths_are_enough_and_not_much_more(cells: int) -> None:
    found = fourier.length(cells)
    assert cells <= found <= max(cells + 2, 1.25 * cells)
    while found % 2 == 0:
        found //= 2
    assert found in (1, 3, 5, 9, 15)


def test_gradients_and_other_types() -> None:
    options: dict[str, Any] = {"stride": (1,), "padding": (2,), "dilation": (1,), "groups": 2}
    image = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: fourier.convolution(x, w, **options), (image, weight))
    for dtype in (torch.bfloat16, torch.complex64):
        x, w = image.detach().to(dtype), weight.detach().to(dtype)
        assert torch.equal(fourier.convolution(x, w, **options), F.conv1d(x, w, padding=2, groups=2))
    empty = fourier.convolution(image[:0], weight, **options)
    assert empty.shape == (0, 6, 8)


@pytest.mark.parametrize(("kernel", "chosen"), [(1023, True), (3, False), (31, False)])
def test_it_is_chosen_for_large_kernels(kernel: int, chosen: bool) -> None:
    spec = tnconv.ConvSpec(32, 32, kernel, (4096,), padding=kernel // 2, groups=32)
    function = tnconv.compile(spec, hints={"N": 2}, accuracy="norm")
    assert (function.program.choices[-1].kernel == "fourier convolution") is chosen
    x, w = torch.randn(2, 32, 4096), torch.randn(32, 1, kernel)
    want = F.conv1d(x.double(), w.double(), padding=kernel // 2, groups=32)
    got = function(x=x, weight=w).double()
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
