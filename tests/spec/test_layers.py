"""Layers beside the convolution: their values against torch, what they refuse and how, their files and modules."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec, load_spec, spec_from_module
from tnconv.errors import OperationError, SpecError, TnconvError
from tnconv.ir import Sum, parse
from tnconv.spec import as_spec

Arrays = dict[str, Tensor]
seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None, derandomize=True)


# -- values against torch ------------------------------------------------------------------------------


def random(seed: int, **shapes: tuple[int, ...]) -> Arrays:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


def assert_agrees(spec: Any, reference: Any, arrays: Arrays) -> None:
    """The forward value, and the product of a cotangent with the Jacobian of every argument."""
    leaves = {name: array.clone().requires_grad_() for name, array in arrays.items()}
    want = reference(**leaves)
    function = tnconv.compile(spec, "forward")
    assert set(function.arguments) == set(arrays)
    torch.testing.assert_close(function(**arrays), want.detach(), rtol=1e-10, atol=1e-10)
    cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(want, list(leaves.values()), cotangent)
    for name, gradient in zip(arrays, gradients, strict=True):
        product = tnconv.compile(spec, f"{'input' if name == 'x' else name}_vjp")
        known = arrays | {"grad_output": cotangent}
        got = product(**{n: known[n] for n in product.arguments})
        torch.testing.assert_close(got, gradient, rtol=1e-10, atol=1e-10)


def channels(spec: PoolSpec | UnfoldSpec) -> int:
    return 2 if isinstance(spec.channels, str) else spec.channels


def padded(x: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    return F.pad(x, [p for pair in reversed(pairs) for p in pair])


def conv_transpose(spec: ConvTransposeSpec, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's, cut by hand where left and right padding differ."""
    function = getattr(F, f"conv_transpose{spec.spatial_dims}d")
    options = (spec.output_paddings, spec.groups, spec.dilations)
    if all(left == right for left, right in spec.paddings):
        return function(x, weight, bias, spec.strides, tuple(left for left, _ in spec.paddings), *options)
    full = function(x, weight, bias, spec.strides, 0, *options)
    for place, (left, _) in enumerate(spec.paddings):
        full = full.narrow(2 + place, left, spec.output_sizes[place])
    return full


