"""`out=` and `beta=`: `out = beta · out + result`, for every operation, against the call without."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs
from tests.ops.layer_values import values_of
from tests.ops.ownership import LAYERS, inputs
from tests.ops.test_operations import assert_close
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.numerics import runtime
from tnconv.errors import ArgumentError, LoweringError, TnconvError
from tnconv.ir import Index, evaluate
from tnconv.spec.layer_spec import Layer
from tnconv.testing import conv_specs
from tnconv.testing.memory import memory_of

OPERATIONS = [operation.name for operation in tnconv.ops.list()]
SUMS = (
    "kfac_expand",
    "kfac_reduce",
    "kfac_grad_expand",
    "kfac_grad_reduce",
    "weight_vjp",
    "ekfac_eigenvalues",
)
SPECS = st.one_of(
    conv_specs(max_dims=2, max_channels=3, max_output=4), conv_transpose_specs(max_dims=2), linear_specs()
)
EXPAND = ConvSpec(4, 6, 3, (5, 5), padding=1, groups=2, bias=True)


def filled(shape: torch.Size, dtype: torch.dtype, order: str = "contiguous") -> Tensor:
    """A tensor that holds something, laid out as said."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
    if order == "turned":
        return made.movedim(0, -1).contiguous().movedim(-1, 0) if made.dim() > 1 else made
    return torch.stack([made, made], -1)[..., 1] if order == "strided" else made


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    """The same, not-a-numbers too."""
    assert got.isnan().equal(want.isnan())
    assert_close(got.nan_to_num(), want.nan_to_num(), tolerance)


def assert_adds(
    function: tnconv.CompiledFunction, arguments: list[Tensor], order: str = "contiguous"
) -> None:
    """Written over, added to, and added to with a factor; whatever was there."""
    want = function(*arguments)
    for beta in (None, 1.0, -0.75):
        out = filled(want.shape, want.dtype, order)
        before = out.clone()
        if beta is None:
            out.fill_(float("nan"))
        assert function(*arguments, out=out, beta=beta) is out
        tolerance = 1e-12 if arguments else 1e-6
        assert_same(out, want if beta is None else beta * before + want, tolerance)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation(op: str) -> None:
    for number, layer in enumerate(LAYERS[OPERATIONS.index(op) % 5 :: 5]):
        options: dict[str, Any] = {"batch_size": 2} if op == "input_jacobian" else {}
        if number % 3 == 1 and "joint" in tnconv.ops.get(op).options:
            options["bias"] = "joint"
        try:
            function = tnconv.compile(layer, op, **options)
        except TnconvError:
            continue
        arguments = [x.double() for x in inputs(function, 2)]
        assert_adds(function, arguments, ("contiguous", "strided", "turned")[number % 3])
        sizes = dict.fromkeys(function.network.symbols, 32)
        claimed, plain = function.accumulating_cost.peak_elements, function.cost.peak_elements
        assert evaluate(claimed, sizes) <= evaluate(plain, sizes)
        assert (
            function.accumulating is not None
            and f"def {function.accumulating.name}" in function.accumulating.source
        )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    spec=SPECS,
    op=st.sampled_from(SUMS),
    joint=st.booleans(),
    batch=st.integers(0, 3),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_sums_of_random_layers(spec: Layer, op: str, joint: bool, batch: int, dtype: torch.dtype) -> None:
    joint = joint and "joint" in tnconv.ops.get(op).options
    function = tnconv.compile(spec, op, bias="joint" if joint else "separate")
    values = values_of(spec, batch, dtype, joint)
    assert_adds(function, [values[name] for name in function.arguments])


