"""The drop-ins against torch's modules: values, parameters, initialisation, state, copies, what is refused."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import tnconv
import tnconv.nn as tnn
from tests.layer_strategies import conv_transpose_specs
from tests.ops.test_operations import convolved
from tests.spec.test_layers import conv_transpose
from tnconv import ConvSpec, ConvTransposeSpec
from tnconv.compiler.driver import Job
from tnconv.errors import ArgumentError, SpecError
from tnconv.testing import conv_specs

quick = settings(max_examples=15, deadline=None, derandomize=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def symmetric(spec: Any) -> bool:
    return all(left == right for left, right in spec.paddings)


# -- against torch's modules ---------------------------------------------------------------------------

CONV: list[tuple[int, dict[str, Any]]] = [
    (1, {"kernel_size": 3}),
    (1, {"kernel_size": 3, "padding": 2, "padding_mode": "reflect", "bias": False}),
    (2, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 2}),
    (2, {"kernel_size": [3, 2], "stride": [2, 1], "padding": [0, 1]}),
    (2, {"kernel_size": 3, "padding": "same", "groups": 4}),
    (2, {"kernel_size": 2, "padding": "valid", "stride": 2}),
    (2, {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}),
    (3, {"kernel_size": (1, 2, 3), "padding": (0, 1, 1), "padding_mode": "replicate", "groups": 2}),
    (3, {"kernel_size": 2, "stride": (1, 2, 1), "padding": 1, "padding_mode": "circular"}),
]
TRANSPOSED: list[tuple[int, dict[str, Any]]] = [
    (1, {"kernel_size": 3, "stride": 2, "output_padding": 1}),
    (2, {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2), "groups": 2}),
    (2, {"kernel_size": [3, 2], "stride": [2, 1], "dilation": [1, 3], "bias": False}),
    (3, {"kernel_size": 2, "stride": 2, "dilation": (1, 2, 1), "output_padding": (1, 0, 1)}),
]
LAYERS = [("Conv", dims, fields) for dims, fields in CONV]
LAYERS += [("ConvTranspose", dims, fields) for dims, fields in TRANSPOSED]
each_layer = pytest.mark.parametrize(
    ("kind", "dims", "fields"), LAYERS, ids=[f"{kind}{dims}d-{n}" for n, (kind, dims, _) in enumerate(LAYERS)]
)


def modules(kind: str, dims: int, fields: dict[str, Any]) -> tuple[Any, Any, Any]:
    """torch's module, ours for any number of dimensions, ours for this one; each from the same seed."""
    made = []
    ways: list[Callable[..., nn.Module]] = [
        getattr(nn, f"{kind}{dims}d"),
        lambda *a, **k: getattr(tnn, f"{kind}Nd")(dims, *a, **k),
        getattr(tnn, f"{kind}{dims}d"),
    ]
    for way in ways:
        torch.manual_seed(7)
        made.append(way(4, 8, dtype=torch.float64, **fields))
    return made[0], made[1], made[2]


@each_layer
def test_the_same_as_torchs_module(kind, dims, fields):
    theirs, *ours = modules(kind, dims, fields)
    x = random(2, 4, *(6, 5, 4)[:dims])
    for layer in ours:
        assert list(layer.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            assert torch.equal(layer.state_dict()[name], value)
        close(layer(x), theirs(x))
        close(layer(x[1]), theirs(x[1]))
        assert layer.extra_repr() == theirs.extra_repr()
        for name in (
            "stride",
            "padding",
            "dilation",
            "kernel_size",
            "groups",
            "output_padding",
            "padding_mode",
        ):
            assert getattr(layer, name) == getattr(theirs, name)
        assert list(layer._reversed_padding_repeated_twice) == list(theirs._reversed_padding_repeated_twice)


@each_layer
def test_states_go_both_ways(kind, dims, fields):
    theirs, ours, _ = modules(kind, dims, fields)
    for source, target in ((theirs, ours), (ours, theirs)):
        with torch.no_grad():
            source.weight.mul_(3)
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.weight, source.weight)
    x = random(2, 4, *(6, 5, 4)[:dims])
    close(ours(x), theirs(x))