@quick
@given(conv_transpose_specs(), seeds)
def test_conv_transpose_has_the_value_of_torchs(spec, seed):
    shapes = {
        "x": (2, spec.in_channels, *spec.input_sizes),
        "weight": (spec.in_channels, spec.out_channels // spec.groups, *spec.kernel_sizes),
    } | ({"bias": (spec.out_channels,)} if spec.bias else {})
    assert_agrees(spec, lambda **arrays: conv_transpose(spec, **arrays), random(seed, **shapes))


@quick
@given(linear_specs(), seeds)
def test_linear_has_the_value_of_torchs(spec, seed):
    shapes = {
        "x": (3, *spec.input_sizes, spec.in_features),
        "weight": (spec.out_features, spec.in_features),
    } | ({"bias": (spec.out_features,)} if spec.bias else {})
    assert_agrees(spec, lambda x, weight, bias=None: F.linear(x, weight, bias), random(seed, **shapes))


def avg_pool(spec: PoolSpec, x: Tensor) -> Tensor:
    """torch's mean over windows of the padded input, as a sum over `divisor`."""
    function = getattr(F, f"avg_pool{spec.spatial_dims}d")
    own = all(left == right for left, right in spec.paddings)
    own &= all(
        i >= k for i, k in zip(spec.input_sizes, spec.kernel_sizes, strict=True)
    )  # avg_pool3d demands it
    amount = tuple(left for left, _ in spec.paddings) if own else 0
    mean = function(x if own else padded(x, spec.paddings), spec.kernel_sizes, spec.strides, amount)
    cells = torch.tensor(spec.kernel_sizes).prod().item()
    return mean if spec.divisor is None else mean * cells / spec.divisor


@quick
@given(pool_specs(), seeds)
def test_average_pooling_has_the_value_of_torchs(spec, seed):
    arrays = random(seed, x=(2, channels(spec), *spec.input_sizes))
    assert_agrees(spec, lambda x: avg_pool(spec, x), arrays)


@quick
@given(unfold_specs(dims=2), seeds)
def test_unfold_has_the_value_of_torchs(spec, seed):
    def unfold(x: Tensor) -> Tensor:
        return F.unfold(padded(x, spec.paddings), spec.kernel_sizes, spec.dilations, 0, spec.strides)

    assert_agrees(spec, unfold, random(seed, x=(2, channels(spec), *spec.input_sizes)))


@quick
@given(unfold_specs(), seeds)
def test_unfold_has_the_value_of_a_convolution_with_unit_kernels(spec, seed):
    count, cells = channels(spec), torch.tensor(spec.kernel_sizes).prod().item()
    units = torch.eye(count * cells, dtype=torch.float64).reshape(-1, count, *spec.kernel_sizes)
    convolve = getattr(F, f"conv{spec.spatial_dims}d")

    def unfold(x: Tensor) -> Tensor:
        return convolve(padded(x, spec.paddings), units, None, spec.strides, 0, spec.dilations).flatten(2)

    assert_agrees(spec, unfold, random(seed, x=(2, count, *spec.input_sizes)))


@pytest.mark.parametrize(
    "spec",
    [
        ConvTransposeSpec(4, 6, 3, (2, 3), stride=2, padding=1, output_padding=1, groups=2, bias=True),
        LinearSpec(3, 2, input_size=(2, 2), bias=True),
        PoolSpec(3, (3, 2), (6, 5), stride=2, padding=1),
        UnfoldSpec("C", 2, (4, 3), dilation=(1, 2), padding=1),
    ],
    ids=lambda spec: spec.kind,
)
@pytest.mark.parametrize("op", ["forward", "input_vjp"])
def test_compilation_is_verified_exactly(spec, op):
    tnconv.compile(spec, op, verify="exact")


# -- networks ------------------------------------------------------------------------------------------


NETWORKS = {
    ConvTransposeSpec(4, 6, 3, (8, 9), stride=2, padding=1, output_padding=(1, 0), groups=2): (
        "network conv_transpose2d.forward {\n"
        "  index [n=N, g=2, c=2, d=3, i1=8, i2=9, k1=3, k2=3, o1=16, o2=17]\n"
        "  x      = input     [n, (g c), i1, i2]\n"
        "  p1     = pattern   [o1 = 2*i1 + k1 - 1]\n"
        "  p2     = pattern   [o2 = 2*i2 + k2 - 1]\n"
        "  weight = parameter [(g c), d, k1, k2]\n"
        "  output             [n, (g d), o1, o2]\n"
        "}"
    ),
    LinearSpec(8, 3, input_size=(5, 6)): (
        "network linear.forward {\n"
        "  index [n=N, g=1, c=8, d=3, o1=5, o2=6]\n"
        "  x      = input     [n, o1, o2, (g c)]\n"
        "  weight = parameter [(g d), c]\n"
        "  output             [n, o1, o2, (g d)]\n"
        "}"
    ),
    PoolSpec("C", 3, (8, 7), stride=2, padding=1): (
        "network avg_pool2d.forward {\n"
        "  index [n=N, g=C, c=1, d=1, i1=8, i2=7, k1=3, k2=3, o1=4, o2=4]\n"
        "  x     = input     [n, (g c), i1, i2]\n"
        "  p1    = pattern   [i1 = 2*o1 + k1 - 1]\n"
        "  p2    = pattern   [i2 = 2*o2 + k2 - 1]\n"
        "  scale = scale     [1/9]\n"
        "  output            [n, (g d), o1, o2]\n"
        "}"
    ),
    UnfoldSpec(4, 3, 9, dilation=2, padding=((2, 0),)): (
        "network unfold1d.forward {\n"
        "  index [n=N, g=1, c=4, i1=9, k1=3, o1=7]\n"
        "  x  = input     [n, (g c), i1]\n"
        "  p1 = pattern   [i1 = 2*k1 + o1 - 2]\n"
        "  output         [n, (g c k1), o1]\n"
        "}"
    ),
}


@pytest.mark.parametrize(("spec", "text"), NETWORKS.items(), ids=[spec.kind for spec in NETWORKS])
def test_networks_in_words(spec, text):
    assert str(spec.network()) == text
    assert parse(text) == spec.network()
    assert spec.network() is spec.network()


@pytest.mark.parametrize(
    ("layer", "arguments"), [(ConvTransposeSpec, (4, 6, 3, (5, 4))), (LinearSpec, (4, 6))]
)
def test_the_bias_is_a_term_of_a_sum_and_can_be_chosen(layer, arguments):
    with_bias, without = layer(*arguments, bias=True), layer(*arguments)
    total = with_bias.network()
    assert isinstance(total, Sum)
    assert total.arguments == ("x", "weight", "bias")
    assert with_bias.network(bias=False) == without.network()
    assert without.network(bias=True) == total


@pytest.mark.parametrize("spec", [PoolSpec(2, 3, 8), UnfoldSpec(2, 3, 8)], ids=lambda spec: spec.kind)
def test_layers_without_weight_and_bias(spec):
    assert spec.network(bias=False) is spec.network()
    with pytest.raises(SpecError, match=f"bias=True .* but {type(spec).__name__} has no bias; leave it out"):
        spec.network(bias=True)
    with pytest.raises(SpecError, match="has no bias; leave it out, or take another operation"):
        tnconv.compile(spec, "bias_vjp")
    with pytest.raises(OperationError, match="weight"):
        tnconv.compile(spec, "weight_vjp")


def test_one_compilation_serves_any_number_of_channels():
    pooled = tnconv.compile(nn.AvgPool2d(2), input_size=(4, 6))
    unfolded = tnconv.compile(nn.Unfold(2), input_size=(4, 6))
    for count in (1, 3):
        x = random(0, x=(2, count, 4, 6))["x"]
        torch.testing.assert_close(pooled(x), F.avg_pool2d(x, 2))
        torch.testing.assert_close(unfolded(x), F.unfold(x, 2))


# -- what they refuse ----------------------------------------------------------------------------------

TRANSPOSED: dict[str, Any] = {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "input_size": (8, 9)}
LINEAR: dict[str, Any] = {"in_features": 6, "out_features": 4}
WINDOW: dict[str, Any] = {"channels": 6, "kernel_size": 3, "input_size": (8, 9)}
PADDED_TOO_MUCH = (
    r"the output has 10 cells in spatial dimension 1 and padding \(5, 5\) leaves 0, not at least 1; give"
)

BAD = [
    (ConvTransposeSpec, {"groups": 4}, "groups 4 does not divide in_channels 6; choose"),
    (ConvTransposeSpec, {"groups": 3}, "groups 3 does not divide out_channels 4; choose"),
    (ConvTransposeSpec, {"padding": "same"}, "padding is 'same': .*; give .* pairs$"),
    (ConvTransposeSpec, {"padding": -1}, "padding is -1 but -1 is not at least 0; give"),
    (ConvTransposeSpec, {"padding": (1, (1, 2))}, "mixes ints and pairs; write every"),
    (ConvTransposeSpec, {"padding": 5}, PADDED_TOO_MUCH),
    (
        ConvTransposeSpec,
        {"input_size": (1, 2**61), "stride": 8},
        "and padding .* leaves .*, not at most 2.*62",
    ),
    (
        ConvTransposeSpec,
        {"output_padding": (0, 3), "stride": 2, "dilation": 3},
        "output_padding 3 of spatial dimension 2 is not below its stride 2 or its dilation 3; give less",
    ),
    (
        ConvTransposeSpec,
        {"output_padding": 1},
        "output_padding 1 of spatial dimension 1 is not below its stride 1",
    ),
    (ConvTransposeSpec, {"output_padding": -1}, "output_padding is -1 but -1 is not at least 0; give"),
    (
        ConvTransposeSpec,
        {"output_padding": (0, 0, 0)},
        r"output_padding \(0, 0, 0\) has length 3 but the layer has 2",
    ),
    (
        ConvTransposeSpec,
        {"kernel_size": (3,) * 3},
        r"kernel_size \(3, 3, 3\) and input_size .* different lengths",
    ),
    (LinearSpec, {"in_features": 0}, "in_features is 0 but 0 is not at least 1; give"),
    (LinearSpec, {"out_features": 2.5}, "out_features is 2.5: .*; give an int"),
    (LinearSpec, {"input_size": (3, 0)}, r"input_size is \(3, 0\) but 0 is not at least 1; give the sizes"),
    (LinearSpec, {"input_size": (1,) * 17}, "the layer has 17 sequence axes; give input_size at most 16"),
    (LinearSpec, {"batch_size": "a b"}, "batch_size is 'a b': .*is not a name.*; give"),
    (LinearSpec, {"batch_size": "def"}, "batch_size is 'def', a word that Python reserves; give"),
    (PoolSpec, {"channels": "1C"}, "channels is '1C': .*is not a name.*; give .* such as \"C\""),
    (PoolSpec, {"channels": "N"}, "channels is 'N' but batch_size is 'N', too, .*; name one otherwise"),
    (
        PoolSpec,
        {"padding": 2},
        "padding 2 of spatial dimension 1 is more than half of kernel size 3; give less",
    ),
    (
        PoolSpec,
        {"padding": ((1, 1), (0, 2))},
        "padding 2 of spatial dimension 2 is more than half of kernel size 3",
    ),
    (PoolSpec, {"padding": "valid"}, "padding is 'valid': .*; give .* pairs$"),
    (
        PoolSpec,
        {"kernel_size": 9},
        "kernel has 9 cells in spatial dimension 1 but the padded input has 8; make",
    ),
    (PoolSpec, {"divisor": 0}, "divisor is 0 but 0 is not at least 1; give .* or leave it out"),
    (PoolSpec, {"stride": 0}, "stride is 0 but 0 is not at least 1; give"),
    (
        PoolSpec,
        {"kernel_size": 2**40, "input_size": (2**40, 2**40)},
        "kernel has 12.* cells, more than 2.*62; give",
    ),
    (UnfoldSpec, {"channels": 0}, "channels is 0 but 0 is not at least 1; give"),
    (UnfoldSpec, {"channels": "N"}, "channels is 'N' but batch_size is 'N', too, .*; name one otherwise"),
    (
        UnfoldSpec,
        {"dilation": (1, 5)},
        "kernel has 11 cells in spatial dimension 2 but the padded input has 9",
    ),
    (UnfoldSpec, {"padding": "same"}, "padding is 'same': .*; give .* pairs$"),
    (UnfoldSpec, {"input_size": 2**62, "padding": 1}, "makes .* cells, more than 2.*62; give smaller sizes"),
]
BASES = {ConvTransposeSpec: TRANSPOSED, LinearSpec: LINEAR, PoolSpec: WINDOW, UnfoldSpec: WINDOW}


@pytest.mark.parametrize(
    ("layer", "changes", "message"), BAD, ids=[str(number) for number in range(len(BAD))]
)
def test_invalid_specs_say_both_values_and_what_to_do(layer, changes, message):
    with pytest.raises(SpecError, match=message):
        layer(**(BASES[layer] | changes))


# -- files ---------------------------------------------------------------------------------------------

LAYERS = conv_transpose_specs() | linear_specs() | pool_specs() | unfold_specs()


@quick
@given(LAYERS, st.sampled_from([".toml", ".json"]))
def test_files_round_trip(tmp_path_factory, spec, suffix):
    path = tmp_path_factory.mktemp("specs") / f"layer{suffix}"
    spec.save(path)
    again = load_spec(path)
    assert (type(again), again) == (type(spec), spec)
    assert again.network() == spec.network()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ('kind = "linear"\nin_features = 3\nout_features = 4\n', LinearSpec(3, 4)),
        ('kind = "avg_pool"\nchannels = 3\nkernel_size = 2\ninput_size = [4, 4]', PoolSpec(3, 2, (4, 4))),
        ('kind = "unfold"\nchannels = "C"\nkernel_size = 2\ninput_size = [4, 4]', UnfoldSpec("C", 2, (4, 4))),
        (
            'kind = "conv_transpose"\nin_channels = 3\nout_channels = 4\nkernel_size = 3\ninput_size = 8\n'
            "stride = 2\noutput_padding = 1\n",
            ConvTransposeSpec(3, 4, 3, 8, stride=2, output_padding=1),
        ),
    ],
)
def test_a_file_needs_only_the_fields_without_a_default(tmp_path, text, spec):
    path = tmp_path / "layer.toml"
    path.write_text(text)
    assert load_spec(path) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'kind = "max_pool"',
            "kind is 'max_pool' but only 'conv', .*'linear', 'avg_pool', 'unfold' are known; write",
        ),
        ("kind = [1]", r"kind is \[1\] but only 'conv', "),
        ('kind = "linear"\nin_feature = 3', "unknown field 'in_feature'; did you mean 'in_features'"),
        ('kind = "linear"\nin_features = 3', "field 'out_features' is missing; give an int of at least 1"),
        ('kind = "unfold"\nchannels = 3\nkernel_size = 2', "field 'input_size' is missing; give an int"),
        (
            'kind = "avg_pool"\nchannels = 3\ndilation = 2',
            "unknown field 'dilation'; the fields are channels, ",
        ),
    ],
)
def test_errors_of_files_name_the_file_and_the_field(tmp_path, text, message):
    path = tmp_path / "layer.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=f"layer.toml.*{message}"):
        load_spec(path)


JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.text("ab1", max_size=3)
    | st.lists(st.integers(0, 4))
)
FIELDS = sorted(
    {*TRANSPOSED, *LINEAR, *WINDOW, "batch_size", "stride", "padding", "output_padding", "divisor", "bias"}
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(list(BASES)), st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=3))
def test_random_fields_raise_nothing_but_our_errors(tmp_path_factory, layer, changes):
    path = tmp_path_factory.mktemp("fuzz") / "f.json"
    path.write_text(json.dumps({"kind": layer.kind} | BASES[layer] | changes))
    try:
        load_spec(path).network()
    except TnconvError as error:
        assert "f.json" in str(error)


# -- modules -------------------------------------------------------------------------------------------

MODULES = [
    (nn.ConvTranspose1d(2, 4, 3, 2, 1, 1, groups=2), (5,)),
    (nn.ConvTranspose2d(2, 4, (3, 2), (2, 1), (0, 1), (1, 0), 2, False, (1, 2)), (5, 4)),
    (nn.ConvTranspose3d(2, 1, 2, 2, 1), (3, 2, 3)),
    (nn.Linear(4, 3), ()),
    (nn.Linear(4, 3, bias=False), (5,)),
    (nn.AvgPool1d(3, 2, 1), (7,)),
    (nn.AvgPool1d([3]), (7,)),  # type: ignore[arg-type]
    (nn.AvgPool2d((3, 2), padding=(1, 0)), (7, 5)),
    (nn.AvgPool2d([3, 2], [2, 2], divisor_override=5), (7, 5)),  # type: ignore[arg-type]
    (nn.AvgPool2d(2, padding=1, count_include_pad=False, divisor_override=3), (6, 5)),
    (nn.AvgPool2d(3, count_include_pad=False), (7, 5)),
    (nn.AvgPool2d(2, ceil_mode=True), (6, 4)),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5), (6, 7)),
    (nn.AvgPool2d(2, 3, ceil_mode=True), (6, 6)),  # a window would start right of the input: none is added
    (nn.AvgPool3d(2, 1), (3, 4, 2)),
    (nn.Unfold(2), (4, 5)),
    (nn.Unfold((3, 2), dilation=(1, 2), padding=1, stride=(2, 1)), (4, 5)),
]


