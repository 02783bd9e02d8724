"""The backend `jax`: every step against the reference, every operation of random layers, JAX' own transformations."""

import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnconv
from tests import layer_strategies
from tnconv import ConvSpec, ops, plugins
from tnconv.backends import reference
from tnconv.backends.backend import How, backend_of
from tnconv.errors import ArgumentError, LoweringError, OperationError, PlanError, PluginError, SpecError
from tnconv.ir import Network, Sum, evaluate, parse
from tnconv.planner import make_plan
from tnconv.testing import conv_specs, networks, sums
from tnconv.testing.values import gaussian_arguments, random_arguments, random_symbols

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
numerics = pytest.importorskip("tnconv.backends.jax.numerics")

ENABLE_X64 = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64
MOST_CELLS = 200_000  # of the indices of a network that the dense reference computes
FEW = settings(max_examples=8)
SPEC = ConvSpec(4, 6, 3, (7, 6), stride=2, padding=1, groups=2, bias=True)


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """Exact values, and programs that are quick to compile."""
    jax.config.update("jax_disable_most_optimizations", True)
    with backend_of("jax").arrays.exactly():
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def compiled(source: Any, op: str = "forward", **options: Any) -> tnconv.CompiledFunction:
    return tnconv.compile(source, op, backend="jax", **options)


def arguments(function: tnconv.CompiledFunction, seed: int = 0, dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(seed)
    symbols = dict.fromkeys(function.network.symbols, 3)
    arrays = random_arguments(function.network, rng, dtype, symbols)
    return [jnp.asarray(arrays[name]) for name in function.arguments]


def value_of(network: Network | Sum, function: tnconv.CompiledFunction, given: list[Any]) -> np.ndarray:
    return reference.evaluate(network, dict(zip(function.arguments, map(np.asarray, given), strict=True)))


def assert_same(got: Any, want: Any, tolerance: float = 1e-10) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max(initial=0)))


# -- every step ------------------------------------------------------------------------------------


def assert_network(network: Network | Sum, seed: int, gaussian: bool = False) -> None:
    """The program computes integers exactly, or Gaussian integers."""
    rng = np.random.default_rng(seed)
    symbols = random_symbols(network, rng)
    plan = make_plan(network)
    try:
        program = backend_of("jax").lower(plan, network, How())
    except LoweringError as error:
        assert "cannot be read off the shape of an argument" in str(error)
        return
    draw = gaussian_arguments if gaussian else random_arguments
    arrays = draw(network, rng, symbols=symbols)
    want = reference.evaluate(network, arrays, symbols)
    got = np.asarray(program.function(*(jnp.asarray(arrays[name]) for name in program.arguments)))
    assert got.shape == want.shape, program.source
    if want.dtype == np.int64:
        assert np.array_equal(got, want), program.source
    else:
        np.testing.assert_allclose(got, want.astype(got.dtype), 1e-12, 1e-12, err_msg=program.source)


@FEW
@given(networks(selects=True), st.integers(0, 2**31), st.booleans())
def test_random_networks(network: Network, seed: int, gaussian: bool):
    assert_network(network, seed, gaussian)


@settings(max_examples=2)
@given(sums(), st.integers(0, 2**31))
def test_random_sums(network: Sum, seed: int):
    assert_network(network, seed)


# What is computed by which kernel: relations among i of x, k of w, and what is open or summed.
STEPS = {
    "convolution": "x [n, c, i] | w [d, c, k] | i = 2*o + k - 1 | [n, d, o]",
    "convolution, turned": "x [n, c, i] | w [d, c, k] | i = -2*o + k + 7 | [n, d, o]",
    "convolution, kernel turned": "x [n, c, i] | w [d, c, k] | i = 2*o - 3*k + 4 | [n, d, o]",
    "transposed": "x [n, c, o] | w [d, c, k] | i = 2*o + 3*k - 1 | [n, d, i]",
    "transposed, turned": "x [n, c, o] | w [d, c, k] | i = -2*o - k + 9 | [n, d, i]",
    "kernel in strides": "x [n, c, o] | w [d, c, k] | k = 2*i - o + 1 | [n, d, i]",
    "by example": "x [n, c, i] | w [n, d, o] | i = o + 2*k | [n, d, c, k]",
    "beyond": "x [n, c, i] | w [d, c, k] | i = o + k + 40 | [n, d, o]",
    "window sum": "x [n, c, i] | w [c, d] | i = -2*o + 3*k + 1 | [n, d, k]",
    "read": "x [n, c, i] | w [n, d] | i = o + 2*k - 1 | [c, d, o, k]",
    "read, turned": "x [n, c, i] | w [n, d] | i = 5 - o - k | [c, d, o, k]",
    "write": "x [n, o, k] | w [n, d] | i = o + 2*k - 1 | [d, i]",
    "write, kept": "x [n, o, k] | w [n, d] | i = o + 2*k - 1 | [d, i, k]",
    "circular": "x [n, c, i] | w [d, c, k] | i = 2*o + k - 3 mod 8 | [n, d, o]",
    "reflected": "x [n, c, o] | w [d, c, k] | i = o + k - 3 reflect 8 | [n, d, i]",
    "replicated": "x [n, c, i] | w [d, c, k] | i = o + k - 20 replicate 8 | [n, d, o]",
    "two coefficients": "x [n, i] | w [d, k] | i = 2*o + k, i = 2*q + 2*k | [n, d, o, q]",
    "both sides": "x [n, i] | w [i, k] | i = 2*o + k | [n, i, o]",
}
NATIVE = dict.fromkeys(list(STEPS)[:8], "convolution") | {
    "window sum": "window sum",
    "circular": "convolution",
}
TEXT = """
network step {{
  index [n=2, c=3, d=2, i=8, o=4, k=3, q=3]
  x = input [{}]
  w = parameter [{}]
{}
  output [{}]
}}
"""