LARGE = {
    "lag along two axes": (ConvSpec(32, 8, 3, (7, 8), padding=1), "kfac_expand", "rt.correlate"),
    "lag along one axis": (ConvSpec(40, 8, 3, (12, 12), padding=1, stride=2), "kfac_expand", "rt."),
    # Of a known batch: a symbolic cost is measured with so many examples that it takes ten seconds.
    "blocks of rows": (ConvSpec(300, 8, 1, (30, 30), batch_size=4), "kfac_expand", "rt.gram"),
    "a thin sum": (LinearSpec(1024, 8), "kfac_reduce", "rt.gram"),
    "groups": (ConvSpec(24, 12, 3, (6, 6), groups=3), "kfac_expand", "out=out"),
    "gradients": (ConvSpec(8, 200, 3, (9, 9)), "kfac_grad_expand", "rt.gram"),
    "a matrix product": (LinearSpec(30, 20), "weight_vjp", "torch.addmm"),
    "gradients of examples": (LinearSpec(8, 6, input_size=7), "per_example_weight_vjp", "torch.baddbmm"),
    "parts of a joint matrix": (ConvSpec(8, 6, 3, (7, 7), padding=1), "kfac_expand", "out=out_part"),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_last_call_adds(name: str) -> None:
    """Nothing as large as the result is made; what is added to need not be Hermitian."""
    spec, op, call = LARGE[name]
    bias = "joint" if "joint" in name else "separate"
    function = tnconv.compile(spec, op, bias=bias, hints={"N": 4} if spec.batch_size == "N" else {})
    assert function.accumulating is not None
    (line,) = [line for line in function.accumulating.source.splitlines() if "out=out" in line]
    assert call in line
    arguments = [x.double() for x in inputs(function, 4)]
    assert_adds(function, arguments)
    sizes = dict.fromkeys(function.network.symbols, 4)
    claimed, plain = function.accumulating_cost.at(**sizes), function.cost.at(**sizes)
    assert claimed.multiplications == plain.multiplications
    assert claimed.peak_elements < plain.peak_elements
    on_meta = [x.to("meta", torch.float32) for x in arguments]
    out = torch.empty_like(function(*on_meta))
    taken = memory_of(lambda *given: function(*given[:-1], out=given[-1], beta=0.5), *on_meta, out)
    assert taken.peak <= 4 * int(claimed.peak_elements)


def test_what_is_no_view_is_added_behind_the_product() -> None:
    """A product with the legs `[c, (c_2 d)]` has no place in `[d, c, c_2]`."""
    function = tnconv.compile(
        LinearSpec(4, 3, input_size=(2, 1), batch_size=2), "ggn_mini_block", hints={"V": 2}
    )
    assert_adds(function, [x.double() for x in inputs(function, 2)])
    out = Value("out", tuple((Index(name, 3),) for name in "abc"))
    a, b, c = (dim[0] for dim in out.dims)
    em = Emitter({"out"}, {}, {})
    kept = [((c, a, b),), ((a,), (b, c)), ((c,), (a, b)), ((b, c), (a,)), ((a,), (c,), (b,))]
    assert [em.is_view(out, dims) for dims in kept] == [False, True, True, True, True]
    assert not em.is_view(out, ((b,), (c, a)))
    part = replace(out, contiguous=False)
    assert [em.is_view(part, dims) for dims in kept] == [False, False, False, False, True]


def test_a_scale_and_a_mean_of_nothing() -> None:
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    raw, mean = (tnconv.compile(EXPAND, "kfac_expand", convention=name) for name in ("sum", "kfac"))
    total = torch.zeros_like(raw(x))
    for batch in x.split(1):
        raw(batch, out=total, beta=1)
    assert_close(total / 75, mean(x), 1e-12)
    assert mean(x[:0], out=total.clone(), beta=1).isnan().all()
    assert_close(raw(x[:0], out=total.clone(), beta=1), total)


OPTIONS: dict[str, dict[str, Any]] = {
    "training": {"training": True},
    "constants": {"constant": ("grad_output",)},
    "chunks": {"memory_limit": "20KiB"},
    "reference": {"backend": "reference"},
    "a dtype": {"dtype": torch.float64},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_with_options(name: str) -> None:
    function = tnconv.compile(EXPAND, "per_example_weight_vjp", **OPTIONS[name])
    assert (function.accumulating is None) == (name in ("constants", "chunks", "reference"))
    for each in (function, pickle.loads(pickle.dumps(function))):
        assert_adds(each, [x.double() for x in inputs(function, 3)])


def test_one_example_and_two_batches() -> None:
    function = tnconv.compile(EXPAND, "per_example_weight_vjp")
    x, grad = (v[0].double() for v in inputs(function, 1))
    assert_adds(function, [x, grad])
    ntk = tnconv.compile(EXPAND, "ggn_gram")
    x, z = (v.double() for v in inputs(ntk, 2))
    out = torch.ones(2, 2, 2, 2, dtype=torch.float64)
    assert ntk(x, z, x, z, out=out, beta=2) is out
    assert_close(out, ntk(x, z, x, z) + 2, 1e-12)


def test_dtypes() -> None:
    """That of the result is wanted, whatever that of the arguments is; under autocast too."""
    function = tnconv.compile(EXPAND, "kfac_expand")
    x = torch.randn(2, 4, 5, 5, dtype=torch.bfloat16)
    out = torch.ones(2, 18, 18)
    torch.testing.assert_close(function(x, out=out, beta=1), function(x) + 1)
    with pytest.raises(
        ArgumentError, match=r"out has dtype torch.bfloat16 but the result .* has torch.float32"
    ):
        function(x, out=out.bfloat16())
    gradient = tnconv.compile(EXPAND, "weight_vjp")
    arguments = inputs(gradient, 2)
    with torch.autocast("cpu", torch.bfloat16):
        want = gradient(*arguments)
        assert_close(gradient(*arguments, out=torch.ones_like(want), beta=1), want + 1, 0.01)
    norm = tnconv.compile(EXPAND, "gradient_norm")
    arguments = [v.to(torch.complex128) for v in inputs(norm, 2)]
    assert norm(*arguments, out=torch.empty(2, dtype=torch.float64)).dtype == torch.float64


def test_what_is_refused() -> None:
    function = tnconv.compile(EXPAND, "kfac_expand")
    x, out = torch.randn(2, 4, 5, 5), torch.zeros(2, 18, 18)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"out": torch.zeros(18, 18)}, r"out has shape \(18, 18\) but the result .* has \(2, 18, 18\)"),
        ({"out": out.double()}, r"out has dtype torch.float64 but the result .* has torch.float32"),
        ({"out": out.to("meta")}, r"out is on meta but the result .* is on cpu"),
        ({"out": [out]}, r"is given a list beside out="),
        ({"beta": 1.0}, r"beta=1.0 is given without out="),
        ({"out": out, "beta": torch.ones(())}, r"beta=tensor\(1.\) is a Tensor; give a finite int or float"),
        ({"out": out, "beta": float("inf")}, r"beta=inf is a float; give a finite"),
        ({"out": out, "beta": True}, r"beta=True is a bool"),
        ({"out": out.clone().requires_grad_()}, r"out requires a gradient"),
        (
            {"out": torch.zeros(1, 18, 18).expand(2, 18, 18)},
            r"strides \(0, 18, 1\) .* cells may share one place",
        ),
    ]
    for options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            function(x, **options)
    with pytest.raises(ArgumentError, match=r"'x' requires a gradient, .* detach 'x', or use torch.no_grad"):
        function(x.clone().requires_grad_(), out=out)
    with torch.no_grad():
        function(x.clone().requires_grad_(), out=out.clone().requires_grad_())
    memory = torch.randn(2 * 18 * 18 + 200)
    with pytest.raises(ArgumentError, match=r"may share memory with argument 'x', at \d+ to \d+"):
        function(memory[:200].view(2, 4, 5, 5), out=memory[199:-1].view(2, 18, 18))
    apart = memory[200:].view(2, 18, 18)
    assert function(memory[:200].view(2, 4, 5, 5), out=apart) is apart