@each_layer
def test_a_copy_of_torchs_module(kind, dims, fields):
    theirs, *_ = modules(kind, dims, fields)
    theirs.weight.requires_grad_(False)
    theirs.eval()
    state = torch.get_rng_state()
    x = random(2, 4, *(6, 5, 4)[:dims])
    for made in (getattr(tnn, f"{kind}Nd"), getattr(tnn, f"{kind}{dims}d")):
        ours = made.from_torch(theirs)
        assert type(ours) is made
        assert not ours.training
        assert not ours.weight.requires_grad
        assert ours.weight.dtype == torch.float64
        assert ours.weight.data_ptr() != theirs.weight.data_ptr()
        assert ours.extra_repr() == theirs.extra_repr()
        close(ours(x), theirs(x))
    assert torch.equal(torch.get_rng_state(), state)  # nothing was initialised at random


def test_a_copy_keeps_dtype_and_memory_format():
    theirs = nn.Conv2d(4, 8, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    ours = tnn.ConvNd.from_torch(theirs)
    assert ours.weight.dtype == torch.bfloat16
    assert ours.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_signatures_are_torchs(kind, dims):
    theirs = inspect.signature(getattr(nn, f"{kind}{dims}d")).parameters
    ours = inspect.signature(getattr(tnn, f"{kind}{dims}d")).parameters
    general = inspect.signature(getattr(tnn, f"{kind}Nd")).parameters
    expected = [(name, p.default) for name, p in theirs.items()]
    assert [(name, p.default) for name, p in ours.items()] == expected
    assert [(name, p.default) for name, p in general.items()] == [("N", inspect.Parameter.empty), *expected]


@pytest.mark.parametrize(("ours", "theirs"), [(tnn.UnfoldNd, nn.Unfold), (tnn.FoldNd, nn.Fold)])
def test_signatures_of_windows_are_torchs(ours, theirs):
    assert str(inspect.signature(ours)).count("=") == str(inspect.signature(theirs)).count("=")
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments", "x"),
    [
        (tnn.UnfoldNd, nn.Unfold, ((3, 2), (1, 2), 1, (2, 1)), random(2, 3, 6, 5)),
        (tnn.UnfoldNd, nn.Unfold, (2,), random(2, 3, 6, 5)),
        (tnn.FoldNd, nn.Fold, ((5, 4), (3, 2), (1, 2), 1, (2, 1)), random(2, 18, 12)),
        (tnn.FoldNd, nn.Fold, ((5, 4), 2), random(2, 8, 12)),
    ],
)
def test_windows_as_torchs_modules(ours, theirs, arguments, x):
    reference = theirs(*arguments)
    for layer in (ours(*arguments), ours.from_torch(reference)):
        close(layer(x), reference(x))
        assert not layer.state_dict()
    assert ours(*arguments).extra_repr() == reference.extra_repr()
    close(ours.from_torch(reference)(x[0]), reference(x[0]))


def test_copies_of_windows_know_their_two_dimensions():
    x = random(3, 6, 5)  # one example of two dimensions, or two examples of one
    close(tnn.UnfoldNd.from_torch(nn.Unfold(2))(x), nn.Unfold(2)(x))
    fold = nn.Fold(4, 2)
    close(tnn.FoldNd.from_torch(fold)(random(12, 9)), fold(random(12, 9)))


# -- over random hyper-parameters ----------------------------------------------------------------------


@quick
@given(conv_specs())
def test_random_convolutions(spec):
    layer = tnn.ConvNd(
        spec.spatial_dims,
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        spec.padding,
        spec.dilation,
        spec.groups,
        spec.bias,
        spec.padding_mode,
        dtype=torch.float64,
    )
    x = random(2, spec.in_channels, *spec.input_sizes)
    close(layer(x), convolved(spec, x, layer.weight, layer.bias))
    again = layer.spec(spec.input_sizes)
    assert again.network() == spec.network()