@pytest.mark.parametrize("name", STEPS)
def test_a_step(name: str):
    x, w, relations, output = (part.strip() for part in STEPS[name].split("|"))
    lines = "\n".join(f"  p{n} = pattern [{text}]" for n, text in enumerate(relations.split(", ")))
    network = parse(TEXT.format(x[3:-1], w[3:-1], lines, output[1:-1]))
    assert_network(network, 0)
    kernels = backend_of("jax").lower(make_plan(network), network, How()).kernels
    assert any(NATIVE[name] in kernel for kernel in kernels) if name in NATIVE else True, kernels


# -- every operation -------------------------------------------------------------------------------

SPECS = st.one_of(
    conv_specs(max_dims=2, max_channels=2),
    conv_specs(max_dims=3, max_channels=2),
    layer_strategies.conv_transpose_specs(max_dims=2),
    layer_strategies.linear_specs(),
    layer_strategies.pool_specs(),
    layer_strategies.unfold_specs(),
)


@pytest.mark.parametrize("op", [o.name for o in ops.list()])
def test_an_operation(op: str):
    batch = {"batch_size": 2} if op in ("input_jacobian", "toeplitz") else {}
    function = compiled(SPEC, op, **batch)
    given = arguments(function)
    assert_same(function(*given), value_of(function.network, function, given))


@FEW
@given(SPECS, st.sampled_from([o.name for o in ops.list()]), st.integers(0, 2**31), st.data())
def test_random_layers(spec: Any, op: str, seed: int, data: st.DataObject):
    operation = ops.get(op)
    options: dict[str, Any] = {"bias": "joint"} if operation.joins and data.draw(st.booleans()) else {}
    if operation.factor and data.draw(st.booleans()):
        options["groups"] = "average"
    if op in ("input_jacobian", "toeplitz") and getattr(spec, "batch_size", None) == "N":
        options["batch_size"] = 2
    try:
        function = compiled(spec, op, **options)
    except (OperationError, SpecError, PlanError):
        return
    except LoweringError as error:  # as the torch backend says
        assert "cannot be read off the shape of an argument" in str(error)
        return
    symbols = dict.fromkeys(function.network.symbols, 3)
    cells = np.prod([evaluate(i.size, symbols) for i in function.network.terms[0].indices], dtype=float)
    if cells > MOST_CELLS:
        return
    dtype = np.complex128 if not operation.real_only and data.draw(st.booleans()) else np.float64
    given = arguments(function, seed, dtype)
    assert_same(function(*given), value_of(function.network, function, given))


def test_factorised_layers():
    layer = tnconv.nn.TuckerConv2d(4, 6, 3, rank=3, padding=1)
    function = compiled(layer, input_size=(5, 5))
    given = arguments(function)
    assert_same(function(*given), value_of(function.network, function, given))


# -- as JAX code -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forward() -> tnconv.CompiledFunction:
    return compiled(SPEC)


def native(x: Any, weight: Any, bias: Any) -> Any:
    """The layer by JAX alone."""
    y = jax.lax.conv_general_dilated(x, weight, (2, 2), [(1, 1), (1, 1)], feature_group_count=2)
    return y + bias[:, None, None]


def test_it_takes_and_returns_arrays_of_jax(forward):
    given = arguments(forward)
    got = forward(*given)
    assert isinstance(got, jax.Array) and got.dtype == jnp.float64
    assert_same(got, native(*given))
    assert_same(forward(given[0], bias=given[2], weight=given[1]), got)
    assert_same(forward(given[0][0], *given[1:]), got[0])  # one example