def test_contexts_that_record() -> None:
    function = tnconv.compile(EXPAND, "kfac_expand")
    x, out = torch.randn(2, 4, 5, 5), torch.zeros(2, 18, 18)
    with pytest.raises(Exception, match=r"under torch.compile, where nothing is added in place"):
        torch.compile(lambda x: function(x, out=out), fullgraph=True, backend="eager")(x)
    with pytest.raises(ArgumentError, match=r"under a transform of torch.func"):
        torch.func.vmap(lambda x: function(x, out=out))(x)
    with pytest.raises(ArgumentError, match=r"under make_fx or torch.jit.trace"):
        torch.fx.experimental.proxy_tensor.make_fx(lambda x: function(x, out=out))(x)  # type: ignore[attr-defined]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(ArgumentError, match=r"has a tangent"):
            function(dual, out=out)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(x), mode.from_tensor(out)
        assert function(fake[0], out=fake[1], beta=1) is fake[1]


def test_arguments_of_those_names() -> None:
    """A network's own `out` and `beta` are given by name as before."""
    text = "network a {\n index [n=3]\n out = input [n]\n beta = parameter [n]\n output [n]\n}"
    function, x = tnconv.compile(tnconv.parse(text)), torch.arange(3.0)
    assert_close(function(out=x, beta=x + 1), x * (x + 1))
    assert_close(function(x, beta=x + 1), x * (x + 1))
    with pytest.raises(ArgumentError, match="argument 'out' is given twice"):
        function(x, x, out=x)


def test_the_exact_check_is_of_what_is_added_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ConvSpec(1, 2, 2, 3)
    tnconv.compile(spec, "weight_vjp", verify="exact")
    monkeypatch.setattr(runtime, "add_into", lambda out, value, beta=1.0: out.copy_(value))
    with pytest.raises(LoweringError, match="differs from the reference"):
        tnconv.compile(spec, "weight_vjp", verify="exact")


def test_a_transposed_convolution_by_hand() -> None:
    spec = ConvTransposeSpec(2, 3, 2, 3)
    function = tnconv.compile(spec, "weight_vjp")
    x, grad = torch.ones(1, 2, 3), torch.ones(1, 3, 4)
    assert function(x, grad, out=torch.full((2, 3, 2), 10.0), beta=0.5).tolist() == [[[8.0, 8.0]] * 3] * 2
