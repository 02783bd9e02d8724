"""One function for every size: equal to the functions that are compiled for each, planned once for each class."""

import copy
import functools
import html
import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tnconv
from tests.layer_strategies import conv_transpose_specs, linear_specs, pool_specs, unfold_specs
from tnconv import ops
from tnconv.compiler.any_size import check_template
from tnconv.compiler.any_size.any_size_function import AnySizeFunction
from tnconv.compiler.any_size.bind_sizes import Binding
from tnconv.compiler.any_size.open_source import MOST_PROGRAMS, OpenLayer
from tnconv.compiler.any_size.variants import MOST_PLANS
from tnconv.compiler.candidate import fitting
from tnconv.compiler.check_program import check_value
from tnconv.compiler.cost_of_call import guards_of, multiplications_at
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import KnowsNetwork
from tnconv.errors import (
    ArgumentError,
    LoweringError,
    NetworkError,
    OperationError,
    PlanError,
    SpecError,
    UnknownSizeError,
)
from tnconv.ir import evaluate
from tnconv.planner import make_plan
from tnconv.spec import ConvSpec
from tnconv.testing.memory import memory_of, meta_arguments
from tnconv.testing.strategies import conv_specs

CONV = nn.Conv2d(4, 6, 3, stride=2, padding=1)
OPERATIONS = [operation.name for operation in ops.list()]
COSTS = ["forward", "weight_vjp", "kfac_expand", "kfac_reduce", "gradient_norm", "ggn_diagonal"]
UNREADABLE = ("fold", "toeplitz", "input_jacobian", "input_vjp", "hessian_diagonal_bl89_input")


def integers(function: Any, batch: int = 2) -> list[Tensor]:
    """Integer-valued arguments of a compiled function, as float64, which is exact for them."""
    values = dict.fromkeys(function.network.symbols, batch)
    axes = function._signature.axes
    shapes = [[evaluate(axis.size, values) for axis in axes[name]] for name in function.arguments]
    return [torch.randint(-3, 4, shape).double() for shape in shapes]


def any_size(module: nn.Module, op: str = "forward", **options: Any) -> AnySizeFunction:
    function = tnconv.compile(module, op, **options)
    assert isinstance(function, AnySizeFunction)
    return function


# -- the law ---------------------------------------------------------------------------------------------