@pytest.mark.parametrize(("module", "sizes"), MODULES, ids=lambda value: str(value).replace(" ", ""))
def test_the_network_of_a_module_has_its_value(module, sizes):
    module = module.double()
    spec = spec_from_module(module, sizes, batch_size=2)
    assert spec == type(spec).from_module(module, sizes, batch_size=2)
    inside = module.in_features if isinstance(module, nn.Linear) else 2
    shape = (2, *sizes, inside) if isinstance(module, nn.Linear) else (2, inside, *sizes)
    arrays = random(0, x=shape) | {name: p.detach() for name, p in module.named_parameters()}
    want = module(arrays["x"]).detach()
    torch.testing.assert_close(tnconv.compile(spec)(**arrays), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("module", "sizes"),
    [(nn.AvgPool2d(3, 2), 7), (nn.Unfold(2), 4), (nn.ConvTranspose2d(2, 2, 3), 4)],
    ids=str,
)
def test_an_int_of_input_size_is_the_same_in_every_dimension_of_a_module(module, sizes):
    assert spec_from_module(module, sizes).input_sizes == (sizes, sizes)


def test_channels_of_modules_that_do_not_know_them():
    assert PoolSpec.from_module(nn.AvgPool1d(2), 8) == PoolSpec("C", (2,), 8, stride=(2,), padding=(0,))
    assert PoolSpec.from_module(nn.AvgPool1d(2), 8, channels=3).channels == 3
    assert UnfoldSpec.from_module(nn.Unfold(2), 8, channels=3).channels == 3


