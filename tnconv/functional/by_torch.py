"""The same layers by operations of torch: for inputs whose sizes a tracer leaves open.

A compiled layer has the sizes of its input, without the batch. Under `torch.export` with a dynamic height, under
`make_fx` with symbolic shapes and under `torch.jit.trace` sizes are symbols or tensors, and what is traced should hold
for others too; torch's own convolutions do.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tnconv.backends.torch.context import fixed
from tnconv.backends.torch.numerics.depthwise import NATIVE, TRANSPOSED
from tnconv.errors import ArgumentError
from tnconv.functional.compiled_calls import over_groups
from tnconv.ir.shapes import covered
from tnconv.spec import ConvSpec, ConvTransposeSpec, PoolSpec, UnfoldSpec
from tnconv.spec.layer_spec import of_numbers

Pairs = Sequence[tuple[int, int]]
_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGE = 2**40  # of an input that every kernel fits into


def conv(dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]) -> Tensor:
    """`tnconv.functional.convNd`; options are stride, padding, dilation, groups, padding_mode."""
    native = _of(NATIVE, dims, "convolution")
    stride, padding, dilation, groups, mode = options
    outside, inside, *kernel = fixed(weight)
    fields = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": mode,
    }
    size, inside = (_LARGE,) * dims, over_groups(inside, groups)
    spec = ConvSpec(inside, outside, tuple(kernel), size, bias=bias is not None, **fields)
    around = spec.paddings
    if mode != "zeros" or not _even(around):
        input, around = _padded(input, around, dims, mode), ((0, 0),) * dims
    options = (spec.strides, tuple(left for left, _ in around), spec.dilations, groups)
    result: Tensor = native(input, weight, bias, *options)
    return result


def conv_transpose(
    dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]
) -> Tensor:
    """`tnconv.functional.conv_transposeNd`; options are stride, padding, output_padding, groups, dilation."""
    native = _of(TRANSPOSED, dims, "transposed convolution")
    stride, padding, output_padding, groups, dilation = options
    inside, outside, *kernel = fixed(weight)
    fields = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    outside, size = over_groups(outside, groups), (_LARGE,) * dims
    spec = ConvTransposeSpec(inside, outside, tuple(kernel), size, groups=groups, **fields)
    if _even(spec.paddings):
        cut = tuple(left for left, _ in spec.paddings)
        whole: Tensor = native(
            input, weight, bias, spec.strides, cut, spec.output_paddings, groups, spec.dilations
        )
        return whole
    y: Tensor = native(input, weight, None, spec.strides, 0, 0, groups, spec.dilations)
    ends = [
        (-left, extra - right)
        for (left, right), extra in zip(spec.paddings, spec.output_paddings, strict=True)
    ]
    y = F.pad(y, _sides(ends))
    return y if bias is None else y + bias.reshape(-1, *(1,) * dims)


def avg_pool(dims: int, input: Tensor, options: tuple[Any, ...]) -> Tensor:
    """`tnconv.functional.avg_poolNd`; options are those behind the input."""
    native = _of(_POOL, dims, "average pooling")
    kernel_size, stride, padding, ceil_mode, counted, divisor = options
    spec = of_numbers(
        PoolSpec(1, kernel_size, (_LARGE,) * dims, stride=stride, padding=padding, divisor=divisor)
    )
    if ceil_mode or not counted:
        if not _even(spec.paddings) or (dims == 1 and divisor is not None):
            raise _unknown(dims, "average pooling with such windows")
        around = tuple(left for left, _ in spec.paddings)
        last = () if dims == 1 else (divisor,)
        cut: Tensor = native(input, spec.kernel_sizes, spec.strides, around, ceil_mode, counted, *last)
        return cut
    mean: Tensor = native(_padded(input, spec.paddings, dims), spec.kernel_sizes, spec.strides)
    return mean if divisor is None else mean * (math.prod(spec.kernel_sizes) / divisor)


def unfold(dims: int, input: Tensor, options: tuple[Any, ...]) -> Tensor:
    """`tnconv.functional.unfoldNd`; options are kernel_size, dilation, padding, stride."""
    kernel_size, dilation, padding, stride = options
    fields = {"stride": stride, "padding": padding, "dilation": dilation}
    spec = of_numbers(UnfoldSpec(1, kernel_size, (_LARGE,) * dims, **fields))
    single = input.dim() == dims + 1
    x = _padded(input[None] if single else input, spec.paddings, dims)
    for place, (k, d, s) in enumerate(zip(spec.kernel_sizes, spec.dilations, spec.strides, strict=True), 2):
        x = x.unfold(place, covered(k, d), s)[..., ::d]
    cells, positions = range(2 + dims, 2 + 2 * dims), range(2, 2 + dims)
    x = x.permute(0, 1, *cells, *positions).flatten(2 + dims).flatten(1, 1 + dims)
    return x[0] if single else x


def fold(input: Tensor, output_size: tuple[int, ...], options: tuple[Any, ...]) -> Tensor:
    """`tnconv.functional.foldNd`; options are kernel_size, dilation, padding, stride."""
    dims = len(output_size)
    if dims > 2:
        raise _unknown(dims, "fold")
    kernel_size, dilation, padding, stride = options
    fields = {"stride": stride, "padding": padding, "dilation": dilation}
    spec = of_numbers(UnfoldSpec(1, kernel_size, output_size, **fields))
    lines = (1,) * (2 - dims)  # one dimension is a plane of one row
    wide = [size + sum(ends) for size, ends in zip(spec.input_sizes, spec.paddings, strict=True)]
    kernel, apart, steps = ((*lines, *each) for each in (spec.kernel_sizes, spec.dilations, spec.strides))
    y: Tensor = F.fold(input, (*lines, *wide), kernel, apart, 0, steps)
    y = F.pad(y, _sides([(-left, -right) for left, right in spec.paddings]))
    return y if dims == 2 else y.squeeze(-2)


def example(dims: int) -> tuple[int, ...]:
    """The sizes of an input into which every kernel fits, one channel in front."""
    return (1, *(_LARGE,) * dims)


def _padded(x: Tensor, around: Pairs, dims: int, mode: str = "zeros") -> Tensor:
    if not any(map(any, around)):
        return x
    name = "constant" if mode == "zeros" else mode
    if x.dim() == dims + 1:
        return F.pad(x[None], _sides(around), name)[0]
    return F.pad(x, _sides(around), name)


def _sides(around: Pairs) -> list[int]:
    return [side for pair in reversed(around) for side in pair]


def _even(around: Pairs) -> bool:
    return all(left == right for left, right in around)


def _of(table: dict[int, Any], dims: int, what: str) -> Any:
    if dims not in table:
        raise _unknown(dims, what)
    return table[dims]


def _unknown(dims: int, what: str) -> ArgumentError:
    return ArgumentError(
        f"sizes of the input are left open by a tracer, and torch has no {what} of {dims} dimensions that it could "
        "trace for all of them; trace with fixed sizes, or call it outside of what is traced"
    )