@given(
    st.one_of(
        conv_specs(max_dims=2),
        conv_transpose_specs(max_dims=2),
        linear_specs(max_dims=2),
        pool_specs(),
        unfold_specs(),
    ),
    st.sampled_from(OPERATIONS),
    st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9), st.integers(0, 1)), min_size=3, max_size=3),
)
@settings(max_examples=18, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_function_for_any_size_is_the_function_of_each(spec: Any, op: str, steps: list[Any]) -> None:
    spec = replace(spec, batch_size=2) if op.endswith("jacobian") else spec
    options: dict[str, Any] = {"convention": "sum"} if ops.get(op).factor else {}
    try:
        function = tnconv.compile(OpenLayer(spec), op, **options)
    except OperationError:
        with pytest.raises(OperationError):
            tnconv.compile(spec, op, **options)
        return
    for step in steps:
        size = tuple(max(1, i + s) for i, s in zip(spec.input_sizes, step, strict=False))
        compare(function, spec, op, size, options)


def compare(
    function: CompiledFunction, spec: Any, op: str, size: tuple[int, ...], options: dict[str, Any]
) -> None:
    try:
        sized = replace(spec, input_size=size)
    except SpecError as error:
        with pytest.raises(SpecError, match=re.escape(str(error))):
            function.at(*size)
        return
    wanted = tnconv.compile(sized, op, **options)
    arguments = integers(wanted)
    want = wanted(*arguments)
    assert torch.equal(function.at(*size)(*arguments), want)
    try:
        read = function(*arguments)
    except ArgumentError as error:
        assert op in UNREADABLE, error
        assert "for the function of a size" in str(error)
        return
    assert torch.equal(read, want)


def test_a_factorised_layer_a_module_and_one_example() -> None:
    layer = tnconv.nn.CPConv2d(4, 4, 3, rank=2, padding=1, stride=2).double()
    function = any_size(layer)
    for size in ((9, 8), (8, 9), (10, 10), (3, 30)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        parameters = {name: value.detach() for name, value in layer.named_parameters()}
        assert torch.allclose(function(x=x, **parameters), layer(x))
        one = function(x=x[0], **parameters)
        assert torch.allclose(one, layer(x)[0])


def test_a_linear_layer_takes_any_number_of_sequence_axes() -> None:
    layer = nn.Linear(3, 4).double()
    function = any_size(layer, "weight_vjp")
    for shape in ((2,), (2, 5), (2, 5, 6), ()):
        x, dy = torch.randn(*shape, 3).double(), torch.randn(*shape, 4).double()
        want = torch.einsum("...c,...d->dc", x, dy)
        assert torch.allclose(function(x, dy), want)
    x, dy = torch.randn(2, 0, 3).double(), torch.randn(2, 0, 4).double()  # a sequence without positions
    assert torch.equal(function(x, dy), torch.zeros(4, 3).double())
    assert torch.equal(any_size(layer)(x, layer.weight, layer.bias), layer(x))
    assert function.plan.arguments["x"][1:] == (3,)  # what needs a size is that without sequence axes


# -- how often a plan is searched for, and what is kept --------------------------------------------------


@pytest.mark.parametrize("op", ["kfac_reduce", "forward", "weight_vjp", "gradient_norm"])
def test_a_plan_is_searched_for_once_for_each_class_of_sizes(op: str) -> None:
    function = any_size(nn.Conv2d(2, 2, 3, padding=1), op)
    for size in ((16, 16), (17, 18), (20, 15), (31, 31)):
        function.at(*size)
    assert function.variants.plannings == len(function.variants) == 1
    function.at(33, 33)
    assert function.variants.plannings == len(function.variants) == 2
    assert len(function.variants.kept) == 5


def test_rests_of_a_stride_share_a_plan_where_their_networks_are_alike() -> None:
    function = any_size(CONV, "weight_vjp")
    for height in range(16, 20):
        for width in range(16, 20):
            function.at(height, width)
    assert function.variants.plannings == 1
    tiles = any_size(nn.Conv1d(2, 2, 3, stride=3))  # windows tile the input where nothing is left over
    axes = {size: str(tiles.at(size).network.terms[0].tensors[0].axes[2]) for size in (30, 31, 33, 34, 37)}
    assert axes == {
        30: "(o1 k1)",
        31: "3*o1 + k1 < 31",
        33: "(o1 k1)",
        34: "3*o1 + k1 < 34",
        37: "3*o1 + k1 < 37",
    }
    assert tiles.variants.plannings >= 4  # 33 and more are of the next class
    assert "L % 3 in {0}" in str(tiles.variants)


def test_programs_are_kept_as_they_were_used_and_no_more_than_a_bound() -> None:
    function = any_size(nn.AvgPool1d(2))
    x = torch.randn(1, 1, 5)
    function(x)
    first = function.at(5)
    for size in range(6, MOST_PROGRAMS + 5):
        function.at(size)
    assert function.at(5) is first
    assert len(function.variants.kept) == MOST_PROGRAMS
    function(x)  # a call counts as a use
    function.at(500)
    function.at(501)
    assert len(function.variants.kept) == MOST_PROGRAMS
    assert (5,) in function.variants.kept
    assert (6,) not in function.variants.kept
    assert len(function.variants) <= MOST_PLANS


def test_when_there_are_eight_plans_the_nearest_serves() -> None:
    function = any_size(nn.Conv1d(1, 1, 3))
    for power in range(2, 14):
        size = 2**power + 1
        x = torch.randn(1, 1, size, dtype=torch.float64)
        weight = torch.randn(1, 1, 3, dtype=torch.float64)
        assert torch.allclose(function(x, weight, torch.zeros(1).double()), nn.functional.conv1d(x, weight))
    assert len(function.variants) == function.variants.plannings == MOST_PLANS


# -- what it says ----------------------------------------------------------------------------------------


class Opaque(nn.Module, KnowsNetwork):
    """A module whose network has no symbols in it."""

    def network(self, input_size: Any, batch_size: Any = "N") -> Any:
        size = input_size if isinstance(input_size, tuple) else (input_size,)
        if not all(isinstance(each, int) for each in size):
            raise SpecError("sizes are ints here")
        return ConvSpec(2, 2, 3, size, batch_size=batch_size).network()


def test_what_needs_a_size_says_so() -> None:
    function = any_size(Opaque())
    for name in ("plan", "network", "source", "program", "cost", "stages"):
        with pytest.raises(
            UnknownSizeError,
            match=rf"'({name}|program|plan)' of 'forward' depends on L, .*ints here.*at\(L=56\)",
        ):
            getattr(function, name)
    assert not hasattr(function, "plan")
    x, weight = torch.randn(1, 2, 7), torch.randn(2, 2, 3)
    assert torch.allclose(function(x, weight), nn.functional.conv1d(x, weight), atol=1e-5)


def test_without_a_size_it_has_what_symbols_give() -> None:
    function = any_size(nn.Conv2d(2, 2, 3, padding=1), "kfac_reduce")
    assert [str(size) for size in function.plan.arguments["x"]] == ["N", "2", "H", "W"]
    assert function.network.symbols == ("H", "N", "W")
    made = function.at(H=12, W=13)
    sizes = {"N": 3, "H": 12, "W": 13}
    assert evaluate(function.plan.multiplications, sizes) == evaluate(made.plan.multiplications, {"N": 3})


@pytest.mark.parametrize("op", ["forward", "kfac_reduce"])
def test_a_peak_that_no_formula_holds_for_is_measured_of_the_function_of_a_size(op: str) -> None:
    function = tnconv.compile(ConvSpec("C", "D", 3, ("H", "W"), padding=1, stride=2), op)
    assert "multiplications, peak: see cost.at(…)" in str(function.cost)
    with pytest.raises(UnknownSizeError, match="the peak is no formula of all sizes"):
        _ = function.cost.peak_elements
    for sizes in ({"C": 8, "D": 4, "N": 3, "H": 21, "W": 40}, {"C": 1, "D": 2, "N": 64, "H": 5, "W": 6}):
        made = function.at(H=sizes["H"], W=sizes["W"])
        taken = memory_of(made, *meta_arguments(made.network, sizes)).peak / 4
        assert taken <= function.cost.at(**sizes).peak_elements <= 1.1 * taken
    with pytest.raises(NetworkError, match="needs a value for H"):
        function.cost.at(C=1, D=1, N=1, W=9)


def test_a_layer_with_symbols_is_one_for_any_size() -> None:
    spec = ConvSpec(2, 3, (3, 2), ("A", "B"), stride=(2, 1), padding=1)
    function = tnconv.compile(spec, "weight_vjp")
    assert function.sizes == ("A", "B")
    same = tnconv.compile(replace(spec, input_size=("S", "S")), "weight_vjp")
    for size in ((7, 6), (8, 8), (11, 11)):
        wanted = tnconv.compile(spec.at(A=size[0], B=size[1]), "weight_vjp")
        given = integers(wanted)
        assert torch.equal(function(*given), wanted(*given))
        if size[0] == size[1]:
            assert torch.equal(same(*given), wanted(*given))
    assert same.sizes == ("S",)


def test_what_it_says_of_itself() -> None:
    function = any_size(CONV, "kfac_reduce")
    assert function.arguments == ("x",)
    assert function.sizes == ("H", "W")
    made = function.at(H=12, W=13)
    assert made.plan.arguments["x"][2:] == (12, 13)
    assert made is function.at(12, 13)
    assert "(x, x)" in str(function.variants)
    assert "12x13" in repr(function.variants)
    with pytest.raises(
        ArgumentError, match=r"sizes \{'H': 12\} are given but H, W are needed; call at\(H=56, W=56\)"
    ):
        function.at(H=12)
    with pytest.raises(ArgumentError, match="was compiled for a size; call at"):
        made.at(3)
    assert made.at() is made
    assert made.sizes == ()


def test_hints_say_which_size_is_expected() -> None:
    function = any_size(CONV, "kfac_reduce", hints={"H": 20, "W": 21, "N": 4})
    assert function.network == tnconv.compile(CONV, "kfac_reduce", input_size=(20, 21)).network
    assert function.plan.hints == {"N": 4}
    assert function(torch.randn(1, 4, 9, 9)).shape == (1, 36, 36)
    with pytest.raises(
        PlanError, match="hints are given for H but not for W; give hints for all of H, W, or none"
    ):
        tnconv.compile(CONV, hints={"H": 20})
    with pytest.raises(PlanError, match="hint for 'Q', which is no size symbol"):
        tnconv.compile(CONV, hints={"Q": 20})


def test_tensors_that_do_not_fit_are_refused_with_both_values() -> None:
    function = any_size(CONV)
    weight, bias = CONV.weight, CONV.bias
    with pytest.raises(ArgumentError, match=r"argument 'x' has 2 axes \(3, 4\) but 4 are needed"):
        function(torch.randn(3, 4), weight, bias)
    with pytest.raises(ArgumentError, match=r"argument 'x' has size 5 on axis 1 .* but 4 is needed"):
        function(torch.randn(2, 5, 8, 8), weight, bias)
    with pytest.raises(ArgumentError, match=r"argument 'x' has dtype torch\.int64"):
        function(torch.ones(2, 4, 8, 8, dtype=torch.int64), weight, bias)
    with pytest.raises(ArgumentError, match="argument 'x' is a str"):
        function("x", weight, bias)
    with pytest.raises(ArgumentError, match="argument 'weight' is missing"):
        function(torch.randn(2, 4, 8, 8))
    narrow = any_size(nn.Conv2d(4, 6, 5))
    with pytest.raises(
        SpecError, match="the dilated kernel has 5 cells in spatial dimension 2 but the padded input has 4"
    ):
        narrow(torch.randn(1, 4, 9, 4), torch.randn(6, 4, 5, 5), torch.randn(6))
    back = any_size(CONV, "input_vjp")
    with pytest.raises(
        ArgumentError, match=r"H of 'input_vjp' may be 7 or 8: .*O1=4 for each; call at\(H=56, W=56\)"
    ):
        back(weight, torch.randn(2, 6, 4, 4))
    assert back.at(7, 8)(weight, torch.randn(2, 6, 4, 4)).shape == (2, 4, 7, 8)
    with pytest.raises(OperationError, match="'weight_jacobian' needs"):
        tnconv.compile(nn.AvgPool2d(2), "weight_jacobian")


# -- options and contexts --------------------------------------------------------------------------------


X, Y = (torch.randn(2, 4, size, 9, dtype=torch.float64) for size in (9, 12))
WEIGHT, BIAS = CONV.weight.detach().double(), CONV.bias.detach().double()


def dense(x: Tensor, weight: Tensor = WEIGHT) -> Tensor:
    return nn.functional.conv2d(x, weight, BIAS, 2, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"training": True},
        {"training": True, "frozen": ("x",)},
        {"constant": ("weight", "bias")},
        {"memory_limit": "1MiB"},
        {"verify": "exact"},
        {"minimize": "multiplications"},
        {"passes": "none"},
        {"backend": "reference"},
        {"dtype": torch.float64},
        {"accuracy": "local"},
    ],
    ids=str,
)
def test_every_option_goes_with_any_size(options: dict[str, Any]) -> None:
    function = any_size(CONV, **options)
    for x in (X, Y, X[..., 1:]):
        weight = WEIGHT.clone().requires_grad_("training" in options)
        value = function(x, weight, BIAS)
        assert torch.allclose(value, dense(x))
        if "training" in options:
            wanted = torch.autograd.grad(dense(x, weight).square().sum(), weight)
            assert torch.allclose(torch.autograd.grad(value.square().sum(), weight)[0], wanted[0])