class Doubled(nn.Linear):
    """Computes something else than its base."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Sized(nn.ConvTranspose1d):
    """Has another output size than its base."""

    def _output_padding(self, *_arguments: Any, **_named: Any) -> list[int]:
        return [1]


class Renamed(nn.AvgPool1d):
    """Computes what its base does."""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.MaxPool2d(2),
            "type MaxPool2d is not represented; give an nn.Conv1d, .*nn.AvgPool3d or nn.Unfold",
        ),
        (nn.Bilinear(2, 2, 2), "type Bilinear is not represented; give an nn.Conv1d, "),
        (nn.Fold(4, 2), "type Fold is not represented; give an nn.Conv1d, "),
        (
            nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)),
            "or nn.Unfold, such as '1' of this one; tnconv.curvature is for whole models",
        ),
        (nn.AdaptiveAvgPool2d(2), "type AdaptiveAvgPool2d is not represented; give an nn.Conv1d, "),
        (
            nn.LazyConvTranspose2d(2, 3),
            "LazyConvTranspose2d does not know its weight's shape yet; run it once",
        ),
        (
            nn.LazyLinear(2),
            "LazyLinear does not know its weight's shape yet; run it once .* give a LinearSpec",
        ),
        (Doubled(2, 2), "Doubled computes something else than Linear; give a LinearSpec"),
        (Sized(2, 2, 3), "Sized computes something else than ConvTranspose1d; give a ConvTransposeSpec"),
        (
            nn.AvgPool2d(2, ceil_mode=True),
            r"ceil_mode=True adds windows .* padded input \(9, 9\) to make the output \(5, 5\); .* give a divisor, or",
        ),
        (
            nn.AvgPool1d(3, padding=1, count_include_pad=False),
            r"AvgPool1d with count_include_pad=False and padding \(1,\) is not represented; give count_include_pad=True",
        ),
        (nn.AvgPool1d(3, padding=2), "padding 2 of spatial dimension 1 is more than half of kernel size 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_that_are_not_represented(module, message):
    with pytest.raises(SpecError, match=message):
        spec_from_module(module, 9)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ConvSpec, "type ReLU is not represented; give an nn.Conv1d, nn.Conv2d or nn.Conv3d"),
        (ConvTransposeSpec, "give an nn.ConvTranspose1d, nn.ConvTranspose2d or nn.ConvTranspose3d"),
        (LinearSpec, "give an nn.Linear$"),
        (PoolSpec, "give an nn.AvgPool1d, nn.AvgPool2d or nn.AvgPool3d"),
        (UnfoldSpec, "give an nn.Unfold$"),
    ],
)
def test_each_spec_takes_its_own_modules(layer, message):
    with pytest.raises(SpecError, match=message):
        layer.from_module(nn.ReLU(), 8)


def test_a_subclass_that_computes_the_same_is_taken():
    assert spec_from_module(Renamed(2), 8) == spec_from_module(nn.AvgPool1d(2), 8)


@pytest.mark.parametrize(
    "module", [module for module, _ in MODULES if not isinstance(module, nn.Linear)], ids=str
)
def test_a_module_with_a_kernel_needs_an_input_size(module):
    with pytest.raises(
        SpecError, match=f"{type(module).__name__} does not know its input's size; give input_size"
    ):
        as_spec(module)


def test_as_spec_takes_every_spec_and_module():
    made = LinearSpec(3, 2, input_size=5)
    assert as_spec(made) is as_spec(made, 5) is as_spec(made, (5,)) is made
    assert as_spec(nn.Linear(3, 2, bias=False)) == LinearSpec(3, 2)
    assert as_spec(nn.Linear(3, 2, bias=False), 5) == made
    pooled = PoolSpec(3, 2, (4, 4))
    assert as_spec(pooled, 4) is pooled
    with pytest.raises(
        SpecError, match=r"input_size is \(4, 5\) but the spec has \(5,\); give it in the spec alone"
    ):
        as_spec(made, (4, 5))
    with pytest.raises(
        SpecError, match=r"'Layers' is not a layer; give a ConvSpec, .*UnfoldSpec, or an nn.Conv1d, "
    ):
        as_spec(type("Layers", (), {})())


def test_the_specs_are_public_names():
    assert tnconv.__all__ == sorted(tnconv.__all__)
    layers = {"ConvSpec", "ConvTransposeSpec", "LinearSpec", "PoolSpec", "UnfoldSpec", "spec_from_module"}
    assert layers <= set(tnconv.__all__) <= set(dir(tnconv))