def test_transformations(forward):
    given = arguments(forward)
    directions = arguments(forward, 1)
    assert_same(jax.jit(forward)(*given), native(*given))

    def squares(f: Any) -> Any:
        return lambda *given: (f(*given) ** 2).sum()

    for got, want in zip(*(jax.grad(squares(f), (0, 1, 2))(*given) for f in (forward, native)), strict=True):
        assert_same(got, want)
    for got, want in zip(*(jax.jvp(f, given, directions) for f in (forward, native)), strict=True):
        assert_same(got, want)
    stacked = [jnp.stack([a, b]) for a, b in zip(given, directions, strict=True)]
    assert_same(jax.vmap(forward)(*stacked), jax.vmap(native)(*stacked))
    assert_same(jax.vmap(forward, (0, None, None))(*given), native(*given))  # without a batch axis each


@pytest.mark.parametrize("op", ["unfold", "fold", "kfac_reduce"])
def test_gradients_of_every_primitive(op: str):
    function = compiled(ConvSpec(2, 3, 3, (6,), stride=2, padding=1, padding_mode="circular"), op)
    given = arguments(function)
    direction = arguments(function, 1)[0]

    def squares(x: Any) -> Any:
        return (function(x, *given[1:]) ** 2).sum()

    want = (squares(given[0] + 1e-6 * direction) - squares(given[0] - 1e-6 * direction)) / 2e-6
    assert_same(jnp.vdot(jax.grad(squares)(given[0]), direction), want, 1e-6)


def test_dtypes(forward):
    given = arguments(forward)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.complex64):
        got = forward(*(each.astype(dtype) for each in given))
        assert got.dtype == dtype
        assert_same(got.astype(jnp.complex128), native(*given), 1e-4 if dtype == jnp.float32 else 0.1)
    factor = compiled(SPEC, "kfac_expand")
    assert factor(given[0].astype(jnp.bfloat16)).dtype == jnp.float32
    assert (
        compiled(SPEC, "kfac_expand", dtype=torch.float64)(given[0].astype(jnp.float32)).dtype == jnp.float64
    )
    gradient = compiled(SPEC, "weight_vjp")
    x, dy = arguments(gradient)
    assert gradient(x.astype(jnp.float32), dy).dtype == jnp.float64
    with (
        ENABLE_X64(False),
        pytest.raises(ArgumentError, match="float64 is asked for but JAX computes in float32"),
    ):
        compiled(SPEC, "kfac_expand", dtype=torch.float64)(jnp.ones((1, 4, 7, 6)))


def test_what_does_not_fit_is_said(forward):
    x, weight, bias = arguments(forward)
    for wrong, message in (
        ((np.asarray(x), weight, bias), "argument 'x' is a ndarray, not an array; pass a jax.Array"),
        ((x.astype(int), weight, bias), "argument 'x' has dtype int64; convert it to float32"),
        ((x.astype(jnp.float32), weight, bias), "argument 'weight' has dtype float64 but 'x' has float32"),
        ((x[:, 1:], weight, bias), r"argument 'x' has size 3 on axis 1 \(index \(g c\)\) but 4 is needed"),
        ((x, weight[0], bias), "argument 'weight' has 3 axes .* but 4 are needed"),
    ):
        with pytest.raises(ArgumentError, match=message):
            forward(*wrong)
        if "ndarray" not in message:
            with pytest.raises(ArgumentError, match=message):
                jax.jit(forward)(*wrong)


def test_nothing_is_a_sum_and_no_mean():
    x = jnp.zeros((0, 4, 7, 6))
    assert compiled(SPEC, "unfold")(x).shape == (0, 36, 12)
    assert not compiled(SPEC, "kfac_reduce", convention="sum")(x).any()
    assert jnp.isnan(compiled(SPEC, "kfac_reduce")(x)).all()
    gradient = compiled(SPEC, "per_example_weight_vjp")(x, jnp.zeros((0, 6, 4, 3)))
    assert gradient.shape == (0, 6, 2, 3, 3)


def test_a_row_out_of_range_is_not_a_number():
    network = parse(
        "network n {\n index [i=3, s=2]\n x = input [i]\n r = select [i = rows[s]]\n output [s]\n}"
    )
    got = compiled(network)(jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([2, 3]))
    assert got[0] == 3.0 and jnp.isnan(got[1])


def test_samples():
    options = {"sample": {"in_channels": 0.5, "batch": 0.5}, "preselect": True}
    function = compiled(SPEC, "weight_vjp", **options)
    rows = function.draw_rows(torch.Generator().manual_seed(0), N=4)
    assert all(isinstance(each, jax.Array) for each in rows.values())
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((4, 4, 7, 6)), rng.standard_normal((4, 6, 4, 3))
    by_torch = tnconv.compile(SPEC, "weight_vjp", **options)
    same = {name: torch.from_numpy(np.array(each)).long() for name, each in rows.items()}
    want = by_torch(by_torch.preselected(torch.from_numpy(x), same), torch.from_numpy(dy), **same)
    assert_same(function(function.preselected(jnp.asarray(x), rows), jnp.asarray(dy), **rows), want.numpy())


