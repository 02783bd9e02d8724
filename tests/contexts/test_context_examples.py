"""What was found from outside, each with its right value."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import tnconv
from tests.contexts.subjects import normal
from tnconv import ConvSpec
from tnconv.backends.available import memory_of
from tnconv.backends.torch.constants import WithConstants
from tnconv.backends.torch.numerics import strips


def reduced(size: int) -> tuple[tnconv.CompiledFunction, torch.Tensor, torch.Tensor]:
    """A factor that needs a strip, its input, and its value by definition."""
    spec = ConvSpec(2, 3, 3, size, padding=1)
    x = normal(2, 2, size)
    sums = nn.functional.unfold(x[:, :, None], (1, 3), padding=(0, 1)).sum(2)
    return tnconv.compile(spec, "kfac_reduce"), x, (sums.T @ sums)[None] / (2 * size**2)


def export(function: object, x: torch.Tensor) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    torch.testing.assert_close(torch.export.export(Model(), (x,)).module()(x), function(x))


def fake(function: object, x: torch.Tensor) -> None:
    with FakeTensorMode() as mode:
        assert function(mode.from_tensor(x)).shape == (1, 6, 6)


def traced(function: object, x: torch.Tensor) -> None:
    make_fx(function, tracing_mode="fake")(x)


def under_jvp(function: object, x: torch.Tensor) -> None:
    torch.func.jvp(lambda x: torch.func.jvp(function, (x,), (x,))[0], (x,), (x,))


@pytest.mark.parametrize("before", [export, fake, traced, under_jvp])
@pytest.mark.parametrize("order", ["eager first", "eager last"])
def test_nothing_is_kept_of_a_mode(before, order: str) -> None:
    function, x, want = reduced(11)
    strips._kept.cache_clear()
    if order == "eager first":
        torch.testing.assert_close(function(x), want)
    before(function, x)
    got = function(x)
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, want)


def test_what_is_kept_of_constants_has_no_tangents_and_no_mode() -> None:
    """Factors of a product are kept; a tangent on an unchanged primal is not forgotten on a hit."""
    function = tnconv.nn.CPConv2d(3, 4, 3, rank=2).compiled(5)
    assert isinstance(function.built.function, WithConstants)
    tensors = [
        normal(*[a.size if isinstance(a.size, int) else 2 for a in axes])
        for axes in function._signature.axes.values()
    ]
    with torch.inference_mode():
        function(*tensors)
    want = function(*tensors)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, t) for t in tensors]
        tangent = forward_ad.unpack_dual(function(*duals)).tangent
    torch.testing.assert_close(
        tangent, torch.func.jvp(function.program.function, tuple(tensors), tuple(tensors))[1]
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        function(*[t * 2 for t in tensors])
    (given, made) = function.kept._kept
    assert given.tensors and made
    assert not any(t.is_inference() or type(t) is not torch.Tensor for t in (*given.tensors, *made))
    torch.testing.assert_close(function(*tensors), want)


def test_a_trace_by_jit_is_exact_and_has_every_batch() -> None:
    """Sizes are tensors there: a scale such as 1/N is not rounded to single precision, nor is N fixed."""
    function, x, want = reduced(7)
    traced = torch.jit.trace(function, (x,))
    torch.testing.assert_close(traced(x), want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(traced(torch.cat([x, x])), want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["CP", "Tucker", "TT", "TR", "BT", "HT"])
def test_factorised_layers_are_traced_for_every_size(kind: str) -> None:
    layer = getattr(tnconv.nn, f"{kind}Conv2d")(4, 6, 3, rank=2, padding=1, stride=2).double()
    x, other = normal(1, 4, 5, 6), normal(3, 4, 8, 9)
    for made in (torch.jit.trace(layer, (x,)), torch.fx.symbolic_trace(layer)):
        for each in (x, other, other[0]):
            if each.dim() == 4 or not isinstance(made, torch.jit.ScriptModule):
                torch.testing.assert_close(made(each), layer(each), rtol=1e-9, atol=1e-9)
    nodes = [node.op for node in torch.fx.symbolic_trace(layer).graph.nodes]
    assert nodes.count("call_function") == 1  # the layer as a whole


@pytest.mark.parametrize("kind", ["CP", "Tucker"])
def test_linearize_of_factorised_layers_with_a_bias(kind: str) -> None:
    layer = getattr(tnconv.nn, f"{kind}Conv2d")(3, 4, 3, rank=2).double()
    x = normal(2, 3, 5, 5)
    value, push = torch.func.linearize(layer, x)
    torch.testing.assert_close(value, layer(x))
    torch.testing.assert_close(push(x), torch.func.jvp(layer, (x,), (x,))[1])


def test_a_drop_in_is_traced_by_its_name() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(tnconv.nn.Conv2d(2, 3, 3), nn.ReLU())).graph
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [tnconv.functional.convNd]


def test_what_takes_no_calls_over_is_still_refused() -> None:
    with pytest.raises(tnconv.ArgumentError, match="'weight' is a str, not a tensor"):
        tnconv.functional.conv2d(normal(1, 1, 3, 3), "weight")
    with pytest.raises(tnconv.ArgumentError, match="'x' is a str, not a tensor"):
        reduced(5)[0]("x")


@pytest.mark.parametrize(
    "name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
def test_modules_on_the_meta_device(name: str) -> None:
    """Also under an autocast of another device; `meta` is none that autocast knows."""
    mine = getattr(tnconv.nn, name)(2, 4, 3, device="meta")
    x = torch.empty(2, 2, *[5] * int(name[-2]), device="meta")
    want = getattr(nn, name)(2, 4, 3, device="meta")(x)
    assert mine(x).shape == want.shape and mine(x).is_meta
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mine(x).dtype == torch.float32


def test_a_device_is_asked_only_where_it_is() -> None:
    assert memory_of(torch.device("meta")) is None
    if not torch.cuda.is_available():
        assert memory_of(torch.device("cuda")) is None


def test_a_function_without_operands_is_on_the_device_of_its_arguments() -> None:
    """A step of patterns alone makes its one like an argument."""
    network = tnconv.parse(
        """network ones {
  index [a=3, b=2, c=4]
  x      = input     [c]
  p      = pattern   [a = b]
  output             [a, b, c]
}"""
    )
    function = tnconv.compile(network, passes="none")
    for x in (normal(4), normal(4).float(), normal(4).to("meta")):
        got = function(x)
        assert (got.dtype, got.device) == (x.dtype, x.device)


def test_a_pickle_has_the_choices_and_no_program() -> None:
    """Loaded where kernels would be chosen otherwise, it is the same program; without a search, from what was compiled."""
    function, x, want = reduced(9)
    text = pickle.dumps(function)
    assert b"def " not in text
    other = pickle.loads(text)
    assert other.source == function.source and str(other.plan) == str(function.plan)
    assert other.program.choices == function.program.choices
    torch.testing.assert_close(other(x), want)
    assert copy.deepcopy(function) is function and copy.copy(function) is function