def test_pairs_of_two_batches_out_and_names() -> None:
    linear = any_size(nn.Conv2d(2, 2, 2, bias=False), "ntk")
    a, b = torch.randn(2, 2, 4, 5), torch.randn(3, 2, 4, 5)
    whole = tnconv.compile(nn.Conv2d(2, 2, 2, bias=False), "ntk", input_size=(4, 5))
    assert torch.equal(linear(a, b), whole(a, b))
    assert torch.equal(linear(a, x_other=b), whole(a, b))
    function = any_size(CONV, "kfac_reduce")
    out = torch.ones(1, 36, 36, dtype=torch.float64)
    once = function(X)
    assert function(X, out=out, beta=1.0) is out
    assert torch.allclose(out, once + 1)
    assert torch.equal(function(x=Y), function(Y))


def test_copies_pickles_and_transforms() -> None:
    function = any_size(CONV, hints={"H": 9, "W": 9})
    assert copy.deepcopy(function) is function
    assert copy.copy(function) is function
    again = pickle.loads(pickle.dumps(function))
    assert torch.equal(again(X, WEIGHT, BIAS), function(X, WEIGHT, BIAS))
    assert again.plan == function.plan
    stacked = torch.stack([X, X + 1])
    mapped = torch.func.vmap(lambda x: function(x, WEIGHT, BIAS))(stacked)
    assert torch.allclose(mapped[1], dense(X + 1))
    grad = torch.func.grad(lambda w: function(Y, w, BIAS).square().sum())(WEIGHT)
    assert torch.allclose(grad, torch.func.grad(lambda w: dense(Y, w).square().sum())(WEIGHT))


