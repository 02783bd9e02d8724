"""Layers by torch's own operations, as tracers get them, against the compiled ones, over random hyper-parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv.functional as F
from tests.contexts.subjects import normal
from tnconv.errors import ArgumentError
from tnconv.functional import by_torch

PAIRS = st.tuples(st.integers(0, 2), st.integers(0, 2))
MODES = st.sampled_from(["zeros", "circular", "reflect", "replicate"])


@st.composite
def fields(
    draw: st.DrawFn, most: int = 3
) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple]:
    """Dimensions, kernel, stride, dilation, and pairs of padding."""
    dims = draw(st.integers(1, most))

    def each(part: st.SearchStrategy) -> tuple:
        return tuple(draw(part) for _ in range(dims))

    return dims, each(st.integers(1, 3)), each(st.integers(1, 3)), each(st.integers(1, 2)), each(PAIRS)


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def images(dims: int, channels: int, seed: int = 0) -> list[Tensor]:
    """A batch, and one example."""
    x = normal(2, channels, *[5 + seed] * dims, seed=seed)
    return [x, x[0]]


@settings(max_examples=25)
@given(fields(), MODES, st.integers(1, 2), st.booleans())
def test_convolution(found, mode, groups, biased) -> None:
    dims, kernel, stride, dilation, pairs = found
    w, bias = normal(4, 2 // groups, *kernel, seed=1), normal(4, seed=2) if biased else None
    for x in images(dims, 2):
        want = F.convNd(x, w, bias, stride, pairs, dilation, groups, padding_mode=mode)
        same(by_torch.conv(dims, x, w, bias, (stride, pairs, dilation, groups, mode)), want)


@settings(max_examples=25)
@given(fields(), st.integers(1, 2), st.booleans())
def test_transposed_convolution(found, groups, biased) -> None:
    dims, kernel, stride, dilation, pairs = found
    w, bias = normal(4, 3, *kernel, seed=1), normal(3 * groups, seed=2) if biased else None
    extra = tuple(s - 1 for s in stride)
    for x in images(dims, 4):
        want = F.conv_transposeNd(x, w, bias, stride, pairs, extra, groups, dilation)
        same(by_torch.conv_transpose(dims, x, w, bias, (stride, pairs, extra, groups, dilation)), want)


@settings(max_examples=25)
@given(fields(), st.sampled_from([None, 5]))
def test_pooling_unfolding_and_folding(found, divisor) -> None:
    dims, kernel, stride, dilation, pairs = found
    half = tuple(
        (min(left, k // 2), min(right, k // 2)) for (left, right), k in zip(pairs, kernel, strict=True)
    )
    for x in images(dims, 2):
        same(
            by_torch.avg_pool(dims, x, (kernel, stride, half, False, True, divisor)),
            F.avg_poolNd(x, kernel, stride, half, divisor_override=divisor),
        )
        columns = F.unfoldNd(x, kernel, dilation, pairs, stride)
        same(by_torch.unfold(dims, x, (kernel, dilation, pairs, stride)), columns)
        size = tuple(x.shape[-dims:])
        if dims < 3:
            want = F.foldNd(columns, size, kernel, dilation, pairs, stride)
            same(by_torch.fold(columns, size, (kernel, dilation, pairs, stride)), want)
        else:
            with pytest.raises(ArgumentError, match="torch has no fold of 3 dimensions"):
                by_torch.fold(columns, size, (kernel, dilation, pairs, stride))