@quick
@given(conv_transpose_specs(), st.booleans())
def test_random_transposed_convolutions(spec, by_size):
    """The output padding of the layer, or in place of it the output size of the call."""
    layer = tnn.ConvTransposeNd(
        spec.spatial_dims,
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        spec.padding,
        spec.output_padding,
        spec.groups,
        spec.bias,
        spec.dilation,
        dtype=torch.float64,
    )
    x = random(2, spec.in_channels, *spec.input_sizes)
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    want = conv_transpose(spec, x, *parameters)
    assert layer.spec(spec.input_sizes).network() == spec.network()
    reachable = all(extra < stride for extra, stride in zip(spec.output_paddings, spec.strides, strict=True))
    if by_size and reachable:
        layer.output_padding = (0,) * spec.spatial_dims
        close(layer(x, spec.output_sizes), want)
        close(layer(x, list(want.shape)), want)
        close(layer(x[0], want.shape[1:]), want[0])
    else:
        close(layer(x), want)


def test_output_size_as_torch_takes_it():
    theirs = nn.ConvTranspose2d(4, 6, (3, 2), (3, 2), (1, 0), dtype=torch.float64)
    ours = tnn.ConvTransposeNd.from_torch(theirs)
    x = random(2, 4, 3, 4)
    for size in ([7, 8], [9, 9], (8, 8), torch.Size([2, 6, 8, 9])):
        close(ours(x, size), theirs(x, size))
        close(ours(x, output_size=size), theirs(x, output_size=size))


def test_layers_of_four_and_five_dimensions():
    for dims in (4, 5):
        spec = ConvSpec(2, 4, 2, (3, 2, 3, 2, 2)[:dims], padding=1, groups=2)
        layer = tnn.ConvNd(dims, 2, 4, 2, padding=1, groups=2, dtype=torch.float64)
        x = random(2, 2, *spec.input_sizes)
        y = layer(x)
        close(y, convolved(spec, x, layer.weight, layer.bias))
        back = tnn.ConvTransposeNd(dims, 4, 2, 2, padding=1, groups=2, dtype=torch.float64)
        assert back(y).shape == x.shape
        columns = tnn.UnfoldNd((2,) * dims, padding=1)(x)
        folded = tnn.FoldNd(spec.input_sizes, 2, padding=1)(columns)
        close(
            folded, 2**dims * x
        )  # stride 1 and padding: each cell is in as many windows as the kernel has cells


# -- as modules ----------------------------------------------------------------------------------------


def test_a_training_step_is_torchs():
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, 2)).double()
    ours = nn.Sequential(
        tnn.Conv2d.from_torch(theirs[0]), nn.ReLU(), tnn.ConvTranspose2d.from_torch(theirs[2])
    )
    x = random(2, 3, 6, 5)
    for model in (theirs, ours):
        model(x).square().sum().backward()
        torch.optim.SGD(model.parameters(), 1e-3).step()
    for got, want in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(got.grad, want.grad)
        close(got, want)


def test_copies_and_functional_calls():
    layer = tnn.ConvNd(2, 3, 4, 3, dtype=torch.float64)
    x = random(2, 3, 6, 5)
    close(copy.deepcopy(layer)(x), layer(x))
    doubled = {name: 2 * p for name, p in layer.named_parameters()}
    close(torch.func.functional_call(layer, doubled, (x,)), 2 * layer(x))


def test_other_operations_of_a_layer():
    layer = tnn.Conv2d(3, 4, 3, padding=((1, 0), (0, 2)), padding_mode="circular", dtype=torch.float64)
    x = random(2, 3, 6, 5)
    columns = tnconv.compile(layer.spec((6, 5)), "unfold")(x)
    assert layer._reversed_padding_repeated_twice == [0, 2, 1, 0]  # what F.pad takes
    rows = layer.weight.flatten(1) @ columns + layer.bias[:, None]
    close(rows.unflatten(2, layer(x).shape[2:]), layer(x))
    assert isinstance(tnn.ConvTranspose1d(2, 3, 2).spec(4), ConvTransposeSpec)


