"""Products that are squared and summed example by example, and the runtime's loops: at any size, by any order."""

import pytest
import torch
from hypothesis import given, settings
from msgspec import structs
from torch import Tensor

import tnconv
from tests.ops.layer_values import values_of, wanted
from tests.ops.test_operations import assert_close, called
from tnconv import ConvSpec
from tnconv.backends.torch import lower, torch_backend
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.backends.torch.numerics import runtime
from tnconv.backends.torch.profile import Profile
from tnconv.planner import fast_plans, parse_plan
from tnconv.planner.decompose import streamed_squares
from tnconv.testing import conv_specs

# What is small is worth streaming, and calls of its own.
FREE_CALLS = Profile(
    call=1e-3, batched=1e-6, streamed=1, gradient_work=1, gradients_large=1, slice_cells=1, sum=100
)
KERNELS = ("matmul", "window_matmul", "streamed_squares", "gather_scatter")


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products are streamed too, and small slices added one by one."""
    for module in (torch_backend, lower):
        monkeypatch.setattr(module, "profile_of", lambda _: FREE_CALLS)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("bias", ["separate", "joint"])
@pytest.mark.parametrize("op", ["ggn_diagonal", "gradient_norm"])
def test_streams_what_is_squared(op: str, bias: str) -> None:
    """Every candidate plan, with kernels that leave a batched product to be squared."""
    table = {name: kernel for name, kernel in kernel_table().items() if name in KERNELS}
    seen = set()

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(spec=conv_specs(max_dims=2, max_channels=3))
    def law(spec: ConvSpec) -> None:
        both = [values_of(spec, dtype=dtype) for dtype in (torch.float64, torch.complex128)]
        network = tnconv.compile(spec, op, bias=bias).network
        for plan in fast_plans(network):
            program = lower_with(plan, table, {}, profile=FREE_CALLS, rules=(streamed_squares,))
            seen.update(choice.kernel for choice in program.choices)
            for values in both:
                want = wanted(spec, op, values, bias == "joint")
                assert_close(program.function(*(values[name] for name in program.arguments)), want, 1e-11)

    law()
    if bias == "separate":
        assert "streamed squares" in seen


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("second", ["", ", conj"])
@pytest.mark.parametrize("output", ["n", "c, d"])
def test_streams_squares_with_and_without_conjugates(second: str, output: str) -> None:
    """Of complex values a sum of squares is another than one of squared magnitudes."""
    plan = parse_plan(f"""plan squares {{
      argument x [N, 3, 4]
      argument y [N, 4, 5]
      index [n=N, c=3, d=5, o=4]
      t1[n, c, d] = x[n, c, o] * conj(y)[n, o, d]
      result[{output}] = t1[n, c, d] * {"conj(t1)" if second else "t1"}[n, c, d]
      return result
    }}""")
    prefer = ("streamed squares",)
    program = lower_with(plan, kernel_table(), {}, prefer, profile=FREE_CALLS, rules=(streamed_squares,))
    assert "rt.squares(" in program.source
    assert len(program.lowered(plan).steps) == 1
    x, y = torch.randn(2, 3, 4, dtype=torch.complex128), torch.randn(2, 4, 5, dtype=torch.complex128)
    product = x @ y.conj()
    square = (product * (product.conj() if second else product)).sum((1, 2) if output == "n" else 0)
    assert_close(program.function(x, y), square, 1e-12)


@pytest.mark.usefixtures("everything")
def test_streaming_takes_one_example_at_a_time() -> None:
    """The exact peak: the product as a whole is not in it."""
    layer = ConvSpec(64, 64, 3, (4, 4), padding=1)
    function = tnconv.compile(layer, "ggn_diagonal", hints={"N": 8, "V": 4})
    assert "rt.squares(" in function.source
    whole = 8 * 4 * 64 * 64 * 9
    result, windows, rows = 64 * 64 * 9, 8 * 64 * 9 * 16 + 8 * 64 * 36, 8 * 4 * 64 * 16
    peak = function.cost.at(N=8, V=4).peak_elements
    assert peak <= result + windows + rows + whole // 8
    values = values_of(layer, 3)
    leaves = [values[name].requires_grad_() for name in function.arguments]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    stacked = [torch.stack([v.detach(), v.detach() * 2]) for v in leaves]
    looped = torch.stack([function(*each) for each in zip(*stacked, strict=True)])
    assert_close(torch.func.vmap(function)(*stacked), looped, 1e-11)
    empty = function(*(v.detach().narrow(1 if v.dim() == 5 else 0, 0, 0) for v in leaves))
    assert empty.shape == (64, 64, 3, 3)
    assert not empty.any()


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.bfloat16])
def test_dot_and_slice_sum(places: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = (torch.randn(3, 4, 5).to(dtype) for _ in range(2))
    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-12
    for slices in {False, places in ((0,), (0, 1))}:
        got = runtime.dot(a, b, places, slices=slices)
        torch.testing.assert_close(got, (a * b).sum(places), rtol=tolerance, atol=tolerance * 4)
    torch.testing.assert_close(
        runtime.slice_sum(a, places), a.sum(places), rtol=tolerance, atol=tolerance * 4
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_examples_one_by_one(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_products = Profile(matmul=1, gradient_work=1, gradients_large=1)
    for module in (torch_backend, lower):
        monkeypatch.setattr(module, "profile_of", lambda _: slow_products)
    layer = ConvSpec(4, 6, 3, (9, 8), padding=1, stride=2, groups=groups)
    values = values_of(layer, 3)
    function = tnconv.compile(layer, "per_example_weight_vjp")
    assert "rt.weight_gradients(" in function.source
    got = called(function, values)
    assert_close(got, wanted(layer, "per_example_weight_vjp", values), 1e-11)
    leaves = [values[name].requires_grad_() for name in function.arguments]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    stacked = [torch.stack([v.detach(), v.detach() * 2]) for v in leaves]

    def mapped(x: Tensor) -> Tensor:
        return function(x, leaves[1].detach())

    assert_close(torch.func.vmap(mapped)(stacked[0]), torch.stack([mapped(x) for x in stacked[0]]), 1e-11)


@pytest.mark.parametrize(
    ("spec", "op", "hints"),
    [
        (ConvSpec(256, 512, 3, (8, 8), stride=2, padding=1), "ggn_diagonal", {"N": 4, "V": 4}),
        (ConvSpec(3, 192, 16, (224, 224), stride=16), "gradient_norm", {"N": 8}),
    ],
)
def test_what_is_streamed_is_not_priced_as_written(spec: ConvSpec, op: str, hints: dict[str, int]) -> None:
    """Products of positions win where a product must be written to be squared, not where it is streamed."""
    function = tnconv.compile(spec, op, hints=hints, device="cpu")
    assert [choice.kernel for choice in function.program.choices] == ["streamed squares"]
    (merged,) = function.program.decomposed
    assert dict(merged.candidates).keys() == {"streamed squares", "one step after the other"}
    assert function.plan.steps == merged.steps


STACKS = """plan stacks {
  argument x [N, 3, 4]
  argument z [V, N, 5, 4]
  index [v=V, n=N, c=3, d=5, o=4]
  t1[v, n, d, c] = x[n, c, o] * conj(z)[v, n, d, o]
  %s
}"""
STACKED = {
  "stacked_product": "return t1",
  "rt.squares": "result[d, c] = t1[v, n, d, c] * conj(t1)[v, n, d, c]\n  return result",
  "expand(V, -1, -1, -1)": "result[n, d, c] = t1[v, n, d, c] * conj(t1)[v, n, d, c]\n  return result",
}  # fmt: skip


@pytest.mark.parametrize("written", STACKED)
@pytest.mark.parametrize("sizes", [(3, 2), (1, 1), (0, 2), (2, 0)])
def test_stacks_of_an_operand_are_gone_through(written: str, sizes: tuple[int, int]) -> None:
    """Where an operand has legs in front of the batch they are left there: nothing is copied."""
    plan = parse_plan(STACKS % STACKED[written])
    profile = structs.replace(FREE_CALLS, narrow=1e-6)
    prefer = ("streamed squares",)
    program = lower_with(plan, kernel_table(), {}, prefer, profile=profile, rules=(streamed_squares,))
    assert written in program.source
    assert ".permute(1, 0" not in program.source
    v, n = sizes
    x = torch.randn(n, 3, 4, dtype=torch.complex128, requires_grad=True)
    z = torch.randn(v, n, 5, 4, dtype=torch.complex128)
    rows = z.conj() @ x.mT
    want = {"stacked_product": rows, "rt.squares": rows.abs().square().sum((0, 1))}
    for argument in (x, x.detach()):
        found = program.function(argument, z)
        torch.testing.assert_close(found, want.get(written, rows.abs().square().sum(0)), check_dtype=False)
        assert found.requires_grad == argument.requires_grad