def test_kernel_size_and_groups_are_read_off_shapes_or_asked_for() -> None:
    function = tnconv.compile(ConvSpec("C", "D", "K", ("H", "W"), padding=1, groups="G"))
    assert "D*K**2*N*" in str(function.cost.multiplications).replace("C*", "")
    for channels, kernel, groups in ((4, 3, 2), (4, 2, 1), (3, 1, 3)):
        x = torch.randint(-3, 4, (2, channels, 6, 5)).double()
        weight = torch.randint(-3, 4, (2 * groups, channels // groups, kernel, kernel)).double()
        wanted = nn.functional.conv2d(x, weight, padding=1, groups=groups)
        assert torch.equal(function(x, weight), wanted)
        assert torch.equal(function(x[0], weight), wanted[0])
    counts = function.cost.at(C=4, D=4, K=3, G=2, N=2, H=6, W=5)
    assert counts.multiplications == 2 * 4 * 2 * 9 * 6 * 5
    assert isinstance(counts.peak_elements, int)
    assert len(function.variants) == 3
    assert "H=6, W=5" in str(function.variants)
    one = function.at(K=3, G=2, C=4, H=6, W=5)
    assert str(one.cost.multiplications) == "540*D*N"
    channels = tnconv.compile(ConvSpec("C", "D", 3, "L", groups="G")).at(
        G=3
    )  # 32 is no number of channels of 3 groups
    assert torch.equal(channels(torch.ones(1, 6, 3), torch.ones(3, 2, 3)), torch.full((1, 3, 1), 6.0))
    factor = tnconv.compile(ConvSpec(2, 2, "K", "L"), "kfac_reduce")
    with pytest.raises(ArgumentError, match=r"size K of 'kfac_reduce' cannot be read off .*call at\(K=…\)"):
        factor(torch.zeros(1, 2, 7))
    assert factor.at(K=3)(torch.zeros(1, 2, 7)).shape == factor.at(K=3, L=7)(torch.zeros(1, 2, 7)).shape


# -- exact checks, costs, pictures -------------------------------------------------------------------------


def test_an_exact_check_is_of_sizes_on_both_sides_of_what_decides_a_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: dict[bool, set[Any]] = {True: set(), False: set()}

    def seen(derived: Any, candidate: Any) -> bool:
        served[bool(candidate.only)].add(candidate.plan.arguments["x"][2])
        return check_value(derived, candidate)

    monkeypatch.setattr(check_template, "check_value", seen)
    function = any_size(
        nn.Conv1d(1, 1, 3, stride=3, bias=False), verify="exact"
    )  # windows tile where nothing is left
    x, weight = torch.randint(-3, 4, (2, 1, 33)).double(), torch.randint(-3, 4, (1, 1, 3)).double()
    function.at(36)
    assert torch.equal(function(x, weight), nn.functional.conv1d(x, weight, stride=3))
    assert served == {True: {3, 6, 9}, False: {4, 5, 7, 8}}
    assert function.variants.plannings == 1


def test_an_exact_check_finds_what_is_wrong_for_other_sizes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Binding.scalar
    monkeypatch.setattr(Binding, "scalar", lambda _, value: right(Binding({"L": 12, "O1": 10}), value))
    function = any_size(nn.Conv1d(1, 1, 3), "kfac_reduce", verify="exact")
    function.at(12)
    with pytest.raises(LoweringError, match="differs from the reference"):
        function.at(13)


@given(st.data(), st.sampled_from(["conv", "strided", "kernel"]), st.sampled_from(COSTS))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_formulas_of_costs_are_counts_where_their_guards_hold(data: Any, layer: str, op: str) -> None:
    spec, network, plan, guards = formula(layer, op)
    names = sorted({*network.symbols, *spec.symbols})
    sizes = {name: data.draw(st.integers(1, 4 if name in "GK" else 12), label=name) for name in names}
    assume(spec.guards.hold(sizes))
    bound = Binding(sizes).plan(plan).multiplications  # the same order
    assert evaluate(plan.multiplications, sizes) >= bound
    if guards.hold(sizes):
        assert evaluate(plan.multiplications, sizes) == bound
    sizes = {name: sizes[name] for name in network.symbols}
    special = make_plan(network.at(**sizes), planner="left-to-right")
    if [len(s.relations) for s in special.steps] == [len(s.relations) for s in plan.steps]:
        assert special.multiplications <= bound
        assert special.multiplications == bound or not guards.hold(sizes)


@functools.cache
def formula(layer: str, op: str) -> tuple[Any, Any, Any, Any]:
    """A layer with symbols, the network of an operation, a plan from left to right, where its count is a formula."""
    spec = {
        "conv": ConvSpec("C", "D", 3, "H", padding=1),
        "strided": ConvSpec("C", "D", 3, "H", padding=1, stride=2),
        "kernel": ConvSpec("C", "D", "K", "H", padding=1, groups="G"),
    }[layer]
    network = tnconv.compile(spec, op).network
    plan = make_plan(network, planner="left-to-right", hints=fitting(network, {}))
    return spec, network, plan, guards_of(plan)


def test_a_cost_says_where_it_holds_and_counts_for_all_sizes() -> None:
    function = tnconv.compile(ConvSpec("C", "D", 3, ("H", "W"), padding=1))
    assert str(function.cost) == "9*C*D*H*N*W multiplications, peak: see cost.at(…), where H >= 3, W >= 3"
    for height, width in ((7, 9), (2, 5), (1, 1)):
        sizes = {"C": 3, "D": 4, "N": 2, "H": height, "W": width}
        special = tnconv.compile(ConvSpec(3, 4, 3, (height, width), padding=1)).cost.at(N=2).multiplications
        assert function.cost.at(**sizes).multiplications == special
        assert multiplications_at(function.plan, function.program, sizes) == special


def test_pictures_and_reports_have_symbols(tmp_path: Any) -> None:
    function = tnconv.compile(ConvSpec("C", "D", 3, ("H", "W"), padding=1, stride=2))
    function.draw(tmp_path / "picture.svg")
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", (tmp_path / "picture.svg").read_text())
    assert {"n=N", "d=D", "o1=(H - 1)//2 + 1", "o2=(W - 1)//2 + 1"} <= set(labels)
    function.report(tmp_path / "report.html")
    text = html.unescape((tmp_path / "report.html").read_text())
    for shown in ("i1=H", "o1=(H - 1)//2 + 1"):
        assert shown in text
    assert "C*D*N*((H - 1)//2 + 1)*((W - 1)//2 + 1)" in text.replace("9*", "").replace("²", "**2")