# -- refusals ------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: tnn.ConvNd(0, 2, 3, 3), "N is 0; give the number of spatial dimensions, an int of 1 to 16"),
    (lambda: tnn.ConvNd("2", 2, 3, 3), "N is '2'; give the number"),  # type: ignore[arg-type]
    (lambda: tnn.ConvNd(2, 2, 3, (3, 3, 3)), r"kernel_size \(3, 3, 3\) has length 3 but the layer has 2 spatial"),
    (lambda: tnn.ConvNd(2, 2, 3, 0), "kernel_size is 0 but 0 is not at least 1; give"),
    (lambda: tnn.Conv2d(2, 3, (3,)), r"kernel_size \(3,\) has length 1 but the layer has 2 spatial"),
    (lambda: tnn.Conv2d(3, 4, 3, groups=2), "groups 2 does not divide in_channels 3; choose"),
    (lambda: tnn.Conv2d(3, 4, 3, padding="full"), "padding 'full' is not a known name; give"),
    (lambda: tnn.Conv2d(3, 4, 3, 2, "same"), r"padding 'same' needs stride 1 but stride is \(2, 2\); give"),
    (lambda: tnn.Conv2d(3, 4, 3, padding_mode="wrap"), "padding_mode 'wrap' is not known; give"),
    (lambda: tnn.ConvTranspose2d(3, 4, 3, padding_mode="circular"), "padding_mode is 'circular' but ConvTranspose2d has only 'zeros'; leave"),
    (lambda: tnn.ConvTranspose2d(3, 4, 3, output_padding=1), "output_padding 1 of spatial dimension 1 is not below its stride 1"),
    (lambda: tnn.Conv1d.from_torch(nn.Conv2d(3, 4, 3)), r"Conv1d has 1 spatial dimension\(s\) but Conv2d has 2; take"),
    (lambda: tnn.ConvTranspose3d.from_torch(nn.ConvTranspose2d(3, 4, 3)), r"ConvTranspose3d has 3 .* but ConvTranspose2d has 2; take"),
    (lambda: tnn.ConvNd.from_torch(nn.ConvTranspose2d(3, 4, 3)), "type ConvTranspose2d is not represented; give an nn.Conv1d"),
    (lambda: tnn.ConvNd.from_torch(nn.LazyConv2d(4, 3)), "LazyConv2d does not know its weight's shape yet; run it once"),
    (lambda: tnn.UnfoldNd.from_torch(nn.Fold(4, 2)), "type Fold is not represented; give an nn.Unfold"),
    (lambda: tnn.FoldNd.from_torch(nn.Unfold(2)), "type Unfold is not represented; give an nn.Fold"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_errors_say_both_values_and_what_to_do(call, message):
    with pytest.raises(SpecError, match=message):
        call()


class Standardised(nn.Conv2d):
    """Computes something else than its base."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


class Sized(nn.ConvTranspose1d):
    """Has another output size than its base."""

    def _output_padding(self, *_arguments: Any, **_named: Any) -> list[int]:
        return [1]


class Halved(nn.Fold):
    """Computes something else than its base."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class Named(nn.Conv2d):
    """Computes what its base does."""


def hooked(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return 2 * output


def with_hook() -> nn.Conv2d:
    module = nn.Conv2d(2, 3, 3)
    module.register_forward_hook(hooked)
    return module


def with_own_forward() -> nn.Conv2d:
    module = nn.Conv2d(2, 3, 3)
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


def with_other_weight() -> nn.Conv2d:
    module = nn.Conv2d(2, 3, 3)
    module.weight = nn.Parameter(torch.zeros(3, 2, 2, 2))
    return module


@pytest.mark.parametrize(
    ("layer", "module", "message"),
    [
        (tnn.ConvNd, Standardised(2, 3, 3), "Standardised computes something else than Conv2d; give a ConvSpec"),
        (tnn.ConvTransposeNd, Sized(2, 3, 3), "Sized computes something else than ConvTranspose1d; give"),
        (tnn.FoldNd, Halved(4, 2), "Halved computes something else than Fold; give"),
        (tnn.ConvNd, with_hook(), "Conv2d has forward hooks, which cannot be copied; remove them first"),
        (tnn.ConvNd, with_own_forward(), "this Conv2d has a 'forward' of its own, which cannot be copied; remove it"),
        (tnn.ConvNd, with_other_weight(), r"weight has shape \(3, 2, 2, 2\) but the fields of Conv2d make it \(3, 2, 3, 3\)"),
        (
            tnn.ConvNd,
            parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
            "ParametrizedConv2d has parametrizations.weight.original0, .* where weight and bias is expected",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_modules_that_cannot_be_copied(layer, module, message):
    with pytest.raises(SpecError, match=message):
        layer.from_torch(module)


def test_a_subclass_that_computes_the_same_is_copied():
    theirs = Named(2, 3, 3, padding=1).double()
    x = random(2, 2, 5, 5)
    close(tnn.ConvNd.from_torch(theirs)(x), theirs(x))


def test_output_sizes_that_cannot_be():
    layer = tnn.ConvTransposeNd(2, 4, 6, (3, 2), (3, 2), (1, 0))
    x = torch.zeros(2, 4, 3, 4)
    with pytest.raises(
        ArgumentError,
        match=r"output_size is \(10, 8\) but an input of size \(3, 4\) gives \(7, 8\) to \(9, 9\); give",
    ):
        layer(x, (10, 8))
    with pytest.raises(
        ArgumentError, match=r"output_size \(8,\) has length 1 but the layer has 2 .* input 4 axes"
    ):
        layer(x, (8,))


def test_names_are_public():
    assert tnconv.nn is tnn
    assert tnn.__all__ == sorted(tnn.__all__, key=lambda name: (not name.isupper(), name))
    assert "nn" in tnconv.__all__


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("examples", [2, 0])
@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (1, {"stride": 2}),
        (2, {}),
        (2, {"kernel_size": 1, "bias": False}),
        (2, {"groups": 2, "padding": 1, "dilation": 2}),
        (2, {"padding": 1, "padding_mode": "circular"}),
        (3, {"kernel_size": 2, "padding": "same"}),
    ],
)
def test_no_input_channels_are_as_torch_has_them(dims, options, examples):
    options = {"kernel_size": 3, **options}
    theirs = getattr(torch.nn, f"Conv{dims}d")(0, 4, **options)
    made = getattr(tnn, f"Conv{dims}d")(0, 4, **options)
    assert made.in_channels == 0
    found = []
    for module in (theirs, made, getattr(tnn, f"Conv{dims}d").from_torch(theirs)):
        x = torch.randn(examples, 0, *(6,) * dims, requires_grad=True)
        value = module(x)
        value.sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        found.append([value.shape, x.grad.shape, *[(g.shape, g.abs().sum().item()) for g in gradients]])
    assert found[1:] == [found[0], found[0]]


def test_no_output_channels_are_refused():
    with pytest.raises(SpecError, match="out_channels is 0 but 0 is not at least 1"):
        tnn.Conv2d(4, 0, 3)
    with pytest.raises(SpecError, match="in_channels is 0 but 0 is not at least 1"):
        tnconv.ConvSpec(0, 4, 3, 5)


@pytest.mark.parametrize(
    "layer",
    [
        tnn.Conv2d(2, 3, 3, stride=2, padding=1),
        tnn.CPConv2d(2, 3, 3, rank=2, padding=1),
        tnn.CPConv2d(2, 3, 3, rank=2, padding=1).requires_grad_(False),
    ],
    ids=["dense", "factorised", "constant"],
)
def test_a_layer_that_meets_many_sizes_shares_plans_among_them(layer, monkeypatch):
    layer = layer.double()
    weight = layer.to_dense() if isinstance(layer, tnn.CPConv2d) else layer.weight
    planned, whole = [], Job.compiled
    monkeypatch.setattr(Job, "compiled", lambda job, source: planned.append(source) or whole(job, source))
    for size in ((16, 16), (17, 18), (16, 16), (20, 19), (21, 31)):
        x = random(2, 2, *size)
        wanted = torch.nn.functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
        assert torch.allclose(layer(x), wanted)
    assert 1 <= len(planned) <= 2  # the first size by itself, and once more where others share its plan
