"""tnconv.functional against torch.nn.functional over random hyper-parameters; derivatives, transforms, refusals."""

import itertools
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv
import tnconv.functional as TF
from tests.layer_strategies import conv_transpose_specs, pool_specs, unfold_specs
from tests.ops.test_operations import convolved, tensors
from tests.spec.test_layers import avg_pool, conv_transpose, padded
from tnconv import ConvSpec, ConvTransposeSpec
from tnconv.compiler import driver
from tnconv.compiler.compile_cache import COMPILED
from tnconv.errors import ArgumentError, SpecError
from tnconv.testing import conv_specs

quick = settings(max_examples=25, deadline=None, derandomize=True)
few = settings(max_examples=8, deadline=None, derandomize=True)
batched = st.booleans()


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def conv(spec: ConvSpec, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The call that a spec describes."""
    options = (spec.stride, spec.padding, spec.dilation, spec.groups)
    return TF.convNd(x, weight, bias, *options, padding_mode=spec.padding_mode)


def transposed_tensors(spec: ConvTransposeSpec) -> list[Tensor]:
    x = random(2, spec.in_channels, *spec.input_sizes)
    weight = random(spec.in_channels, spec.out_channels // spec.groups, *spec.kernel_sizes, seed=1)
    return [x, weight, *([random(spec.out_channels, seed=2)] if spec.bias else [])]


# -- values --------------------------------------------------------------------------------------------


@quick
@given(conv_specs(), batched)
def test_convolution_has_the_value_of_torchs(spec, batch):
    values = tensors(spec, 2)
    bias = values["bias"] if spec.bias else None
    want = convolved(spec, values["x"], values["weight"], bias)
    x = values["x"] if batch else values["x"][1]
    close(conv(spec, x, values["weight"], bias), want if batch else want[1])


@quick
@given(conv_transpose_specs(), batched)
def test_transposed_convolution_has_the_value_of_torchs(spec, batch):
    x, *parameters = transposed_tensors(spec)
    want = conv_transpose(spec, x, *parameters)
    bias = parameters[1] if spec.bias else None
    options = (spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation)
    got = TF.conv_transposeNd(x if batch else x[1], parameters[0], bias, *options)
    close(got, want if batch else want[1])


@quick
@given(unfold_specs(dims=2), batched)
def test_unfold_and_fold_have_the_value_of_torchs(spec, batch):
    x = random(2, 3, *spec.input_sizes)
    columns = F.unfold(padded(x, spec.paddings), spec.kernel_sizes, spec.dilations, 0, spec.strides)
    options = (spec.kernel_sizes, spec.dilation, spec.padding, spec.stride)
    close(TF.unfoldNd(x if batch else x[1], *options), columns if batch else columns[1])

    rows = random(*columns.shape, seed=1)
    sizes = spec.padded_sizes
    folded = F.fold(rows, sizes, spec.kernel_sizes, spec.dilations, 0, spec.strides)
    for place, (left, _) in enumerate(spec.paddings, 2):
        folded = folded.narrow(place, left, spec.input_sizes[place - 2])
    got = TF.foldNd(rows if batch else rows[1], spec.input_sizes, *options)
    close(got, folded if batch else folded[1])


@quick
@given(unfold_specs())
def test_fold_is_the_adjoint_of_unfold(spec):
    x = random(2, 3, *spec.input_sizes)
    options = (spec.kernel_sizes, spec.dilation, spec.padding, spec.stride)
    columns = TF.unfoldNd(x, *options)
    rows = random(*columns.shape, seed=1)
    assert columns.shape == (2, 3 * prod(spec.kernel_sizes), prod(spec.output_sizes))
    close((columns * rows).sum(), (x * TF.foldNd(rows, spec.input_sizes, *options)).sum())


@quick
@given(pool_specs(), batched)
def test_average_pooling_has_the_value_of_torchs(spec, batch):
    x = random(2, 3, *spec.input_sizes)
    want = avg_pool(spec, x)
    got = TF.avg_poolNd(
        x if batch else x[1], spec.kernel_sizes, spec.stride, spec.padding, divisor_override=spec.divisor
    )
    close(got, want if batch else want[1])


@st.composite
def torch_pools(draw):
    """An input and the arguments of a pooling that torch defines: windows may reach beyond the padding."""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    kernel, stride, sizes = each(1, 4), each(1, 4), each(4, 7)
    padding = [draw(st.integers(0, min(kernel) // 2))] * dims  # torch compares those of other dimensions
    options = {"ceil_mode": draw(st.booleans()), "count_include_pad": draw(st.booleans())}
    if dims > 1 and draw(st.booleans()):
        options["divisor_override"] = draw(st.integers(1, 5))
    return dims, torch.randn(2, 3, *sizes, dtype=torch.float64), (kernel, stride, padding), options


@settings(max_examples=80)
@given(case=torch_pools())
def test_pooling_has_the_values_and_gradients_of_torchs(case):
    dims, x, fields, options = case
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = getattr(TF, f"avg_pool{dims}d")(ours, *fields, **options)
    want = getattr(F, f"avg_pool{dims}d")(theirs, *fields, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(TF.avg_poolNd(ours, *fields, **options), got, rtol=0, atol=0)
    grad = torch.randn_like(want)
    got.backward(grad)
    want.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [(), (2,), (2, 3), (2, 3, 4), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [None, random(5, seed=2)], ids=["", "bias"])
def test_linear_has_the_value_of_torchs(axes, bias):
    x, weight = random(*axes, 4), random(5, 4, seed=1)
    close(TF.linear(x, weight, bias), F.linear(x, weight, bias))
    if len(axes) > 1:
        moved = x.transpose(0, 1)
        close(TF.linear(moved, weight, bias), F.linear(moved, weight, bias))


@pytest.mark.parametrize("dims", [4, 5])
def test_more_dimensions_than_torch_has(dims):
    kernel, sizes = (2, 1, 2, 2, 1)[:dims], (3, 2, 4, 2, 2)[:dims]
    spec = ConvSpec(
        4,
        6,
        kernel,
        sizes,
        stride=(1, 2, 2, 1, 1)[:dims],
        padding=1,
        groups=2,
        dilation=(2, 1, 1, 1, 1)[:dims],
    )
    values = tensors(spec, 2)
    x, weight, bias = values["x"].requires_grad_(), values["weight"], values["bias"]
    want = convolved(spec, x, weight, bias)
    close(conv(spec, x, weight, bias), want)
    close(conv(spec, x[1], weight, bias), want[1])

    grad = values["grad_output"]  # a transposed convolution is the adjoint of a convolution
    (want,) = torch.autograd.grad(want, x, grad)
    rest = tuple((p - r) % s for p, r, s in zip(spec.padded_sizes, spec.reaches, spec.strides, strict=True))
    got = TF.conv_transposeNd(grad, weight, None, spec.stride, 1, rest, 2, spec.dilation)
    close(got, want)


@pytest.mark.parametrize("dims", [1, 3, 4, 5])
def test_windows_of_any_number_of_dimensions(dims):
    """By one slice for each cell of the kernel."""
    kernel, sizes, step = (2, 3, 1, 2, 1)[:dims], (5, 4, 2, 3, 2)[:dims], (2, 1, 1, 1, 1)[:dims]
    x = random(2, 3, *sizes)
    wide = F.pad(x, [1, 1] * dims)
    outputs = [(n + 2 - k) // s + 1 for n, k, s in zip(sizes, kernel, step, strict=True)]
    columns = []
    for cell in itertools.product(*map(range, kernel)):
        cuts = (slice(c, c + s * (o - 1) + 1, s) for c, s, o in zip(cell, step, outputs, strict=True))
        columns.append(wide[(..., *cuts)].flatten(2))
    close(TF.unfoldNd(x, kernel, padding=1, stride=step), torch.stack(columns, 2).flatten(1, 2))


def test_the_names_for_a_number_of_dimensions():
    for dims in (1, 2, 3):
        x, weight = random(2, 4, *(5, 4, 3)[:dims]), random(6, 2, *(3, 2, 2)[:dims], seed=1)
        bias = random(6, seed=2)
        ours, theirs = getattr(TF, f"conv{dims}d"), getattr(F, f"conv{dims}d")
        close(ours(x, weight, bias, 2, 1, 1, 2), theirs(x, weight, bias, 2, 1, 1, 2))
        weight = random(4, 3, *(3, 2, 2)[:dims], seed=1)
        ours, theirs = getattr(TF, f"conv_transpose{dims}d"), getattr(F, f"conv_transpose{dims}d")
        close(ours(x, weight, bias, 2, 1, 1, 2, 1), theirs(x, weight, bias, 2, 1, 1, 2, 1))


@pytest.mark.parametrize("padding", ["same", "valid", [1, 0], (1, 0)])
def test_padding_as_torch_takes_it(padding):
    x, weight = random(2, 3, 6, 5), random(4, 3, 2, 3, seed=1)
    want = F.conv2d(x, weight, padding=padding, dilation=[1, 2])
    close(TF.conv2d(x, weight, padding=padding, dilation=[1, 2]), want)


def test_asymmetric_padding_and_modes():
    x, weight = random(2, 3, 6, 5), random(4, 3, 3, 3, seed=1)
    for mode in ("zeros", "circular", "reflect", "replicate"):
        wide = F.pad(x, (2, 1, 0, 3), mode="constant" if mode == "zeros" else mode)
        got = TF.conv2d(x, weight, padding=((0, 3), (2, 1)), padding_mode=mode)
        close(got, F.conv2d(wide, weight))


# -- kinds of tensors ----------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (
        lambda x, w, b: TF.conv2d(x, w, b, (2, 1), 1, (1, 2), 2),
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), 1, (1, 2), 2),
        ((2, 4, 5, 5), (6, 2, 3, 2), (6,)),
    ),
    "conv_transpose2d": (
        lambda x, w, b: TF.conv_transpose2d(x, w, b, (2, 1), 1, (1, 0), 2, (1, 2)),
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 1), 1, (1, 0), 2, (1, 2)),
        ((2, 4, 3, 3), (4, 3, 3, 2), (6,)),
    ),
    "unfold": (
        lambda x: TF.unfoldNd(x, (3, 2), (1, 2), 1, (2, 1)),
        lambda x: F.unfold(x, (3, 2), (1, 2), 1, (2, 1)),
        ((2, 3, 5, 4),),
    ),
    "fold": (
        lambda x: TF.foldNd(x, (5, 4), (3, 2), (1, 2), 1, (2, 1)),
        lambda x: F.fold(x, (5, 4), (3, 2), (1, 2), 1, (2, 1)),
        ((2, 18, 12),),
    ),
    "linear": (TF.linear, F.linear, ((2, 3, 4), (5, 4), (5,))),
    "avg_pool": (
        lambda x: TF.avg_poolNd(x, (3, 2), 2, 1),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1),
        ((2, 3, 6, 5),),
    ),
}
each_call = pytest.mark.parametrize("name", CALLS)


def case(
    name: str, dtype: torch.dtype = torch.float64
) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    ours, theirs, shapes = CALLS[name]
    return ours, theirs, [random(*shape, dtype=dtype, seed=n) for n, shape in enumerate(shapes)]


@each_call
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.complex64, 1e-5)],
    ids=str,
)
def test_other_dtypes(name, dtype, tolerance):
    ours, _, values = case(name, dtype)
    _, theirs, _ = case(name)
    exact = (
        theirs(*(v.to(torch.complex128 if dtype.is_complex else torch.float64) for v in values))
        if (name != "avg_pool" or not dtype.is_complex)
        else torch.complex(theirs(values[0].real.double()), theirs(values[0].imag.double()))
    )
    got = ours(*values)
    assert got.dtype == dtype
    torch.testing.assert_close(got.to(exact.dtype), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "linear"])
def test_autocast_casts_as_torch_does(name):
    ours, theirs, values = case(name, torch.float32)
    values[0] = values[0].bfloat16()  # as a layer before this one makes it
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(*values), theirs(*values)
        assert got.dtype == want.dtype == torch.bfloat16
        torch.testing.assert_close(got, want, rtol=5e-2, atol=5e-2)
        doubles = [v.double() for v in values]
        assert ours(*doubles).dtype == theirs(*doubles).dtype == torch.float64
    with pytest.raises(ArgumentError, match=r"'weight' has dtype torch.float32 but 'x' has torch.bfloat16"):
        ours(*values)


@each_call
def test_layouts_in_memory(name):
    ours, theirs, values = case(name)
    want = theirs(*values)
    swapped = [v.transpose(0, -1).contiguous().transpose(0, -1) for v in values]
    every_other = [v.repeat_interleave(2, -1)[..., ::2] for v in values]
    last = [v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for v in values]
    for other in (swapped, every_other, last):
        close(ours(*other), want)


@each_call
def test_an_empty_batch(name):
    ours, theirs, (x, *parameters) = case(name)
    x = x[:0].requires_grad_()
    got = ours(x, *parameters)
    assert got.shape == (0, *theirs(*case(name)[2]).shape[1:])
    assert torch.autograd.grad(got.sum(), x)[0].shape == x.shape


# -- derivatives and transforms ------------------------------------------------------------------------


@each_call
def test_derivatives_once_and_twice(name):
    ours, _, values = case(name)
    leaves = [v.requires_grad_() for v in values]
    assert torch.autograd.gradcheck(ours, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, leaves, fast_mode=True)


@few
@given(conv_specs(max_dims=2, max_channels=2, max_output=2))
def test_derivatives_of_random_convolutions(spec):
    values = tensors(spec, 2)
    names = ("x", "weight", "bias") if spec.bias else ("x", "weight")
    leaves = [values[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *t: conv(spec, *t), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: conv(spec, *t), leaves, fast_mode=True)


@each_call
def test_function_transforms(name):
    ours, theirs, values = case(name)
    tangents = [random(*v.shape, seed=9 + n) for n, v in enumerate(values)]
    cotangent = random(*theirs(*values).shape, seed=5)
    for got, want in zip(
        torch.func.jvp(ours, tuple(values), tuple(tangents)),
        torch.func.jvp(theirs, tuple(values), tuple(tangents)),
        strict=True,
    ):
        close(got, want)
    pulled, expected = (torch.func.vjp(f, *values)[1](cotangent) for f in (ours, theirs))
    for got, want in zip(pulled, expected, strict=True):
        close(got, want)
    stacks = [torch.stack([v, 2 * v, v - 1]) for v in values]
    for axis in range(len(values)):  # over one argument, and over all
        dims = tuple(0 if n == axis else None for n in range(len(values)))
        given = [s if n == axis else v for n, (s, v) in enumerate(zip(stacks, values, strict=True))]
        close(torch.func.vmap(ours, dims)(*given), torch.func.vmap(theirs, dims)(*given))
    close(torch.func.vmap(ours)(*stacks), torch.func.vmap(theirs)(*stacks))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [(TF.linear, ((2, 4), (5, 4))), (TF.conv1d, ((2, 4, 6), (5, 4, 1)))],
    ids=["linear", "pointwise"],
)
def test_vmap_over_the_bias_alone(function, shapes):
    x, weight = (random(*shape) for shape in shapes)
    biases = random(3, 5)
    got = torch.func.vmap(function, (None, None, 0))(x, weight, biases)
    close(got, torch.stack([function(x, weight, bias) for bias in biases]))


def test_torch_compile_takes_a_call_whole():
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = TF.conv2d(x, weight, bias, [1, 1], "same", groups=2)
        return TF.foldNd(TF.unfoldNd(y, (2, 2)), y.shape[2:], 2) + y

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv2d(x, weight, bias, [1, 1], "same", groups=2)
        return F.fold(F.unfold(y, (2, 2)), y.shape[2:], 2) + y

    whole = torch.compile(function, fullgraph=True, backend="eager")
    weight, bias = random(6, 2, 3, 3), random(6)
    for shape in ((2, 4, 5, 5), (3, 4, 7, 7), (3, 4, 8, 6)):  # the second compilation has open sizes
        x = random(*shape)
        close(whole(x, weight, bias), reference(x, weight, bias))


# -- what is kept --------------------------------------------------------------------------------------


def test_a_layer_is_compiled_once(monkeypatch):
    built: list[object] = []

    def counted(*given: Any) -> Any:
        built.append(given)
        return made(*given)

    made = driver._made
    monkeypatch.setattr(driver, "_made", counted)
    COMPILED.clear()
    x, weight = random(2, 3, 11, 13), random(5, 3, 2, 2, seed=1)
    want = F.conv2d(x, weight, None, 1, 1)
    for batch in (1, 2, 1, 2):  # the batch size is no part of a layer
        close(TF.conv2d(x[:batch], weight, None, 1, 1), want[:batch])
    for written in ((1, 1), [1, 1], ((1, 1), (1, 1))):  # nor is the way in which it is written
        close(TF.conv2d(x, weight, padding=written), want)
        close(TF.conv2d(x[0], weight, padding=written), want[0])
    assert len(built) == 1
    TF.conv2d(x, weight, random(5), 1, 1)
    TF.conv2d(x, weight, padding=0)
    assert len(built) == 3


# -- refusals ------------------------------------------------------------------------------------------

X, W = torch.zeros(2, 4, 8, 8), torch.zeros(6, 4, 3, 3)
REFUSED: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: TF.conv2d(X[:, :3], W), ArgumentError, r"input has 3 channels but weight \(6, 4, 3, 3\) with groups=1 takes 4; change"),
    (lambda: TF.conv2d(X, W, groups=2), ArgumentError, r"input has 4 channels but weight .* with groups=2 takes 8; change"),
    (lambda: TF.conv2d(X, W, torch.zeros(5)), ArgumentError, r"bias has shape \(5,\) but weight .* has 6 output channels; give a bias of shape \(6,\)"),
    (lambda: TF.conv1d(X, W), ArgumentError, r"weight has 4 axes \(6, 4, 3, 3\) but 3 are needed for 1 spatial dimension\(s\); take"),
    (lambda: TF.conv2d(X[0, 0], W), ArgumentError, r"input has 2 axes \(8, 8\) but \[N, C, I1, I2\] or \[C, I1, I2\] is needed; add"),
    (lambda: TF.convNd(X[None], W), ArgumentError, r"input has 5 axes \(1, 2, 4, 8, 8\) but \[N, C, I1, I2\]"),
    (lambda: TF.convNd(X, [[1.0]]), ArgumentError, "'weight' is a list, not a tensor; pass"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(3, W), ArgumentError, "'input' is a int, not a tensor; pass"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X.numpy(), W), ArgumentError, "'input' is a ndarray, not a tensor; pass"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X, W, 0.5), ArgumentError, "'bias' is a float, not a tensor"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X.double(), W), ArgumentError, "'weight' has dtype torch.float32 but 'x' has torch.float64; convert"),
    (lambda: TF.conv2d(X, W, groups=5), ArgumentError, "input has 4 channels but weight .* with groups=5 takes 20"),
    (lambda: TF.conv2d(X, W[:, :1], groups=4), SpecError, "groups 4 does not divide out_channels 6; choose"),
    (lambda: TF.conv2d(X, W, groups="2"), SpecError, "groups is '2': .*; give an int"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X, W, groups=0), SpecError, "groups is 0 but 0 is not at least 1; give"),
    (lambda: TF.conv2d(X, W, stride=0), SpecError, "stride is 0 but 0 is not at least 1; give"),
    (lambda: TF.conv2d(X, W, stride=1.0), SpecError, "stride is 1.0: .*; give an int"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X, W, stride={1: 2}), SpecError, r"\{1: 2\} is a dict; give an int, or a tuple"),  # type: ignore[arg-type]
    (lambda: TF.conv2d(X, W, stride=(1, 1, 1)), SpecError, r"stride \(1, 1, 1\) has length 3 but the layer has 2 spatial"),
    (lambda: TF.conv2d(X, W, stride=2, padding="same"), SpecError, r"padding 'same' needs stride 1 but stride is \(2, 2\)"),
    (lambda: TF.conv2d(X, W, padding_mode="mirror"), SpecError, "padding_mode 'mirror' is not known; give"),
    (lambda: TF.conv2d(X, W, dilation=9), SpecError, "kernel has 19 cells in spatial dimension 1 but the padded input has 8"),
    (lambda: TF.conv2d(X[..., :0], W), SpecError, r"input_size is \(8, 0\) but 0 is not at least 1; give"),
    (lambda: TF.conv_transpose2d(X, W[:, :, :, 0]), ArgumentError, "weight has 3 axes .* but 4 are needed for 2"),
    (lambda: TF.conv_transpose2d(X, W), ArgumentError, "input has 4 channels but weight .* takes 6; change"),
    (lambda: TF.conv_transpose2d(X, W[:4], output_padding=1), SpecError, "output_padding 1 of spatial dimension 1 is not below its stride 1"),
    (lambda: TF.conv_transpose2d(X, W[:4], padding="same"), SpecError, "padding is 'same': .*; give .* pairs$"),  # type: ignore[arg-type]
    (lambda: TF.unfoldNd(X, (9, 1)), SpecError, "kernel has 9 cells in spatial dimension 1 but the padded input has 8"),
    (lambda: TF.unfoldNd(X, (3,) * 4), ArgumentError, r"input has 4 axes .* but \[N, C, I1, I2, I3, I4\] or \[C, I1, I2, I3, I4\]"),
    (lambda: TF.unfoldNd(X[0, 0], 3), ArgumentError, r"input has 2 axes \(8, 8\) but at least 3 are needed, \[N, C, I1\], .*; add axes, or give kernel_size as a tuple"),
    (lambda: TF.foldNd(torch.zeros(2, 7, 4), (3, 3), 2), ArgumentError, r"input has 7 rows but kernel_size \(2, 2\) has 4 cells; give"),
    (lambda: TF.foldNd(torch.zeros(2, 8, 5), (3, 3), 2), ArgumentError, r"input has 5 columns but output_size \(3, 3\) has 4 windows; give"),
    (lambda: TF.foldNd(torch.zeros(2, 8, 4), 3, 2), SpecError, "output_size 3 and kernel_size 2 leave the number of dimensions open; give"),
    (lambda: TF.foldNd(X, (3, 3), 2), ArgumentError, r"input has 4 axes .* but \[N, C\*prod\(K\), prod\(O\)\] or"),
    (lambda: TF.linear(X, W), ArgumentError, r"weight has 4 axes \(6, 4, 3, 3\); give it as \[out, features\]"),
    (lambda: TF.linear(X, W[:, :, 0, 0]), ArgumentError, r"input has 8 features but weight \(6, 4\) takes 4; change"),
    (lambda: TF.linear(X[0, 0, 0, 0], W[:, :, 0, 0]), ArgumentError, "input has no features but weight"),
    (lambda: TF.linear(X[..., :4], W[:, :, 0, 0], torch.zeros(4)), ArgumentError, r"bias has shape \(4,\) but weight .* has 6 output features; give a bias of shape \(6,\)"),
    (lambda: TF.avg_poolNd(X, 3, ceil_mode=1), SpecError, "ceil_mode is 1: Expected `bool`, got `int`; give true or false"),
    (lambda: TF.avg_poolNd(X, 3, count_include_pad=0), SpecError, "count_include_pad is 0: Expected `bool`"),
    (lambda: TF.avg_poolNd(X, 3, padding=2), SpecError, "padding 2 of spatial dimension 1 is more than half of kernel size 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_errors_say_both_values_and_what_to_do(call, error, message):
    TF.conv2d(X, W, stride=1)  # what is kept must not answer for what is refused
    with pytest.raises(error, match=message):
        call()


def test_names_are_public():
    assert tnconv.functional is TF
    assert TF.__all__ == sorted(TF.__all__)
    assert "functional" in tnconv.__all__