def test_equations():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 3, 8), (4, 3, 3)))
    equation = "n c 2*h+r-1, k c r -> n k h"
    got = tnconv.einsum(equation, x, w, h=4, backend="jax")
    assert isinstance(got, jax.Array)
    want = tnconv.einsum(equation, *(torch.from_numpy(np.array(each)) for each in (x, w)), h=4)
    assert_same(got, want.numpy())
    nothing = tnconv.einsum(equation, x[:0], w, h=4, backend="jax")
    assert nothing.shape == (0, 4, 4) and nothing.dtype == x.dtype
    with pytest.raises(ArgumentError, match=r"operand x1 is a ArrayImpl, not a tensor; pass a torch\.Tensor"):
        tnconv.einsum(equation, x, w, h=4)
    with pytest.raises(ArgumentError, match=r"operand x1 is a Tensor, not an array; pass a jax\.Array"):
        tnconv.einsum(equation, torch.ones(2, 3, 8), w, h=4, backend="jax")


def test_two_batches():
    kernel = compiled(SPEC, "ntk")
    (x,) = arguments(kernel)
    assert_same(kernel(x, x[:2]), kernel(x)[:, :, :2])


# -- what it came from -----------------------------------------------------------------------------


def test_the_source_is_what_runs(tmp_path):
    function = compiled(ConvSpec(2, 3, 3, (8,), padding=1, bias=False))
    assert "@jax.jit" in function.source
    assert "convolved = rt.convolution(x, weight, (8,), start=(-1,), stride=(1,)" in function.source
    body = function.source.replace("@jax.jit\n", "")
    scope: dict[str, Any] = {"jnp": jnp, "np": np, "rt": numerics}
    exec(body, scope)
    given = arguments(function)
    assert_same(scope[function.program.name](*given), function(*given))
    again = pickle.loads(pickle.dumps(function))
    assert again.source == function.source
    assert_same(again(*given), function(*given))
    assert function.cost.multiplications == function.plan.multiplications
    assert "convolution" in str(function.explain())
    function.report(tmp_path / "page.html")
    assert "convolution" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("op", ["forward", "unfold", "fold", "kfac_reduce"])
def test_no_pattern_and_no_window_is_in_memory(op: str):
    """What XLA keeps besides arguments and results is no more than a copy of these."""
    function = compiled(ConvSpec(4, 4, 5, (32, 32), padding=2, bias=False), op)
    given = arguments(function)
    jax.config.update("jax_disable_most_optimizations", False)
    memory = function.program.function.lower(*given).compile().memory_analysis()
    jax.config.update("jax_disable_most_optimizations", True)
    cells = sum(each.size for each in given) + function(*given).size
    assert memory.temp_size_in_bytes <= 2 * 8 * cells


def test_windows_for_a_product_are_counted():
    function = compiled(ConvSpec(4, 4, 5, (32, 32), padding=2, bias=False), "kfac_expand")
    assert function.cost.at(N=2).peak_elements == 2 * 2 * 4 * 25 * 1024 + 100 * 100


def test_programs_are_checked_exactly(monkeypatch):
    spec = ConvSpec(1, 1, 2, 5, bias=False)
    compiled(spec, "kfac_reduce", verify="exact")
    right = numerics.window_sum
    monkeypatch.setattr(
        numerics, "window_sum", lambda x, axis, start, *rest: right(x, axis, start + 1, *rest)
    )
    with pytest.raises(LoweringError, match="differs from the reference"):
        compiled(spec, "kfac_reduce", verify="exact")


def test_without_jax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "tnconv.backends.jax.jax_backend")
    with pytest.raises(
        PluginError, match=r"backend 'jax' cannot import JAX \(.*\); pip install 'tnconv\[jax\]'"
    ):
        plugins.get(plugins.BACKENDS, "jax")


def test_several_operations_are_one_program() -> None:
    names = ("kfac_expand", "per_example_weight_vjp", "gradient_norm")
    function: Any = tnconv.compile(SPEC, names, backend="jax")
    rng = np.random.default_rng(0)
    for n in (2, 0):  # a mean over nothing is none, what is no mean is empty
        sizes = {
            name: [evaluate(each, {"N": n}) for each in axes]
            for name, axes in function.plan.arguments.items()
        }
        given = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in sizes.items()}
        for alone, value in zip(function.functions, function(**given), strict=True):
            assert_same(value, alone(**{name: given[name] for name in alone.arguments}))
