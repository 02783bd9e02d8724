"""Random small specs of the layers beside the convolution, over all their hyper-parameters."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tnconv.spec import ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec

Draw = Callable[[st.SearchStrategy[Any]], Any]
MAX_DIMS = 3


def each(draw: Draw, dims: int, values: st.SearchStrategy[int]) -> tuple[int, ...]:
    return tuple(draw(values) for _ in range(dims))


def numeric_padding(
    draw: Draw, most: tuple[int, ...]
) -> tuple[int | tuple[Any, ...], tuple[tuple[int, int], ...]]:
    """Padding of up to `most` cells as it is written, and as (left, right) pairs."""
    form = draw(st.sampled_from(("int", "tuple", "pairs")))
    if form == "int":
        value = draw(st.integers(0, min(most)))
        return value, ((value, value),) * len(most)
    if form == "tuple":
        values = tuple(draw(st.integers(0, m)) for m in most)
        return values, tuple((v, v) for v in values)
    pairs = tuple((draw(st.integers(0, m)), draw(st.integers(0, m))) for m in most)
    return pairs, pairs


def windowed(
    draw: Draw, reaches: tuple[int, ...], strides: tuple[int, ...], pairs: tuple[tuple[int, int], ...]
) -> tuple[int, ...]:
    """Input sizes for one to three windows and a rest of a stride."""
    found = []
    for reach, stride, pair in zip(reaches, strides, pairs, strict=True):
        outputs, rest = draw(st.integers(1, 3)), draw(st.integers(0, stride - 1))
        found.append(max(reach + stride * (outputs - 1) + rest - sum(pair), 1))
    return tuple(found)


@st.composite
def conv_transpose_specs(draw: Draw, max_dims: int = MAX_DIMS) -> ConvTransposeSpec:
    """Transposed convolutions: groups, output padding, padding beyond the kernel and on one side."""
    dims = draw(st.integers(1, max_dims))
    small = st.integers(1, 3 if dims < MAX_DIMS else 2)
    kernel, stride, dilation = (each(draw, dims, small) for _ in range(3))
    padding, pairs = numeric_padding(draw, (3,) * dims)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    sizes = []
    for s, d, k, e, pair in zip(stride, dilation, kernel, extra, pairs, strict=True):
        least = 1 + max(0, -(-(sum(pair) - e - d * (k - 1)) // s))
        sizes.append(least + draw(st.integers(0, 2)))
    groups = draw(st.integers(1, 3))
    return ConvTransposeSpec(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 3)),
        kernel,
        tuple(sizes),
        stride=stride,
        padding=padding,
        output_padding=extra,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )


@st.composite
def linear_specs(draw: Draw, max_dims: int = MAX_DIMS) -> LinearSpec:
    """Linear layers with none to three sequence axes."""
    sizes = each(draw, draw(st.integers(0, max_dims)), st.integers(1, 4))
    return LinearSpec(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        input_size=sizes[0] if len(sizes) == 1 and draw(st.booleans()) else sizes,
        bias=draw(st.booleans()),
    )


@st.composite
def pool_specs(draw: Draw) -> PoolSpec:
    """Average pooling: strides below, at and above the kernel size, padding, divisors, unknown channels."""
    dims = draw(st.integers(1, MAX_DIMS))
    kernel = each(draw, dims, st.integers(1, 4 if dims < MAX_DIMS else 3))
    stride = draw(st.none() | st.just(each(draw, dims, st.integers(1, 4))))
    padding, pairs = numeric_padding(draw, tuple(k // 2 for k in kernel))
    return PoolSpec(
        draw(st.integers(1, 3) | st.just("C")),
        kernel,
        windowed(draw, kernel, stride or kernel, pairs),
        stride=stride,
        padding=padding,
        divisor=draw(st.none() | st.integers(1, 7)),
    )


@st.composite
def unfold_specs(draw: Draw, dims: int | None = None) -> UnfoldSpec:
    """Unfolding, with unknown channels too."""
    dims = dims or draw(st.integers(1, MAX_DIMS))
    small = st.integers(1, 3 if dims < MAX_DIMS else 2)
    kernel, stride, dilation = (each(draw, dims, small) for _ in range(3))
    padding, pairs = numeric_padding(draw, (2,) * dims)
    reaches = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    return UnfoldSpec(
        draw(st.integers(1, 3) | st.just("C")),
        kernel,
        windowed(draw, reaches, stride, pairs),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
