"""`tnconv.compile`: its sources and options, what a compiled function accepts, and what verification catches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tnconv
from tnconv import ConvSpec, plugins
from tnconv.backends.torch.emit import Emitter, Value
from tnconv.backends.torch.kernels import Kernel, Problem
from tnconv.errors import (
    ArgumentError,
    LoweringError,
    OperationError,
    PassError,
    PlanError,
    PluginError,
    SpecError,
)
from tnconv.ir import Network, Sum, parse
from tnconv.passes import Pass, PassResult, register_pass
from tnconv.planner import parse_plan

SPEC = ConvSpec(4, 6, 3, (5, 6), stride=(1, 2), padding=1, groups=2, bias=True)
OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")
SHAPES = {"x": (2, 4, 5, 6), "weight": (6, 2, 3, 3), "bias": (6,), "grad_output": (2, 6, 5, 3)}


def tensors(*names: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.randn(s, dtype=torch.float64, generator=generator) for n, s in SHAPES.items()}
    return [made[name].to(dtype) for name in names]


def forward() -> tnconv.CompiledFunction:
    return tnconv.compile(SPEC)


# -- arguments ---------------------------------------------------------------------------------------


def test_order_of_arguments() -> None:
    wanted = {
        "forward": ("x", "weight", "bias"),
        "input_vjp": ("weight", "grad_output"),
        "weight_vjp": ("x", "grad_output"),
        "bias_vjp": ("grad_output",),
        "unfold": ("x",),
        "kfac_expand": ("x",),
        "kfac_reduce": ("x",),
    }
    for op, arguments in wanted.items():
        for passes in ("default", "none"):
            assert tnconv.compile(SPEC, op, passes=passes).arguments == arguments
    assert tnconv.compile(ConvSpec(2, 2, 1, (3,)), "forward").arguments == ("x", "weight")


def test_by_place_and_by_name() -> None:
    x, weight, bias = tensors("x", "weight", "bias")
    function = forward()
    want = F.conv2d(x, weight, bias, stride=(1, 2), padding=1, groups=2)
    torch.testing.assert_close(function(x, weight, bias), want)
    torch.testing.assert_close(function(bias=bias, weight=weight, x=x), want)
    torch.testing.assert_close(function(x, bias=bias, weight=weight), want)


def test_wrong_arguments() -> None:
    x, weight, bias = tensors("x", "weight", "bias")
    function = forward()
    with pytest.raises(
        ArgumentError, match=r"4 arguments were given but the function takes 3: x \[N, 4, 5, 6\]"
    ):
        function(x, weight, bias, x)
    with pytest.raises(ArgumentError, match=r"argument 'bias' is missing; the function takes x "):
        function(x, weight)
    with pytest.raises(ArgumentError, match=r"argument 'wait' is not taken; the function takes x "):
        function(x, weight, wait=bias)
    with pytest.raises(ArgumentError, match=r"argument 'x' is given twice, by place and by name"):
        function(x, weight, bias, x=x)


@pytest.mark.parametrize("known", [False, True])
def test_wrong_shapes(known: bool) -> None:
    """Checked also once the function has accepted others."""
    x, weight, bias = tensors("x", "weight", "bias")
    function = forward()
    if known:
        function(x, weight, bias)
    with pytest.raises(ArgumentError, match=r"'x' has 2 axes \(5, 6\) but 4 are needed: \[n, .*, i1, i2\]"):
        function(x[0, 0], weight, bias)
    assert torch.equal(function(x[0], weight, bias), function(x[:1], weight, bias)[0])
    with pytest.raises(ArgumentError, match=r"'x' has size 7 on axis 2 \(index i1\) but 5 is needed"):
        function(torch.zeros(2, 4, 7, 6, dtype=x.dtype), weight, bias)
    with pytest.raises(ArgumentError, match=r"'x' has size 3 on axis 1 \(index \(g c\)\) but 4 is needed"):
        function(x[:, :3], weight, bias)
    with pytest.raises(ArgumentError, match=r"'weight' has size 2 on axis 3 \(index k2\) but 3 is needed"):
        function(x, weight[..., :2], bias)


def test_batch_sizes_must_agree() -> None:
    x, grad = tensors("x", "grad_output")
    function = tnconv.compile(SPEC, "weight_vjp")
    with pytest.raises(
        ArgumentError,
        match=r"'grad_output' has size 1 on axis 0 \(index n\) but 2 is needed \(N, where N is 2 as on axis 0 of 'x'\)",
    ):
        function(x, grad[:1])
    fixed = tnconv.compile(ConvSpec(2, 2, 1, (3,), batch_size=4), "unfold")
    with pytest.raises(ArgumentError, match=r"'x' has size 3 on axis 0 \(index n\) but 4 is needed"):
        fixed(torch.zeros(3, 2, 3))


def test_wrong_kinds() -> None:
    x, weight, bias = tensors("x", "weight", "bias")
    function = forward()
    with pytest.raises(ArgumentError, match=r"'weight' has dtype torch.float32 but 'x' has torch.float64"):
        function(x, weight.float(), bias)
    with pytest.raises(ArgumentError, match=r"'x' has dtype torch.int64; convert it to float32"):
        function(x.long(), weight.long(), bias.long())
    with pytest.raises(ArgumentError, match=r"'weight' is on meta but 'x' is on cpu; move one to the other"):
        function(x, weight.to("meta"), bias)
    for value, name in ((x.numpy(), "ndarray"), ([[1.0]], "list"), (None, "NoneType")):
        with pytest.raises(ArgumentError, match=f"'x' is a {name}, not a tensor; pass a torch.Tensor"):
            function(value, weight, bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize("op", OPERATIONS)
def test_dtypes(op: str, dtype: torch.dtype) -> None:
    """The dtype is kept, but factors of half precision are in float32."""
    function = tnconv.compile(SPEC, op)
    values = tensors(*function.arguments, dtype=dtype)
    got = function(*values)
    factor = tnconv.ops.get(op).factor is not None and dtype == torch.bfloat16
    assert got.dtype == (torch.float32 if factor else dtype)
    exact = function(*tensors(*function.arguments))
    tolerance = {torch.bfloat16: 0.05, torch.float32: 1e-5}.get(dtype, 1e-12)
    assert (
        got - exact.to(torch.promote_types(dtype, exact.dtype))
    ).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("op", OPERATIONS)
def test_how_complex_factors_come_out(op: str) -> None:
    """As they went in where an operation is linear; a conjugate and a factor cancel in all but the forward pass."""
    function = tnconv.compile(SPEC if op != "forward" else ConvSpec(4, 6, 3, (5, 6), groups=2), op)
    values = tensors(*function.arguments, dtype=torch.complex128)
    turn = complex(0.6, 0.8)
    power = {"unfold": 1, "bias_vjp": 1, "forward": 2}.get(op, 0)
    torch.testing.assert_close(function(*(v * turn for v in values)), function(*values) * turn**power)


def test_meta_device() -> None:
    """A function runs without data: only shapes are computed."""
    for op in OPERATIONS:
        function = tnconv.compile(SPEC, op)
        values = tensors(*function.arguments)
        got = function(*(v.to("meta") for v in values))
        assert got.device.type == "meta" and got.shape == function(*values).shape


def test_arguments_that_are_not_contiguous() -> None:
    for op in OPERATIONS:
        function = tnconv.compile(SPEC, op)
        values = tensors(*function.arguments)
        turned = [
            v.permute(*reversed(range(v.dim()))).contiguous().permute(*reversed(range(v.dim())))
            for v in values
        ]
        torch.testing.assert_close(function(*turned), function(*values))


def test_arguments_are_not_changed() -> None:
    for op in OPERATIONS:
        function = tnconv.compile(SPEC, op)
        values = tensors(*function.arguments)
        function(*values)
        for value, before in zip(values, tensors(*function.arguments), strict=True):
            assert torch.equal(value, before)


@pytest.mark.parametrize("op", OPERATIONS)
def test_vmap(op: str) -> None:
    function = tnconv.compile(SPEC, op)
    values = tensors(*function.arguments)
    two = [torch.stack([v, 2 * v + 1]) for v in values]
    got = torch.func.vmap(function._function)(*two)
    for place in range(2):
        torch.testing.assert_close(got[place], function(*(v[place] for v in two)))


# -- options -----------------------------------------------------------------------------------------


def test_unknown_options() -> None:
    with pytest.raises(
        OperationError, match="operation 'backward' is not known; the operations are forward, input_vjp"
    ):
        tnconv.compile(SPEC, "backward")
    with pytest.raises(
        PluginError, match=r"group tnconv.backends has no 'numpy'; it has jax, reference, torch"
    ):
        tnconv.compile(SPEC, backend="numpy")
    with pytest.raises(PlanError, match=r"'fast'"):
        tnconv.compile(SPEC, planner="fast")
    with pytest.raises(OperationError, match="verify='all' is not known; use 'exact' or None"):
        tnconv.compile(SPEC, verify="all")
    with pytest.raises(PassError, match="there is no pass 'faster'"):
        tnconv.compile(SPEC, passes="faster")
    with pytest.raises(OperationError, match="convention 'mean' is not known"):
        tnconv.compile(SPEC, "kfac_reduce", convention="mean")
    with pytest.raises(OperationError, match=r"'forward' has no scale, but convention='sum' was given"):
        tnconv.compile(SPEC, convention="sum")
    with pytest.raises(OperationError, match=r"'backpack' does not define the scale of 'kfac_reduce'"):
        tnconv.compile(SPEC, "kfac_reduce", convention="backpack")


def test_input_size() -> None:
    conv = nn.Conv2d(2, 3, 3)
    with pytest.raises(
        OperationError, match="input_size is given with a network, which has its sizes already"
    ):
        tnconv.compile(SPEC.network(), input_size=5)
    with pytest.raises(SpecError, match="input_size"):
        tnconv.compile(SPEC, input_size=5)
    with pytest.raises(SpecError, match="Bilinear"):
        tnconv.compile(nn.Bilinear(2, 2, 2), input_size=5)
    assert tnconv.compile(conv, input_size=8).network.arguments == ("x", "weight", "bias")


MODULES = {
    "Conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1, bias=False), (7,)),
    "Conv2d": (nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2, groups=2), (6, 5)),
    "Conv2d circular": (nn.Conv2d(2, 2, 3, padding=(1, 2), padding_mode="circular"), (4, 5)),
    "Conv3d": (nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1)), (3, 4, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, size = MODULES[name]
    module = module.double()
    x = torch.randn(2, module.in_channels, *size, dtype=torch.float64)
    parameters = [p for p in (module.weight, module.bias) if p is not None]
    y = module(x)
    torch.testing.assert_close(tnconv.compile(module, input_size=size)(x, *parameters), y)
    grad = torch.randn_like(y)
    (want,) = torch.autograd.grad(y, module.weight, grad)
    torch.testing.assert_close(tnconv.compile(module, "weight_vjp", input_size=size)(x, grad), want)


def test_networks() -> None:
    network = SPEC.network(bias=False)
    assert isinstance(network, Network)
    again = parse(str(network))
    for source in (network, again):
        for op in ("forward", "input_vjp", "weight_vjp", "unfold", "kfac_expand", "kfac_reduce"):
            function = tnconv.compile(source, op)
            values = tensors(*function.arguments)
            wanted = tnconv.compile(ConvSpec(4, 6, 3, (5, 6), stride=(1, 2), padding=1, groups=2), op)
            torch.testing.assert_close(function(*values), wanted(*values))
    total = SPEC.network()
    assert isinstance(total, Sum)
    x, weight, bias = tensors("x", "weight", "bias")
    torch.testing.assert_close(tnconv.compile(parse(str(total)))(x, weight, bias), forward()(x, weight, bias))


def test_a_network_of_ones_own() -> None:
    network = parse(
        """network attention {
          index [n=N, h=2, q=3, k=4, e=5]
          queries = input [n, (h e), q]
          keys    = input [n, (h e), k]
          s       = scale [1/5]
          output          [n, h, q, k]
        }"""
    )
    function = tnconv.compile(network)
    assert function.network.name == "attention"
    queries, keys = torch.randn(2, 10, 3), torch.randn(2, 10, 4)
    want = torch.einsum("nheq,nhek->nhqk", queries.view(2, 2, 5, 3), keys.view(2, 2, 5, 4)) / 5
    torch.testing.assert_close(function(queries=queries, keys=keys), want)


@pytest.mark.parametrize("op", OPERATIONS)
def test_options_do_not_change_the_value(op: str) -> None:
    plain = tnconv.compile(SPEC, op)
    values = tensors(*plain.arguments)
    want = plain(*values)
    for options in (
        {"backend": "reference"},
        {"passes": "none"},
        {"passes": "none", "backend": "reference"},
        {"planner": "dp"},
        {"planner": "left-to-right"},
        {"hints": {"N": 1}},
        {"hints": {"N": 1000}},
        {"passes": "default | default"},
    ):
        function = tnconv.compile(SPEC, op, **options)  # type: ignore[arg-type]
        assert function.arguments == plain.arguments
        torch.testing.assert_close(function(*values), want, rtol=1e-12, atol=1e-12)


def test_cotengra_planner_gives_the_same_value() -> None:
    values = tensors("x")
    want = tnconv.compile(SPEC, "kfac_reduce")(*values)
    torch.testing.assert_close(tnconv.compile(SPEC, "kfac_reduce", planner="cotengra")(*values), want)


def test_reference_backend_has_no_gradients() -> None:
    x, weight, bias = tensors("x", "weight", "bias")
    function = tnconv.compile(SPEC, backend="reference")
    with pytest.raises(ArgumentError, match=r"the reference backend has no gradients; use torch.no_grad"):
        function(x.requires_grad_(), weight, bias)
    with torch.no_grad():
        torch.testing.assert_close(function(x, weight, bias), forward()(x, weight, bias))


# -- verification ------------------------------------------------------------------------------------

VERIFIED = {
    "grouped": ConvSpec(4, 4, 3, (6, 5), groups=2, padding=1, bias=True),
    "strided, dilated": ConvSpec(2, 3, (3, 2), (9, 8), stride=2, dilation=(1, 2), padding=((1, 0), (0, 2))),
    "circular": ConvSpec(2, 2, 3, (6,), padding=1, padding_mode="circular"),
    "pointwise strided": ConvSpec(4, 6, 1, (8, 8), stride=2),
    "patchify": ConvSpec(3, 4, 2, (8, 8), stride=2, batch_size=3),
    "large": ConvSpec(64, 64, 3, (56, 56), padding=1),
}


# Each layer with every other operation, and each operation with every other layer; `make fuzz` has any of both.
PAIRS = [(n, o) for i, n in enumerate(VERIFIED) for j, o in enumerate(OPERATIONS) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_verification_passes(name: str, op: str) -> None:
    tnconv.compile(VERIFIED[name], op, verify="exact")


@dataclass(frozen=True)
class ForgetPattern(Pass):
    """Takes the pattern p1 out of a network, and says that the value is the same."""

    name: ClassVar[str] = "forget_pattern"
    preserves_value: ClassVar[bool] = True

    def apply(self, network: Network) -> PassResult:
        kept = [node for node in network.nodes if node.name != "p1"]
        if len(kept) == len(network.nodes):
            return PassResult(network, False)
        return PassResult(network.with_nodes(kept), True, ("forgot p1",))


def test_verification_catches_a_broken_pass() -> None:
    register_pass(ForgetPattern)
    try:
        tnconv.compile(VERIFIED["grouped"], passes="forget_pattern")  # nobody looks
        with pytest.raises(
            PassError, match=r"(?s)pass 1 of 1, forget_pattern: .*The pass was given:\nnetwork|sum"
        ):
            tnconv.compile(VERIFIED["grouped"], passes="forget_pattern", verify="exact")
    finally:
        plugins.unregister(plugins.PASSES, ForgetPattern.name)


class Zeros(Kernel):
    """Cheap, and wrong."""

    name = "zeros"

    def accepts(self, problem: Problem) -> bool:
        return bool(problem.relations)

    def cost(self, problem: Problem) -> float:
        return 0.0

    def emit(self, problem: Problem, em: Emitter) -> Value:
        like, dims = problem.operands[0].name, tuple((i,) for i in problem.output)
        return em.assign("zeros", f"{like}.new_zeros({em.shape(dims)})", [like], dims)


@pytest.fixture
def broken_kernel() -> Iterator[None]:
    plugins.register(plugins.KERNELS, "zeros", Zeros)
    yield
    plugins.unregister(plugins.KERNELS, "zeros")


@pytest.mark.usefixtures("broken_kernel")
@pytest.mark.parametrize("op", ["forward", "input_vjp", "weight_vjp", "unfold", "kfac_expand"])
def test_verification_catches_a_broken_kernel(op: str) -> None:
    function = tnconv.compile(VERIFIED["strided, dilated"], op)
    assert "zeros" in [choice.kernel for choice in function.program.choices]
    with pytest.raises(LoweringError, match=r"(?s)differs from the reference:.*new_zeros"):
        tnconv.compile(VERIFIED["strided, dilated"], op, verify="exact")


# -- what a function shows ---------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_texts(op: str, tmp_path: Path) -> None:
    function = tnconv.compile(SPEC, op)
    assert parse(str(function.network)) == function.network
    assert function.network.name == f"conv2d.{op}"
    assert str(parse_plan(str(function.plan))) == str(function.plan)
    assert (
        function.stages[-1].after == function.network
        or function.stages[-1].after.name != function.network.name
    )
    assert [stage.before for stage in function.stages[1:]]
    for before, after in zip(function.stages, function.stages[1:], strict=False):
        assert after.before.terms[0].output == before.after.terms[0].output
    assert function.source.startswith(f"def conv2d_{op}({', '.join(function.arguments)}):\n")
    assert function.source.count("\n    return ") == 1
    assert op in str(function.explain())
    path = tmp_path / "network.svg"
    function.draw(path)
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert f"conv2d.{op}({', '.join(function.arguments)})" in repr(function)
    assert str(function.cost) in repr(function)


def test_cost_of_symbols_is_an_expression() -> None:
    symbolic, fixed = (
        tnconv.compile(ConvSpec(4, 6, 3, (5, 6), batch_size=batch), "kfac_reduce", hints=hints).cost
        for batch, hints in (("N", {"N": 7}), (7, None))
    )
    values: dict[Any, int] = dict.fromkeys(symbolic.multiplications.free_symbols, 7)
    assert int(symbolic.multiplications.subs(values)) == fixed.multiplications
    assert int(symbolic.peak_elements.subs(values)) == fixed.peak_elements
    assert isinstance(fixed.multiplications, int) and isinstance(fixed.peak_elements, int)


def test_any_name_of_the_batch_size() -> None:
    spec = ConvSpec(2, 3, 3, (5,), batch_size="torch")
    for op in OPERATIONS:
        function = tnconv.compile(spec, op)
        shapes = {"x": (2, 2, 5), "weight": (3, 2, 3), "grad_output": (2, 3, 3)}
        function(*(torch.randn(shapes[name]) for name in function.arguments if name in shapes))


SIZES = """
network sizes {
  index [n=N, g=G, c=3, m=2*N+1]
  x = input     [(n g), c, m]
  w = parameter [g, c]
  output        [n, g, m]
}
"""


def test_sizes_are_read_off_products_and_sums() -> None:
    function = tnconv.compile(tnconv.parse(SIZES))
    x, w = torch.randn(6, 3, 7, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    want = torch.einsum("ngcm,gc->ngm", x.reshape(3, 2, 3, 7), w)
    torch.testing.assert_close(function(x, w), want)
    with pytest.raises(
        ArgumentError, match=r"'x' has size 5 on axis 0 \(index \(n g\)\) but G\*N is needed.*no N"
    ):
        function(x[:5], w)
    with pytest.raises(ArgumentError, match=r"'x' has size 6 on axis 2 \(index m\) but 7 is needed"):
        function(x[..., :6], w)


def test_the_program_check_uses_the_kernels_that_were_chosen() -> None:
    spec = ConvSpec(64, 64, 3, (56, 56), padding=1)
    function = tnconv.compile(spec, "kfac_expand", verify="exact")
    assert [c.kernel for c in function.program.choices] == ["lag correlation"]


@pytest.mark.parametrize("op", ["forward", "weight_vjp", "kfac_reduce"])
def test_torch_compile_takes_a_function_whole(op: str) -> None:
    function = tnconv.compile(ConvSpec(4, 6, 3, (8, 8), padding=1), op)
    given = {
        "x": torch.randn(2, 4, 8, 8),
        "grad_output": torch.randn(2, 6, 8, 8),
        "weight": torch.randn(6, 4, 3, 3),
    }
    arguments = [given[name] for name in function.arguments]
    whole = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(*arguments), function(*arguments))


# -- the exact check on layers whose kernels few small instances use ------------------------------------


@pytest.mark.parametrize(
    ("spec", "op", "options"),
    [
        (tnconv.ConvSpec(4, 4, 2, (4, 4), groups=2, stride=2), "ggn_mini_block", {}),
        (
            tnconv.ConvTransposeSpec(3, 6, 1, 12, padding=((2, 3),), groups=3),
            "hessian_diagonal_bl89_input",
            {"training": True},
        ),
        (
            tnconv.ConvSpec(8, 2, 1, 8, padding=2, groups=2, padding_mode="reflect"),
            "weight_jvp",
            {"passes": "none"},
        ),
        (tnconv.ConvSpec(2, 3, 1, 5, padding=2, bias=True), "ggn_mini_block", {"bias": "joint"}),
        (tnconv.ConvSpec(64, 64, 16, (224, 224), stride=16), "forward", {}),
    ],
    ids=str,
)
def test_valid_layers_pass_the_exact_check(spec, op, options):
    checked = tnconv.compile(spec, op, verify="exact", **options)
    assert checked.source == tnconv.compile(spec, op, **options).source


def test_a_delta_behind_a_relation_of_the_result_is_lowered():
    network = tnconv.parse(
        """network windows {
          index [n=3, g=3, d=2, i=3, k=4, k_2=4]
          p   = pattern              [i = -k + 2]
          p_2 = pattern              [i = -k_2 + 2]
          w   = parameter            [g, d, k]
          w_2 = parameter{of=w}      [g, d, k_2]
          h   = cotangent            [n, (g d), 1]
          output                     [n, g, i]
        }"""
    )
    tnconv.compile(network, passes="none", training=True, verify="exact")


@pytest.mark.parametrize(
    "op", ["ggn_diagonal", "ggn_mini_block", "ggn_mini_block_kernel", "ggn_block", "ggn_gram"]
)
@pytest.mark.parametrize(
    "spec",
    [
        tnconv.ConvSpec(4, 6, 3, (6, 6), padding=1, groups=2),
        tnconv.ConvTransposeSpec(4, 6, 3, 4, stride=2),
        tnconv.LinearSpec(4, 6),
        tnconv.ConvSpec(4, 4, 2, (4, 4), stride=2),
    ],
    ids=str,
)
def test_without_rows_in_z_curvature_is_zero(spec, op):
    for options in ({}, {"training": True}, {"constant": ["x"]}):
        function = tnconv.compile(spec, op, **options)
        x, z = (function.plan.arguments[name] for name in ("x", "z"))
        for n, v in ((2, 0), (0, 2), (0, 0)):
            result = function(x=torch.ones(n, *x[1:]), z=torch.ones(v, n, *z[2:]))
            assert not result.any(), (options, n, v)
